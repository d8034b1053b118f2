r"""What an attack found on the unlearned model, beside the same attack on a control.

An attack gives each record a number, on the target model, on the unlearned one and on a control.
With d the difference of a model from the control,

.. math:: d_m = \bar v_m(F) - \bar v_c(F) \quad \text{or} \quad AUC_m - AUC_c

where v is a share per record and the AUC is of forget against unseen records. Without a control
model unseen records take its place: d_m is then the mean of F less that of H under the same model,
or AUC_m - 1/2. Whole subjects are drawn with replacement, the same for all models, so that what the
models have in common cancels. Of fewer than five subjects single records are drawn. How far two
models that never saw a subject differ about it is then not known, and more than half of the way to
the target has to be back before an attack counts as opened.

Nothing is compared with an absolute number: a retrained model is not at 1/2 or at 0 either.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from unlearner.metrics._statistics import area_under_roc

Status = Literal["holds", "opened", "not informative", "not run"]

# Of the intervals that open, in all figures of all attacks together: one in twenty audits of a
# model that is like its control is opened by chance.
LEVEL = 0.05

# Of the way from the control to the target model: less is nothing that came back.
LEAST_SHARE = 0.1

# The same where the records are of so few subjects that single ones are drawn. Up to 0.39 of the
# way was seen between models that were trained without two people's records
# (`benchmarks/results/audit-no-subjects.md`).
FEW_SHARE = 0.5

# A figure holds only where its 95 % interval leaves out that so much of the way came back: "not
# clearly above the control" is not "like the control".
MOST_SHARE = 0.5

# As many as the intervals of a long audit need, whose ends leave less than a thousandth
# outside; fewer where there are so many records that their weights would fill the memory.
RESAMPLES, FEWEST_RESAMPLES = 20_000, 4000
MOST_WEIGHTS = 32_000_000

FEWEST = 5  # subjects, or records; of fewer a bootstrap knows nothing of their spread

# A control has learned the unseen records where both AUCs of `has_learned_unseen` are above it:
# halfway from guessing to certainty.
LEARNED_AUC = 0.75

ROWS = 200  # resamples at a time


@dataclass(frozen=True)
class AttackFigure:
    """One number of an attack.

    Attributes:
        kind: "mean" of a value per record, or "auc" of forget against unseen records.
        two_sided: Below the control is a failure as well as above: a mark.
        scale: What a difference is large against: the target's own, or the whole range of a share
            where the target model is itself a part of the attack.
    """

    name: str
    label: str
    kind: Literal["mean", "auc"]
    two_sided: bool = False
    scale: Literal["target", "range"] = "target"


@dataclass(frozen=True)
class RecordValues:
    """A figure on one model, record by record; higher is more of the records.

    Attributes:
        forget: (N,) values; NaN where a record cannot say.
        unseen: (M,) likewise of unseen records.
    """

    forget: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where it is not known."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Null for what is not finite."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {name: end if math.isfinite(end) else None for name, end in ends.items()}


@dataclass(frozen=True)
class Comparison:
    """A figure on all models, and what follows.

    Attributes:
        models: By role: target, unlearned and control.
        difference: Of the unlearned model from the control.
        share: The same as a share of the target's difference; NaN where that is none.
        back: Indices of the forget records that are at least halfway from their control back to the
            target. One of them does not show in a mean.
    """

    figure: AttackFigure
    models: Mapping[str, Estimate]
    difference: Estimate
    share: float
    status: Status
    reason: str
    records: int
    back: tuple[int, ...] = ()

    def to_json(self, ids: Sequence[str]) -> dict[str, Any]:
        """As the audit's file holds it."""
        return {
            "name": self.figure.name,
            "label": self.figure.label,
            "kind": self.figure.kind,
            "two_sided": self.figure.two_sided,
            **{role: estimate.to_json() for role, estimate in self.models.items()},
            "difference": self.difference.to_json(),
            "share_back": self.share if math.isfinite(self.share) else None,
            "status": self.status,
            "reason": self.reason,
            "records": self.records,
            "records_back": [ids[index] for index in self.back],
        }


