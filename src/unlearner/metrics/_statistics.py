"""Statistics of sets of records, and their 95 % intervals.

A statistic takes weights of shape (S, G): one row per resample, one column per group of records (a
subject). A row counts how often each group was drawn, so a row of ones is the set itself.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.stats import beta

TAIL = 0.025  # of a 95 % interval

ROWS = 100  # resamples drawn at a time, to bound memory


def ratio(numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(S,) ratio of weighted sums, from (G,) numerators and denominators and (S, G) weights."""
    return (weights @ numerators) / (weights @ denominators)


def area_under_roc(
    positives: np.ndarray,
    negatives: np.ndarray,
    positive_weights: np.ndarray,
    negative_weights: np.ndarray,
) -> np.ndarray:
    """(S,) probability that a positive scores above a negative, a tie counting one half.

    In [0, 1]; 0.5 where the scores do not separate the two.

    Args:
        positives: (P,) scores.
        negatives: (N,) scores.
        positive_weights: (S, P) how often each positive counts.
        negative_weights: (S, N) how often each negative counts.
    """
    order = np.argsort(negatives, kind="stable")
    below = np.cumsum(negative_weights[:, order], axis=1)
    below = np.pad(below, ((0, 0), (1, 0)))  # entry i: the weight of the i lowest
    lower = np.searchsorted(negatives[order], positives, side="left")
    upper = np.searchsorted(negatives[order], positives, side="right")
    wins = (below[:, lower] + below[:, upper]) / 2
    return (positive_weights * wins).sum(axis=1) / (positive_weights.sum(axis=1) * below[:, -1])


def bootstrap(
    statistic: Callable[..., np.ndarray],
    num_groups: Sequence[int],
    generator: np.random.Generator,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Ends of the 95 % percentile interval when whole groups are drawn with replacement.

    Every set is resampled by itself. With fewer than two groups in a set nothing is known about
    their spread, and both ends are NaN.

    Args:
        statistic: Takes (S, G) weights for each set and returns (S,) values.
        num_groups: Number of groups G of each set.
        generator: Source of the draws.
        resamples: Number of draws.
    """
    if min(num_groups) < 2:
        return float("nan"), float("nan")
    values = np.concatenate(
        [
            statistic(*(_draw(rows, groups, generator) for groups in num_groups))
            for rows in _blocks(resamples)
        ]
    )
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _draw(rows: int, groups: int, generator: np.random.Generator) -> np.ndarray:
    """(rows, groups) how often each group comes up in as many draws as there are groups."""
    draws = generator.integers(groups, size=(rows, groups))
    cells = draws + groups * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def _blocks(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, ROWS):
        yield min(ROWS, resamples - start)


def clopper_pearson(rate: float, sizes: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % Clopper-Pearson interval of a rate over groups of records.

    With one record in every group this is the usual exact interval. Records of one group may all
    stand or fall together, and then they are worth no more than Kish's effective number
    (sum sizes)^2 / sum sizes^2 of independent ones, which is what is used: never too narrow, and
    unlike a bootstrap not of zero width when no record, or every record, is a hit.

    Args:
        rate: Share of hits among all records.
        sizes: (G,) number of records in each group.
    """
    trials = sizes.sum() ** 2 / (sizes**2).sum()
    hits = rate * trials
    low = beta.ppf(TAIL, hits, trials - hits + 1) if rate > 0 else 0.0
    high = beta.ppf(1 - TAIL, hits + 1, trials - hits) if rate < 1 else 1.0
    return float(low), float(high)
