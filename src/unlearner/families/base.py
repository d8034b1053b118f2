"""A family of models: what differs between language models and classifiers in one pipeline.

The pipeline loads, reads, measures, unlearns, measures again, judges and reports; a `Family` says
how its models do each of these. `families.FAMILIES` holds the three of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar, Unpack

import torch

from unlearner.config import RunConfig
from unlearner.data.duplicates import Duplicate
from unlearner.data.labelled import LabelledSet
from unlearner.data.loading import read_records
from unlearner.data.record import RecordSet
from unlearner.data.tag_schemes import TagUse
from unlearner.data.windows import Layout, TokenizedSet
from unlearner.datasets.base import named_sets
from unlearner.errors import UserError
from unlearner.evaluation.harness import TaskFigures
from unlearner.evaluation.measure import Scores, score_sets
from unlearner.evaluation.verdict import Criterion, Verdict
from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.inference.reference import TargetDistribution
from unlearner.models.loading import HowLoaded, Loaded
from unlearner.models.quantised_training import KINDS
from unlearner.output import Json
from unlearner.settings import (
    WHOLE,
    DataSettings,
    EvaluationSettings,
    Holding,
    ModelSettings,
    further_kind,
    option_of,
)
from unlearner.training.data import ClassifierData, HoldoutBaseline, UnlearningData
from unlearner.training.memory import ResourcePlan

SetT = TypeVar("SetT", bound=TokenizedSet | LabelledSet)
AnswerT = TypeVar("AnswerT", bound=Answer | ClassAnswer)
Removable = TypeVar("Removable", RecordSet, TokenizedSet)

# The target model's distributions that others are compared with, by set.
References = Mapping[str, TargetDistribution]


@dataclass(frozen=True)
class Prepared(Generic[SetT]):
    """A model with the sets of a run in its tokens.

    Attributes:
        sets: By role; with a class to forget also `holdout_class`, its unseen records.
        duplicates: Exact and near copies of forget records in every other set.
        layout: How a language model's records became tokens.
        forget_class: Index of the label that is to go, where a class is removed.
        reading: What was read of each set and what was not, a line each.
        columns: The columns of each set from a file or from Python that were read and were not.
        tags: How the records of a tagger use their tags.
        notes: What is to be said of how model and records were read, a sentence each.
    """

    family: "Family[SetT, Any]"
    loaded: Loaded
    sets: dict[str, SetT]
    duplicates: dict[str, list[Duplicate]]
    layout: Layout = field(default_factory=Layout)
    forget_class: int | None = None
    reading: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: TagUse | None = None
    notes: tuple[str, ...] = ()

    def __getitem__(self, role: str) -> SetT:
        return self.sets[role]

    def get(self, role: str) -> SetT | None:
        """The set of a role, None where there is none."""
        return self.sets.get(role)


@dataclass(frozen=True)
class CheckResult:
    """What the target model knows of the records.

    Attributes:
        family: The name of the model's family.
        values: Every metric of every set.
        level: What unseen text scores; None for classifiers, and where it is not known.
        memorised: Whether there is something to unlearn; None where nothing is known to compare
            with.
        sentence: The answer in one sentence.
        duplicates: Copies of forget records in the other sets.
        record_ids: The ids of every set's records.
        plan: Time and memory of a run.
        notes: What is to be said of how model and records were read, and of the method on them.
    """

    family: str
    values: Scores
    level: HoldoutBaseline | None
    memorised: bool | None
    sentence: str
    duplicates: dict[str, list[Duplicate]]
    record_ids: dict[str, list[str]]
    plan: ResourcePlan
    notes: tuple[str, ...] = ()

    def ids(self, role: str, found: list[Duplicate]) -> list[tuple[str, str]]:
        """The ids of each forget record and its copy in another set."""
        return [
            (self.record_ids["forget"][one.forget], self.record_ids[role][one.other])
            for one in found
        ]


@dataclass(frozen=True)
class Measured(Generic[SetT, AnswerT]):
    """Models run on the sets of a run, and what they are judged by.

    Attributes:
        sets: The measured sets by role, large ones as a sample.
        answers: By model (target, retrained, unlearned) and role.
        scores: Likewise, every metric of every set.
        level: What unseen text scores; None for classifiers.
        criteria: Fixed on the target's and the retrained model's scores.
        tasks: By model, the figures of tasks that have nothing to do with the sets.
    """

    sets: dict[str, SetT]
    answers: dict[str, dict[str, list[AnswerT]]]
    scores: dict[str, Scores]
    level: HoldoutBaseline | None
    criteria: tuple[Criterion, ...]
    tasks: Mapping[str, TaskFigures] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Baseline(Measured[SetT, AnswerT]):
    """What is known of the models before one is changed.

    Attributes:
        data: What the method gets.
        references: The target's distributions on the sets to be kept.
        digest: Of the target's weights.
        micro_batch: Windows of a step that fit together; None for all.
        memorised: Whether there is something to unlearn; None where that is not known.
        sentence: The same in words.
    """

    data: UnlearningData | ClassifierData
    references: References
    digest: str
    micro_batch: int | None = None
    memorised: bool | None = True
    sentence: str = ""


class Family(ABC, Generic[SetT, AnswerT]):
    """Models that are loaded, run, judged and reported alike."""

    name: "ClassVar[str] | str"
    described: ClassVar[str] = ""  # in messages, "MODEL is ..."; the name where it is empty
    roles: ClassVar[tuple[str, ...]]
    # The sets that a command needs, in the words of `check_needs`.
    needs: ClassVar[Mapping[str, tuple[str, ...]]]
    # The sets on which quality is compared with the original model's.
    kept_roles: ClassVar[tuple[str, ...]] = ("retain",)
    # Writes text, which a report can show before and after.
    writes_text: ClassVar[bool] = False
    # One evaluation round follows each epoch, so that their number is known.
    rounds_are_epochs: ClassVar[bool] = False

    def quality_metric(self, loaded: Loaded) -> str:
        """The metric by which quality on the records to be kept is compared."""
        return "perplexity"

    def num_rounds(self, config: RunConfig) -> int | None:
        """Evaluation rounds of a run at most; None where their number is not known beforehand."""
        known = self.rounds_are_epochs and config.method.rounds_are_epochs
        return config.method.max_epochs if known else None

    # Loading and reading

    @abstractmethod
    def load(self, name: str, *, holding: Holding = WHOLE, **how: Unpack[HowLoaded]) -> Loaded:
        """The model and tokenizer of a local folder or a hub id.

        Args:
            holding: Of a language model.
        """

    @abstractmethod
    def prepare(
        self,
        config: RunConfig,
        given: Mapping[str, Any],
        loaded: Loaded | None,
        needs: Collection[str],
    ) -> Prepared[SetT]:
        """Read the sets, load the model where it is not given, and tokenize.

        Args:
            given: Record sets from Python by role, before the paths of the configuration.
            needs: What the command needs, see `Family.needs`.

        Raises:
            UserError: A set is missing, or a set or the model cannot be used.
        """

    def load_named(self, config: RunConfig) -> Loaded:
        """The model that the configuration names."""
        model = config.model
        if not model.name:
            raise UserError("MODEL: none given; name a local folder or a hub id")
        loaded = self.load(
            model.name,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            base=model.base,
            holding=model.holding,
        )
        return with_model_settings(loaded, model)

    def load_like(self, name: str, role: str, prepared: Prepared[SetT], base: str = "") -> Loaded:
        """A model to compare another with, on its device.

        Args:
            prepared: The other model, and the records that they are compared on.
            base: See `load`.

        Raises:
            UserError: It cannot be loaded, or reads the records as other tokens or gives other
                labels.
        """
        other = prepared.loaded
        loaded = self.load(name, base=base, holding=other.holding)
        self.check_comparable(loaded, role, other)
        # A token that was added, as for padding, changes nothing for records without it.
        same = other.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
        if not same and not self.reads_alike(loaded, prepared):
            raise UserError(
                f"--{role} {name}: its tokenizer differs from that of {other.name}, and gives "
                "other tokens for the records; figures of such models cannot be compared"
            )
        loaded.to(other.model.device)
        return loaded

    @abstractmethod
    def reads_alike(self, loaded: Loaded, prepared: Prepared[SetT]) -> bool:
        """Whether a model's tokenizer gives the tokens of the prepared sets for their records."""

    def notes(self, loaded: Loaded) -> tuple[str, ...]:
        """What is to be said of a model: what was done to it, and how it has to be run."""
        return loaded.notes

    def advice(self, prepared: Prepared[SetT], config: RunConfig) -> tuple[str, ...]:
        """What else could be done with the records that were given."""
        return ()

    def check_comparable(self, loaded: Loaded, role: str, other: Loaded) -> None:
        """Refuse a model whose outputs mean something else than those of the other.

        Raises:
            UserError: They do.
        """

    def read_sets(
        self,
        data: DataSettings,
        given: Mapping[str, Any],
        labels: tuple[str, ...] | None = None,
    ) -> dict[str, RecordSet]:
        """The record sets by role, from files, a named data set or Python objects.

        Args:
            data: Where the sets are; a file goes before the set that a named data set has for its
                role.
            given: Sets that come from Python, by role; they go before the paths in `data`.
            labels: The names of a classifier's outputs.

        Raises:
            UserError: A set cannot be read.
        """
        named = named_sets(data, self.name, labels)
        sets = {role: named[role] for role in self.roles if role in named}
        paths = {role: getattr(data, role) for role in self.roles} | data.further
        further = {role: "" for role in given if further_kind(role)}  # from Python
        for role, path in {**further, **paths}.items():
            source = given.get(role)
            source = path if source is None else source
            if isinstance(source, RecordSet):
                sets[role] = source
            elif source is not None and not (isinstance(source, str) and source == ""):
                sets[role] = read_records(
                    source,
                    name=role,
                    columns=data.columns,
                    family=self.name,
                    labels=labels,
                    template=data.template,
                    document=data.document,
                    first_label=data.first_label,
                )
        return sets

    def measured_sets(self, prepared: Prepared[SetT], config: RunConfig) -> dict[str, SetT]:
        """The sets whose figures are reported, large ones as a seeded sample; never the pool."""
        limit, seed = config.evaluation.limit_for(self.name), config.training.seed
        return {
            role: some if role == "forget" else sample(some, limit, seed)
            for role, some in prepared.sets.items()
            if role != "pool"
        }

    def judged_sets(
        self, prepared: Prepared[SetT], sets: Mapping[str, SetT], config: RunConfig
    ) -> dict[str, SetT]:
        """Of the measured sets what a model may be judged by that the run's method has made."""
        return dict(sets)

    def judged_answers(
        self, sets: Mapping[str, SetT], answers: Mapping[str, dict[str, list[AnswerT]]]
    ) -> dict[str, dict[str, list[AnswerT]]]:
        """The answers of all models about the records of `judged_sets`."""
        return dict(answers)

    # Running models and scoring what they answered

    @abstractmethod
    def infer(
        self,
        loaded: Loaded,
        sets: Mapping[str, SetT],
        evaluation: EvaluationSettings,
        references: References | None = None,
    ) -> dict[str, list[AnswerT]]:
        """The model's answers on every set.

        Args:
            references: Distributions of the target model to compare with, by set.
        """

    def score(
        self,
        model: str,
        answers: Mapping[str, Mapping[str, list[AnswerT]]],
        sets: Mapping[str, SetT],
        config: RunConfig,
    ) -> Scores:
        """Every metric of every set, of one of the models that answered."""
        own = self.beside_retrained(model, answers)
        return score_sets(own, sets, config.evaluation, config.training.seed)

    @abstractmethod
    def infer_quickly(
        self, loaded: Loaded, sets: Mapping[str, SetT], config: RunConfig
    ) -> dict[str, list[AnswerT]]:
        """The answers that `forget_figures` is made of, and no others, by set."""

    @abstractmethod
    def forget_figures(
        self, loaded: Loaded, answers: Mapping[str, list[AnswerT]], sets: Mapping[str, SetT]
    ) -> dict[str, float]:
        """What shows whether the forget records are known and is quick to ask, by metric.

        Membership by loss is among them where there are unseen records.
        """

    def run_tasks(self, loaded: Loaded, evaluation: EvaluationSettings) -> TaskFigures:
        """The figures of tasks that have nothing to do with the sets, where some are named."""
        return {}

    def beside_retrained(
        self, model: str, answers: Mapping[str, Mapping[str, list[AnswerT]]]
    ) -> Mapping[str, list[AnswerT]]:
        """A model's answers, with what a metric needs of the retrained model's at their side."""
        return answers[model]

    def references(
        self, loaded: Loaded, sets: Mapping[str, SetT], known: References | None = None
    ) -> References:
        """What the target's answers on the sets to be kept are compared with later.

        Args:
            known: Others of the same model, as it still is.
        """
        return {}

    # Before the run

    @abstractmethod
    def level(
        self, answers: Mapping[str, list[AnswerT]], config: RunConfig, *, under: str
    ) -> HoldoutBaseline | None:
        """What unseen text scores under the model that `under` names, where criteria rest on it.

        None where it is not known, and for classifiers, whose criteria rest on scores.
        """

    @abstractmethod
    def known(
        self,
        prepared: Prepared[SetT],
        answers: Mapping[str, list[AnswerT]],
        scores: Scores,
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[bool | None, str]:
        """Whether the target knows the records (None: unknown), and the answer in words."""

    @abstractmethod
    def criteria(
        self,
        prepared: Prepared[SetT],
        scores: Mapping[str, Scores],
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[Criterion, ...]:
        """The criteria, from figures of the target, original and retrained model alone.

        Without a target the model to be judged stands in its place, and nothing is said of utility.
        """

    @abstractmethod
    def method_data(
        self,
        prepared: Prepared[SetT],
        sets: Mapping[str, SetT],
        level: HoldoutBaseline | None,
        config: RunConfig,
        scores: Mapping[str, Scores],
    ) -> UnlearningData | ClassifierData:
        """What a method gets.

        Args:
            scores: Of the target model, and of the original one where the floor is that model's.
        """

    def for_method(
        self,
        config: RunConfig,
        prepared: Prepared[SetT],
        baseline: Baseline[SetT, AnswerT],
    ) -> Baseline[SetT, AnswerT]:
        """The baseline with what a single method needs beside what all do."""
        return baseline

    # After the run

    @abstractmethod
    def judge(self, prepared: Prepared[SetT], measured: Measured[SetT, AnswerT]) -> Verdict:
        """The verdict on the unlearned model."""

    @abstractmethod
    def sections(
        self, prepared: Prepared[SetT], measured: Measured[SetT, AnswerT], config: RunConfig
    ) -> Json:
        """What the report holds of models of this family alone."""


def reading_of(sets: Mapping[str, RecordSet]) -> tuple[str, ...]:
    """What was read of each set from a file or from Python, a line each."""
    return tuple(
        f"{role} {some.source}: {some.reading}" for role, some in sets.items() if some.reading
    )


def columns_of(sets: Mapping[str, RecordSet]) -> dict[str, str]:
    """The same for a report, by role and without what says where a set was."""
    return {role: some.reading.partition("; ")[2] for role, some in sets.items() if some.reading}


def with_model_settings(loaded: Loaded, settings: ModelSettings) -> Loaded:
    """The loaded model, to be saved as the settings say.

    Raises:
        UserError: The format cannot hold its numbers.
    """
    loaded = loaded.saved_as(settings.dtype)
    if settings.bits:
        note = (
            f"while adapters are trained its layers are quantised ({KINDS[settings.bits]}); what "
            "is measured and saved is not"
        )
        loaded = replace(loaded, bits=settings.bits, notes=(*loaded.notes, note))
    if settings.base and not loaded.is_adapter:  # a model that it is compared with may be one
        note = "is no adapter, model.base is not used for it"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    return loaded


# Of whichever family: what the pipeline passes on without looking into it.
AnyFamily = Family[Any, Any]
AnyPrepared = Prepared[Any]
AnyMeasured = Measured[Any, Any]
AnyBaseline = Baseline[Any, Any]
AnyAnswers = Mapping[str, list[Any]]


def sample(some: SetT, limit: int, seed: int) -> SetT:
    """The set itself, or a seeded sample of its records where it is larger than the limit."""
    if len(some) <= limit:
        return some
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))[:limit]
    return some.subset(sorted(order.tolist()))  # type: ignore[return-value] - of its own kind


