r"""Membership inference by Min-K %: the mean loss of a record's least likely tokens.

.. math::
    s(x) = \frac{1}{k} \sum_{t \in min_k} -\log p(x_t | x_{<t})

over the k = max(1, floor(0.2 T)) of the T scored labels that are least likely; the AUC of "lower is
a member" as in `mia_loss_auc`. Text that was trained on has few tokens that surprise the model.

Reference: Shi et al. (2023), arXiv:2310.16789, with its 20 %.
"""

import numpy as np

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Metric, attack
from unlearner.metrics.mia_loss_auc import membership_auc

SHARE = 0.2


def least_likely(scores: np.ndarray) -> tuple[float, float]:
    """Minus the sum of the lowest fifth of a window's scores, and how many they are."""
    if not len(scores):
        return 0.0, 0.0
    count = max(1, int(SHARE * len(scores)))
    return -float(np.sort(scores.astype(float))[:count].sum()), float(count)


def losses_of_least_likely(answer: Answer) -> tuple[float, float]:
    """Sum of the losses in nats, and their number."""
    return least_likely(answer.log_probs[answer.scored])


metric = Metric(
    tally=losses_of_least_likely,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    shown=attack("MIA Min-K % (AUC)", "the loss of a record's least likely tokens", order=154),
)
