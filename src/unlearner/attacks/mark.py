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
from unlearner.metrics._statistics import area_under_roc

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
        answers, groups = zip(
            *((subject.ask(materials, r), materials.sets[r].groups) for r in (FORGET, UNSEEN)),
            strict=True,
        )
        return Attempt({"mark_auc": told_apart(answers, groups, materials.seed)})


def told_apart(
    answers: Sequence[Sequence[Answer]], groups: Sequence[Sequence[str]], seed: int
) -> RecordValues:
    """How treated each record looks to a forest that has seen no record of its subject.

    The mean over several divisions into folds; where there are few subjects, of single records.

    Args:
        answers: The model's to the forget and to the unseen records.
        groups: The subject of each of these records.
    """
    rows = np.concatenate(
        [features_of(some, len(of)) for some, of in zip(answers, groups, strict=True)]
    )

    def scores(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
        forest = RandomForestClassifier(
            TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed % 2**32
        )
        return forest.fit(rows[train], labels[train]).predict_proba(rows[test])[:, 1]

    # Folds of few subjects differ so much that what is learned from one is wrong of the next.
    forget, unseen = map(units, groups)
    found = [cross_fitted(scores, forget, unseen, seed + repeat) for repeat in range(REPEATS)]
    return RecordValues(
        np.mean([one.forget for one in found], axis=0),
        np.mean([one.unseen for one in found], axis=0),
    )


def mark_auc(
    answers: Sequence[Sequence[Answer]], groups: Sequence[Sequence[str]], seed: int
) -> float:
    """The chance that a forget record looks more treated than an unseen one; a tie is one half.

    In [0, 1]; NaN where there are too few subjects to learn from.
    """
    found = told_apart(answers, groups, seed)
    forget, unseen = (some[np.isfinite(some)] for some in (found.forget, found.unseen))
    if not len(forget) or not len(unseen):
        return float("nan")
    ones = (np.ones((1, len(some))) for some in (forget, unseen))
    return float(area_under_roc(forget, unseen, *ones)[0])


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
