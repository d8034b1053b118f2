r"""Exponential of the mean loss over all scored tokens of the set.

.. math::
    PPL = \exp\left(-\frac{\sum_x \sum_{t \in S_x} \log p(x_t | x_{<t})}{\sum_x |S_x|}\right)

In (effective) choices per token, >= 1; lower on a text the model knows better. Pooled over tokens,
so it is not the exponential of the metric `loss`, in which every record counts the same. A model
pushed far away can have a loss above 709 nats, whose exponential is no longer a float64: the value
is then infinity, which a report writes as null beside the finite `loss`.
"""

import math

from unlearner.metrics.base import Measure, Metric
from unlearner.metrics.loss import negative_log_likelihood


def exponential(nats: float) -> float:
    """Euler's number to the power of the argument, infinity where a float64 cannot hold it."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


metric = Metric(
    tally=negative_log_likelihood,
    better="lower",
    pooled=True,
    transform=exponential,
    shown=Measure(
        "Perplexity",
        "Among how many equally likely next tokens the model seems to waver while reading.",
        "On text to be kept it should stay where it was; 1 means known by heart. In the "
        "thousands: the model breaks down on such text.",
        percent=False,
        order=20,
    ),
)
