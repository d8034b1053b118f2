"""MA and EL_10 by the definition and by `inference.language_model`, value by value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speed_cases import Case
from speed_definition import Definition
from speed_timing import Cost, median, timed
from unlearner.inference.answers import Answer
from unlearner.inference.decoding import eos_ids
from unlearner.inference.language_model import Questions, infer
from unlearner.metrics import el_10, ma


@dataclass(frozen=True)
class Ours:
    """How often ours is run, and on how many of the records; None for all."""

    repetitions: int = 1
    records: int | None = None


@dataclass(frozen=True)
class AskingPlan:
    """How much of a case is run.

    Attributes:
        ours: By the shortest prompt of EL_10.
        lengths: Prompt lengths of the definition, None for all.
    """

    ours: Mapping[int, Ours]
    lengths: Sequence[int] | None = None


@dataclass(frozen=True)
class AskingRow:
    """One line of the table.

    Attributes:
        start: Shortest prompt of EL_10.
        ma: Mean over the records, as ours gives it; `el_10` alike.
        decoded: Prompts per record that had to be decoded.
        definition: Cost for all the records; `ours` alike.
        asked_lengths: Prompt lengths of the definition that were run; the rest is extrapolated.
        ours_records: Records that ours was run on; its cost is multiplied up to all of them.
        records: Records of the case.
    """

    name: str
    kind: str
    start: int
    ma: float
    el_10: float
    decoded: float
    definition: Cost
    ours: Cost
    asked_lengths: int
    all_lengths: int
    ours_records: int
    records: int

    @property
    def extrapolated(self) -> bool:
        return self.asked_lengths < self.all_lengths


def compare(case: Case, plan: AskingPlan) -> list[AskingRow]:
    """Run both, interleaved, and check that they say the same.

    Raises:
        AssertionError: A value or a continuation differs.
    """
    slow = Definition(case.model, case.ids, eos_ids(case.model))
    lengths = list(range(1, slow.num_tokens) if plan.lengths is None else plan.lengths)
    costs: dict[int, list[Cost]] = {start: [] for start in plan.ours}
    answers: dict[int, list[Answer]] = {}
    rounds = max(how.repetitions for how in plan.ours.values())
    for number in range(rounds):
        for start, how in plan.ours.items():
            if number < how.repetitions:
                windows = case.windows[: how.records]
                answers[start], cost = timed(lambda w=windows, s=start: ours(case, w, s))
                costs[start].append(cost * (len(case.ids) / len(windows)))
        slow.infer(lengths[number::rounds])
    return [_row(case, slow, start, answers[start], median(costs[start])) for start in plan.ours]


def ours(case: Case, windows: Any, start: int) -> list[Answer]:
    """One pass over the model, and both metrics."""
    answers = infer(case.model, case.tokenizer, windows, Questions(prompt_start=start))
    values(answers)
    return answers


def values(answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    """MA and EL_10 of each record."""
    found = ([], [])
    for answer in answers:
        for metric, column in zip((ma.metric, el_10.metric), found, strict=True):
            total, weight = metric.tally(answer)
            column.append(total / weight)
    return found


def _row(
    case: Case, slow: Definition, start: int, answers: Sequence[Answer], cost: Cost
) -> AskingRow:
    found_ma, found_el = values(answers)
    if slow.is_complete:
        assert found_ma == slow.memorization_accuracy()[: len(answers)]
        assert found_el == slow.extraction_likelihood(start)[: len(answers)]
    assert_same_continuations(slow, start, answers)
    return AskingRow(
        case.name,
        case.kind,
        start,
        float(np.mean(found_ma)),
        float(np.mean(found_el)),
        float(np.mean([len(answer.decoded) for answer in answers])),
        slow.cost(start),
        cost,
        len(slow.first),
        slow.num_tokens - 1,
        len(answers),
        len(case.ids),
    )


def assert_same_continuations(slow: Definition, start: int, answers: Sequence[Answer]) -> None:
    """What the definition was asked for, ours says to the token."""
    for row, answer in enumerate(answers):
        for length, (first, _) in slow.first.items():
            assert first[row] == [int(answer.argmax[length - 1])], _where(answer, length)
        for length in (length for length in slow.rest if length >= start):
            expected = slow.rest[length][0][row]
            assert answer.continuation(length).tolist() == expected, _where(answer, length)


def _where(answer: Answer, length: int) -> str:
    return f"record {answer.id}, prompt of {length} tokens"
