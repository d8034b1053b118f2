"""Between steps: which records are still remembered, and what it has cost so far.

The figures are the report's own metrics over answers from one pass over the model.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite

import numpy as np
from transformers import PreTrainedModel

from unlearner.data.windows import Window
from unlearner.evaluation.intervals import evaluate_set, record_values
from unlearner.inference.answers import Answer
from unlearner.inference.bertscore import BertScorer, with_scores
from unlearner.inference.language_model import beam_continuations, infer
from unlearner.metrics import bertscore_f1, bleu, el_10, es, loss, ma, perplexity
from unlearner.metrics.base import Metric
from unlearner.metrics.mia_loss_auc import membership_auc
from unlearner.output import Json
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.trainer import Trainer

# Retained text whose perplexity is watched between epochs; the report measures all of it.
WATCHED_RECORDS = 256

# Its perplexity, as a multiple of the target's, at which a run that learns on retained text may
# end: below the utility floor, since the verdict is about more retained text than is watched.
RECOVERED_AT = 1.05

SET_METRICS = {"ma": ma.metric, "el_10": el_10.metric, "es": es.metric, "loss": loss.metric}


@dataclass(frozen=True)
class Rules:
    """When a record counts as forgotten: by default at or below the level of unseen text.

    The fields are those of `methods.icu.ICU`.
    """

    refine_by: str = "level"
    refine_rule: str = "any"
    bleu_below: float = 0.0
    bertscore_below: float = 0.0
    bertscore_model: str | None = None
    bertscore_baseline: float = 0.0
    num_beams: int = 1
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class RoundState:
    """The model in one evaluation round.

    Attributes:
        round: Its number; where a method is evaluated once an epoch, the epochs done.
        active: Forget records that are still remembered, by index.
        values: The forget set's ma, el_10, es and loss.
        kept_perplexity: Perplexity of the watched retained text.
        at_level: The forget set's MA and EL_10 are at or below the level of unseen text.
        suppressed: Its MA, EL_10 and ES are within the limits of the verdict, and so is each single
            record.
        kept_ratio: `kept_perplexity` over the target's.
        excess: How far the forget set is above the level, 0 when it is at or below it; an EL_10
            that decides nothing counts as 1.
        seconds: Time of this examination.
        auc: Of membership by loss, against the unseen records; None where there are none.
        mark: How far that is from 0.5, beyond its standard error.
        unseen_perplexity: Perplexity of the unseen records.
        unseen_ratio: That over the target's.
    """

    round: int
    active: Sequence[int]
    values: dict[str, float]
    kept_perplexity: float
    kept_ratio: float
    at_level: bool
    suppressed: bool
    excess: float
    seconds: float
    auc: float | None = None
    mark: float = 0.0
    unseen_perplexity: float = math.nan
    unseen_ratio: float = 1.0

    def line(self, losses: dict[str, float]) -> Json:
        """The round as the report holds it."""
        return {
            "round": self.round,
            "active": len(self.active),
            "el_10": self.values.get("el_10"),
            "ma": self.values["ma"],
            "loss": losses,
            "seconds": self.seconds,
            "retain_perplexity": _finite(self.kept_perplexity),
            "unseen_perplexity": _finite(self.unseen_perplexity),
            "mia_loss_auc": self.auc,
        }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def keeps_the_rest(state: RoundState, data: UnlearningData) -> bool:
    """Whether retained and unseen text are as likely as the verdict asks for."""
    return state.kept_ratio <= data.utility_floor and state.unseen_ratio <= data.unseen_floor


def is_better(state: RoundState, best: RoundState | None) -> bool:
    """Whether a round's model is worth more than the best: forgetting first, then retained text."""
    return best is None or _rank(state) < _rank(best)


def _rank(state: RoundState) -> tuple[bool, float, float, float]:
    return not state.suppressed, state.excess, state.mark, state.kept_ratio


