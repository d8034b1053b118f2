r"""Membership inference by entropy: how well a sure classifier tells the set from unseen records.

.. math::
    H(p) = -\sum_c p_c \log p_c, \qquad
    AUC = P(\bar H(x) < \bar H(h)) + \tfrac{1}{2} P(\bar H(x) = \bar H(h)), \quad x \in F, h \in S

F is the set, S the holdout set or, of a removed class, its unseen records; \bar H is the mean
entropy, in nats, over a record's labelled positions. The attack knows no labels: low entropy means
trained on. In [0, 1]; 0.5 is the aim. Near 1 the set stands out as trained on, near 0 as treated.

Reference: Salem et al. (2019), arXiv:1806.01246; Song and Mittal (2021), arXiv:2003.10595.
"""

import numpy as np
from scipy.special import logsumexp

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS, Metric, attack
from unlearner.metrics.mia_loss_auc import membership_auc


def log_has_and_leaves(class_log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log p and log (1 - p) of every class in float64, in nats, from (M, C) float32.

    A classifier sure of itself has p = 1 to the last digit of a float32 on most records, and then
    tells them apart by what is left to the other classes only. What the most probable class leaves
    is therefore the sum of the others, and not 1 minus a rounded number.
    """
    rows = np.arange(len(class_log_probs))
    top = class_log_probs.argmax(axis=-1)
    given = class_log_probs.astype(np.float64)
    others = given.copy()
    others[rows, top] = -np.inf
    total = logsumexp(given, axis=-1, keepdims=True)
    has, leaves = given - total, np.log1p(-np.exp(others - total))
    leaves[rows, top] = logsumexp(others - total, axis=-1)  # -inf where p = 1: the logarithm of 0
    has[rows, top] = np.log1p(-np.exp(leaves[rows, top]))
    return has, leaves


def entropy(answer: ClassAnswer) -> tuple[float, float]:
    """Sum in nats over the labelled positions, and their number."""
    has, _ = log_has_and_leaves(answer.class_log_probs)
    possible = np.where(has > -np.inf, has, 0)
    return -float((np.exp(has) * possible).sum()), float(len(answer.labels))


metric = Metric(
    tally=entropy,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    families=CLASSIFIERS,
    shown=attack(
        "MIA entropy (AUC)", "how sure the model is, whichever label it gives,", order=160
    ),
)
