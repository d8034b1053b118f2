r"""Mean Jensen-Shannon divergence of the model's class probabilities from the retrained model's.

.. math::
    JS = \frac{1}{2} KL(p \,\|\, m) + \frac{1}{2} KL(q \,\|\, m), \quad m = \frac{p + q}{2}

p are the model's probabilities at a labelled position and q those of the model trained without the
forget set; the mean is over all labelled positions of the set. In nats, in [0, ln 2]: 0 where the
two always say the same, ln 2 = 0.693 where no class is possible to both. Lower is better on every
set. Answers asked without a retrained model hold none of its probabilities and are left out.

Reference: Lin (1991), doi:10.1109/18.61115.
"""

import numpy as np
from scipy.special import rel_entr, softmax

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS, Measure, Metric


def jensen_shannon(answer: ClassAnswer) -> tuple[float, float]:
    """Sum in nats over the labelled positions, and their number; 0 of 0 without a retrained model.

    The sum of the two divergences has no negative term only for probabilities that add up to 1, so
    the stored float32 log-probabilities are normalised again.
    """
    if answer.retrained is None:
        return 0.0, 0.0
    own = softmax(answer.class_log_probs.astype(np.float64), axis=-1)
    other = softmax(answer.retrained.astype(np.float64), axis=-1)
    middle = (own + other) / 2
    nats = (rel_entr(own, middle) + rel_entr(other, middle)).sum(dtype=np.float64) / 2
    return float(nats), float(len(answer.labels))


metric = Metric(
    tally=jensen_shannon,
    better="lower",
    pooled=True,
    needs="retrained",
    families=CLASSIFIERS,
    shown=Measure(
        "Distance to retrained (JS)",
        "Jensen-Shannon divergence: how far the probabilities that the model gives to the labels "
        "are from those of a model retrained without the records.",
        "In nats: 0 means the same answers everywhere, 0.69 (ln 2) nothing in common. Lower is "
        "better on every kind of records.",
        percent=False,
        order=140,
    ),
)
