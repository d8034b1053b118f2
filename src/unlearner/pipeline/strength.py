r"""How far to go: the path between the target's weights and the unlearned model's.

.. math:: \theta(a) = (1 - a) \theta_{target} + a \theta_{unlearned}

Forgetting and damage both grow with a, so the largest a under the utility floor is the most that a
run has to offer at that utility, and different methods can be compared there.

Reference: Wang et al. (2024), arXiv:2406.09179, who call it unlearning with control.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner.errors import UserError
from unlearner.families.base import Prepared
from unlearner.methods.base import Method
from unlearner.models.ensemble import ENSEMBLE_FILE
from unlearner.models.loading import Loaded, limit_threads
from unlearner.output import Json
from unlearner.pipeline.finished_run import check_same, config_of
from unlearner.pipeline.pipeline import measure_baseline, start
from unlearner.report.files import read_report
from unlearner.training.classifier_loop import Stop, Watch
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.stop_rule import Refinement, Rules
from unlearner.training.trainer import resolve_device

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Point:
    """The model at a share of the path.

    Attributes:
        share: a, from 0 (the target) to 1 (the unlearned model).
        ma, el_10, es: Of the forget set.
        kept_ratio: The retain perplexity ratio, over the target's; infinite where it is too large
            for a number.
        suppressed: The forget set, and each of its records, is within the holdout thresholds.
    """

    share: float
    ma: float
    el_10: float | None
    es: float | None
    kept_ratio: float
    suppressed: bool

    def to_json(self) -> Json:
        """As reports hold it; null for a ratio that is not finite."""
        return asdict(self) | {"kept_ratio": self.kept_ratio if isfinite(self.kept_ratio) else None}

    def keeps(self, floor: float) -> bool:
        """Whether the ratio is under the utility floor."""
        return self.kept_ratio <= floor


@dataclass(frozen=True)
class LabelPoint:
    """The classifier at a share of the path.

    Attributes:
        share: a, from 0 (the target) to 1 (the unlearned model).
        forget_score: Accuracy on the forget set, of tags the entity F1.
        holdout_score: Likewise on watched holdout records.
        mia_loss_auc: How well a low loss distinguishes forget from holdout records.
        retain_score: The score of watched retained records.
        suppressed: Nothing is left to forget by the rule that the method stops by.
    """

    share: float
    forget_score: float
    holdout_score: float
    mia_loss_auc: float
    retain_score: float
    suppressed: bool

    def to_json(self) -> Json:
        """As reports hold it; null for what is not finite."""
        fields = asdict(self)
        return {name: value if isfinite(value) else None for name, value in fields.items()}

    def keeps(self, floor: float) -> bool:
        """Whether the score of retained records is at the floor at least."""
        return self.retain_score >= floor


AnyPoint = Point | LabelPoint

PointT = TypeVar("PointT", bound=AnyPoint)

# The path


@torch.no_grad()
def mix(model: nn.Module, target: Weights, unlearned: Weights, share: float) -> None:
    """Give the model the weights at a share of the path; whole numbers stay the target's.

    Layers that it holds in 16 bits get them rounded, as they would be saved.
    """
    mixed = {}
    for name, before in target.items():
        if not before.is_floating_point():
            mixed[name] = before
            continue
        after = unlearned[name].to(before.device)
        mixed[name] = torch.lerp(before.float(), after.float(), share)
    model.load_state_dict(mixed)


def strength_path(
    model: PreTrainedModel,
    target: Weights,
    unlearned: Weights,
    data: UnlearningData | ClassifierData,
    shares: Sequence[float],
    stop: Stop = "auto",
) -> list[AnyPoint]:
    """The model at each share, measured as in an evaluation round; it is then the target.

    Args:
        shares: In any order; 0 is measured first in any case.
        stop: The rule by which a classifier counts as unlearned.
    """
    points: dict[float, AnyPoint] = {}
    point_at = _label_points(data, stop) if isinstance(data, ClassifierData) else _text_points(data)
    for share in dict.fromkeys((0.0, *shares)):
        mix(model, target, unlearned, share)
        points[share] = point_at(model, share)
    mix(model, target, unlearned, 0.0)
    return [points[share] for share in shares]


def _text_points(data: UnlearningData) -> Callable[[PreTrainedModel, float], Point]:
    """What measures a language model; the first is the target."""
    refinement, seen = Refinement(Rules(), data, by_set=True), []

    def point_at(model: PreTrainedModel, share: float) -> Point:
        state = refinement.examine(model, 0, *seen[:1])
        seen.append(state)
        return Point(
            share,
            ma=state.values["ma"],
            el_10=state.values.get("el_10"),
            es=state.values.get("es"),
            kept_ratio=state.kept_ratio,
            suppressed=state.suppressed,
        )

    return point_at


def _label_points(
    data: ClassifierData, stop: Stop
) -> Callable[[PreTrainedModel, float], LabelPoint]:
    """What measures a classifier."""
    watch = Watch(stop, data)

    def point_at(model: PreTrainedModel, share: float) -> LabelPoint:
        state = watch.examine(model, 0, 0)
        return LabelPoint(
            share,
            state.forget_score,
            state.holdout_score,
            state.mia_loss_auc,
            state.retain_score,
            suppressed=watch.excess(state) == 0,
        )

    return point_at


def strength_of(
    method: Method,
    model: PreTrainedModel,
    target: Weights,
    unlearned: Weights,
    data: UnlearningData | ClassifierData,
    shares: Sequence[float],
) -> Json:
    """The points of the path and the furthest that keeps the utility, as reports hold them."""
    stop = method.model_dump().get("stop") or "auto"
    first, *points = strength_path(model, target, unlearned, data, (0.0, *shares), stop)
    best = largest_keeping(points, utility_floor(data, first.to_json()))
    return {
        "points": [point.to_json() for point in points],
        "at_the_floor": None if best is None else best.to_json(),
    }


def utility_floor(data: UnlearningData | ClassifierData, target: Json) -> float:
    """The most perplexity of retained text, or the least score of retained records.

    Args:
        target: The point of the target model.
    """
    if isinstance(data, ClassifierData):
        return target["retain_score"] - data.score_drop
    return data.utility_floor


def evenly_spaced(points: int) -> list[float]:
    """So many shares from 0 to 1, both among them."""
    return [number / (points - 1) for number in range(points)]


def largest_keeping(points: Sequence[PointT], floor: float) -> PointT | None:
    """The point furthest along the path that keeps the utility floor; None where none does."""
    keeping = [point for point in points if point.keeps(floor)]
    return max(keeping, key=lambda point: point.share, default=None)


# The path of a finished run


def add_strength(
    run_dir: Path, shares: Sequence[float], say: Callable[[str], None]
) -> tuple[Json, UnlearningData | ClassifierData]:
    """The report of a finished run with its strength, and what thresholds and floor rest on.

    Raises:
        UserError: It is not the folder of a finished run of `unlearner forget`, there is nothing
            between its models, or what it began with is no longer there or no longer the same.
    """
    report = _finished_report(run_dir)
    config, family = config_of(run_dir, report, "strength")
    say("loading the target model and the unlearned one")
    prepared = start(config, family)
    unlearned = family.load(str(run_dir / "model"))
    check_same(run_dir, report, prepared, unlearned)
    _check_shapes(run_dir, prepared, unlearned)
    model = prepared.loaded.to(resolve_device(config.training))
    limit_threads(model)
    # Whether it still knows the records was decided by the run.
    data = measure_baseline(config, prepared, lambda _: None, force=True, say=say).data
    say(f"looking at {len(shares)} models between the target and the unlearned one")
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    after = unlearned.model.state_dict()
    report["strength"] = strength_of(config.method, model, before, after, data, shares)
    return report, data


def _finished_report(run_dir: Path) -> Json:
    """The report of a run whose target and unlearned model can be mixed."""
    report = read_report(run_dir)
    command = report["command"]
    if command != "forget":
        raise UserError(
            f"{run_dir}: is a folder of `unlearner {command}`, which changed no model; give one of "
            "`unlearner forget`"
        )
    if (run_dir / "model" / ENSEMBLE_FILE).exists():
        raise UserError(
            f"{run_dir / 'model'}: is an ensemble of several models, so there is nothing between "
            "it and the target model"
        )
    if not (run_dir / "model").is_dir():
        raise UserError(
            f"{run_dir / 'model'}: no such folder; the unlearned model is needed, so repeat the "
            f"run with `unlearner forget --config {run_dir / 'run.yaml'} --output DIR`"
        )
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"{run_dir}: cannot be written, and the report is there; copy the folder")
    return report


def _check_shapes(run_dir: Path, prepared: Prepared, unlearned: Loaded) -> None:
    """Refuse models between which there is nothing."""
    if _shapes(prepared.loaded.model) != _shapes(unlearned.model):
        raise UserError(
            f"{run_dir / 'model'}: is of another shape than {prepared.loaded.name}, so there is "
            "nothing between them"
        )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
