"""The sets that a method works on, and the level that unseen text has under the target model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unlearner.asking import Questions
from unlearner.data.analogous import AnalogousSet
from unlearner.data.tokenize import Layout, TokenizedSet


@dataclass(frozen=True)
class Level:
    """What text looks like to the target model when it was never trained on.

    Attributes:
        ma: Memorization accuracy of unseen text, mean over records.
        el_10: Extraction likelihood EL_10 of unseen text, mean over records.
        es: Extraction strength of unseen text, mean over records; None where not measured.
        loss: Loss of unseen text in nats per token; None where not measured.
        worst_ma: The limit for a single forgotten record: the largest of unseen records, or four
            standard deviations above their mean.
        worst_el_10: Likewise.
        source: Where the figures come from, as a phrase for the report.
    """

    ma: float
    el_10: float
    es: float | None
    loss: float | None
    worst_ma: float
    worst_el_10: float
    source: str


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
        utility_floor: Perplexity of kept text at most, as a multiple of the target's.
        quick_looks: Between epochs EL_10 may be left out where it decides nothing; see
            `Refinement`.
        layout: How the records of the run became tokens, for those that a method makes itself.
    """

    tokenizer: Any
    forget: TokenizedSet
    pool: TokenizedSet | None
    retain: TokenizedSet | None
    analogous: AnalogousSet | None
    level: Level
    questions: Questions
    utility_floor: float
    quick_looks: bool = False
    layout: Layout = field(default_factory=Layout)

    @property
    def kept(self) -> TokenizedSet:
        """The set on which utility is watched: the retain set, or else the pool."""
        kept = self.retain or self.pool
        assert kept is not None  # the pipeline refuses a run without either
        return kept
