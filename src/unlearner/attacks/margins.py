r"""Margins: is a record as sure of its label as models are that were trained without it?

.. math::
    KL(x) = \frac{(m(x) - \bar m(x))^2}{2 s^2 (1 + 1/J)}, \quad
    s^2 = \frac{1}{N (J - 1)} \sum_x \sum_j (m_j(x) - \bar m(x))^2

with m the margin log p / (1 - p) of the record's own label, m_j that of the j-th of J models
retrained with other seeds, and N the labelled positions of forget and unseen records. It is the
divergence between normal distributions of one spread, of which the model's own margin is the mean
of one; the last factor is what the mean of J adds by chance. For the control each retrained model
is held against the others, and the mean is taken: 1/2 where chance alone is at work.

Reference: Georgiev et al. (2024), arXiv:2410.23232 (KLoM).
Differs from the paper: there is one unlearned model, so its spread is taken to be that of the
retrained ones, which all records share.
"""

from collections.abc import Sequence

import numpy as np

from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.evaluation.retrained_gap import own_margins
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS

FEWEST = 2  # retrained models


class Margins(Attack):
    """Is a record as sure of its label as models are that were trained without it?"""

    label = "margins beside several retrained models"
    claim = "membership"
    families = CLASSIFIERS
    needs_control_model = True
    shows = (
        "Whether the model gives single records more, or less, than models give them that never "
        "had them, by more than these differ from each other."
    )
    cannot_show = "Much with two or three retrained models, whose spread is then a guess."
    figures = (AttackFigure("margin_kl", "divergence of the margins", "mean"),)

    def skipped(self, materials: Materials) -> str:
        if len(materials.retrained) < FEWEST:
            return "it needs several retrained models; give --retrained more than once"
        return ""

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        if "margins" not in materials.cache:
            known = [_margins(one, materials) for one in materials.retrained]
            materials.cache["margins"] = np.stack(known)
        known_JN = materials.cache["margins"]
        if subject.role == "control":
            left_out = range(len(known_JN))
            found = [
                divergences(known_JN[j], np.delete(known_JN, j, 0), known_JN) for j in left_out
            ]
            values = np.mean(found, axis=0)
        else:
            values = divergences(_margins(subject, materials), known_JN, known_JN)
        parts, start = [], 0
        for role in (FORGET, UNSEEN):
            answers = subject.ask(materials, role)
            count = sum(len(answer.labels) for answer in answers)
            own = values[start : start + count]
            parts.append(_record_means(answers, own, len(materials.sets[role])))
            start += count
        return Attempt({"margin_kl": RecordValues(*parts)})


def divergences(own_N: np.ndarray, others_JN: np.ndarray, every_JN: np.ndarray) -> np.ndarray:
    """(N,) KL of one model's margins from those of others.

    Args:
        every_JN: The margins whose spread around their mean counts.
    """
    spread = every_JN.var(axis=0, ddof=1).mean() * (1 + 1 / len(others_JN))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (own_N - others_JN.mean(0)) ** 2 / (2 * spread)


def _margins(subject: Subject, materials: Materials) -> np.ndarray:
    """(N,) of every labelled position, of forget records before unseen ones."""
    answers = [one for role in (FORGET, UNSEEN) for one in subject.ask(materials, role)]
    labels = np.concatenate([answer.labels for answer in answers])
    return own_margins([answer.class_log_probs for answer in answers], labels)


def _record_means(answers: Sequence[ClassAnswer], values: np.ndarray, count: int) -> np.ndarray:
    """(count,) the mean over each record's positions; NaN without any."""
    owners = np.concatenate([np.full(len(answer.labels), answer.record) for answer in answers])
    with np.errstate(invalid="ignore"):
        sums = np.bincount(owners, values, minlength=count)
        return sums / np.bincount(owners, minlength=count)


attack = Margins()