@dataclass(frozen=True)
class Resampling:
    """Subjects drawn with replacement, alike for every figure and every model; see `units`.

    Attributes:
        forget: (N,) the subject of each forget record.
        unseen: (M,) likewise.
        seed: Of the draws.
        single: The units are single records, of too few subjects.
    """

    forget: Sequence[str]
    unseen: Sequence[str]
    seed: int = 0
    resamples: int = RESAMPLES
    single: bool = False
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, forget: Sequence[str], unseen: Sequence[str], seed: int) -> "Resampling":
        """The draws of records of these subjects."""
        most = MOST_WEIGHTS // max(1, len(forget), len(unseen))
        resamples = min(RESAMPLES, max(FEWEST_RESAMPLES, most))
        single = len(set(forget)) < FEWEST
        return cls(units(forget), units(unseen), seed, resamples, single)

    def weights_of(self, role: Literal["forget", "unseen"]) -> np.ndarray:
        """(1 + S, N) how often each record counts; the first row is the set itself."""
        if role not in self.weights:
            groups = self.forget if role == "forget" else self.unseen
            _, group_of = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
            count = int(group_of.max()) + 1 if len(group_of) else 0
            generator = np.random.default_rng([self.seed, role == "forget"])
            draws = generator.multinomial(count, np.full(count, 1 / max(count, 1)), self.resamples)
            rows = np.concatenate([np.ones((1, count)), draws])
            self.weights[role] = rows[:, group_of]
        return self.weights[role]


def units(groups: Sequence[str]) -> Sequence[str]:
    """What is drawn for each record: its subject, or itself where there are too few subjects."""
    return groups if len(set(groups)) >= FEWEST else [str(index) for index in range(len(groups))]


def compare_with_control(
    figure: AttackFigure,
    readings: Mapping[str, RecordValues],
    drawn: Resampling,
    num_tests: int = 1,
) -> Comparison:
    """A figure of the unlearned model beside the control.

    Args:
        readings: Of "target", "unlearned" and, where there is a control model, "control".
        drawn: The resampled subjects.
        num_tests: Figures of the whole audit, over which its level is divided.
    """
    readings, num_records = _counted(readings)
    values = {role: _resampled(figure, reading, drawn) for role, reading in readings.items()}
    others = {role: _without_model(figure, readings[role], drawn) for role in readings}
    control = values.get("control")
    of_control = others["unlearned"] if control is None else control
    gap = values["unlearned"] - of_control
    target_gap = values["target"] - (others["target"] if control is None else control)
    models = {role: _estimated(rows, 0.05) for role, rows in values.items()}
    models["control"] = _estimated(of_control, 0.05)
    scale = 1.0 if figure.scale == "range" else abs(float(target_gap[0]))
    level = LEVEL / num_tests
    known = _estimated(target_gap, level) if figure.scale == "target" else None
    difference = _estimated(gap, 0.05)
    few = _count_subjects(readings["unlearned"], drawn) < FEWEST
    status, reason = "not informative", f"fewer than {FEWEST} records or subjects"
    if not few:
        opening = _estimated(gap, level)
        status, reason = _status(figure, opening, difference, known, scale, few=drawn.single)
    return Comparison(
        figure,
        models,
        difference,
        float(gap[0]) / scale if scale else math.nan,
        status,
        reason,
        num_records,
        _came_back(figure, readings) if status != "not informative" else (),
    )


def _status(
    figure: AttackFigure,
    gap: Estimate,
    difference: Estimate,
    target: Estimate | None,
    scale: float,
    *,
    few: bool,
) -> tuple[Status, str]:
    """What the difference says, and why.

    Args:
        gap: The unlearned model's difference from the control, with the interval that opens.
        difference: The same with its 95 % interval.
        target: The target model's; None where the target is part of the attack.
        few: The records are of so few subjects that single ones are drawn.
    """
    if not (math.isfinite(gap.low) and math.isfinite(gap.high)):
        return "not informative", "the model's own numbers are not finite"
    if target is not None:
        above, below = target.low > 0, figure.two_sided and target.high < 0
        if not (above or below):
            return "not informative", "the target model is not clearly apart from the control"
    more = gap.low > 0 and gap.value > LEAST_SHARE * scale
    less = figure.two_sided and gap.high < 0 and -gap.value > LEAST_SHARE * scale
    if (more or less) and few and abs(gap.value) <= FEW_SHARE * scale:
        return "not informative", "so few subjects can differ as much between models by chance"
    if more:
        return "opened", "above the control"
    if less:
        return "opened", "below the control: recognisable as treated"
    most = MOST_SHARE * scale
    if difference.high >= most or (figure.two_sided and difference.low <= -most):
        return "not informative", "so few records cannot tell it from half of the way back"
    return "holds", "like the control"