class Refinement:
    """Examines a model in training against the level of unseen text.

    Args:
        rules: When a record counts as forgotten.
        data: The sets.
        by_set: The loop does not work on single records, so that EL_10 decides nothing as long as
            MA is above its limit: it counts as 1 there, and with `data.quick_looks` it is not
            asked for.
        quick: EL_10 is not asked for as long as MA is above its limit, where it decides nothing but
            which single records sit out; with `by_set` this is `data.quick_looks`.
        two_sided: Records that are told from unseen ones by their loss, on either side, are active
            too; all are while the set is. Else they are looked at, and decide nothing but which of
            two rounds is better.
        floor: With `by_set`, EL_10 decides nothing either as long as the retained text's perplexity
            ratio is above this: for a loop that does not end there.
    """

    def __init__(
        self,
        rules: Rules,
        data: UnlearningData,
        *,
        by_set: bool = False,
        quick: bool = False,
        two_sided: bool = False,
        floor: float | None = None,
    ) -> None:
        self.rules, self.data, self.by_set = rules, data, by_set
        self.quick = data.quick_looks if by_set else quick
        self._near = False  # EL_10 counted in the last round
        self.floor = math.inf if floor is None else floor
        self.watched = data.kept.windows_of(range(WATCHED_RECORDS))
        unseen = data.unseen
        self.unseen = [] if unseen is None else unseen.windows_of(range(WATCHED_RECORDS))
        self.two_sided = two_sided and bool(self.unseen)
        name = rules.bertscore_model
        baseline = rules.bertscore_baseline
        self.scorer = BertScorer(name, baseline=baseline) if name else None

    def evaluate_round(
        self, trainer: Trainer, model: PreTrainedModel, first: RoundState | None = None
    ) -> RoundState:
        """The state in the next round, or what it was before the run was cut off.

        Args:
            first: That of the target model; None when it is the one to be examined.
        """
        number = len(trainer.rounds)
        return RoundState(
            **trainer.evaluate_round(lambda: asdict(self.examine(model, number, first)))
        )

    def examine(
        self, model: PreTrainedModel, number: int, first: RoundState | None = None
    ) -> RoundState:
        """The state in the round of that number."""
        started = time.perf_counter()
        level, kept = self.data.level, self._kept_perplexity(model)
        ratio = kept / (first.kept_perplexity if first else kept)
        answers, figures, whole = self._ask_forget(model, ratio)
        if whole:
            active = self._remembered(model, answers, self.data.forget.windows)
        else:
            active = {r for r, v in record_values(answers, ma.metric).items() if v > level.ma}
        unseen, unseen_perplexity = self._ask_unseen(model)
        unseen_ratio = unseen_perplexity / first.unseen_perplexity if first and self.unseen else 1.0
        auc, mark = _membership(_losses(answers), unseen)
        if self.two_sided:
            told = _told_apart(answers, unseen) if mark == 0 else range(len(self.data.forget))
            active |= set(told)
        low = figures["ma"] <= level.ma and figures.get("el_10", 0.0) <= level.el_10
        # The same whether EL_10 was asked for or not.
        ranked = figures | {"el_10": 1.0} if self._is_ruled_out(figures, ratio) else figures
        return RoundState(
            round=number,
            active=tuple(sorted(active)),
            values=figures,
            kept_perplexity=kept,
            kept_ratio=ratio,
            at_level=whole and low,
            suppressed=whole and is_within(figures, level) and not above_worst(answers, level),
            excess=excess(ranked, level),
            auc=auc,
            mark=mark,
            unseen_perplexity=unseen_perplexity,
            unseen_ratio=unseen_ratio,
            seconds=time.perf_counter() - started,
        )

    def _ask_unseen(self, model: PreTrainedModel) -> tuple[np.ndarray, float]:
        """The mean loss of each unseen record, and their perplexity; nothing where none are."""
        if not self.unseen:
            return np.zeros(0), math.nan
        asked = replace(self.data.questions, continuations="none")
        answers = infer(model, self.data.tokenizer, self.unseen, asked)
        assert self.data.unseen is not None
        return _losses(answers), _perplexity(answers, self.data.unseen.groups)

    def _ask_forget(
        self, model: PreTrainedModel, ratio: float
    ) -> tuple[list[Answer], dict[str, float], bool]:
        """The answers, their figures, and whether EL_10 is among what was asked."""
        forget, questions = self.data.forget, self.data.questions
        quick = {name: metric for name, metric in SET_METRICS.items() if name != "el_10"}
        if self.quick and not self._near:
            forced = replace(questions, continuations="none")
            answers = infer(model, self.data.tokenizer, forget.windows, forced)
            figures = _values(answers, quick, forget.groups)
            if self._is_ruled_out(figures, ratio):
                return answers, figures, False
        answers = infer(model, self.data.tokenizer, forget.windows, questions)
        figures = _values(answers, SET_METRICS, forget.groups)
        # Near the limit the next round is asked all at once, and says no more where it is above.
        self._near = not self._is_ruled_out(figures, ratio)
        if self.quick and not self._near:
            return answers, _values(answers, quick, forget.groups), False
        return answers, figures, True

    def _is_ruled_out(self, figures: Mapping[str, float], ratio: float) -> bool:
        """Whether the loop goes on, whatever EL_10 is."""
        limit = self.data.level.limit("ma")
        assert limit is not None
        return (self.by_set or self.quick) and (figures["ma"] > limit or ratio > self.floor)

    def _kept_perplexity(self, model: PreTrainedModel) -> float:
        asked = replace(self.data.questions, continuations="none")
        answers = infer(model, self.data.tokenizer, self.watched, asked)
        return _perplexity(answers, self.data.kept.groups)

    def _remembered(
        self, model: PreTrainedModel, answers: Sequence[Answer], windows: Sequence[Window]
    ) -> set[int]:
        if self.rules.refine_by == "level":
            level = self.data.level
            # ES alone can be above its level, and then it too needs records to work on.
            return above(answers, level.ma, level.el_10) or _above_es(answers, level)
        return self._remembered_text(model, answers, windows)

    def _remembered_text(
        self, model: PreTrainedModel, answers: Sequence[Answer], windows: Sequence[Window]
    ) -> set[int]:
        """Records whose continuation is still like their text."""
        beams, prompt = self.rules.num_beams, self.rules.prompt_tokens
        if beams > 1 or prompt is not None:
            texts = beam_continuations(
                model, self.data.tokenizer, windows, num_beams=beams, prompt_tokens=prompt
            )
            answers = [
                replace(answer, continuation_text=text)
                for answer, text in zip(answers, texts, strict=True)
            ]
        shared = record_values(answers, bleu.metric)
        # A text of fewer than four words has no BLEU: only its exact repetition counts.
        same = {
            answer.record
            for answer in answers
            if answer.continuation_text.lower() == answer.reference_text.lower()
        }
        records = {answer.record for answer in answers}
        votes = [{r for r in records if shared.get(r, float(r in same)) < self.rules.bleu_below}]
        if self.scorer is not None:
            alike = record_values(with_scores(answers, self.scorer), bertscore_f1.metric)
            votes.append({r for r in records if alike.get(r, 0) < self.rules.bertscore_below})
        either = self.rules.refine_rule == "any"
        return records - (set.union(*votes) if either else set.intersection(*votes))


