r"""Mean of the classes' own F1, every class counting once however rare.

.. math::
    F_1 = \frac{1}{|C|} \sum_{c \in C} \frac{2 TP_c}{2 TP_c + FP_c + FN_c}

As scikit-learn's `f1_score(average="macro")`: C are the classes that the set holds or that were
predicted on it. In [0, 1]. Of tags the decisions are words, B-person and I-person are two classes,
and the outside tag "O" is none; a record without any other tag, own or predicted, is left out.
"""

import numpy as np

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics._confusion import class_counts, f1
from unlearner.metrics.base import CLASSIFIERS, CORRECT, Measure, Metric


def decisions_by_class(answer: ClassAnswer) -> np.ndarray:
    """(3 C,) true positives of all classes, then their false positives and false negatives."""
    return class_counts(answer).ravel()


def mean_f1(sums: np.ndarray) -> np.ndarray:
    """(S,) mean F1 from (S, 3 C) counts, over the classes of which some count is positive."""
    true_positives, false_positives, false_negatives = np.split(sums, 3, axis=1)
    misses = false_positives + false_negatives
    found = (true_positives + misses) != 0
    return np.where(found, f1(true_positives, misses), 0).sum(axis=1) / found.sum(axis=1)


metric = Metric(
    counts=decisions_by_class,
    of_counts=mean_f1,
    better="higher",
    families=CLASSIFIERS,
    shown=Measure("F1 (macro)", "Correct labels, each class counting alike.", CORRECT, order=120),
)
