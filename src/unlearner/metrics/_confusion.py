"""Right and wrong decisions by class, and the F1 that they make."""

import numpy as np

from unlearner.data.tag_schemes import OUTSIDE
from unlearner.inference.answers import ClassAnswer


def class_counts(answer: ClassAnswer) -> np.ndarray:
    """(3, C) true positives, false positives and false negatives of each class, over positions.

    The outside tag is no class to find, so its own are 0; a word taken for it is still missed by
    the class that it has. NaN throughout where a probability is, for then nothing is predicted.
    """
    num_classes = len(answer.label_names)
    if np.isnan(answer.class_log_probs).any():
        return np.full((3, num_classes), np.nan)
    own, said = answer.labels, answer.predicted
    hit = own == said
    decided = [own[hit], said[~hit], own[~hit]]
    counts = np.array([np.bincount(classes, minlength=num_classes) for classes in decided])
    counts[:, [name == OUTSIDE for name in answer.label_names]] = 0
    return counts


def f1(true_positives: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + misses), the misses being false positives and false negatives; NaN for 0 / 0.

    The harmonic mean of precision and recall, with no special case where one of them is undefined.
    """
    with np.errstate(invalid="ignore"):
        return 2 * true_positives / (2 * true_positives + misses)


def f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """(S,) F1 of (S, 3) true positives, false positives and false negatives."""
    return f1(sums[:, 0], sums[:, 1] + sums[:, 2])
