"""Where the forgotten records lie among the retained ones, in the space that the head reads.

A classifier can answer wrongly about a record that still lies in the middle of its class, and then
a new head brings it back. These measures are of the vectors themselves. Every one is to be read
beside that of the retrained model: records it never saw lie near their own class as well.

Vectors are scaled to length 1, so that nearness is the cosine throughout, as in the losses that
move them. Shapes: F forget points, R retain points, C classes, D features.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from unlearner.data.tag_schemes import OUTSIDE
from unlearner.inference.answers import ClassAnswer

logger = logging.getLogger(__name__)

MAX_POINTS = 2000  # of a set: the distances between all of them are computed
NEIGHBOURS = 10
FOLDS = 5
PROBE_STEPS = 100  # of L-BFGS, which mostly needs fewer


@dataclass(frozen=True)
class Points:
    """Labelled vectors of a set, in an order that is that of the record ids.

    Attributes:
        features: (N, D) float32.
        labels: (N,) class of each.
    """

    features: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[ClassAnswer], *, seed: int, max_points: int) -> "Points":
        """The labelled positions, without words outside every entity; so many at most.

        Which ones are taken where there are more depends on the seed and on the ids only, not on
        the order of the records.
        """
        if not answers:
            return cls(np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=int))
        ordered = sorted(answers, key=lambda answer: (answer.id, answer.features.tobytes()))
        features = np.concatenate([answer.features for answer in ordered])
        labels = np.concatenate([answer.labels for answer in ordered])
        outside = np.array([name == OUTSIDE for name in ordered[0].label_names])
        kept = np.flatnonzero(~outside[labels])
        if len(kept) > max_points:
            kept = np.sort(np.random.default_rng(seed).choice(kept, max_points, replace=False))
        return cls(features[kept], labels[kept])

    def where(self, chosen: np.ndarray) -> "Points":
        """The points chosen by (N,) bool."""
        return Points(self.features[chosen], self.labels[chosen])


def geometry(
    forget: Sequence[ClassAnswer],
    retain: Sequence[ClassAnswer],
    *,
    seed: int = 0,
    max_points: int = MAX_POINTS,
) -> dict[str, float]:
    """The measures of one model by name, without those that have no value on these records.

    - `own_centroid_cosine`: mean cosine of a forget vector to the mean of its class's retain
      vectors. In [-1, 1]; high where the record lies in its class.
    - `nearest_other_centroid_cosine`: the same to the nearest of the other classes. Where it is the
      larger of the two, the record has been moved into another class.
    - `silhouette`: mean silhouette of the forget vectors under their own labels, among all vectors.
      In [-1, 1]; below 0 where they are nearer to another class than to their own.
    - `knn_purity`: share of the 10 nearest retain vectors that have the record's label. In [0, 1].
    - `linear_probe`: whether the forgotten label can still be read from the vectors: accuracy on
      the forget vectors of a logistic regression that learnt the labels from the retain vectors. In
      [0, 1]. Of a class that the retain set has none of, no probe can learn it there: instead one
      learns to tell the class from the retain vectors in five folds, and the value is its balanced
      accuracy on what it did not learn from, 0.5 where the class has left no trace.

    A point of a class that the retain set has none of counts for the silhouette and for the nearest
    other centroid only: the rest would be 0 whatever the model has done.

    Args:
        forget: Answers about the forget set.
        retain: Answers about the retain set.
        seed: Of the choice of points in larger sets, and of the folds.
        max_points: Number of labelled positions of a set that are measured, at most.
    """
    own, kept = (Points.of(each, seed=seed, max_points=max_points) for each in (forget, retain))
    if not len(own.labels) or not len(kept.labels):
        return {}
    if not (np.isfinite(own.features).all() and np.isfinite(kept.features).all()):
        logger.warning("no geometry: the model's features are not finite")
        return {}
    measured = {
        **centroid_cosines(own, kept),
        "silhouette": silhouette(own, kept),
        "knn_purity": knn_purity(own, kept),
        "linear_probe": linear_probe(own, kept, seed=seed),
    }
    return {name: value for name, value in measured.items() if value is not None}


def centroid_cosines(forget: Points, retain: Points) -> dict[str, float | None]:
    """Mean cosine to the own and to the nearest other class; None where there is no such class."""
    classes = np.unique(retain.labels)
    unit = _unit(retain.features)
    centroids_CD = np.array([unit[retain.labels == each].mean(axis=0) for each in classes])
    cosines_FC = _unit(forget.features) @ _unit(centroids_CD).T
    own_FC = forget.labels[:, None] == classes
    others_F = np.where(own_FC, -np.inf, cosines_FC).max(axis=1)
    return {
        "own_centroid_cosine": _mean(cosines_FC[own_FC]),
        "nearest_other_centroid_cosine": _mean(others_F[others_F > -np.inf]),
    }


def silhouette(forget: Points, retain: Points) -> float | None:
    """Mean silhouette of the forget points; None unless some class has two points and another one.

    Reference: Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7.
    """
    features = np.concatenate([forget.features, retain.features])
    labels = np.concatenate([forget.labels, retain.labels])
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return _mean(silhouette_samples(features, labels, metric="cosine")[: len(forget.labels)])


def knn_purity(forget: Points, retain: Points) -> float | None:
    """Mean share of the nearest retain points that have the forget point's label."""
    known = forget.where(np.isin(forget.labels, retain.labels))
    cosines_FR = _unit(known.features) @ _unit(retain.features).T
    nearest_FK = np.argsort(-cosines_FR, axis=1, kind="stable")[:, :NEIGHBOURS]
    return _mean(retain.labels[nearest_FK] == known.labels[:, None])


