r"""Mean negative log-probability per token.

.. math::
    L(x) = -\frac{1}{|S|} \sum_{t \in S} \log p(x_t | x_{<t})

S are the scored labels: all, or those of the response. In nats, >= 0; higher on a text the model
knows less well. A set's value is the mean of its records' values, every record counting once.
"""

from __future__ import annotations

import numpy as np

from unlearner.answers import Answer
from unlearner.metrics.base import Metric


def negative_log_likelihood(answer: Answer) -> tuple[float, float]:
    """Sum in nats over the scored labels, and their number."""
    scored = answer.log_probs[answer.scored]
    return -float(scored.sum(dtype=np.float64)), float(len(scored))


metric = Metric(tally=negative_log_likelihood, better="lower")
