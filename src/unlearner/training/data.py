"""What a method gets: its sets and the holdout level; and what the loops need of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Generator, Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unlearner.data.labelled import Example, LabelledSet
from unlearner.data.tag_schemes import OUTSIDE, has_entities
from unlearner.data.windows import Layout, TokenizedSet
from unlearner.inference.language_model import Questions
from unlearner.metrics.base import TOKEN_CLASSIFICATION
from unlearner.output import Json
from unlearner.retrieval.analogous import AnalogousSet


@dataclass(frozen=True)
class HoldoutBaseline:
    """What text looks like to the target model when it was never trained on.

    The means are what methods aim at. The limits are what the verdict asks for: unseen text, too,
    is above its own mean every second time.

    Attributes:
        ma: Memorization accuracy of unseen text, mean over records.
        el_10: Extraction likelihood EL_10 of unseen text, mean over records.
        es: Extraction strength of unseen text, mean over records; None where not measured.
        loss: Loss of unseen text in nats per token; None where not measured.
        worst_ma: The limit for a single forgotten record of many tokens; see `ma_limit`.
        worst_el_10: The limit for a single forgotten record.
        source: Where the figures come from, as a phrase for the report.
        limits: What the means of as many unseen records as there are forget records could be by
            chance, by metric; a metric that is not here is held to its mean.
        chance: What a record of one token adds to the square of `worst_ma`'s distance from `ma`.
    """

    ma: float
    el_10: float
    es: float | None
    loss: float | None
    worst_ma: float
    worst_el_10: float
    source: str
    limits: Mapping[str, float] = field(default_factory=dict)
    chance: float = 0.0

    def limit(self, metric: str) -> float | None:
        """The highest mean of the forget set that unseen records could have by chance."""
        return self.limits.get(metric, getattr(self, metric))

    def ma_limit(self, num_labels: int) -> float:
        """The highest MA that a single unseen record of so many labels could have by chance."""
        wide = math.hypot(self.worst_ma - self.ma, math.sqrt(self.chance / num_labels))
        return min(1.0, self.ma + wide) if self.worst_ma > self.ma else self.worst_ma

    @property
    def can_tell(self) -> bool:
        """Whether there are records enough that memorised ones could be above the limit of MA."""
        limit = self.limit("ma")
        return limit is not None and limit < 1


@dataclass(frozen=True)
class UnlearningData:
    """What a run works on.

    Attributes:
        forget: The records to be forgotten.
        pool: Text that a method may go on learning, without copies of forget records; the retain
            set where no pool is given.
        retain: The records whose quality is watched; None where the user gave none.
        analogous: The records of the pool to learn from, where the method needs them.
        level: Measured on the holdout set under the target model, before unlearning.
        questions: What to ask of every model of the run; its `prompt_start` is the level's.
        utility_floor: Perplexity of retained text at most, as a multiple of the target's.
        unseen_floor: Perplexity of unseen text at most, likewise.
        quick_looks: Between epochs EL_10 may be left out where it decides nothing; see
            `Refinement`.
        layout: How the records of the run became tokens, for those that a method makes itself.
        partners: Unseen records for a method that learns from some, which no figure of
            the run is measured on.
        unseen: The holdout records on which it is; None where there are none.
        recipe: How the target was made; None where that is not known.
    """

    tokenizer: PreTrainedTokenizerBase
    forget: TokenizedSet
    pool: TokenizedSet | None
    retain: TokenizedSet | None
    analogous: AnalogousSet | None
    level: HoldoutBaseline
    questions: Questions
    utility_floor: float
    unseen_floor: float = math.inf
    quick_looks: bool = False
    layout: Layout = field(default_factory=Layout)
    partners: TokenizedSet | None = None
    unseen: TokenizedSet | None = None
    recipe: "Recipe | None" = None

    @property
    def kept(self) -> TokenizedSet:
        """The set on which utility is watched: the retain set, or else the pool."""
        kept = self.retain or self.pool
        assert kept is not None  # the pipeline refuses a run without either
        return kept


@dataclass(frozen=True)
class Recipe:
    """How the target model was made, so that it can be made again without the records.

    Attributes:
        pretrained: The model that training started from, by name.
        finetune: The settings of its training.
    """

    pretrained: str
    finetune: Json


@dataclass(frozen=True)
class ClassifierData:
    """What a run works on.

    Attributes:
        family: "sequence-classification" or "token-classification".
        labels: The names of the model's outputs, in their order.
        forget: The records to be forgotten.
        retain: The remaining training data.
        holdout: Records never trained on, by which a run is stopped; never the test set.
        watched: Those of the retain set whose score is watched between steps; None for all.
        score_drop: How far their score may fall below the target model's.
        forget_class: The label that is to go, where a class is removed.
        recipe: How the target was made; None where that is not known.
    """

    tokenizer: PreTrainedTokenizerBase
    family: str
    labels: tuple[str, ...]
    forget: LabelledSet
    retain: LabelledSet
    holdout: LabelledSet
    watched: LabelledSet | None = None
    score_drop: float = 0.02
    forget_class: int | None = None
    recipe: Recipe | None = None

    @property
    def has_entities(self) -> bool:
        """Whether tags mark spans of words, as those of parts of speech do not."""
        return self.family == TOKEN_CLASSIFICATION and has_entities(self.labels)

    @property
    def outside(self) -> int | None:
        """The tag that stands for no entity; None for labels of whole texts."""
        return self.outside_of(self.family, self.labels)

    @staticmethod
    def outside_of(family: str, labels: tuple[str, ...]) -> int | None:
        """The index of the tag that stands for no entity, where there is one."""
        tags = family == TOKEN_CLASSIFICATION and OUTSIDE in labels
        return labels.index(OUTSIDE) if tags else None


class DescentMethod(Protocol):
    """What the loops need of a method; `methods.base.Method` says what each of them means."""

    learning_rate: float | Literal["auto"]
    batch_size: int
    max_epochs: int
    needs: ClassVar[tuple[str, ...]]
    reads_forget: ClassVar[bool]
    companion_models: ClassVar[tuple[str, ...]]

    @property
    def kept_per_step(self) -> int: ...

    @property
    def asks(self) -> Mapping[str, str]: ...

    def companions(self, data: Any, generator: Generator) -> Mapping[str, Any]: ...

    def loss(self, model: PreTrainedModel, batch: Any, reference: Any) -> dict[str, Tensor]: ...

    def model_dump(self) -> Json: ...


def passes(items: Sequence[Example], size: int, generator: Generator) -> Iterator[list[Example]]:
    """Batches for ever, every item once in each pass, of at most `size` and as even as can be.

    A last batch of one record would be a step on that record alone.
    """
    while True:
        order = torch.randperm(len(items), generator=generator)
        for part in order.tensor_split(math.ceil(len(items) / size)):
            yield [items[index] for index in part.tolist()]


def similar_lengths(
    items: Sequence[Example], size: int, generator: Generator, *, pool: int = 32
) -> Iterator[list[Example]]:
    """One pass in random batches of examples of similar length, `pool` batches sorted together."""
    order = torch.randperm(len(items), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), size * pool):
        some = sorted(order[start : start + size * pool], key=lambda index: len(items[index]))
        batches += [some[first : first + size] for first in range(0, len(some), size)]
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield [items[index] for index in batches[place]]


class Remaining:
    """Draws remaining examples for a step.

    Args:
        examples: The remaining training data.
        balanced: Draw classes equally often instead of examples.
        related_share: Share of a draw that comes from the classes of the step's forget examples.
        outside: The tag that does not count as a class.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        generator: Generator,
        *,
        balanced: bool = False,
        related_share: float = 0.0,
        outside: int | None = None,
    ) -> None:
        self.examples, self.generator = examples, generator
        self.balanced, self.related_share, self.outside = balanced, related_share, outside
        self.members: dict[int, list[int]] = {}
        for index, example in enumerate(examples):
            for label in self._classes(example):
                self.members.setdefault(label, []).append(index)
        self._order: list[int] = []

    def draw(self, size: int, forget: Sequence[Example]) -> list[Example]:
        """`size` examples; within a pass none comes twice by the uniform draw."""
        related = sorted({label for example in forget for label in self._classes(example)})
        related = [label for label in related if label in self.members]
        num_related = round(self.related_share * size) if related else 0
        chosen = [self._of_class(related) for _ in range(num_related)]
        balanced = self.balanced and self.members  # sentences may all be without entities
        for _ in range(size - num_related):
            chosen.append(self._of_class(sorted(self.members)) if balanced else self._next())
        return [self.examples[index] for index in chosen]

    def _of_class(self, labels: Sequence[int]) -> int:
        members = self.members[labels[self._below(len(labels))]]
        return members[self._below(len(members))]

    def _next(self) -> int:
        if not self._order:
            self._order = torch.randperm(len(self.examples), generator=self.generator).tolist()
        return self._order.pop()

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator))

    def _classes(self, example: Example) -> set[int]:
        return set(example.labels.tolist()) - {self.outside}