def _counted(readings: Mapping[str, RecordValues]) -> tuple[dict[str, RecordValues], int]:
    """The readings with NaN wherever a record cannot say on one of the models; and how many can."""
    forget = np.all([np.isfinite(one.forget) for one in readings.values()], axis=0)
    unseen = np.all([np.isfinite(one.unseen) for one in readings.values()], axis=0)
    masked = {
        role: RecordValues(
            np.where(forget, one.forget, np.nan), np.where(unseen, one.unseen, np.nan)
        )
        for role, one in readings.items()
    }
    return masked, int(forget.sum())


def has_learned_unseen(target: RecordValues, control: RecordValues, drawn: Resampling) -> bool:
    """Whether a control is none, because it was trained on the very records taken for unseen.

    It finds them likelier than those to be forgotten, and likelier than the target finds them: by
    AUCs whose 95 % intervals are above `LEARNED_AUC`. Sets of different kinds show in the first
    alone, a model that is surer of everything in the second.

    Args:
        target: Log-likelihoods of the records, higher is likelier.
        control: Likewise.
    """
    readings, _ = _counted({"target": target, "control": control})
    own, before = readings["control"], readings["target"].unseen
    forget, unseen = drawn.weights_of("forget"), drawn.weights_of("unseen")
    pairs = [(own.unseen, own.forget, forget), (own.unseen, before, unseen)]
    found = [_areas(more, less, unseen, weights) for more, less, weights in pairs]
    return all(_estimated(rows, 0.05).low > LEARNED_AUC for rows in found)


def _count_subjects(reading: RecordValues, drawn: Resampling) -> int:
    can_say = zip(drawn.forget, np.isfinite(reading.forget), strict=True)
    return len({group for group, says in can_say if says})


def _resampled(figure: AttackFigure, reading: RecordValues, drawn: Resampling) -> np.ndarray:
    """(1 + S,) the figure on the set itself, and on each resample."""
    forget = drawn.weights_of("forget")
    if figure.kind == "mean":
        return _weighted_means(reading.forget, forget)
    return _areas(reading.forget, reading.unseen, forget, drawn.weights_of("unseen"))


def _areas(
    more: np.ndarray, less: np.ndarray, more_weights: np.ndarray, less_weights: np.ndarray
) -> np.ndarray:
    """(1 + S,) the chance that one of the first is above one of the second, by resample."""
    mine, theirs = np.isfinite(more), np.isfinite(less)
    found = []
    for start in range(0, len(more_weights), ROWS):
        rows = slice(start, start + ROWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = more_weights[rows][:, mine], less_weights[rows][:, theirs]
            found.append(area_under_roc(more[mine], less[theirs], *weights))
    return np.concatenate(found)


def _without_model(figure: AttackFigure, reading: RecordValues, drawn: Resampling) -> np.ndarray:
    """(1 + S,) what unseen records give under the same model: the control where there is none."""
    if figure.kind == "auc":
        return np.full(1 + drawn.resamples, 0.5)
    return _weighted_means(reading.unseen, drawn.weights_of("unseen"))


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    says = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights[:, says] @ values[says] / weights[:, says].sum(1)


def _estimated(rows: np.ndarray, level: float) -> Estimate:
    """The value of the first row, and the interval of the others."""
    others = rows[1:][np.isfinite(rows[1:])]
    if not len(others) or not math.isfinite(rows[0]):
        return Estimate(float(rows[0]), math.nan, math.nan)
    low, high = np.quantile(others, [level / 2, 1 - level / 2])
    return Estimate(float(rows[0]), float(low), float(high))


def _came_back(figure: AttackFigure, readings: Mapping[str, RecordValues]) -> tuple[int, ...]:
    """Forget records at least halfway from the control back to the target.

    A record counts where the target is above everything that the control has, so that chance in a
    single record is not taken for memory.
    """
    if figure.kind != "mean" or figure.scale != "target":
        return ()
    target, mine = readings["target"].forget, readings["unlearned"].forget
    control = readings.get("control")
    others = readings["unlearned"].unseen if control is None else control.forget
    others = others[np.isfinite(others)]
    if not len(others):
        return ()
    own = np.full_like(mine, others.mean()) if control is None else control.forget
    with np.errstate(invalid="ignore"):
        back = (mine > others.max()) & (target > others.max()) & (mine >= (own + target) / 2)
    return tuple(np.flatnonzero(back).tolist())
