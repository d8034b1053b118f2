"""Where forgotten records lie among retained ones: by hand, and what holds for all data."""

import logging
import math
import random
import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from unlearner.evaluation.latent_space import Points, geometry, project
from unlearner.inference.answers import ClassAnswer

NAMES = ("a", "b", "c")
MEASURES = {
    "own_centroid_cosine",
    "nearest_other_centroid_cosine",
    "silhouette",
    "knn_purity",
    "linear_probe",
}


def example(name, labels, features, names=NAMES) -> ClassAnswer:
    """One answer about the record of that name; its probabilities are of no interest here."""
    rows = np.zeros((len(labels), len(names)), dtype=np.float32)
    vectors = np.asarray(features, dtype=np.float32).reshape(len(labels), -1)
    return ClassAnswer(0, name, np.asarray(labels, dtype=int), rows, vectors, tuple(names))


def sequences(prefix, labels, features, names=NAMES) -> list[ClassAnswer]:
    pairs = enumerate(zip(labels, features, strict=True))
    return [example(f"{prefix}{i:04}", [y], [x], names) for i, (y, x) in pairs]


def towards(degrees, length=1.0):
    return length * np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def clusters(seed, count, labels, spread=0.3, size=6):
    """Vectors about one corner of the space for each class, the corner of class c along axis c."""
    draw = np.random.default_rng(seed)
    own = draw.choice(labels, size=count)
    return own, np.eye(size)[own] + spread * draw.normal(size=(count, size))


def test_a_vector_between_two_classes_by_hand():
    """Two retained vectors at 0 degrees are a, two at 90 are b; one forgotten a is at 60.

    Cosine to its own class cos 60 = 0.5, to the other cos 30 = 0.866. Silhouette: distances 0.5
    and 0.134, (0.134 - 0.5) / 0.5. Of the four nearest two are a. Lengths tell nothing.
    """
    degrees, lengths = [0, 0, 90, 90], [1, 3, 0.5, 2]
    kept = [towards(*pair) for pair in zip(degrees, lengths, strict=True)]
    retain = sequences("r", [0, 0, 1, 1], kept)
    found = geometry(sequences("f", [0], [towards(60, 7)]), retain)
    assert set(found) == MEASURES
    assert found["own_centroid_cosine"] == pytest.approx(0.5)
    assert found["nearest_other_centroid_cosine"] == pytest.approx(math.cos(math.radians(30)))
    far = 1 - math.cos(math.radians(30))
    assert found["silhouette"] == pytest.approx((far - 0.5) / 0.5, abs=1e-6)
    assert found["knn_purity"] == 0.5


def test_the_nearest_of_the_other_classes_is_taken_for_every_vector():
    """Classes at 0, 90 and 180; forgotten b's at 60 and 150: cos 60 and cos 30 to others."""
    retain = sequences("r", [0, 1, 2], [towards(0), towards(90), towards(180)])
    found = geometry(sequences("f", [1, 1], [towards(60), towards(150)]), retain)
    own = (math.cos(math.radians(30)) + math.cos(math.radians(60))) / 2
    assert found["own_centroid_cosine"] == pytest.approx(own)
    assert found["nearest_other_centroid_cosine"] == pytest.approx((0.5 + math.sqrt(0.75)) / 2)


def test_purity_looks_at_ten_neighbours():
    """Nearest to 0 degrees: 7 a's within 7 degrees, then 20 b's from 10 degrees on: 7 of 10."""
    degrees = [*range(1, 8), *range(10, 30)]
    retain = sequences("r", [0] * 7 + [1] * 20, [towards(each) for each in degrees])
    assert geometry(sequences("f", [0], [towards(0)]), retain)["knn_purity"] == 0.7
    assert geometry(sequences("f", [1], [towards(0)]), retain)["knn_purity"] == pytest.approx(0.3)


def test_purity_equals_the_vote_of_scikit_learn():
    labels, features = clusters(0, 120, [0, 1, 2], spread=0.6)
    found = geometry(
        sequences("f", labels[:40], features[:40]), sequences("r", labels[40:], features[40:])
    )
    nearest = KNeighborsClassifier(10, metric="cosine").fit(features[40:], labels[40:])
    shares = nearest.predict_proba(features[:40])[np.arange(40), labels[:40]]
    assert found["knn_purity"] == pytest.approx(shares.mean())


