"""Every figure of a report: a model's answers on the sets of a run, scored by every metric."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from unlearner import registry
from unlearner.data.labelled import LabelledSet
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.intervals import AnyAnswer, Value, evaluate_set, record_values
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics import accuracy, mia_loss_auc
from unlearner.metrics.base import Metric
from unlearner.settings import EvaluationSettings, further_kind

ClassAnswers = Mapping[str, list[ClassAnswer]]
# Of one model: every metric of every set.
Scores = dict[str, dict[str, Value]]

CONFUSION_ROWS = 30

# Of each kind of further set what is measured.
FURTHER_METRICS = {
    "neutral": ("loss", "perplexity"),
    "dialogue": ("loss", "perplexity", "unigram_f1"),
}


def score_sets(
    answers: Mapping[str, Sequence[AnyAnswer]],
    sets: Mapping[str, TokenizedSet | LabelledSet],
    evaluation: EvaluationSettings,
    seed: int,
) -> Scores:
    """Every metric of every set, with intervals; metrics that a set cannot have are left out.

    What compares two sets compares the forget set with unseen records: those of a removed class
    where there are some, else the holdout set.
    """
    metrics: dict[str, Metric] = {
        name: registry.load("metrics", name).metric for name in registry.names("metrics")
    }
    single = {name: metric for name, metric in metrics.items() if not metric.versus}
    against = {name: metric for name, metric in metrics.items() if metric.versus}
    unseen = "holdout_class" if "holdout_class" in sets else "holdout"
    found = {}
    for role, some in answers.items():
        groups, kind = sets[role].groups, further_kind(role)
        mine = {
            name: metric
            for name, metric in single.items()
            if (name in FURTHER_METRICS[kind] if kind else metric.needs != "dialogue")
        }
        found[role] = evaluate_set(some, mine, groups, seed=seed, resamples=evaluation.resamples)
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


def quick_figures(
    answers: Mapping[str, Sequence[AnyAnswer]],
    metrics: Mapping[str, Metric],
    sets: Mapping[str, TokenizedSet | LabelledSet],
) -> dict[str, float]:
    """Some metrics of the forget set, and membership by loss where unseen records answered.

    Without intervals.
    """
    forget, groups = answers["forget"], sets["forget"].groups
    found = evaluate_set(forget, metrics, groups, resamples=0)
    unseen = next((role for role in ("holdout_class", "holdout") if role in answers), None)
    if unseen is not None:
        attack = {"mia_loss_auc": mia_loss_auc.metric}
        other, other_groups = answers[unseen], sets[unseen].groups
        found |= evaluate_set(
            forget, attack, groups, versus=other, versus_groups=other_groups, resamples=0
        )
    return {name: value.value for name, value in found.items()}


def with_retrained(answers: ClassAnswers, retrained: ClassAnswers) -> ClassAnswers:
    """The answers with the log-probabilities of the retrained model at their side."""
    return {
        role: [
            replace(answer, retrained=other.class_log_probs)
            for answer, other in zip(some, retrained[role], strict=True)
        ]
        for role, some in answers.items()
    }


def shares_right(answers: Sequence[ClassAnswer]) -> dict[int, float]:
    """The share of each record's labelled positions that are classified as labelled, by index."""
    return record_values(answers, accuracy.metric)


def confusion_counts(answers: Sequence[ClassAnswer], outside: int | None) -> list[list[str | int]]:
    """Own label, predicted label and how often, the most frequent first.

    Words outside every entity that are found to be outside are left out.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        for own, predicted in zip(answer.labels.tolist(), answer.predicted.tolist(), strict=True):
            if not own == predicted == outside:
                counts[answer.label_names[own], answer.label_names[predicted]] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [[own, predicted, count] for (own, predicted), count in ordered[:CONFUSION_ROWS]]
