"""How another model rates the greedy continuations of the records, from 0 to 10.

High: fluent, and something else than the record. 0: the record, word for word or nearly. At most 2:
repetitive, or no language. The mean of the answers that were one whole number; others are left out
and counted (`inference/judge.py`). Answers that no judge was asked about hold none.

Reference: ICU, arXiv:2407.20271, rates continuations by a language model; the question is ours.
"""

import math

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Measure, Metric


def rating(answer: Answer) -> tuple[float, float]:
    """The rating of one continuation with weight 1, or 0 of 0 where there is none."""
    if math.isnan(answer.judged):
        return 0.0, 0.0
    return float(answer.judged), 1.0


metric = Metric(
    tally=rating,
    better="higher",
    needs="judge",
    shown=Measure(
        "Rating by a judge",
        "How another model rates what the model writes instead of the records, from 0 to 10.",
        "High: fluent and something else. 0: copied. Up to 2: repetitive or no language.",
        percent=False,
        order=95,
    ),
)
