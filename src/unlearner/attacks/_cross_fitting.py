"""Scores of records by classifiers that have seen no record of the same subject."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from unlearner.evaluation.attack_figures import RecordValues

FOLDS = 5

# Fits on some rows, forget records before unseen ones, by their labels, and scores other rows.
FitAndScore = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def cross_fitted(
    scores: FitAndScore, forget_groups: Sequence[str], unseen_groups: Sequence[str], seed: int
) -> RecordValues:
    """Each record's score by a classifier that has seen no record of its subject.

    Where all records to be forgotten are of one subject, by one that has not seen the record.

    Args:
        scores: Fits on some rows, forget records before unseen ones, and scores others.
    """
    if len(set(forget_groups)) < 2:
        forget_groups = [str(index) for index in range(len(forget_groups))]
    groups = [*(f"f {g}" for g in forget_groups), *(f"u {g}" for g in unseen_groups)]
    labels = np.array([1] * len(forget_groups) + [0] * len(unseen_groups))
    found = np.full(len(labels), np.nan)
    folds = min(FOLDS, len(set(forget_groups)), len(set(unseen_groups)))
    if folds >= 2:
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
        for train, test in splits.split(labels, labels, groups):
            if len(set(labels[train])) == 2:
                # Folds have levels of their own: only the order within one counts.
                found[test] = _ranks(scores(train, test, labels))
    return RecordValues(found[: len(forget_groups)], found[len(forget_groups) :])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in (0, 1), those of equal values alike."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return below / (2 * len(values))
