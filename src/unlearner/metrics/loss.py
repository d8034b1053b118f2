r"""Mean negative log-probability per token, or per label of a classifier.

.. math::
    L(x) = -\frac{1}{|S|} \sum_{t \in S} \log p(x_t | x_{<t})

S are the scored labels: all, or those of the response. In nats, >= 0; higher on a text the model
knows less well. A set's value is the mean of its records' values, every record counting once.

Of a classifier S are the labelled positions of a record (1 of a sequence, the words of a tagged
text) and the probability is that of the position's own label: the cross-entropy per position.
"""

from __future__ import annotations

import numpy as np

from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Metric


def negative_log_likelihood(answer: Answer | ClassAnswer) -> tuple[float, float]:
    """Sum in nats over the scored labels, and their number."""
    scored = answer.log_probs[answer.scored]
    return -float(scored.sum(dtype=np.float64)), float(len(scored))


metric = Metric(tally=negative_log_likelihood, better="lower", families=(*CAUSAL_LM, *CLASSIFIERS))
