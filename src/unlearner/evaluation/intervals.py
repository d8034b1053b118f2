"""Values of metrics over sets of records, each with its interval and its number of records.

Scoring reads saved answers and may be repeated at will. Sums are exactly rounded (`math.fsum`) and
subjects are taken in the order of their names, so the order of the records changes no digit of a
value or of an interval.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.metrics._statistics import bootstrap, clopper_pearson, ratio
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Metric

logger = logging.getLogger(__name__)

AnyAnswer = Answer | ClassAnswer


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


def evaluate_set(
    answers: Sequence[AnyAnswer],
    metrics: Mapping[str, Metric],
    groups: Sequence[str],
    *,
    versus: Sequence[AnyAnswer] | None = None,
    versus_groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Value]:
    """Value and 95 % interval of every metric over one set of records.

    Intervals are percentile bootstraps that draw whole subjects, for records of one subject are not
    independent; rates have Clopper-Pearson intervals, by effective number where subjects repeat.
    Every metric starts from the same seed, so adding one changes no interval of another, and two
    models evaluated on the same records are resampled alike where the same records count.

    A metric for which no record counts is left out, and so are one that compares two sets when
    there is no other set and one that reads the answers of the other kind of model: there is no
    number for "unknown".

    Args:
        answers: The model's inference on all windows of all records.
        metrics: The metrics by name. What they need must be in the answers.
        groups: The subject of every record, by `Answer.record`.
        versus: Answers about the set that `Metric.versus` names, or one in its place.
        versus_groups: Subjects of that set's records; without them each stands for itself.
        seed: Of the resampling.
        resamples: Number of bootstrap draws; 0 for values without intervals.
    """
    values = {}
    causal = all(isinstance(answer, Answer) for answer in answers)
    families = {*(CAUSAL_LM if causal else CLASSIFIERS)}
    for name, metric in metrics.items():
        if families.isdisjoint(metric.families):
            continue
        generator = np.random.default_rng(seed)
        if metric.of_counts is not None:
            counts = _Counts.of(answers, metric, groups)
            if counts.records:
                values[name] = _value_of_counts(metric, counts, generator, resamples)
            continue
        samples = [_Sample.of(answers, metric, groups)]
        if metric.versus:
            samples.append(_Sample.of(versus or (), metric, versus_groups))
        if all(len(sample.values) for sample in samples):
            values[name] = _value_of_set(metric, samples, generator, resamples)
    unknown = [name for name, value in values.items() if math.isnan(value.low)]
    if unknown and resamples:
        logger.warning("no interval for %s: one subject, or no finite value", ", ".join(unknown))
    return values


def record_values(answers: Iterable[AnyAnswer], metric: Metric) -> dict[int, float]:
    """Value of each record by its index, windows added up; a record of no weight is left out.

    Not transformed: a record's value of `perplexity` is its loss.

    Raises:
        ValueError: The metric is a function of summed counts, and has a value for sets only.
    """
    tallies = _tallies(answers, metric)
    sums = {record: _sums(tallies[record]) for record in tallies}
    return {record: numerator / weight for record, (numerator, weight) in sums.items()}


def _tallies(answers: Iterable[AnyAnswer], metric: Metric) -> dict[int, list[tuple[float, float]]]:
    """Numerators and weights of the windows that count, by the index of their record, ascending."""
    if metric.tally is None:
        raise ValueError("a metric of counts has a value for a set, not for a record")
    windows: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for answer in answers:
        numerator, weight = metric.tally(answer)
        if weight > 0:
            windows[answer.record].append((numerator, weight))
    return {record: windows[record] for record in sorted(windows)}


def _sums(tallies: Iterable[tuple[float, float]]) -> tuple[float, float]:
    numerators, weights = zip(*tallies, strict=True)
    return math.fsum(numerators), math.fsum(weights)


def _by_subject(
    records: Iterable[int], answers: Iterable[AnyAnswer], groups: Sequence[str] | None
) -> dict[str, list[int]]:
    """The records of each subject in the order of its name; without groups an id is a subject."""
    ids = {answer.record: answer.id for answer in answers}
    members: defaultdict[str, list[int]] = defaultdict(list)
    for record in records:
        members[ids[record] if groups is None else groups[record]].append(record)
    return {subject: members[subject] for subject in sorted(members)}


@dataclass(frozen=True)
class _Counts:
    """The counts of one set of G subjects, for a metric that is a function of them.

    Attributes:
        sums: (G, K) counts of each subject. Of whole numbers, so that no order changes a digit.
        records: Number of records that count.
    """

    sums: np.ndarray
    records: int

    @classmethod
    def of(
        cls, answers: Sequence[AnyAnswer], metric: Metric, groups: Sequence[str] | None
    ) -> "_Counts":
        """Counts of the answers, without records of which all are 0."""
        assert metric.counts is not None
        found: dict[int, np.ndarray] = {}
        for answer in answers:
            counts = np.asarray(metric.counts(answer), dtype=float)
            found[answer.record] = found.get(answer.record, 0) + counts
        counted = sorted(record for record, counts in found.items() if counts.any())
        subjects = _by_subject(counted, answers, groups)
        sums = [sum(found[record] for record in members) for members in subjects.values()]
        return cls(np.array(sums), records=len(counted))


@dataclass(frozen=True)
class _Sample:
    """The tallies of one set: N records that count, of G subjects.

    Attributes:
        values: (N,) the records' own values.
        group_of: (N,) index of each record's subject, subjects in the order of their names.
        numerators: (G,) what each subject adds to the numerator of the set's value.
        denominators: (G,) and to its denominator.
        trials: Every tally is 0 or 1 of 1.
    """

    values: np.ndarray
    group_of: np.ndarray
    numerators: np.ndarray
    denominators: np.ndarray
    trials: bool

    @classmethod
    def of(
        cls, answers: Sequence[AnyAnswer], metric: Metric, groups: Sequence[str] | None
    ) -> "_Sample":
        """Tallies the answers; without groups a record's id is its subject."""
        tallies = _tallies(answers, metric)
        sums = {record: _sums(tallies[record]) for record in tallies}
        values = {record: numerator / weight for record, (numerator, weight) in sums.items()}
        shares = sums if metric.pooled else {record: (values[record], 1.0) for record in sums}
        members = list(_by_subject(sums, answers, groups).values())
        totals = [_sums(shares[record] for record in each) for each in members]
        index = {record: group for group, each in enumerate(members) for record in each}
        numerators, denominators = np.array(totals).reshape(-1, 2).T
        return cls(
            values=np.array(list(values.values())),
            group_of=np.array([index[record] for record in values], dtype=int),
            numerators=numerators,
            denominators=denominators,
            trials=all(
                weight == 1 and numerator in (0, 1)
                for each in tallies.values()
                for numerator, weight in each
            ),
        )


def _value_of_set(
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
    elif metric.rate and sample.trials:
        low, high = clopper_pearson(value, sample.denominators)
    else:
        low, high = bootstrap(statistic, num_groups, generator, resamples)
    ends = (metric.transform(end) for end in (value, low, high))
    return Value(*ends, records=len(sample.values))


def _value_of_counts(
    metric: Metric, counts: _Counts, generator: np.random.Generator, resamples: int
) -> Value:
    """The same of a function of summed counts."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        assert metric.of_counts is not None
        return metric.of_counts(weights @ counts.sums)

    value = float(statistic(np.ones((1, len(counts.sums))))[0])
    low = high = math.nan
    if math.isfinite(value) and resamples:
        low, high = bootstrap(statistic, [len(counts.sums)], generator, resamples)
    ends = (metric.transform(end) for end in (value, low, high))
    return Value(*ends, records=counts.records)


def _compared(metric: Metric, samples: list[_Sample], *weights: np.ndarray) -> np.ndarray:
    """(S,) the comparison of two sets, under (S, G) weights of their subjects."""
    assert metric.compare is not None
    first, second = samples
    own, other = (weight[:, each.group_of] for weight, each in zip(weights, samples, strict=True))
    return metric.compare(first.values, second.values, own, other)
