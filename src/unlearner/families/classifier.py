"""From files and names to a loaded classifier and labelled sets."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from unlearner.config import RunConfig
from unlearner.data.duplicates import Duplicate, find_duplicates
from unlearner.data.labelled import LabelledSet, Labelling, tokenize_labelled
from unlearner.data.loading import read_records
from unlearner.data.record import Record, RecordSet
from unlearner.datasets.base import named_sets
from unlearner.errors import UserError
from unlearner.evaluation.classifier_measure import (
    Answers,
    Scores,
    ask_sets,
    confusion,
    score_sets,
    shares_right,
)
from unlearner.evaluation.latent_space import Points, geometry, project
from unlearner.evaluation.retrained_gap import distance_to_retrained
from unlearner.families.classifier_criteria import FORGET_SCORE, KEPT_SCORE
from unlearner.inference.answers import ClassAnswer
from unlearner.models.loading import Loaded
from unlearner.settings import DataSettings
from unlearner.training.classifier_finetune import ClassifierFinetuneSettings
from unlearner.training.memory import Plan, Step, forwards_per_step, largest_draw, make_plan

ROLES = ("forget", "retain", "holdout", "test")

UNSEEN = ("holdout", "test")

MEANINGS = {
    "forget": "the labelled records to be forgotten (or --forget-class NAME)",
    "retain": "the remaining labelled training data, on which the model goes on learning",
    "holdout": "labelled records that the model was never trained on: how well unseen records are "
    "classified is what the forgotten ones have to come down to",
}


@dataclass(frozen=True)
class Prepared:
    """A classifier with the labelled sets of a run.

    Attributes:
        sets: By role; with a class to forget also `holdout_class`, its unseen records.
        duplicates: Copies of forget records in the other sets, as far as they were left in.
        forget_class: Index of the label that is to go, where a class is removed.
    """

    loaded: Loaded
    sets: dict[str, LabelledSet]
    duplicates: dict[str, list[Duplicate]]
    forget_class: int | None = None

    def __getitem__(self, role: str) -> LabelledSet:
        return self.sets[role]

    def get(self, role: str) -> LabelledSet | None:
        """The set of a role, None where there is none."""
        return self.sets.get(role)


def prepare(
    loaded: Loaded, data: DataSettings, given: Mapping[str, Any], needs: Collection[str]
) -> Prepared:
    """Read the sets, take out the class or the copies, and tokenize.

    Args:
        given: Sets that come from Python, by role; they go before the paths in `data`.
        needs: The roles that there must be.

    Raises:
        UserError: A set is missing or cannot be used, or holds copies of forget records.
    """
    if data.pool or given.get("pool") is not None:
        raise UserError("--pool: for causal language models; a classifier learns on --retain")
    records = _read(loaded, data, given)
    forget_class = None
    if data.forget_class:
        forget_class = _label(data.forget_class, loaded)
        records = _without_class(records, data.forget_class, loaded.labels[forget_class])
    for role in needs:
        if role not in records:
            raise UserError(f"--{role}: none given; {MEANINGS[role]} is needed")
    duplicates = {}
    if forget_class is None:
        duplicates = _duplicates(records)
        records, duplicates = _settle(records, duplicates, drop=data.drop_duplicates)
    length = max(8, min(data.max_length, loaded.context))
    labelling = Labelling(loaded.labels, length, loaded.family)
    sets = {
        role: tokenize_labelled(some, loaded.tokenizer, labelling) for role, some in records.items()
    }
    return Prepared(loaded, sets, duplicates, forget_class)


def _read(loaded: Loaded, data: DataSettings, given: Mapping[str, Any]) -> dict[str, RecordSet]:
    records = named_sets(data, loaded.family, loaded.labels)
    for role in ROLES:
        source = given.get(role)
        source = getattr(data, role) if source is None else source
        if isinstance(source, RecordSet):
            records[role] = source
        elif source is not None and not (isinstance(source, str) and source == ""):
            records[role] = read_records(
                source, name=role, columns=data.columns, family=loaded.family, labels=loaded.labels
            )
    return records


def _label(name: str, loaded: Loaded) -> int:
    """The index of a class given by name or number.

    Raises:
        UserError: The model is no sequence classifier, or has no such class.
    """
    if loaded.family != "sequence-classification":
        raise UserError(
            f"--forget-class {name}: for sequence classifiers; of a tagger give the sentences to "
            "forget as --forget"
        )
    labels = loaded.labels
    if name in labels:
        return labels.index(name)
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    close = get_close_matches(name, labels, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise UserError(
        f"--forget-class {name!r}: the model has no such class; {hint}it has {len(labels)}: "
        f"{', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}"
    )


def _without_class(
    records: Mapping[str, RecordSet], asked: str, label: str
) -> dict[str, RecordSet]:
    """The training records of the class as forget set; it leaves the other sets as well.

    Raises:
        UserError: Records to forget are given too, or the class is nowhere or everywhere.
    """
    if "forget" in records:
        raise UserError("--forget and --forget-class: give one of them")
    if "retain" not in records:
        raise UserError("--forget-class: --retain with the whole training data is needed")
    found = {}
    for role, some in records.items():
        kept = [record for record in some if record.label != label]
        found[role] = replace(some, records=tuple(kept))
    of_class = [record for record in records["retain"] if record.label == label]
    if not of_class or not found["retain"].records:
        some = "no" if not of_class else "only"
        raise UserError(
            f"--forget-class {asked}: {records['retain'].source} has {some} records of this class"
        )
    found["forget"] = RecordSet("forget", tuple(of_class), records["retain"].source)
    unseen = [
        record
        for role in UNSEEN
        if role in records
        for record in records[role]
        if record.label == label
    ]
    if unseen:
        numbered = [
            replace(record, id=f"{place}-{record.id}") for place, record in enumerate(unseen)
        ]
        found["holdout_class"] = RecordSet("holdout_class", tuple(numbered), "holdout and test")
    empty = [role for role in UNSEEN if role in found and not found[role].records]
    if empty:
        raise UserError(f"--{empty[0]}: holds records of {label} only; others are needed as well")
    return found


def _duplicates(records: Mapping[str, RecordSet]) -> dict[str, list[Duplicate]]:
    if "forget" not in records:
        return {}
    forget = [record.content for record in records["forget"]]
    return {
        role: find_duplicates(forget, [record.content for record in some])
        for role, some in records.items()
        if role != "forget"
    }


def _settle(
    records: dict[str, RecordSet], duplicates: dict[str, list[Duplicate]], *, drop: bool
) -> tuple[dict[str, RecordSet], dict[str, list[Duplicate]]]:
    """The sets without copies of forget records, where that was asked for.

    Raises:
        UserError: There are copies, and they are to be dealt with by the user.
    """
    settled, left = dict(records), dict(duplicates)
    for role, found in duplicates.items():
        copies = {one.other for one in found if one.exact}
        if copies and not drop:
            raise UserError(_refusal(records, role, [one for one in found if one.exact]))
        kept = [place for place in range(len(records[role])) if place not in copies]
        if not kept:
            raise UserError(f"--{role}: every record is a copy of a record to forget; give others")
        settled[role] = replace(
            records[role], records=tuple(records[role].records[place] for place in kept)
        )
        number = {place: index for index, place in enumerate(kept)}
        left[role] = [replace(one, other=number[one.other]) for one in found if one.other in number]
    return settled, left


def _refusal(records: Mapping[str, RecordSet], role: str, found: Sequence[Duplicate]) -> str:
    forget, other = records["forget"].records, records[role].records
    first = found[0]
    why = "would teach them back" if role == "retain" else "are not unseen"
    return (
        f"--{role}: {len({one.other for one in found})} of its records are records to forget and "
        f"{why}, first {other[first.other].id!r} as {forget[first.forget].id!r}; leave them out, "
        "or let --drop-duplicates do it"
    )


def measured(some: LabelledSet, limit: int, seed: int) -> LabelledSet:
    """The set itself, or a seeded sample of its records where it is larger than the limit."""
    if len(some) <= limit:
        return some
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))[:limit]
    return some.subset(sorted(order.tolist()))


# Further models that a method keeps beside the one in training; and with adapters, with which off
# that one is the target itself.
FURTHER = {"bad_teacher": 2, "scrub": 1, "retrain": 1}

FURTHER_WITH_ADAPTERS = {"bad_teacher": 1}


@dataclass(frozen=True)
class CheckResult:
    """What the target model knows of the records.

    Attributes:
        answers: The target model's answers by set.
        values: Every metric of every set.
        score: The metric that the forget set is judged by.
        chance: Recall of a class to be removed by guessing; None where records are removed.
        memorised: Whether there is something to unlearn; None without a holdout set.
        duplicates: Copies of forget records in the other sets.
        record_ids: The ids of every set's records.
    """

    answers: Answers
    values: Scores
    score: str
    chance: float | None
    memorised: bool | None
    duplicates: dict[str, list[Duplicate]]
    record_ids: dict[str, list[str]]
    plan: Plan
    family: str

    def ids(self, role: str, found: list[Duplicate]) -> list[tuple[str, str]]:
        """The ids of each forget record and its copy in another set."""
        return [
            (self.record_ids["forget"][one.forget], self.record_ids[role][one.other])
            for one in found
        ]

    def summary(self) -> str:
        """The answer in one sentence."""
        forget = self.values["forget"]
        value = forget[self.score].value if self.score in forget else math.nan
        found = f"{self.score} {value:.3f}"
        if self.chance is not None:
            known = "known" if self.memorised else "nothing to unlearn by this measure"
            return f"{known}: {found} of the class, chance is {self.chance:.3f}"
        if self.memorised is None:
            return f"{found}; without --holdout there are no unseen records to compare with"
        unseen = self.values["holdout"].get(self.score)
        level = f"unseen records have {unseen.value:.3f}" if unseen else "no level of unseen ones"
        attack = forget["mia_loss_auc"]
        told = f"they are told from unseen ones with AUC {attack.value:.3f} (0.5 is guessing)"
        known = "known" if self.memorised else "nothing to unlearn by these measures"
        return f"{known}: {found}, {level}; {told}"


def measured_sets(prepared: Prepared, config: RunConfig) -> dict[str, LabelledSet]:
    """The sets whose figures are reported, large ones as a seeded sample."""
    limit, seed = config.evaluation.limit_for(prepared.loaded.family), config.training.seed
    return {
        role: some if role == "forget" else measured(some, limit, seed)
        for role, some in prepared.sets.items()
    }


def check_sets(
    prepared: Prepared, sets: Mapping[str, LabelledSet], config: RunConfig
) -> CheckResult:
    """Ask the target model about every set and compare with unseen records."""
    loaded, evaluation = prepared.loaded, config.evaluation
    started = time.perf_counter()
    answers = ask_sets(loaded.model, sets, loaded.labels, evaluation.batch_tokens)
    seconds = (time.perf_counter() - started) / sum(some.num_tokens for some in sets.values())
    values = score_sets(answers, sets, evaluation, seed=config.training.seed)
    _check_finite(values, loaded.name)
    chance = None if prepared.forget_class is None else 1 / len(loaded.labels)
    score = FORGET_SCORE[loaded.family]
    return CheckResult(
        answers=answers,
        values=values,
        score=score,
        chance=chance,
        memorised=_memorised(values, score, chance, config.criteria.score_margin),
        duplicates=prepared.duplicates,
        record_ids={role: [r.id for r in some.records] for role, some in prepared.sets.items()},
        plan=_plan(prepared, config, seconds),
        family=loaded.family,
    )


def _check_finite(values: Scores, name: str) -> None:
    """Refuse a broken model: one that knows nothing at all would pass for having forgotten.

    Raises:
        UserError: The loss of a set is not a finite number.
    """
    for role, found in values.items():
        if not math.isfinite(found["loss"].value):
            raise UserError(
                f"MODEL {name}: its loss on the {role} set is {found['loss'].value}; its weights "
                "are damaged, save or download it again"
            )


def _memorised(values: Scores, score: str, chance: float | None, margin: float) -> bool | None:
    """Above chance for a class; else classified better, or with less loss, than unseen records."""
    forget = values["forget"]
    if chance is not None:
        return forget[score].value > chance
    if "mia_loss_auc" not in forget:
        return None
    low = forget["mia_loss_auc"].low
    told = low == low and low > 0.5  # the interval of one record is NaN
    unseen = values["holdout"].get(score)
    better = (
        unseen is not None and score in forget and (forget[score].value > unseen.value + margin)
    )
    return bool(told or better)


def _plan(prepared: Prepared, config: RunConfig, asking: float) -> Plan:
    """What a run takes, from the seconds that asking about a token took just now."""
    method, forget = config.method, prepared["forget"]
    fields: dict[str, Any] = method.model_dump()
    kept, made_again = prepared.get("retain") or forget, "epochs" in fields
    batch_size, beside = _examples(fields)
    passed = kept if made_again else forget
    steps = -(-len(passed) // batch_size) * fields.get("remaining_per_forget", 1)
    seen = batch_size * fields.get("num_views", 1) + beside * fields.get("retain_views", 1)
    step_tokens = seen * kept.num_tokens / max(1, len(kept.examples))
    epochs = fields.get("epochs") or ClassifierFinetuneSettings().epochs
    return make_plan(
        prepared.loaded.model,
        lambda changed: _largest_step(prepared, changed),
        config,
        seconds=asking * forwards_per_step(config.training) * steps * step_tokens,
        max_epochs=epochs if made_again else method.max_epochs,
    )


def _examples(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Examples of a step: those that an epoch passes over, and remaining ones beside them."""
    batch_size = fields["batch_size"] or ClassifierFinetuneSettings().batch_size
    return batch_size, fields.get("retain_batch_size", 0)


