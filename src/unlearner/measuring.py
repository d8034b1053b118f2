"""Every figure of a report: models asked once, sets scored by every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearner import catalog
from unlearner.answers import Answer
from unlearner.asking import Questions, ask
from unlearner.bertscore import BertScorer, measuring_scorer, with_scores
from unlearner.config import CriteriaSettings, EvaluationSettings
from unlearner.data.sets import Level
from unlearner.data.tokenize import TokenizedSet
from unlearner.errors import UserError
from unlearner.evaluation import Value, evaluate_set, record_values
from unlearner.metrics import el_10, es, loss, ma
from unlearner.metrics.base import Metric
from unlearner.target import TargetDistribution

Sets = Mapping[str, TokenizedSet]
Answers = Mapping[str, list[Answer]]
RECORD_DEVIATIONS = 4
BY_HAND = "level given by hand"


def questions(evaluation: EvaluationSettings) -> Questions:
    """What every model of a run is asked."""
    return Questions(
        prompt_start=evaluation.prompt_start,
        batch_tokens=evaluation.batch_tokens,
        memory_bytes=evaluation.memory_bytes,
    )


def ask_set(
    model: Any,
    tokenizer: Any,
    some: TokenizedSet,
    evaluation: EvaluationSettings,
    target: TargetDistribution | None = None,
) -> list[Answer]:
    """The model's answers about one set, with BERTScores where there is an encoder for them."""
    answers = ask(model, tokenizer, some.windows, questions(evaluation), target)
    scorer = scorer_of(evaluation)
    return answers if scorer is None else with_scores(answers, scorer)


def scorer_of(evaluation: EvaluationSettings) -> BertScorer | None:
    """What measures BERTScore; None where no encoder is given.

    Raises:
        UserError: It cannot be loaded.
    """
    name = evaluation.bertscore_model
    return None if name is None else measuring_scorer(name, evaluation.bertscore_baseline)


def ask_sets(
    model: Any,
    tokenizer: Any,
    sets: Sets,
    evaluation: EvaluationSettings,
    targets: Mapping[str, TargetDistribution] | None = None,
) -> dict[str, list[Answer]]:
    """The model's answers about every set; sets of the same records are asked once."""
    found: dict[str, list[Answer]] = {}
    for role, some in sets.items():
        same = next((r for r in found if sets[r].records == some.records), None)
        target = (targets or {}).get(role)
        found[role] = found[same] if same else ask_set(model, tokenizer, some, evaluation, target)
    return found


def target_distributions(model: Any, sets: Sets) -> dict[str, TargetDistribution]:
    """The model's distributions on every set but the forget set, from which it is to move away."""
    return {
        role: TargetDistribution.of(model, some.windows)
        for role, some in sets.items()
        if role != "forget"
    }


def score_sets(
    answers: Answers, sets: Sets, evaluation: EvaluationSettings, *, seed: int
) -> dict[str, dict[str, Value]]:
    """Every metric of every set, with intervals; metrics that a set cannot have are left out."""
    metrics: dict[str, Metric] = {
        name: catalog.load("metrics", name).metric for name in catalog.names("metrics")
    }
    found = {}
    for role, some in answers.items():
        single = {name: metric for name, metric in metrics.items() if not metric.versus}
        found[role] = evaluate_set(
            some, single, sets[role].groups, seed=seed, resamples=evaluation.resamples
        )
        against = {name: m for name, m in metrics.items() if m.versus in answers and m.versus}
        if role == "forget" and against:
            other = next(iter(against.values())).versus
            found[role] |= evaluate_set(
                some,
                against,
                sets[role].groups,
                versus=answers[other],
                versus_groups=sets[other].groups,
                seed=seed,
                resamples=evaluation.resamples,
            )
    return found


def level_of(
    holdout: list[Answer] | None, criteria: CriteriaSettings, *, under: str = "the target model"
) -> Level:
    """The level of unseen text: measured on the holdout set, or given by hand.

    A figure given by hand takes the place of the measured mean, and lifts the limit of a single
    record where that is lower.

    Args:
        under: The model that the answers are of, in words.

    Raises:
        UserError: There is neither holdout text nor a level given by hand.
    """
    if holdout is None and not criteria.by_hand:
        raise UserError(
            "--holdout: text like the forget set that the model never saw is needed to know when "
            "a record is forgotten; give a file, or both criteria.ma and criteria.el_10 by hand"
        )
    if holdout is None:
        assert criteria.ma is not None
        assert criteria.el_10 is not None
        return Level(criteria.ma, criteria.el_10, None, None, criteria.ma, criteria.el_10, BY_HAND)
    accuracy = list(record_values(holdout, ma.metric).values())
    measured = list(record_values(holdout, el_10.metric).values())
    likelihood = measured or [0.0]  # no run of ten tokens comes back
    strength = list(record_values(holdout, es.metric).values())
    losses = list(record_values(holdout, loss.metric).values())
    mean_ma = float(np.mean(accuracy)) if criteria.ma is None else criteria.ma
    mean_el_10 = float(np.mean(likelihood)) if criteria.el_10 is None else criteria.el_10
    return Level(
        ma=mean_ma,
        el_10=mean_el_10,
        es=float(np.mean(strength)),
        loss=float(np.mean(losses)),
        worst_ma=max(mean_ma, record_limit(accuracy)),
        worst_el_10=max(mean_el_10, record_limit(likelihood)),
        source=_source(criteria, under, too_short=not measured),
    )


def record_limit(unseen: Sequence[float]) -> float:
    """The share, at most 1, above which a single record is more than unseen text would be.

    The largest of the unseen records, or four standard deviations above their mean. By the largest
    alone, one of as many other unseen records would be above it every second time.
    """
    spread = float(np.mean(unseen) + RECORD_DEVIATIONS * np.std(unseen))
    return min(1.0, max(*unseen, spread))


def _source(criteria: CriteriaSettings, under: str, *, too_short: bool) -> str:
    """Where the figures of a level come from, as a phrase."""
    mean = f"mean of the holdout set under {under}"
    if too_short and criteria.el_10 is None:
        mean += " (0 for EL_10, which none of its records is long enough for)"
    by_hand = {"MA": criteria.ma, "EL_10": criteria.el_10}
    given = [name for name, value in by_hand.items() if value is not None]
    return f"{BY_HAND} for {' and '.join(given)}, else the {mean}" if given else mean


@dataclass(frozen=True)
class Recall:
    """MA and EL_10 of each forget record, by index."""

    ma: dict[int, float]
    el_10: dict[int, float]

    @classmethod
    def of(cls, answers: list[Answer]) -> Recall:
        """From the answers about the forget set."""
        return cls(record_values(answers, ma.metric), record_values(answers, el_10.metric))

    def to_json(self, record: int) -> dict[str, float | None]:
        """One record's figures; None where it is too short for a 10-gram."""
        return {"ma": self.ma.get(record), "el_10": self.el_10.get(record)}
