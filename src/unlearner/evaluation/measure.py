"""Every figure of a report: models asked once, sets scored by every metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearner import registry
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.intervals import Value, evaluate_set
from unlearner.inference.answers import Answer
from unlearner.inference.bertscore import BertScorer, measuring_scorer, with_scores
from unlearner.inference.language_model import Questions, ask
from unlearner.inference.reference import TargetDistribution
from unlearner.metrics.base import Metric
from unlearner.settings import EvaluationSettings

Sets = Mapping[str, TokenizedSet]

Answers = Mapping[str, list[Answer]]


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
        name: registry.load("metrics", name).metric for name in registry.names("metrics")
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
