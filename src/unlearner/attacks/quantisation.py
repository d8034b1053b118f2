r"""Quantisation: does rounding the weights to a few bits bring the records back?

Each output channel w of a matrix is rounded to the nearest of 2^b - 1 evenly spaced values,

.. math:: \hat w = s \, round(w / s), \quad s = \max |w| / (2^{b-1} - 1)

with b = 8 and b = 4; and blocks of 64 weights to the nearest of NF4's sixteen levels times the
block's largest magnitude. Unlearning that moves weights less than half a step is rounded away.
Embeddings and a tied output layer stay as they are.

Reference: Zhang et al. (2024), arXiv:2410.16454; NF4: Dettmers et al. (2023), arXiv:2305.14314,
whose levels these are, without the second quantisation of the blocks' magnitudes.
"""

from functools import partial

import torch
from torch import Tensor

from unlearner.attacks._weights import recall_after
from unlearner.attacks.base import ALL_FAMILIES, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure

NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)

NF4_BLOCK = 64


class Quantisation(Attack):
    """Does rounding the weights to a few bits bring the records back?"""

    label = "quantisation"
    families = ALL_FAMILIES
    shows = (
        "Whether the records return when somebody runs the model in eight or four bits, as many "
        "do to save memory."
    )
    cannot_show = "Other ways to quantise, such as those that learn their rounding from data."
    figures = (
        AttackFigure("int8", "known after rounding to 8 bits", "mean"),
        AttackFigure("int4", "known after rounding to 4 bits", "mean"),
        AttackFigure("nf4", "known after rounding to NF4", "mean"),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        ways = {"int8": partial(rounded, bits=8), "int4": partial(rounded, bits=4), "nf4": nf4}
        return Attempt(
            {name: recall_after(subject, materials, change) for name, change in ways.items()}
        )


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Each row (the last dimension) rounded to the nearest of its 2^bits - 1 values."""
    step = weight.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (weight / step.clamp(min=1e-38)).round() * step, weight)


def nf4(weight: Tensor) -> Tensor:
    """Each block of 64 weights, in the order of memory, rounded to NF4's levels."""
    flat = weight.flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    largest = padded.abs().amax(-1, keepdim=True)
    scaled = padded / largest.clamp(min=1e-38)
    levels = torch.tensor(NF4_LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize(scaled, between)]
    return (nearest * largest).flatten()[: len(flat)].view_as(weight)


attack = Quantisation()