def _largest_step(prepared: Prepared, config: RunConfig) -> Step:
    """The largest step of a method, whose examples go forward in groups of similar length."""
    fields: dict[str, Any] = config.method.model_dump()
    forget, sets = prepared["forget"], prepared.sets.values()
    kept, (batch_size, beside) = prepared.get("retain") or forget, _examples(fields)
    passed = forget if beside or "remaining_per_forget" in fields else kept
    parts = [
        (passed, batch_size, fields.get("num_views", 1)),
        (kept, beside, fields.get("retain_views", 1)),
    ]
    lengths = [
        ([len(example) for example in some.examples], count, views) for some, count, views in parts
    ]
    further = FURTHER_WITH_ADAPTERS if config.training.lora_rank else FURTHER
    return Step(
        tokens=sum(views * largest_draw(some, count) for some, count, views in lengths),
        square=sum(
            views * largest_draw([n * n for n in some], count) for some, count, views in lengths
        ),
        labels=sum(views * count for _, count, views in lengths),
        longest=max(len(example) for some in sets for example in some.examples),
        asked=max(some.num_tokens for some in sets),
        dropout=True,
        # SISA has its shards, and the weights before each slice of one
        copies=further.get(config.method.name, 0)
        + sum(fields.get(name, 0) for name in ("num_shards", "num_slices")),
        others=int(bool(config.model.retrained)),
        saved=fields.get("num_shards", 1),
    )


