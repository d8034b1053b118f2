r"""Probe: does a linear classifier find the forgotten labels beneath the answers?

The vectors that the model's last linear map reads are frozen; a logistic regression learns the
labels of retained records from them, and is asked for those of forgotten ones. Far above the
control, the labels are still there for whoever looks beneath the answers.

Reference: Alain and Bengio (2016), arXiv:1610.01644; as a test of unlearning Goel et al. (2022),
arXiv:2201.06640, are the neighbour.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject, ask_model
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.families.base import sample
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import CLASSIFIERS

MOST = 2000  # retained records that the probe learns from


class Probe(Attack):
    """Does a linear classifier find the forgotten labels beneath the answers?"""

    label = "linear probe"
    families = CLASSIFIERS
    shows = "Whether the labels of the records can still be read from the model's inner vectors."
    cannot_show = "What a probe of another kind, or on earlier layers, would read."
    figures = (AttackFigure("probe", "labels that a probe finds", "mean"),)

    def skipped(self, materials: Materials) -> str:
        return "" if "retain" in materials.sets else "there are no retained records to learn from"

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        some = sample(materials.sets["retain"], MOST, materials.seed)
        known: list[Any] = ask_model(subject.loaded, materials, some)
        features = np.concatenate([answer.features for answer in known])
        labels = np.concatenate([answer.labels for answer in known])
        if len(set(labels.tolist())) < 2:
            return Attempt({})
        learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        learner.fit(features, labels)
        parts = [
            shares_found(subject.ask(materials, role), learner.predict, len(materials.sets[role]))
            for role in (FORGET, UNSEEN)
        ]
        return Attempt({"probe": RecordValues(*parts)})


def shares_found(answers: Sequence[ClassAnswer], predict: object, count: int) -> np.ndarray:
    """(count,) the share of each record's labels that the probe finds."""
    hits, totals = np.zeros(count), np.zeros(count)
    for answer in answers:
        found = predict(answer.features)  # type: ignore[operator]
        hits[answer.record] += float((found == answer.labels).sum())
        totals[answer.record] += len(answer.labels)
    with np.errstate(invalid="ignore"):
        return hits / totals


attack = Probe()
