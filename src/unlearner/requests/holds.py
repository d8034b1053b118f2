"""Whether what was forgotten for earlier requests is still forgotten by a model.

Each run's criteria on its records were fixed before that run, and stand in the ledger. They are
asked again of any model: a later run's, one that was fine-tuned again, one that was quantised. So
are the limits of quality, which rest on the model from before the first request.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearner.data.record import RecordSet
from unlearner.evaluation.verdict import Criterion
from unlearner.families.base import AnyFamily, AnyPrepared
from unlearner.models.loading import limit_threads
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import read_config
from unlearner.requests.records import as_row
from unlearner.training.trainer import resolve_device

HOLDS, LOST, NOT_MEASURED = "holds", "lost", "not measured"


@dataclass(frozen=True)
class Asked:
    """Records that one run was for, and the limits to hold them to.

    Attributes:
        requests: The ids of the requests.
        records: None where their text is gone.
        criteria: On the forget set.
    """

    requests: tuple[str, ...]
    records: RecordSet | None
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True)
class StillHeld:
    """What came of it.

    Attributes:
        status: "holds", "lost" or "not measured".
        figures: By metric.
        reason: The criteria that fail, or why nothing was measured.
    """

    requests: tuple[str, ...]
    status: str
    figures: Mapping[str, float]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As the ledger holds it."""
        figures = {name: value for name, value in self.figures.items() if math.isfinite(value)}
        return {
            "requests": list(self.requests),
            "status": self.status,
            "figures": figures,
            "reason": self.reason,
        }


def criterion_of(values: Mapping[str, Any]) -> Criterion:
    """A criterion as a report or the ledger holds it."""
    return Criterion(
        values["claim"],
        values["metric"],
        values["set"],
        values.get("at_most"),
        values["source"],
        values.get("at_least"),
    )


def measure_holds(
    sections: Mapping[str, Any],
    model: str,
    asked: Sequence[Asked],
    utility: Sequence[Criterion],
    say: Callable[[str], None],
) -> list[StillHeld]:
    """Each of the asked on a model, and what is kept of its quality as the last one.

    Args:
        sections: Of the last run: where retained and unseen records are, how they become tokens.
        model: The folder or hub id.
        utility: The limits of quality; empty where they are not to be asked.

    Raises:
        UserError: The model, or a set, cannot be used.
    """
    gone = [
        StillHeld(one.requests, NOT_MEASURED, {}, "the text of its records is gone")
        for one in asked
        if one.records is None
    ]
    there = [one for one in asked if one.records is not None]
    if not there:
        return gone
    measuring = _Measuring(sections, model, there)
    found = []
    for one in there:
        say(f"measuring request {', '.join(one.requests)} on {model}")
        found.append(measuring.held(one))
    return [*found, *gone, *measuring.kept(utility)]


class _Measuring:
    """A model, loaded once, with the records of all runs; the other sets are asked once."""

    def __init__(self, sections: Mapping[str, Any], model: str, asked: Sequence[Asked]) -> None:
        own = {name: dict(values) for name, values in sections.items()}
        own.setdefault("model", {}).update(name=model, original="", retrained="", base="")
        own.setdefault("data", {}).update(forget="", drop_duplicates=True)
        config, self.family = read_config(own)
        self.config = config.of_sets_alone()
        rows = [
            as_row(replace(record, id=f"{place}/{record.id}"))
            for place, one in enumerate(asked)
            for record in one.records or ()
        ]
        self.places = {id(one): place for place, one in enumerate(asked)}
        given = {"forget": rows}
        self.prepared = pipeline.start(self.config, self.family, given, command="evaluate")
        limit_threads(self.prepared.loaded.to(resolve_device(self.config.training)))
        sets = self.family.measured_sets(self.prepared, self.config)
        self.others = {role: some for role, some in sets.items() if role != "forget"}
        self.answers = _infer(self.family, self.prepared, self.others, self.config)

    def held(self, one: Asked) -> StillHeld:
        """The criteria of one run on its records."""
        prefix = f"{self.places[id(one)]}/"
        forget = self.prepared["forget"]
        chosen = [i for i, record in enumerate(forget.records) if record.id.startswith(prefix)]
        sets = {**self.others, "forget": forget.subset(chosen)}
        own = _infer(self.family, self.prepared, {"forget": sets["forget"]}, self.config)
        answers = {"unlearned": {**self.answers, **own}}
        scores = self.family.score("unlearned", answers, sets, self.config)
        return _judged(one.requests, one.criteria, scores)

    def kept(self, utility: Sequence[Criterion]) -> list[StillHeld]:
        """The limits of quality, as of no request; none where there are none."""
        mine = [one for one in utility if one.set in self.others]
        if not mine:
            return []
        scores = self.family.score(
            "unlearned", {"unlearned": self.answers}, self.others, self.config
        )
        return [_judged((), mine, scores)]


def _infer(
    family: AnyFamily, prepared: AnyPrepared, sets: Mapping[str, Any], config: Any
) -> dict[str, list[Any]]:
    return family.infer(prepared.loaded, sets, config.evaluation) if sets else {}


def _judged(
    requests: tuple[str, ...], criteria: Sequence[Criterion], scores: Mapping[str, Any]
) -> StillHeld:
    figures, failed, missing = {}, [], []
    for criterion in criteria:
        value = scores.get(criterion.set, {}).get(criterion.metric)
        if value is None:
            missing.append(f"{criterion.metric} of {criterion.set}")
            continue
        figures[f"{criterion.metric} of {criterion.set}"] = value.value
        if not criterion.holds(value.value):
            failed.append(criterion.in_words(value.value))
    if failed:
        return StillHeld(requests, LOST, figures, "; ".join(failed))
    if missing or not criteria:
        reason = f"not measured: {', '.join(missing)}" if missing else "it has no criteria"
        return StillHeld(requests, NOT_MEASURED, figures, reason)
    return StillHeld(requests, HOLDS, figures, "")
