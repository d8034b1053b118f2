"""Every figure of a report on a classifier: models asked once, sets scored by every metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unlearner import registry
from unlearner.data.labelled import LabelledSet
from unlearner.evaluation.intervals import Value, evaluate_set, record_values
from unlearner.inference.answers import ClassAnswer
from unlearner.inference.classifier import ask
from unlearner.metrics import accuracy
from unlearner.metrics.base import Metric
from unlearner.settings import EvaluationSettings

Sets = Mapping[str, LabelledSet]

Answers = dict[str, list[ClassAnswer]]

Scores = dict[str, dict[str, Value]]

CONFUSION_ROWS = 30


def ask_sets(model: Any, sets: Sets, labels: tuple[str, ...], batch_tokens: int) -> Answers:
    """The model's answers about every set."""
    return {role: ask(model, some.examples, labels, batch_tokens) for role, some in sets.items()}


def beside_retrained(answers: Answers, retrained: Answers) -> Answers:
    """The answers with those of the retrained model at their side."""
    return {
        role: [
            replace(answer, retrained=other.class_log_probs)
            for answer, other in zip(some, retrained[role], strict=True)
        ]
        for role, some in answers.items()
    }


def unseen_role(sets: Mapping[str, Any]) -> str:
    """The set that membership inference compares with: of a removed class its unseen records."""
    return "holdout_class" if "holdout_class" in sets else "holdout"


def score_sets(
    answers: Answers, sets: Sets, evaluation: EvaluationSettings, *, seed: int
) -> Scores:
    """Every metric of every set, with intervals; metrics that a set cannot have are left out."""
    metrics: dict[str, Metric] = {
        name: registry.load("metrics", name).metric for name in registry.names("metrics")
    }
    single = {name: metric for name, metric in metrics.items() if not metric.versus}
    against = {name: metric for name, metric in metrics.items() if metric.versus}
    found = {}
    for role, some in answers.items():
        groups = sets[role].groups
        found[role] = evaluate_set(some, single, groups, seed=seed, resamples=evaluation.resamples)
        unseen = unseen_role(sets)
        if role == "forget" and unseen in answers:
            found[role] |= evaluate_set(
                some,
                against,
                groups,
                versus=answers[unseen],
                versus_groups=sets[unseen].groups,
                seed=seed,
                resamples=evaluation.resamples,
            )
    return found


def shares_right(answers: Sequence[ClassAnswer]) -> dict[int, float]:
    """The share of each record's labelled positions that are classified as labelled, by index."""
    return record_values(answers, accuracy.metric)


def confusion(answers: Sequence[ClassAnswer], outside: int | None) -> list[list[Any]]:
    """Own label, predicted label and how often, the most frequent first.

    Words outside every entity that are found to be outside are left out.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        for own, said in zip(answer.labels.tolist(), answer.predicted.tolist(), strict=True):
            if not own == said == outside:
                counts[answer.label_names[own], answer.label_names[said]] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [[own, said, count] for (own, said), count in ordered[:CONFUSION_ROWS]]
