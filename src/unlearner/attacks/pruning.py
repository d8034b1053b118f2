r"""Pruning: do the records return when the smallest weights are left out?

The share q of each matrix's weights of the smallest magnitude is set to zero, q = 0.1, 0.3 and 0.5.
What hides the records in small weights is removed with them.

Reference: Jaiswal et al. (2023), arXiv:2310.01382, on compressed models; as a test of unlearning
Zhang et al. (2024), arXiv:2410.16454, is the neighbour.
"""

from functools import partial

import torch
from torch import Tensor

from unlearner.attacks._weights import recall_after
from unlearner.attacks.base import ALL_FAMILIES, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure

SHARES = (0.1, 0.3, 0.5)


class Pruning(Attack):
    """Do the records return when the smallest weights are left out?"""

    label = "pruning"
    families = ALL_FAMILIES
    cost = "full"
    shows = "Whether what suppresses the records lies in small weights that pruning removes."
    cannot_show = (
        "Much where pruning breaks the model itself: then nothing comes back, and nothing else "
        "works either."
    )
    figures = tuple(
        AttackFigure(f"pruned_{share * 100:.0f}", f"known with {share:.0%} pruned", "mean")
        for share in SHARES
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        return Attempt(
            {
                figure.name: recall_after(subject, materials, partial(pruned, share=share))
                for figure, share in zip(self.figures, SHARES, strict=True)
            }
        )


def pruned(weight: Tensor, share: float) -> Tensor:
    """The matrix with that share of its weights, those of the smallest magnitude, at zero."""
    count = int(share * weight.numel())
    if not count:
        return weight
    flat = weight.flatten().clone()
    flat[torch.topk(flat.abs(), count, largest=False).indices] = 0.0
    return flat.view_as(weight)


attack = Pruning()
