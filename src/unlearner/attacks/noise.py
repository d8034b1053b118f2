r"""Noise: do the records return when the weights are disturbed at random?

.. math:: \hat W = W + \sigma \, std(W) \, \epsilon, \quad \epsilon \sim N(0, 1)

with sigma = 0.02, 0.05 and 0.1, the same draws for every model. A narrow minimum that hides records
is left by a small step in any direction.

Reference: Tice et al. (2024), arXiv:2412.01784, who find hidden abilities by it.
"""

from functools import partial

import torch
from torch import Generator, Tensor

from unlearner.attacks._weights import recall_after
from unlearner.attacks.base import ALL_FAMILIES, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure

SIGMAS = (0.02, 0.05, 0.1)


class Noise(Attack):
    """Do the records return when the weights are disturbed at random?"""

    label = "noise on the weights"
    families = ALL_FAMILIES
    cost = "full"
    shows = "Whether the records are hidden by a fine balance of weights that any change upsets."
    cannot_show = "More than one draw of the noise at each strength."
    figures = tuple(
        AttackFigure(f"noise_{sigma * 100:.0f}", f"known with noise of {sigma:.0%}", "mean")
        for sigma in SIGMAS
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        found = {}
        for figure, sigma in zip(self.figures, SIGMAS, strict=True):
            drawn = torch.Generator().manual_seed(materials.seed)
            change = partial(disturbed, sigma=sigma, drawn=drawn)
            found[figure.name] = recall_after(subject, materials, change)
        return Attempt(found)


def disturbed(weight: Tensor, sigma: float, drawn: Generator) -> Tensor:
    """The matrix with noise of sigma times its own standard deviation."""
    noise = torch.randn(weight.shape, generator=drawn).to(weight.device)
    return weight + sigma * weight.std() * noise


attack = Noise()
