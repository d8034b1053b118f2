r"""F1 over all decisions of the set, whatever their class.

.. math::
    F_1 = \frac{2 \sum_c TP_c}{\sum_c 2 TP_c + FP_c + FN_c}

As scikit-learn's `f1_score(average="micro")`. In [0, 1]. Of sequences it equals accuracy, every
record being one decision. Of tags the decisions are words, and the outside tag "O" is not among the
classes c, so that words rightly left alone count for nothing; a record without any other tag, own
or predicted, is left out.
"""

import numpy as np

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics._confusion import class_counts, f1_of_sums
from unlearner.metrics.base import CLASSIFIERS, CORRECT, Measure, Metric


def decisions(answer: ClassAnswer) -> np.ndarray:
    """(3,) true positives, false positives and false negatives of all classes together."""
    return class_counts(answer).sum(axis=1)


metric = Metric(
    counts=decisions,
    of_counts=f1_of_sums,
    better="higher",
    families=CLASSIFIERS,
    shown=Measure(
        "F1 (micro)", "Correct labels, each prediction counting alike.", CORRECT, order=110
    ),
)
