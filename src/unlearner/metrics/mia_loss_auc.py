r"""Membership inference by loss: how well a low loss tells the set from text never trained on.

.. math::
    AUC = P(L(x) < L(h)) + \tfrac{1}{2} P(L(x) = L(h)), \quad x \in F, h \in H

F is the set, H the holdout set, L a record's mean loss over its scored labels. In [0, 1]. Near 1
the set stands out as trained on; at 0.5 it cannot be told apart, which is the aim; near 0 its loss
is *above* that of unseen text, which marks it as treated (over-unlearned) and tells as much.

Reference: Yeom et al. (2018), arXiv:1709.01604; as an AUC Carlini et al. (2022), arXiv:2112.03570.
"""

from __future__ import annotations

import numpy as np

from unlearner.metrics.base import Metric
from unlearner.metrics.loss import negative_log_likelihood
from unlearner.resampling import area_under_roc


def membership_auc(
    losses: np.ndarray,
    holdout_losses: np.ndarray,
    weights: np.ndarray,
    holdout_weights: np.ndarray,
) -> np.ndarray:
    """(S,) AUC with the score -loss, under (S, P) and (S, N) weights of the two sets' records."""
    return area_under_roc(-losses, -holdout_losses, weights, holdout_weights)


metric = Metric(
    tally=negative_log_likelihood, better="chance", versus="holdout", compare=membership_auc
)