def linear_probe(forget: Points, retain: Points, *, seed: int) -> float | None:
    """How well a linear map reads the forgotten label; None where it has nothing to learn from."""
    known = forget.where(np.isin(forget.labels, retain.labels))
    if not len(known.labels):
        return _class_probe(forget, retain, seed=seed)
    if len(np.unique(retain.labels)) < 2:
        return None
    probe = LogisticRegression(max_iter=PROBE_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(_standardised(retain.features, retain.features), retain.labels)
    predicted = probe.predict(_standardised(known.features, retain.features))
    return _mean(np.equal(np.asarray(predicted), known.labels))


def _class_probe(forget: Points, retain: Points, *, seed: int) -> float | None:
    """Balanced accuracy of telling forget from retain points, each judged by a fold it is not in.

    The classes weigh the same in the probe and in its accuracy: with ten times as many retain
    points, a probe that never says "forgotten" would otherwise look right.
    """
    folds = min(FOLDS, len(forget.labels), len(retain.labels))
    if folds < 2:
        return None
    features = np.concatenate([forget.features, retain.features])
    forgotten = np.arange(len(features)) < len(forget.labels)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    probe = LogisticRegression(max_iter=PROBE_STEPS, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predicted = cross_val_predict(probe, _standardised(features, features), forgotten, cv=split)
    right = np.equal(np.asarray(predicted), forgotten)
    return float((right[forgotten].mean() + right[~forgotten].mean()) / 2)


def _standardised(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Unit vectors shifted and scaled so that the reference has mean 0 and, on average, variance 1.

    With one scale for all features: a feature that hardly varies among retained records, such as a
    saturated unit, would by a scale of its own outweigh all others once a forgotten record is off.
    """
    unit = _unit(reference)
    spread = np.sqrt(unit.var(axis=0).mean())
    return (_unit(features) - unit.mean(axis=0)) / (spread if spread > 0 else 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) vectors of length 1 in float64; one of length 0 stays, at right angles to all."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _mean(values: np.ndarray) -> float | None:
    """The mean; None of no values."""
    return float(values.mean(dtype=np.float64)) if values.size else None


def project(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points on the two directions of greatest variance, and the share of each in it, (2,).

    The sign of a direction is the one that makes its largest loading positive. Where the features
    have fewer directions, the missing coordinates and shares are 0.

    Args:
        features: (N, D), finite.
    """
    points, shares = np.zeros((len(features), 2)), np.zeros(2)
    rank = min(2, *features.shape)
    if rank and np.ptp(features, axis=0).any():
        pca = PCA(rank, svd_solver="full").fit(features.astype(np.float64))
        loadings = np.asarray(pca.components_)
        signs = np.sign(loadings[np.arange(rank), np.abs(loadings).argmax(axis=1)])
        points[:, :rank] = pca.transform(features.astype(np.float64)) * signs
        shares[:rank] = pca.explained_variance_ratio_
    return points, shares
