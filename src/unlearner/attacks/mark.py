r"""Marks: does a classifier tell treated records from unseen ones by all that the model gives?

Of each record the mean, the spread and the quantiles of its token losses, the mean and the spread
of the entropies, the share of tokens that are the most probable ones, and the loss of the least
likely ones. A forest learns to tell forget from unseen records by these, and scores records of
subjects that it has not seen. Lengths are left out: they are a matter of the text.

Reference: none; the features are those of membership inference, the classifier is Breiman's (2001).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from unlearner.attacks._cross_fitting import cross_fitted
from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues, units
from unlearner.inference.answers import Answer
from unlearner.metrics import mia_min_k_auc

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

TREES = 200

REPEATS = 3  # of the division into folds, which is a draw of its own


class Mark(Attack):
    """Does a classifier tell treated records from unseen ones by all that the model gives?"""

    label = "marks of treatment"
    claim = "membership"
    shows = (
        "Whether an observer with candidate texts can tell, by everything that the model says "
        "about them, that some were treated."
    )
    cannot_show = (
        "That a cleverer observer would not. Few records make a weak classifier, and what sets "
        "the texts apart anyway counts for the control as well."
    )
    figures = (AttackFigure("mark_auc", "AUC of a classifier on token losses", "auc"),)

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        features = [
            features_of(subject.ask(materials, role), len(materials.sets[role]))
            for role in (FORGET, UNSEEN)
        ]
        rows = np.concatenate(features)

        def scores(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
            forest = RandomForestClassifier(
                TREES,
                min_samples_leaf=2,
                class_weight="balanced",
                random_state=materials.seed % 2**32,
            )
            return forest.fit(rows[train], labels[train]).predict_proba(rows[test])[:, 1]

        # Folds of few subjects differ so much that what is learned from one is wrong of the next.
        groups = {role: units(materials.sets[role].groups) for role in (FORGET, UNSEEN)}
        found = [
            cross_fitted(scores, groups[FORGET], groups[UNSEEN], materials.seed + repeat)
            for repeat in range(REPEATS)
        ]
        forget = np.mean([one.forget for one in found], axis=0)
        unseen = np.mean([one.unseen for one in found], axis=0)
        return Attempt({"mark_auc": RecordValues(forget, unseen)})


def features_of(answers: Sequence[Answer], count: int) -> np.ndarray:
    """(count, 11) of each record, its windows taken together; zeros where nothing counts."""
    windows: dict[int, list[Answer]] = {}
    for answer in answers:
        windows.setdefault(answer.record, []).append(answer)
    rows = [_features(windows.get(record, ())) for record in range(count)]
    return np.array(rows)


def _features(windows: Sequence[Answer]) -> list[float]:
    losses = _joined({i: -one.log_probs[one.scored] for i, one in enumerate(windows)})
    if not len(losses):
        return [0.0] * 11
    entropies = _joined(
        {i: -one.expected[one.scored] for i, one in enumerate(windows) if one.expected is not None}
    )
    hits = _joined({i: one.hits[one.scored] for i, one in enumerate(windows)})
    total, number = mia_min_k_auc.least_likely(-losses)
    spread = [entropies.mean(), entropies.std()] if len(entropies) else [0.0, 0.0]
    found = [losses.mean(), losses.std(), *np.quantile(losses, QUANTILES), *spread]
    # A model that was driven off has losses without a bound; trees need finite ones.
    return np.nan_to_num([*found, hits.mean(), total / number], posinf=1e6).tolist()


def _joined(parts: Mapping[int, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(part.astype(float) for part in parts.values())])


attack = Mark()
