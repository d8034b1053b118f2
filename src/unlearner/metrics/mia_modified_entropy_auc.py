r"""Membership inference by modified entropy: how well being sure and right tells the set apart.

.. math::
    M(p, y) = -(1 - p_y) \log p_y - \sum_{c \ne y} p_c \log (1 - p_c), \qquad
    AUC = P(\bar M(x) < \bar M(h)) + \tfrac{1}{2} P(\bar M(x) = \bar M(h)), \quad x \in F, h \in S

F is the set, S the holdout set or, of a removed class, its unseen records; y is the own label of a
position and \bar M the mean over a record's labelled positions. M is 0 where the classifier is sure
and right and grows without bound where it is sure and wrong, which entropy calls the same; a low
value means trained on. In [0, 1]; 0.5 is the aim. Near 1 the set stands out as trained on, near 0
as treated.

Reference: Song and Mittal (2021), arXiv:2003.10595. Differs from the paper: as an AUC, so that no
threshold is learnt from shadow models, and over all classes at once instead of class by class.
"""

import numpy as np

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS, Metric, attack
from unlearner.metrics.mia_entropy_auc import log_has_and_leaves
from unlearner.metrics.mia_loss_auc import membership_auc


def modified_entropy(answer: ClassAnswer) -> tuple[float, float]:
    """Sum over the labelled positions, and their number.

    Infinite where the own label is impossible or another class certain.
    """
    has, leaves = log_has_and_leaves(answer.class_log_probs)
    rows = np.arange(len(answer.labels))
    own_terms = np.exp(leaves[rows, answer.labels]) * has[rows, answer.labels]
    has[rows, answer.labels] = -np.inf
    chance = np.exp(has)
    other_terms = chance * np.where(chance > 0, leaves, 0)
    return -float(own_terms.sum() + other_terms.sum()), float(len(answer.labels))


metric = Metric(
    tally=modified_entropy,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    families=CLASSIFIERS,
    shown=attack(
        "MIA modified entropy (AUC)", "how sure the model is of the record’s own label", order=170
    ),
)