def test_silhouette_equals_its_definition():
    """(b - a) / max(a, b), a the mean distance to its own class, b that to the nearest other."""
    labels, features = clusters(0, 60, [0, 1, 2], spread=0.6)
    found = geometry(
        sequences("f", labels[:20], features[:20]), sequences("r", labels[20:], features[20:])
    )
    distances = cdist(features, features, metric="cosine")
    values = []
    for i in range(20):
        mean = {c: distances[i, (labels == c) & (np.arange(60) != i)].mean() for c in range(3)}
        own = mean.pop(int(labels[i]))
        other = min(mean.values())
        values.append((other - own) / max(own, other))
    assert found["silhouette"] == pytest.approx(np.mean(values), abs=1e-5)


def test_records_in_their_class_and_records_moved_into_another_are_told_apart():
    """In place: near their own class, among it, readable. Moved to the next: none of it."""
    labels, features = clusters(0, 300, [0, 1, 2])
    retain = sequences("r", labels[60:], features[60:])
    placed = geometry(sequences("f", labels[:60], features[:60]), retain)
    assert placed["own_centroid_cosine"] > 0.6 > 0.3 > placed["nearest_other_centroid_cosine"]
    assert placed["silhouette"] > 0.2
    assert placed["knn_purity"] > 0.9
    assert placed["linear_probe"] > 0.9
    moved = geometry(sequences("f", (labels[:60] + 1) % 3, features[:60]), retain)
    assert moved["own_centroid_cosine"] < 0.3 < 0.6 < moved["nearest_other_centroid_cosine"]
    assert moved["silhouette"] < -0.2
    assert moved["knn_purity"] < 0.1
    assert moved["linear_probe"] < 0.1


def test_a_removed_class_is_judged_by_whether_it_can_be_told_from_the_rest():
    """A cluster of its own: found. Spread over the others': 0.5, however few its records are."""
    labels, features = clusters(0, 400, [0, 1])
    retain = sequences("r", labels, features)
    apart = geometry(sequences("f", [2] * 40, clusters(1, 40, [2])[1]), retain)
    assert set(apart) == MEASURES - {"own_centroid_cosine", "knn_purity"}
    assert apart["linear_probe"] > 0.9
    assert apart["silhouette"] > 0.2
    mixed = geometry(sequences("f", [2] * 40, clusters(1, 40, [0, 1])[1]), retain)
    assert mixed["linear_probe"] == pytest.approx(0.5, abs=0.15)
    assert mixed["silhouette"] < apart["silhouette"]


def test_a_feature_that_hardly_varies_does_not_decide_what_the_probe_reads():
    """Retained: the third feature is 0.001 either way. Forgotten: 0.3, a hundred times and more."""
    labels, features = clusters(0, 200, [0, 1], size=2)
    noise = np.random.default_rng(1).choice([-0.001, 0.001], size=200)
    retain = sequences("r", labels, np.column_stack([features, noise]))
    own, vectors = clusters(2, 50, [0, 1], spread=0.1, size=2)
    forget = sequences("f", own, np.column_stack([vectors, np.full(50, 0.3)]))
    assert geometry(forget, retain)["linear_probe"] == 1


def test_a_point_of_a_class_that_was_not_retained_counts_only_where_it_can():
    """The c at 90 degrees has no class of its own: own cosine and purity are of the a alone."""
    retain = sequences("r", [0] * 10 + [1] * 10, [towards(0)] * 10 + [towards(180)] * 10)
    found = geometry(sequences("f", [0, 2], [towards(60), towards(90)]), retain)
    assert found["own_centroid_cosine"] == pytest.approx(0.5)
    assert found["nearest_other_centroid_cosine"] == pytest.approx((-0.5 + 0) / 2)
    assert found["knn_purity"] == 1
    assert found["linear_probe"] == 1


def test_words_outside_every_entity_are_no_points():
    """One record asked in two parts, with three words of which one is an entity's."""
    names = ("O", "per", "loc")
    parts = [
        example("f", [0, 1], [towards(5), towards(60)], names),
        example("f", [0], [[9, 9]], names),
    ]
    points = Points.of(parts, seed=0, max_points=9)
    assert points.labels.tolist() == [1]
    assert points.features == pytest.approx(towards(60)[None])
    retain = sequences("r", [0, 1, 2], [towards(60), towards(0), towards(90)], names)
    assert geometry(parts, retain)["own_centroid_cosine"] == pytest.approx(0.5)
    assert geometry(parts[1:], retain) == {}


def test_the_order_of_records_and_batches_changes_no_digit():
    """More points than are looked at, so that the choice among them must not follow the order."""
    labels, features = clusters(0, 240, [0, 1, 2], spread=0.8)
    forget = sequences("f", labels[:80], features[:80])
    retain = sequences("r", labels[80:], features[80:])
    before = geometry(forget, retain, seed=3, max_points=50)
    shuffle = random.Random(0).sample
    mixed = [shuffle(each, len(each)) for each in (forget, retain)]
    assert geometry(*mixed, seed=3, max_points=50) == before
    assert geometry(forget, retain, seed=4, max_points=50) != before
    windows = [example("x", [0], [[1, 2]]), example("x", [1], [[3, 4]])]
    chosen = [Points.of(each, seed=0, max_points=9) for each in (windows, windows[::-1])]
    assert (chosen[0].features == chosen[1].features).all()


