r"""Share of labelled positions at which the most probable class is the position's own.

.. math::
    A = \frac{\sum_x |\{i : \arg\max_c p_i(c) = y_i\}|}{\sum_x M_x}

M_x is the number of a record's labelled positions: 1 of a sequence, the words of a tagged text, on
which most of the share comes from words outside every entity. In [0, 1]. Of sequences it is the
share of records got right, and equals `f1_micro`; of tags it is pooled over the words of the set.
"""

import math

import numpy as np

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS, CORRECT, Measure, Metric


def correct_positions(answer: ClassAnswer) -> tuple[float, float]:
    """Number of positions classified right, NaN where a probability is, and of all positions."""
    if np.isnan(answer.class_log_probs).any():
        return math.nan, float(len(answer.labels))
    return float((answer.predicted == answer.labels).sum()), float(len(answer.labels))


metric = Metric(
    tally=correct_positions,
    better="higher",
    pooled=True,
    rate=True,
    families=CLASSIFIERS,
    shown=Measure("Accuracy", "Share of labels predicted correctly.", CORRECT, order=100),
)
