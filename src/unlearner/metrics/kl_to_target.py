r"""Mean divergence of the model's next-token distribution from the target model's.

.. math::
    KL = \frac{\sum_x \sum_{t \in S_x} KL(p_0(\cdot | x_{<t}) \,\|\, p(\cdot | x_{<t}))}
              {\sum_x |S_x|}

p_0 is the model before unlearning, S_x are the scored labels. In nats per token, >= 0, 0 where
nothing changed; on text that is to be kept, lower is better. Answers asked without a target model
hold none and are left out.
"""

import numpy as np

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Measure, Metric


def divergence_from_target(answer: Answer) -> tuple[float, float]:
    """Sum in nats over the scored labels, and their number; 0 of 0 without a target model."""
    if answer.kl is None:
        return 0.0, 0.0
    scored = answer.kl[answer.scored]
    return float(scored.sum(dtype=np.float64)), float(len(scored))


metric = Metric(
    tally=divergence_from_target,
    better="lower",
    pooled=True,
    needs="target",
    shown=Measure(
        "Drift (KL)",
        "How far next-token predictions have moved from those before, in nats per token.",
        "0 means unchanged. Lower is better on text to be kept.",
        percent=False,
        order=190,
    ),
)
