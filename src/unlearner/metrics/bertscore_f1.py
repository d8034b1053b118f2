"""BERTScore F1 of the greedy continuation against the text's own, as the answers hold it.

In [-1, 1], in practice the upper half unless rescaled; higher: closer in meaning. Raw values of
unrelated text are far above 0 (about 0.35 with bert-base-uncased), so compare with the holdout set.
Answers asked without an encoder hold none and are left out.

Reference: Zhang et al. (2020), arXiv:1904.09675.
"""

import math

from unlearner.inference.answers import Answer
from unlearner.metrics.base import CONTINUATION, Measure, Metric


def similarity(answer: Answer) -> tuple[float, float]:
    """BERTScore of one continuation with weight 1, or 0 of 0 where there is none."""
    if math.isnan(answer.bertscore):
        return 0.0, 0.0
    return float(answer.bertscore), 1.0


metric = Metric(
    tally=similarity,
    better="higher",
    needs="bertscore",
    shown=Measure(
        "BERTScore F1",
        "Similarity in meaning between continuation and truth, judged by another model.",
        CONTINUATION,
        percent=False,
        order=90,
    ),
)
