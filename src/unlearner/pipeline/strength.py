r"""How far to go: the path between the target's weights and the unlearned model's.

.. math:: \theta(a) = (1 - a) \theta_{target} + a \theta_{unlearned}

Forgetting and damage both grow with a, so the largest a under the utility floor is the most that a
run has to offer at that utility, and different methods can be compared there.

Reference: Wang et al. (2024), arXiv:2406.09179, who call it unlearning with control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import LevelRules
from unlearner.training.stop_rule import Refinement, RoundState

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Point:
    """The model at a share of the path.

    Attributes:
        share: a, from 0 (the target) to 1 (the unlearned model).
        ma, el_10, es: Of the forget set.
        kept_ratio: Perplexity of kept text as a multiple of the target model's; infinite where it
            is too large for a number.
        suppressed: The forget set, and each of its records, is at the level of unseen text.
    """

    share: float
    ma: float
    el_10: float | None
    es: float | None
    kept_ratio: float
    suppressed: bool

    def to_json(self) -> dict[str, Any]:
        """As reports hold it; null for a ratio that is not finite."""
        return asdict(self) | {"kept_ratio": self.kept_ratio if isfinite(self.kept_ratio) else None}


@torch.no_grad()
def mix(model: Any, target: Weights, unlearned: Weights, share: float) -> None:
    """Give the model the weights at a share of the path; what is no number with a point stays."""
    mixed = {}
    for name, before in target.items():
        after = unlearned[name].to(before.device)
        mixed[name] = torch.lerp(before, after, share) if before.is_floating_point() else before
    model.load_state_dict(mixed)


def strength_path(
    model: Any, target: Weights, unlearned: Weights, data: UnlearningData, shares: Sequence[float]
) -> list[Point]:
    """The model at each share, as it is looked at between rounds; it is then the target.

    Args:
        shares: In any order; 0 is looked at first in any case.
    """
    refinement = Refinement(LevelRules(), data, by_set=True)
    mix(model, target, unlearned, 0.0)
    first = refinement.examine(model, 0)
    points = []
    for share in shares:
        if share == 0.0:
            points.append(_point(share, first))
            continue
        mix(model, target, unlearned, share)
        points.append(_point(share, refinement.examine(model, 0, first)))
    mix(model, target, unlearned, 0.0)
    return points


def largest_keeping(points: Sequence[Point], floor: float) -> Point | None:
    """The point furthest along the path that is under the utility floor; None where none is."""
    kept = [point for point in points if point.kept_ratio <= floor]
    return max(kept, key=lambda point: point.share, default=None)


def _point(share: float, state: RoundState) -> Point:
    values = state.values
    return Point(
        share,
        values["ma"],
        values.get("el_10"),
        values.get("es"),
        state.kept_ratio,
        state.suppressed,
    )