def refuse_or_drop_copies(
    sets: Mapping[str, Removable],
    duplicates: Mapping[str, list[Duplicate]],
    *,
    drop: bool,
    refused: Iterable[str],
) -> tuple[dict[str, Removable], dict[str, list[Duplicate]]]:
    """The sets and the copies left in them, without exact copies where that was asked for.

    Args:
        drop: Leave exact copies of forget records out of the other sets.
        refused: The roles in which they are else refused.

    Raises:
        UserError: There are copies that the user has to deal with, or nothing else is left.
    """
    kept_sets, left = dict(sets), dict(duplicates)
    for role, found in duplicates.items():
        exact = [one for one in found if one.exact]
        if exact and not drop and role in refused:
            raise UserError(_copies_refused(sets, role, exact))
        copies = {one.other for one in exact} if drop else set()
        kept = [place for place in range(len(sets[role].records)) if place not in copies]
        if not kept:
            raise UserError(
                f"{option_of(role)}: every record is a copy of a record to forget; give others"
            )
        if not copies:
            continue
        kept_sets[role] = _only(sets[role], kept)
        number = {place: index for index, place in enumerate(kept)}
        left[role] = [replace(one, other=number[one.other]) for one in found if one.other in number]
    return kept_sets, left


def _only(some: Removable, kept: Sequence[int]) -> Removable:
    if isinstance(some, RecordSet):
        return replace(some, records=tuple(some.records[place] for place in kept))
    return some.subset(kept)


