"""Shared runs of tokens against trying all of them."""

import random

import pytest

from unlearner.retrieval import overlap
from unlearner.retrieval.overlap import longest_shared_run, repeating, shared_runs


def records(rng, count, vocabulary=4, longest=14):
    return [
        [rng.randrange(vocabulary) for _ in range(rng.randint(1, longest))] for _ in range(count)
    ]


@pytest.fixture(params=["good hash", "every hash is the last token"])
def hashing(request, monkeypatch):
    """Nothing is believed for its hash alone, however bad it is; records come three at a time."""
    if request.param != "good hash":
        monkeypatch.setattr(overlap, "FACTOR", overlap.FACTOR * 0)
    monkeypatch.setattr(overlap, "AT_ONCE", 3)


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.usefixtures("hashing")
def test_two_records_have_a_run_in_common_if_their_longest_is_as_long(length):
    """Or as long as all of the forget record."""
    rng = random.Random(length)
    forget, pool = records(rng, 12), records(rng, 40)
    ours, theirs = shared_runs(forget, pool, length)
    common = (ours @ theirs.T).toarray() > 0
    wanted = [[longest_shared_run(a, b) >= min(length, len(a)) for b in pool] for a in forget]
    assert common.tolist() == wanted
    assert {True, False} <= set(map(bool, common.ravel()))


@pytest.mark.usefixtures("hashing")
def test_repeating_records_hold_four_fifths_of_a_forget_record():
    """Of 10 tokens 8, of 4 with max_overlap 5 all 4, of 6 five (0.8 * 6 = 4.8)."""
    rng = random.Random(7)
    forget, pool = records(rng, 6), records(rng, 60, longest=20)
    for max_overlap in (1, 5, 9):
        least = [min(len(a), max(max_overlap, -(-4 * len(a) // 5))) for a in forget]
        wanted = {
            index
            for index, b in enumerate(pool)
            if any(longest_shared_run(a, b) >= n for a, n in zip(forget, least, strict=True))
        }
        assert repeating(forget, pool, max_overlap) == wanted
        assert 0 < len(wanted) < 60 or max_overlap == 9


def test_a_run_does_not_go_on_from_one_record_into_the_next():
    """1 2 3 stands across the end of the first pool record only."""
    ours, theirs = shared_runs([[1, 2, 3]], [[0, 1], [2, 3], [1, 2, 3]], 3)
    assert (ours @ theirs.T).toarray().tolist() == [[0, 0, 1]]


def test_records_that_share_nothing_have_no_runs():
    ours, theirs = shared_runs([[1, 2], []], [[3, 4], [5, 6], [7]], 2)
    assert (ours.shape, theirs.shape) == ((2, 0), (3, 0))
    assert repeating([[1, 2], []], [[3, 4]], 2) == set()
    assert repeating([[]], [[3, 4]], 2) == set()