def test_no_more_points_are_looked_at_than_allowed_and_all_of_fewer():
    labels, features = clusters(0, 100, [0, 1, 2])
    answers = sequences("r", labels, features)
    some = Points.of(answers, seed=0, max_points=30)
    assert len(some.labels) == len(np.unique(some.features, axis=0)) == 30
    every = Points.of(answers, seed=0, max_points=100)
    assert (every.labels == labels).all()


@pytest.mark.parametrize(
    ("own", "kept", "found"),
    [
        ([], [0, 1], set()),
        ([0], [], set()),
        ([0], [0], {"own_centroid_cosine", "knn_purity"}),
        ([0], [1], {"nearest_other_centroid_cosine"}),
        ([0, 0], [1, 1], {"nearest_other_centroid_cosine", "silhouette", "linear_probe"}),
        ([0, 2], [0, 1], MEASURES),
    ],
)
def test_what_has_no_value_is_left_out_and_nothing_is_nan(own, kept, found):
    """Vectors of any length, 0 included."""
    draw = np.random.default_rng(0)
    for scale in (0, 1):
        sets = [
            sequences(name, labels, scale * draw.normal(size=(len(labels), 3)))
            for name, labels in (("f", own), ("r", kept))
        ]
        measured = geometry(*sets)
        assert set(measured) == found
        assert all(isinstance(value, float) and math.isfinite(value) for value in measured.values())


def test_features_that_are_no_numbers_have_no_geometry(caplog):
    retain = sequences("r", [0, 1], [[1, 0], [0, math.nan]])
    with caplog.at_level(logging.WARNING):
        assert geometry(sequences("f", [0], [[1, 0]]), retain) == {}
    assert "not finite" in caplog.text


def test_seventy_seven_classes_take_seconds():
    """5,000 retained and 1,000 forgotten vectors of 384 numbers: about a second on one core."""
    names = tuple(f"c{i}" for i in range(77))
    draw = np.random.default_rng(0)
    centres, labels = 0.2 * draw.normal(size=(77, 384)), draw.integers(77, size=6000)
    features = centres[labels] + draw.normal(size=(6000, 384))
    sets = [
        sequences(p, labels[of], features[of], names)
        for p, of in (("f", slice(1000)), ("r", slice(1000, 6000)))
    ]
    start = time.process_time()
    assert set(geometry(*sets)) == MEASURES
    assert time.process_time() - start < 20


# The projection


def test_a_line_has_one_direction():
    """(t, t, 0) of t = 0 1 5, mean 2: along (1, 1, 0) / sqrt 2 at -2, -1 and 3 times sqrt 2."""
    points, shares = project(np.outer([0, 1, 5], [1, 1, 0]))
    assert points == pytest.approx(math.sqrt(2) * np.array([[-2, 0], [-1, 0], [3, 0]]), abs=1e-12)
    assert shares == pytest.approx([1, 0])


def test_the_largest_loading_of_a_direction_is_positive():
    """Along (-2, 1): the direction is (2, -1) / sqrt 5, so -2 lies on the negative side."""
    points, _ = project(np.array([[-2.0, 1.0], [2.0, -1.0]]))
    assert points[:, 0] == pytest.approx([-math.sqrt(5), math.sqrt(5)])


def test_a_projection_is_that_of_scikit_learn_up_to_signs_and_follows_no_order():
    _, features = clusters(0, 60, [0, 1, 2])
    features = features.astype(np.float32)
    points, shares = project(features)
    pca = PCA(2, svd_solver="full").fit(features)
    assert np.abs(points) == pytest.approx(np.abs(pca.transform(features)), abs=1e-5)
    assert shares == pytest.approx(pca.explained_variance_ratio_, abs=1e-6)
    order = np.random.default_rng(1).permutation(60)
    assert project(features[order])[0] == pytest.approx(points[order], abs=1e-10)


def test_fewer_than_two_directions_leave_zeros():
    assert project(np.ones((4, 3)))[0].tolist() == [[0, 0]] * 4
    assert project(np.ones((1, 3)))[1].tolist() == [0, 0]
    points, shares = project(np.array([[1.0], [3.0]]))
    assert points.tolist() == [[-1, 0], [1, 0]]
    assert shares.tolist() == [1, 0]