def _values(
    answers: Sequence[Answer], metrics: Mapping[str, Metric], groups: Sequence[str]
) -> dict[str, float]:
    found = evaluate_set(answers, metrics, groups, resamples=0)
    return {name: value.value for name, value in found.items()}


def _perplexity(answers: Sequence[Answer], groups: Sequence[str]) -> float:
    return _values(answers, {"perplexity": perplexity.metric}, groups)["perplexity"]


# The share of unseen records that are more likely than the others, and of those that are less.
TAIL = 0.05


def _losses(answers: Sequence[Answer]) -> np.ndarray:
    """The mean loss of each record."""
    return np.array(list(record_values(answers, loss.metric).values()))


def _membership(own: np.ndarray, unseen: np.ndarray) -> tuple[float | None, float]:
    """See `RoundState.auc` and `RoundState.mark`."""
    if not len(unseen):
        return None, 0.0
    auc = float(membership_auc(own, unseen, np.ones((1, len(own))), np.ones((1, len(unseen))))[0])
    error = math.sqrt((len(own) + len(unseen) + 1) / (12 * len(own) * len(unseen)))
    return auc, max(0.0, abs(auc - 0.5) - error)


def _told_apart(answers: Sequence[Answer], unseen: np.ndarray) -> set[int]:
    """Records that are more, or less, likely than nineteen of twenty unseen ones."""
    low, high = np.quantile(unseen, [TAIL, 1 - TAIL])
    own = record_values(answers, loss.metric)
    return {record for record, value in own.items() if not low <= value <= high}


def above(answers: Sequence[Answer], ma_level: float, el_level: float) -> set[int]:
    """Records whose MA or EL_10 is above the given levels."""
    accuracy, likelihood = record_values(answers, ma.metric), record_values(answers, el_10.metric)
    return {record for record, value in accuracy.items() if value > ma_level} | {
        record for record, value in likelihood.items() if value > el_level
    }


def _above_es(answers: Sequence[Answer], level: HoldoutBaseline) -> set[int]:
    """Where ES of the whole set is above its level: the records that are."""
    strength = record_values(answers, es.metric)
    if level.es is None or sum(strength.values()) <= level.es * len(strength):
        return set()
    return {record for record, value in strength.items() if value > level.es}


def above_worst(answers: Sequence[Answer], level: HoldoutBaseline) -> set[int]:
    """Records above the limit of a single record."""
    accuracy, likelihood = record_values(answers, ma.metric), record_values(answers, el_10.metric)
    labels = count_labels(answers)
    return {
        record
        for record, value in accuracy.items()
        if not value <= level.ma_limit(labels[record])  # in this order NaN is above
    } | {record for record, value in likelihood.items() if not value <= level.worst_el_10}


def count_labels(answers: Sequence[Answer]) -> dict[int, int]:
    """The number of labels that count of each record, by its index; windows added up."""
    found: Counter[int] = Counter()
    for answer in answers:
        found[answer.record] += int(answer.scored.sum())
    return found


def is_within(values: Mapping[str, float], level: HoldoutBaseline) -> bool:
    """Whether the forget set's MA, EL_10 and ES are no more than unseen text could have."""
    limits = {name: level.limit(name) for name in ("ma", "el_10", "es") if name in values}
    return all(limit is None or values[name] <= limit for name, limit in limits.items())


def excess(values: dict[str, float], level: HoldoutBaseline) -> float:
    """Sum of the relative amounts by which the forget set's MA, EL_10 and ES exceed the level."""
    limits = {"ma": level.ma, "el_10": level.el_10, "es": level.es}
    return sum(
        max(values[name] - limit, 0.0) / max(limit, 1e-6)  # in this order NaN stays NaN
        for name, limit in limits.items()
        if limit is not None and name in values
    )
