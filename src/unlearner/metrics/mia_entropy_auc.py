r"""Membership inference by entropy: how well a sure classifier tells the set from unseen records.

.. math::
    H(p) = -\sum_c p_c \log p_c, \qquad
    AUC = P(\bar H(x) < \bar H(h)) + \tfrac{1}{2} P(\bar H(x) = \bar H(h)), \quad x \in F, h \in S

F is the set, S the holdout set or, of a removed class, its unseen records; \bar H is the mean
entropy, in nats, over a record's labelled positions. The attack knows no labels: low entropy means
trained on. In [0, 1]; 0.5 is the aim. Near 1 the set stands out as trained on, near 0 as treated.

Reference: Salem et al. (2019), arXiv:1806.01246; Song and Mittal (2021), arXiv:2003.10595.
"""

from __future__ import annotations

import numpy as np

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics._log_odds import log_has_and_leaves
from unlearner.metrics.base import CLASSIFIERS, Metric
from unlearner.metrics.mia_loss_auc import membership_auc


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
)
