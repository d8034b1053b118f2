"""Classifiers of texts and of words: how they are loaded, read and run, and what a method gets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, ClassVar, Unpack

import numpy as np

from unlearner import provenance, registry
from unlearner.config import RunConfig
from unlearner.data.duplicates import find_duplicates
from unlearner.data.labelled import LabelledSet, Labelling, tokenize_labelled
from unlearner.data.record import RecordSet
from unlearner.data.tag_schemes import BY_TYPE, NO_ENTITIES, TagUse, tag_use
from unlearner.errors import UserError
from unlearner.evaluation.latent_space import Points, geometry, project
from unlearner.evaluation.measure import (
    ClassAnswers,
    Scores,
    confusion_counts,
    quick_figures,
    shares_right,
    with_retrained,
)
from unlearner.evaluation.retrained_gap import distance_to_retrained, margin_kls
from unlearner.evaluation.verdict import Criterion, Verdict
from unlearner.families.base import (
    Family,
    Measured,
    Prepared,
    References,
    check_finite,
    check_tokens_known,
    columns_of,
    reading_of,
    refuse_or_drop_copies,
    sample,
)
from unlearner.families.classifier_criteria import (
    ClassifierBaseline,
    forget_score,
    is_known,
    judge_labels,
    kept_score,
    label_criteria,
    label_statuses,
)
from unlearner.inference.answers import ClassAnswer
from unlearner.inference.classifier import classify
from unlearner.metrics.base import TOKEN_CLASSIFICATION
from unlearner.models.heads import end_token
from unlearner.models.loading import HowLoaded, Loaded, check_head, load_classifier, pad
from unlearner.output import Json
from unlearner.settings import WHOLE, EvaluationSettings, Holding
from unlearner.training.data import ClassifierData, HoldoutBaseline
from unlearner.training.finetune import read_recipe

UNSEEN = ("holdout", "test")

COMPARED = ("original", "target")

MEANINGS = {
    "forget": "the labelled records to be forgotten (or --forget-class NAME)",
    "retain": "the remaining labelled training data, on which the model goes on learning",
    "holdout": "labelled records that the model was never trained on: how well unseen records are "
    "classified is what the forgotten ones have to come down to",
}

# Of the holdout and of the retain set, evaluated between steps; the report measures all of them.
WATCHED_EACH = 128

DRAWN_POINTS = 400  # of the retain set, and of the forget set

DIGITS = 3


@dataclass(frozen=True)
class ClassifierFamily(Family[LabelledSet, ClassAnswer]):
    """Models that give labels: to texts (a sequence) or to words (tokens)."""

    name: str

    roles = ("forget", "retain", "holdout", "test")
    kept_roles = ("retain", "test", "holdout")
    needs: ClassVar = {
        "check": ("forget",),
        "evaluate": ("forget", "holdout"),
        "forget": ("forget", "retain", "holdout"),
    }

    def quality_metric(self, loaded: Loaded) -> str:
        """F1 of the entities or of the classes, or the share of words tagged right."""
        return kept_score(self.name, loaded.labels)

    def load(self, name: str, *, holding: Holding = WHOLE, **how: Unpack[HowLoaded]) -> Loaded:
        """A classifier and its tokenizer, in float32 on its device, whatever `holding` says."""
        return load_classifier(name, **how)

    def reads_alike(self, loaded: Loaded, prepared: Prepared[LabelledSet]) -> bool:
        """By their examples."""
        for some in prepared.sets.values():
            records = RecordSet(some.name, some.records, some.source)
            longest = max(map(len, some.examples))
            labelling = self._labelling(prepared.loaded, longest, prepared.tags)
            again = tokenize_labelled(records, loaded.tokenizer, labelling)
            ids = [[one.input_ids.tolist() for one in two.examples] for two in (some, again)]
            if ids[0] != ids[1]:
                return False
        return True

    def check_comparable(self, loaded: Loaded, role: str, other: Loaded) -> None:
        """Refuse other labels, in names or order."""
        if loaded.labels != other.labels or loaded.family != other.family:
            raise UserError(
                f"--{role} {loaded.name}: its labels differ from those of {other.name}, in names "
                "or order; train it with the same ones"
            )

    def prepare(
        self,
        config: RunConfig,
        given: Mapping[str, Any],
        loaded: Loaded | None,
        needs: Collection[str],
    ) -> Prepared[LabelledSet]:
        """Load the model first: records are read with its labels."""
        data = config.data
        provenance.set_seeds(config.training.seed)
        if loaded is None:
            loaded = self.load_named(config)
        else:
            check_head(loaded.name, loaded.model.config)
            pad(loaded.model, loaded.tokenizer)
        if data.pool or given.get("pool") is not None:
            raise UserError("--pool: for causal language models; a classifier learns on --retain")
        records = self.read_sets(data, given, loaded.labels)
        reading, columns = reading_of(records), columns_of(records)
        forget_class = None
        if data.forget_class:
            forget_class = _label(data.forget_class, loaded)
            records = _without_class(records, data.forget_class, loaded.labels[forget_class])
        for role in needs:
            if role not in records:
                raise UserError(f"--{role}: none given; {MEANINGS[role]} is needed")
        duplicates = {}
        if forget_class is None and "forget" in records:
            forget = [record.content for record in records["forget"]]
            duplicates = {
                role: find_duplicates(forget, [record.content for record in some])
                for role, some in records.items()
                if role != "forget"
            }
            records, duplicates = refuse_or_drop_copies(
                records, duplicates, drop=data.drop_duplicates, refused=records
            )
        tags, notes = None, _number_notes(records, data.first_label)
        if self.name == TOKEN_CLASSIFICATION:
            tags = tag_use(loaded.labels, (r.tags for some in records.values() for r in some))
            notes = (_scheme_note(tags),)
        return Prepared(
            self,
            loaded,
            self._tokenized(records, loaded, data.max_length, tags),
            duplicates,
            forget_class=forget_class,
            reading=reading,
            columns=columns,
            tags=tags,
            notes=notes,
        )

    def _labelling(self, loaded: Loaded, max_length: int, tags: TagUse | None) -> Labelling:
        end, scheme = end_token(loaded.model), tags.scheme if tags else ""
        return Labelling(loaded.labels, max_length, self.name, end=end, scheme=scheme)

    def _tokenized(
        self,
        records: Mapping[str, RecordSet],
        loaded: Loaded,
        max_length: int,
        tags: TagUse | None,
    ) -> dict[str, LabelledSet]:
        labelling = self._labelling(loaded, max(8, min(max_length, loaded.context)), tags)
        sets = {
            role: tokenize_labelled(some, loaded.tokenizer, labelling)
            for role, some in records.items()
        }
        for some in sets.values():
            check_tokens_known(some, loaded.vocabulary)
        return sets

    def infer(
        self,
        loaded: Loaded,
        sets: Mapping[str, LabelledSet],
        evaluation: EvaluationSettings,
        references: References | None = None,
    ) -> dict[str, list[ClassAnswer]]:
        """The log-probabilities and vectors at every labelled position."""
        return {
            role: classify(loaded.model, some, loaded.labels, evaluation.batch_tokens)
            for role, some in sets.items()
        }

    def beside_retrained(
        self, model: str, answers: Mapping[str, Mapping[str, list[ClassAnswer]]]
    ) -> ClassAnswers:
        """The answers with the log-probabilities of the retrained model at their side."""
        if model == "retrained" or "retrained" not in answers:
            return answers[model]
        return with_retrained(answers[model], answers["retrained"])

    def level(
        self, answers: Mapping[str, list[ClassAnswer]], config: RunConfig, *, under: str
    ) -> None:
        """Criteria rest on scores and on the retrained model, see `label_criteria`."""

    def known(
        self,
        prepared: Prepared[LabelledSet],
        answers: Mapping[str, list[ClassAnswer]],
        scores: Scores,
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[bool | None, str]:
        """Whether the records, or a class, are distinguished from unseen ones."""
        check_finite(scores, prepared.loaded.name)
        chance = None if prepared.forget_class is None else 1 / len(prepared.loaded.labels)
        return is_known(
            scores,
            forget_score(self.name, prepared.loaded.labels),
            chance,
            config.criteria.score_margin,
        )

    def infer_quickly(
        self, loaded: Loaded, sets: Mapping[str, LabelledSet], config: RunConfig
    ) -> dict[str, list[ClassAnswer]]:
        """On forget and unseen records."""
        roles = ("forget", "holdout", "holdout_class")
        some = {role: sets[role] for role in roles if role in sets}
        return self.infer(loaded, some, config.evaluation)

    def forget_figures(
        self,
        loaded: Loaded,
        answers: Mapping[str, list[ClassAnswer]],
        sets: Mapping[str, LabelledSet],
    ) -> dict[str, float]:
        """The score that the forget set is judged by, and membership by loss."""
        name = forget_score(self.name, loaded.labels)
        metric = registry.load("metrics", name).metric
        return quick_figures(answers, {name: metric}, sets)

    def criteria(
        self,
        prepared: Prepared[LabelledSet],
        scores: Mapping[str, Scores],
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[Criterion, ...]:
        """Scores near the retrained model or unseen records, membership near guessing, utility."""
        has_target = "target" in scores
        baseline = ClassifierBaseline(
            family=self.name,
            labels=prepared.loaded.labels,
            removes_class=prepared.forget_class is not None,
            target=scores["target" if has_target else "unlearned"],
            retrained=scores.get("retrained", {}),
            original=scores.get("original", {}),
        )
        found = label_criteria(baseline, config.criteria)
        # Its own scores are no floor for a model.
        return (
            found
            if has_target or "original" in scores
            else tuple(one for one in found if one.claim != "utility")
        )

    def method_data(
        self,
        prepared: Prepared[LabelledSet],
        sets: Mapping[str, LabelledSet],
        level: HoldoutBaseline | None,
        config: RunConfig,
        scores: Mapping[str, Scores],
    ) -> ClassifierData:
        """The sets, and samples of holdout and retain set to evaluate between steps."""
        drop = config.criteria.score_drop
        if "original" in scores:  # counted from the target's score, which is what a method has
            metric = self.quality_metric(prepared.loaded)
            first, now = (scores[one]["retain"].get(metric) for one in COMPARED)
            drop -= first.value - now.value if first and now else 0.0
        return ClassifierData(
            tokenizer=prepared.loaded.tokenizer,
            family=self.name,
            labels=prepared.loaded.labels,
            forget=prepared["forget"],
            retain=prepared["retain"],
            holdout=sample(sets["holdout"], WATCHED_EACH, config.training.seed),
            watched=sample(sets["retain"], WATCHED_EACH, config.training.seed),
            score_drop=drop,
            forget_class=prepared.forget_class,
            recipe=read_recipe(prepared.loaded.name),
        )

    def judge(
        self, prepared: Prepared[LabelledSet], measured: Measured[LabelledSet, ClassAnswer]
    ) -> Verdict:
        """By the criteria, and record by record."""
        removes_class = prepared.forget_class is not None
        statuses = label_statuses(
            [record.id for record in prepared["forget"].records],
            measured.answers["unlearned"],
            measured.answers.get("retrained"),
            removes_class=removes_class,
        )
        return judge_labels(
            measured.criteria, measured.scores, statuses, removes_class=removes_class
        )

    def sections(
        self,
        prepared: Prepared[LabelledSet],
        measured: Measured[LabelledSet, ClassAnswer],
        config: RunConfig,
    ) -> Json:
        """The score, the latent space, the gap to the retrained model, every record's labels."""
        labels, scores = prepared.loaded.labels, measured.scores
        order = [one for one in ("target", "unlearned", "retrained") if one in measured.answers]
        answers = {model: measured.answers[model] for model in order}
        outside = ClassifierData.outside_of(self.name, labels)
        evaluation: Json = {"score": forget_score(self.name, labels)}
        if prepared.tags is not None:
            evaluation |= {
                "tag_scheme": prepared.tags.scheme,
                "tags_off_scheme": prepared.tags.num_broken,
            }
        found = {
            "evaluation": evaluation,
            **latent_space(answers, labels, outside, config.training.seed),
            "per_record": _per_record(prepared["forget"], answers),
        }
        if prepared.forget_class is not None:
            found["request"] = {"forget_class": labels[prepared.forget_class]}
        if "retrained" in scores:
            found["distance_to_retrained"] = {
                model: distance_to_retrained(
                    scores[model], scores["retrained"], kept_score(self.name, labels)
                )
                | margin_kls(self.beside_retrained(model, measured.answers))
                for model in ("target", "unlearned")
                if model in scores
            }
        return found


