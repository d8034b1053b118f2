"""The search for the nearest records that pass, against sorting everything."""

import numpy as np
import pytest

from unlearner.retrieval import neighbours
from unlearner.retrieval.neighbours import Texts, Vectors, retrieve


class Given(Vectors):
    """Cosines that are given instead of vectors."""

    def cosines(self, rows):
        return self.queries[list(rows)].copy()


def by_sorting(values, passes, k):
    """Of one row: the best k that pass, the lower index first among equals."""
    return sorted(np.flatnonzero(passes).tolist(), key=lambda p: (-values[p], p))[:k]


@pytest.mark.parametrize("rows_at_once", [1, 2, 64])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_rows_get_what_sorting_gives_with_ties_to_the_lower_index(monkeypatch, k, rows_at_once):
    """Few different values, so that most are tied; half of the pairs share token 50 + row."""
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(k)
    values = rng.integers(-2, 3, size=(6, 20)).astype(np.float32)
    shares = rng.random((6, 20)) < 1 / 2
    shares[3], shares[:, 0] = False, False  # row 3 passes everywhere, the first text for all
    forget_ids = [[50 + row, row] for row in range(6)]
    pool_ids = [[100, *(50 + np.flatnonzero(shares[:, place]))] for place in range(20)]
    search = neighbours.CandidateSearch(Given(values, None, "given"), forget_ids, pool_ids, 1)
    found = search.nearest([4, 0, 3], k)
    assert [*found] == [4, 0, 3]
    for row, (indices, scores) in found.items():
        assert [*indices] == by_sorting(values[row], ~shares[row], k)
        assert [*scores] == [values[row, index] for index in indices]
    every, _ = search.nearest([0], k, every=True)[0]
    assert [*every] == by_sorting(values[0], np.ones(20, dtype=bool), k)


def test_equal_texts_are_tied_and_the_first_is_found():
    pool = ["rain", "the red fox", "a fox", "the red fox", "the red fox"]
    ids = [[place] for place in range(5)]
    found = retrieve(
        Texts(["the red fox runs"], ["hello"], [[9]]),
        Texts(pool, pool, ids),
        num_neighbours=4,
        encoder="tf-idf",
    )
    assert found.neighbours == ((1, 3, 4, 2),)
    (scores,) = found.scores
    assert scores[0] == scores[1] == scores[2] > scores[3]
