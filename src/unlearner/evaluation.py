"""Values of metrics over sets of records, each with its interval and its number of records.

Scoring reads saved answers and may be repeated at will. Sums are exactly rounded (`math.fsum`) and
subjects are taken in the order of their names, so the order of the records changes no digit of a
value or of an interval.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from unlearner.answers import Answer
from unlearner.metrics.base import Metric
from unlearner.resampling import bootstrap, clopper_pearson, ratio

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Value:
    """One figure of a report.

    Attributes:
        value: The metric over the set. Not finite only where the model's own numbers are not, or
            where a float64 cannot hold the perplexity.
        low: Lower end of the 95 % interval, NaN where it cannot be known (fewer than two subjects).
        high: Upper end, likewise.
        records: Number of records that counted.
    """

    value: float
    low: float
    high: float
    records: int

    def to_json(self) -> dict[str, float | int | None]:
        """The four fields; null for what is not finite, for which JSON has no number."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        finite = {name: end if math.isfinite(end) else None for name, end in ends.items()}
        return {**finite, "records": self.records}


def evaluate_set(  # noqa: PLR0913 - two sets bring their answers and their subjects
    answers: Sequence[Answer],
    metrics: Mapping[str, Metric],
    groups: Sequence[str],
    *,
    versus: Sequence[Answer] | None = None,
    versus_groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Value]:
    """Value and 95 % interval of every metric over one set of records.

    Intervals are percentile bootstraps that draw whole subjects, for records of one subject are not
    independent; rates have Clopper-Pearson intervals, by effective number where subjects repeat.
    Every metric starts from the same seed, so adding one changes no interval of another, and two
    models asked about the same records are resampled alike.

    A metric for which no record counts is left out, and so is one that compares two sets when there
    is no other set: there is no number for "unknown".

    Args:
        answers: What the model said, all windows of all records.
        metrics: The metrics by name. What they need must have been asked for.
        groups: The subject of every record, by `Answer.record`.
        versus: Answers about the set that `Metric.versus` names.
        versus_groups: Subjects of that set's records; without them each stands for itself.
        seed: Of the resampling.
        resamples: Number of bootstrap draws; 0 for values without intervals.
    """
    values = {}
    for name, metric in metrics.items():
        samples = [_Sample.of(answers, metric, groups)]
        if metric.versus:
            samples.append(_Sample.of(versus or (), metric, versus_groups))
        if all(len(sample.values) for sample in samples):
            generator = np.random.default_rng(seed)
            values[name] = _value(metric, samples, generator, resamples)
    unknown = [name for name, value in values.items() if math.isnan(value.low)]
    if unknown and resamples:
        logger.warning("no interval for %s: one subject, or no finite value", ", ".join(unknown))
    return values


def record_values(answers: Iterable[Answer], metric: Metric) -> dict[int, float]:
    """Value of each record by its index, windows added up; a record that cannot say is left out.

    Not transformed: a record's value of `perplexity` is its loss.
    """
    sums = _record_sums(answers, metric)
    return {record: numerator / weight for record, (numerator, weight) in sums.items()}


def _record_sums(answers: Iterable[Answer], metric: Metric) -> dict[int, tuple[float, float]]:
    """Numerator and weight of each record that counts, summed over its windows, by its index."""
    windows: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for answer in answers:
        numerator, weight = metric.tally(answer)
        if weight > 0:
            windows[answer.record].append((numerator, weight))
    return {record: _sums(windows[record]) for record in sorted(windows)}


def _sums(tallies: Iterable[tuple[float, float]]) -> tuple[float, float]:
    numerators, weights = zip(*tallies, strict=True)
    return math.fsum(numerators), math.fsum(weights)


@dataclass(frozen=True)
class _Sample:
    """What a metric says about one set: N records that count, of G subjects.

    Attributes:
        values: (N,) the records' own values.
        group_of: (N,) index of each record's subject, subjects in the order of their names.
        numerators: (G,) what each subject adds to the numerator of the set's value.
        denominators: (G,) and to its denominator.
    """

    values: np.ndarray
    group_of: np.ndarray
    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[Answer], metric: Metric, groups: Sequence[str] | None) -> _Sample:
        """Tallies the answers; without groups a record's id is its subject."""
        sums = _record_sums(answers, metric)
        ids = {answer.record: answer.id for answer in answers}
        values = {record: numerator / weight for record, (numerator, weight) in sums.items()}
        members: defaultdict[str, list[int]] = defaultdict(list)
        for record in sums:
            members[ids[record] if groups is None else groups[record]].append(record)
        shares = sums if metric.pooled else {record: (values[record], 1.0) for record in sums}
        subjects = sorted(members)
        totals = [_sums(shares[record] for record in members[subject]) for subject in subjects]
        index = {r: g for g, subject in enumerate(subjects) for r in members[subject]}
        numerators, denominators = np.array(totals).reshape(-1, 2).T
        return cls(
            values=np.array(list(values.values())),
            group_of=np.array([index[record] for record in values], dtype=int),
            numerators=numerators,
            denominators=denominators,
        )


def _value(
    metric: Metric, samples: list[_Sample], generator: np.random.Generator, resamples: int
) -> Value:
    """The set's value with its interval, transformed."""
    sample = samples[0]
    num_groups = [len(each.numerators) for each in samples]
    if metric.compare:
        statistic = partial(_compared, metric, samples)
        value = float(statistic(*(np.ones((1, groups)) for groups in num_groups))[0])
    else:
        statistic = partial(ratio, sample.numerators, sample.denominators)
        value = math.fsum(sample.numerators) / math.fsum(sample.denominators)
    if any(np.isnan(each.values).any() for each in samples):
        value = math.nan  # a comparison by rank would pass over it
    if not math.isfinite(value) or not resamples:
        low = high = math.nan
    elif metric.rate:
        low, high = clopper_pearson(value, sample.denominators)
    else:
        low, high = bootstrap(statistic, num_groups, generator, resamples)
    ends = (metric.transform(end) for end in (value, low, high))
    return Value(*ends, records=len(sample.values))


def _compared(metric: Metric, samples: list[_Sample], *weights: np.ndarray) -> np.ndarray:
    """(S,) the comparison of two sets, under (S, G) weights of their subjects."""
    assert metric.compare is not None
    first, second = samples
    own, other = (weight[:, each.group_of] for weight, each in zip(weights, samples, strict=True))
    return metric.compare(first.values, second.values, own, other)
