r"""Mean negative log-probability per token, or per label of a classifier.

.. math::
    L(x) = -\frac{1}{|S|} \sum_{t \in S} \log p(x_t | x_{<t})

S are the scored labels: all, or those of the response. In nats, >= 0; higher on a text the model
knows less well. A set's value is the mean of its records' values, every record counting once.

Of a classifier S are the labelled positions of a record (1 of a sequence, the words of a tagged
text) and the probability is that of the position's own label: the cross-entropy per position.
"""

import numpy as np

from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Measure, Metric


def negative_log_likelihood(answer: Answer | ClassAnswer) -> tuple[float, float]:
    """Sum in nats over the scored labels, and their number."""
    scored = answer.log_probs[answer.scored]
    return -float(scored.sum(dtype=np.float64)), float(len(scored))


metric = Metric(
    tally=negative_log_likelihood,
    better="lower",
    families=(*CAUSAL_LM, *CLASSIFIERS),
    shown=Measure(
        "Loss",
        "How surprised the model is by the text, in nats per token.",
        "On text to be kept it should stay where it was. Lower means better predicted.",
        percent=False,
        order=10,
    ),
    shown_of_labels=Measure(
        "Loss",
        "How surprised the model is by the right label, in nats per label.",
        "On records to be kept and on test records it should stay where it was; on forgotten "
        "records it should come to that of unseen ones.",
        percent=False,
        order=200,
    ),
)
