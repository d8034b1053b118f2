r"""Membership inference by Min-K++ %: Min-K % with each token's log-probability standardised.

.. math::
    z_t = \frac{\log p(x_t | x_{<t}) - \mu_t}{\sigma_t}, \quad
    s(x) = \frac{1}{k} \sum_{t \in min_k} -z_t

with mu and sigma the mean and the standard deviation of log p(v | x_<t) over v drawn from the
model's own distribution there, and the k = max(1, floor(0.2 T)) lowest z of the T scored labels;
the AUC of "lower is a member" as in `mia_loss_auc`. What was trained on is a mode of the
distribution.

Reference: Zhang et al. (2024), arXiv:2404.02936, with 20 %. Differs from its code where sigma is 0:
z is then 0.
"""

import numpy as np

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Metric, attack
from unlearner.metrics.mia_loss_auc import membership_auc
from unlearner.metrics.mia_min_k_auc import least_likely


def standardised(answer: Answer) -> tuple[float, float]:
    """Minus the sum of the lowest z, and their number; none where the model was not asked."""
    if answer.expected is None or answer.deviation is None:
        return 0.0, 0.0
    off = answer.log_probs.astype(float) - answer.expected
    spread = answer.deviation.astype(float)
    z = np.divide(off, spread, out=np.zeros_like(off), where=spread > 0)
    return least_likely(z[answer.scored])


metric = Metric(
    tally=standardised,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    shown=attack(
        "MIA Min-K++ % (AUC)",
        "how far a record's least likely tokens are from what the model expects,",
        order=156,
    ),
)