def _copies_refused(sets: Mapping[str, Removable], role: str, found: list[Duplicate]) -> str:
    forget, other = sets["forget"].records, sets[role].records
    first = found[0]
    why = "would teach them back" if role == "retain" else "are not unseen"
    return (
        f"--{role}: {len({one.other for one in found})} of its records are records to forget and "
        f"{why}, first {other[first.other].id!r} as {forget[first.forget].id!r}; leave them out, "
        "or let --drop-duplicates do it"
    )


def check_finite(scores: Scores, name: str) -> None:
    """Refuse a broken model: one that knows nothing at all would pass for having forgotten.

    Raises:
        UserError: The loss of a set is not a finite number.
    """
    for role, found in scores.items():
        if "loss" in found and not math.isfinite(found["loss"].value):
            raise UserError(
                f"MODEL {name}: its loss on the {role} set is {found['loss'].value}; its weights "
                "are damaged, save or download it again"
            )


def check_tokens_known(some: TokenizedSet | LabelledSet, size: int) -> None:
    """Refuse a tokenizer with more tokens than the model has, once a record holds one of them.

    Args:
        size: Of the model's vocabulary.

    Raises:
        UserError: A record does.
    """
    for one in some.windows if isinstance(some, TokenizedSet) else some.examples:
        largest = int(one.input_ids.max())
        if largest >= size:
            raise UserError(
                f"{some.name} {some.source}, record {one.id!r}: its tokenizer gives the token id "
                f"{largest}, the model has 0 to {size - 1}; use the model's own tokenizer"
            )