DRAWN_POINTS = 400  # of the retain set, and of the forget set

DIGITS = 3


def latent_space(
    answers: Mapping[str, Answers], labels: tuple[str, ...], outside: int | None, seed: int
) -> dict[str, Any]:
    """Geometry, projection and confusion of every measured model, by name of the report's field."""
    found: dict[str, Any] = {"geometry": {}, "confusion": {}}
    drawn = {}
    for model, sets in answers.items():
        forget, retain = sets["forget"], sets.get("retain", [])
        found["geometry"][model] = geometry(forget, retain, seed=seed)
        found["confusion"][model] = confusion(forget, outside)
        drawn[model] = _projected(forget, retain, seed)
    shown = {model: points for model, points in drawn.items() if points}
    if shown:
        found["projection"] = {"models": shown, "labels": list(labels)}
    return found


def _projected(
    forget: Sequence[ClassAnswer], retain: Sequence[ClassAnswer], seed: int
) -> dict[str, Any]:
    """Points without ids, rounded: a picture, not a record of anybody's vector.

    Every model has axes of its own: what its own points differ in most.
    """
    sets = {
        "retain": Points.of(retain, seed=seed, max_points=DRAWN_POINTS),
        "forget": Points.of(forget, seed=seed, max_points=DRAWN_POINTS),
    }
    some = [points.features for points in sets.values() if len(points.labels)]
    if sum(map(len, some)) < 3 or not all(np.isfinite(features).all() for features in some):
        return {}
    flat, explained = project(np.concatenate(some))
    places = iter(flat)
    found: dict[str, Any] = {"explained": [_rounded(share) for share in explained]}
    for role, points in sets.items():
        found[role] = [[*map(_rounded, next(places)), label] for label in points.labels.tolist()]
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def distances(scores: Mapping[str, Scores], family: str) -> dict[str, Any]:
    """How far the target and the unlearned model are from the retrained one."""
    if "retrained" not in scores:
        return {}
    kept = KEPT_SCORE[family]
    return {
        model: distance_to_retrained(scores[model], scores["retrained"], kept)
        for model in ("target", "unlearned")
        if model in scores
    }


def per_record(records: Sequence[Record], answers: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """The share of each forget record's labels that each model gives, by its place in the run."""
    places = {"before": "target", "after": "unlearned", "retrained": "retrained"}
    shares = {
        place: shares_right(answers[model]["forget"])
        for place, model in places.items()
        if model in answers
    }
    return [
        {"id": record.id} | {place: {"correct": some.get(index)} for place, some in shares.items()}
        for index, record in enumerate(records)
    ]
