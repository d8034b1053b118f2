r"""Membership inference by loss: how well a low loss tells the set from text never trained on.

.. math::
    AUC = P(L(x) < L(h)) + \tfrac{1}{2} P(L(x) = L(h)), \quad x \in F, h \in H

F is the set, H the holdout set, L a record's mean loss over its scored labels, which are the
labelled positions of a classifier. In [0, 1]. Near 1 the set stands out as trained on; at 0.5 it
cannot be told apart, which is the aim; near 0 its loss is *above* that of unseen text, which marks
it as treated (over-unlearned) and tells as much. Of a removed class H are its unseen records.

Reference: Yeom et al. (2018), arXiv:1709.01604; as an AUC Carlini et al. (2022), arXiv:2112.03570.
"""

import numpy as np

from unlearner.metrics._statistics import area_under_roc
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Metric, attack
from unlearner.metrics.loss import negative_log_likelihood


def membership_auc(
    scores: np.ndarray,
    holdout_scores: np.ndarray,
    weights: np.ndarray,
    holdout_weights: np.ndarray,
) -> np.ndarray:
    """(S,) AUC of "lower is a member" under (S, P) and (S, N) weights of the two sets' records.

    The (P,) and (N,) scores are the records' losses, or entropies.
    """
    return area_under_roc(-scores, -holdout_scores, weights, holdout_weights)


metric = Metric(
    tally=negative_log_likelihood,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    families=(*CAUSAL_LM, *CLASSIFIERS),
    shown=attack("MIA loss (AUC)", "the model's loss alone", order=150),
)