def _per_record(forget: LabelledSet, answers: Mapping[str, ClassAnswers]) -> list[Json]:
    """The share of each forget record's labels that each model gives, by its place in the run."""
    places = {"before": "target", "after": "unlearned", "retrained": "retrained"}
    shares = {
        place: shares_right(answers[model]["forget"])
        for place, model in places.items()
        if model in answers
    }
    return [
        {"id": record.id} | {place: {"correct": some.get(index)} for place, some in shares.items()}
        for index, record in enumerate(forget.records)
    ]


def _number_notes(records: Mapping[str, RecordSet], first: int) -> tuple[str, ...]:
    """What is to be said of labels given as numbers: that they may be counted from 1."""
    numbers = {number for some in records.values() for number in some.label_numbers}
    if first or not numbers or 0 in numbers:
        return ()
    return (
        "labels: numbers of the model's outputs, from 0 on, though no record has 0; where they are "
        "counted from 1, set data.first_label=1",
    )


def _scheme_note(tags: TagUse) -> str:
    """How the tags are read, in a sentence."""
    if tags.scheme == NO_ENTITIES:
        return "tags: no label is O, so that words are scored one by one, by accuracy"
    if tags.scheme == BY_TYPE:
        return "tags: types without prefixes; an entity is a run of words of one type"
    found = f"tags: {tags.scheme}, by the {tags.num_tagged} tagged words of all sets"
    if not tags.num_broken:
        return found
    return (
        f"{found}; {tags.num_broken} stand where it does not allow them, and what they spoil is no "
        "entity"
    )


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


def latent_space(
    answers: Mapping[str, ClassAnswers], labels: tuple[str, ...], outside: int | None, seed: int
) -> Json:
    """Geometry, projection and confusion of every measured model, by name of the report's field."""
    found: Json = {"geometry": {}, "confusion": {}}
    drawn = {}
    for model, sets in answers.items():
        forget, retain = sets["forget"], sets.get("retain", [])
        found["geometry"][model] = geometry(forget, retain, seed=seed)
        found["confusion"][model] = confusion_counts(forget, outside)
        drawn[model] = _projected(forget, retain, seed)
    shown = {model: points for model, points in drawn.items() if points}
    if shown:
        found["projection"] = {"models": shown, "labels": list(labels)}
    return found


def _projected(forget: Sequence[ClassAnswer], retain: Sequence[ClassAnswer], seed: int) -> Json:
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
    found: Json = {"explained": [_rounded(share) for share in explained]}
    for role, points in sets.items():
        found[role] = [[*map(_rounded, next(places)), label] for label in points.labels.tolist()]
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
