"""What a metric is: what one answer adds to the sums that a value is made of.

A record longer than the model's context is asked in several windows, each with its own answer.
Most metrics are a ratio of two sums over tokens, prompts or windows: a tally. Some have a value for
a set of records only, as F1 has: a function of counts summed over the set. Either way the windows
of a record add up instead of being averaged twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CAUSAL_LM = ("causal-lm",)

SEQUENCE_CLASSIFICATION = "sequence-classification"

TOKEN_CLASSIFICATION = "token-classification"

CLASSIFIERS = (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)


# What the direction of a metric means, in the words of a report.
LIKE_UNSEEN = (
    "Forgotten records should score like text the model has never seen. Higher: still "
    "remembered. Far lower: over-unlearned, which betrays that the records were treated."
)

CONTINUATION = "Lower on forgotten records is better; it should not fall on text to be kept."

CORRECT = "Higher is better on text to be kept; forgotten records should score like unseen text."


@dataclass(frozen=True)
class Measure:
    """How a number is shown, to people who answer for personal data and train no models.

    Attributes:
        label: Short name for tables and plots.
        meaning: What is measured, in everyday words.
        reading: Which direction means what.
        percent: True for shares between 0 and 1, which are shown as percentages.
        order: Its place in tables, from the top; equal ones go by name.
    """

    label: str
    meaning: str
    reading: str
    percent: bool = True
    order: int = 1000


def attack(label: str, score: str, order: int) -> Measure:
    """How a membership attack is shown, of which `score` says what it goes by."""
    return Measure(
        label,
        f"How well {score} tells the forgotten records from text the model has never seen.",
        "0.5 means the two cannot be told apart. Towards 1: the records are recognised as known. "
        "Towards 0: they are recognised as treated, a failure as well.",
        percent=False,
        order=order,
    )


def identity(value: float) -> float:
    """The value itself."""
    return value


@dataclass(frozen=True)
class Metric:
    """A number from answers, made of tallies or of counts.

    Attributes:
        better: "lower" or "higher" for text that is to be kept. For the forget set the aim is the
            holdout level, not an extreme. "chance" where 0.5 is the aim for every set.
        tally: Numerator and weight of one answer; weight 0 where the answer cannot say (a text too
            short for an n-gram, say), and such a record is left out of the mean and of the count.
        counts: In place of a tally: (K,) whole numbers of one answer, NaN where the model's own
            numbers are. A record whose counts are all 0 cannot say and is left out.
        of_counts: The set's value from summed counts: from (S, K), one row per resample, (S,)
            values. Defined wherever some count is positive.
        pooled: True when the set's value is the ratio of the sums over all records (perplexity);
            False when it is the mean of the records' own ratios.
        rate: True when a tally is hits of trials. Where every tally is 0 or 1 of 1, the set's value
            is a share of independent trials and has an exact interval; else it is bootstrapped.
        transform: Applied to the set's value and to the ends of its interval, not to records. It
            must not decrease.
        needs: What the answers must hold beyond the teacher-forced pass: "" (nothing),
            "continuations", "target", "bertscore", "retrained", "judge" or "dialogue" (a
            response of its own, which further sets of that kind alone have).
        versus: The set that the records are compared with unless the caller brings the answers of
            another (of a removed class, its unseen records); "" for a metric of one set.
        compare: Where `versus` is given, the statistic of the two sets. It takes the records'
            values, (P,) of the set and (N,) of the other, and how often each counts in S
            resamples, (S, P) and (S, N), and returns (S,) values.
        families: Families of models whose answers it reads: `Answer` of a causal language model,
            `ClassAnswer` of a classifier.
        shown: How a report shows it; None for its own name and nothing more.
        shown_of_labels: The same for classifiers, where it differs.
    """

    better: Literal["lower", "higher", "chance"]
    tally: Callable[[Any], tuple[float, float]] | None = None
    counts: Callable[[Any], np.ndarray] | None = None
    of_counts: Callable[[np.ndarray], np.ndarray] | None = None
    pooled: bool = False
    rate: bool = False
    transform: Callable[[float], float] = identity
    needs: str = ""
    versus: str = ""
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    families: tuple[str, ...] = CAUSAL_LM
    shown: Measure | None = None
    shown_of_labels: Measure | None = None

    def __post_init__(self) -> None:
        if bool(self.versus) != (self.compare is not None):
            raise ValueError("a metric needs both of versus and compare, or neither")
        if (self.counts is None) != (self.of_counts is None):
            raise ValueError("a metric needs both of counts and of_counts, or neither")
        if (self.tally is None) == (self.counts is None):
            raise ValueError("a metric needs either a tally or counts")
        if self.counts is not None and (self.versus or self.pooled or self.rate):
            raise ValueError("versus, pooled and rate belong to a tally, not to counts")
