"""Which kept records are learned: partners, draws, and what is never among them."""

from dataclasses import dataclass

import pytest
import torch

from conftest import tiny_tokenizer
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.errors import UserError
from unlearner.retrieval.analogous import AnalogousSet, find_analogous
from unlearner.retrieval.neighbours import Retrieved
from unlearner.retrieval.overlap import longest_shared_run


@dataclass(frozen=True)
class Settings:
    pairs: str = "fixed"
    encoder: str = "tf-idf"
    max_overlap: int = 10
    max_analogous: int = 100


def texts(name, *some, max_length=64):
    records = tuple(Record(f"{name}{i}", text=text) for i, text in enumerate(some))
    layout = Layout(max_length=max_length)
    return tokenize_set(RecordSet(name, records, "memory"), tiny_tokenizer(), layout)


def find(forget, pool, **settings):
    return find_analogous(forget, pool, tiny_tokenizer(), Settings(**settings))


def deck(num_windows):
    """A set of so many records of one window each."""
    chosen = texts("pool", *("ab" for _ in range(num_windows)))
    nothing = Retrieved((), (), "none", (), 0)
    return AnalogousSet(list(range(num_windows)), chosen, [], nothing, 0)


FORGET = texts("f", "the red fox lives in york", "a blue whale swims by bath")
POOL = texts(
    "p",
    "whales are blue and big",
    "an owl",
    "foxes and the red sun",
    "THE RED FOX LIVES IN YORK",
    "gold mines",
    "the fox is red",
)


# Partners


def test_fixed_pairs_are_the_nearest_that_do_not_repeat_a_record():
    """The fox's nearest is its own copy, which is left out; then "the fox is red"."""
    found = find(FORGET, POOL)
    assert found.found.excluded == (3,)
    assert [found.records[partner] for partner in found.partners] == [5, 0]
    assert found.records == [0, 5]
    assert [record.id for record in found.chosen.records] == ["p0", "p5"]


def test_near_duplicates_of_any_forget_record_are_in_no_set():
    for pairs in ("fixed", "fresh"):
        assert 3 not in find(FORGET, POOL, pairs=pairs).records


def test_a_pool_of_nothing_but_copies_is_refused():
    with pytest.raises(UserError, match="none of its 1 records is usable"):
        find(FORGET, texts("p", "The red fox  lives in York"))


def test_a_partner_shares_no_run_of_max_overlap_tokens():
    """With runs of 4 tokens forbidden the partner is one that shares no " fox", though further."""
    pool = texts("p", "the red fox ran off over hills and far away", "red is he")
    strict, loose = (find(FORGET.subset([0]), pool, max_overlap=n) for n in (4, 60))
    assert strict.records == [1]
    assert loose.records == [0]
    ours, theirs = FORGET.sequences()[0], pool.sequences()
    assert strict.longest_shared_run == longest_shared_run(ours, theirs[1]) < 4
    assert loose.longest_shared_run == longest_shared_run(ours, theirs[0]) >= 4


def test_each_partner_serves_once_where_the_pool_has_enough():
    forget = texts("f", *(f"the fox of {town}" for town in ("york", "bath", "leeds")))
    pool = texts("p", "fox", "my fox", "his fox and mine")
    assert sorted(find(forget, pool).partners) == [0, 1, 2]


def test_partners_serve_again_and_evenly_only_where_the_pool_is_smaller():
    """Four records on two partners: each serves two."""
    forget = texts("f", *(f"the fox of {town}" for town in ("york", "bath", "leeds", "ripon")))
    found = find(forget, texts("p", "fox", "my fox"))
    assert sorted(found.partners) == [0, 0, 1, 1]


def test_one_record_and_a_pool_of_one():
    found = find(FORGET.subset([0]), texts("p", "an owl"))
    assert (found.records, found.partners) == ([0], [0])
    assert found.partners_of([0]) == [0]


def test_partners_of_gives_every_window_of_a_partner_and_each_once():
    """The partner "abcdefgh" has windows 0 to 2 of 4 tokens; "xy" of the other record window 3."""
    chosen = texts("p", "abcdefgh", "xy", max_length=4)
    assert [window.record for window in chosen.windows] == [0, 0, 0, 1]
    nothing = Retrieved((), (), "none", (), 0)
    some = AnalogousSet([0, 1], chosen, [0, 1, 0], nothing, 0)
    assert some.partners_of([0]) == [0, 1, 2]
    assert some.partners_of([2, 0]) == [0, 1, 2]  # a shared partner once
    assert some.partners_of([1]) == [3]


# Fresh pairs


def test_a_fresh_set_is_the_nearest_up_to_max_analogous_then_the_rest():
    """The nearest of the two records are 5 and 0; the copy 3 is in none; partners are nobody's."""
    assert find(FORGET, POOL, pairs="fresh", max_analogous=2).records == [0, 5]
    everything = find(FORGET, POOL, pairs="fresh")
    assert (everything.records, everything.partners) == ([0, 1, 2, 4, 5], [])


def test_a_fresh_set_holds_no_text_around_a_forget_record():
    """Two thirds of pool text 1 are its own: no near duplicate, yet it would teach the record.

    Text 2 shares "the red fox", 8 tokens and more, which is less than four fifths of it.
    """
    around = "people say that " + FORGET.records[0].text + " since a long time ago and evermore"
    pool = texts("p", "an owl", around, "the red fox", "gold mines")
    shared = [longest_shared_run(FORGET.sequences()[0], ids) for ids in pool.sequences()]
    most = 0.8 * len(FORGET.sequences()[0])
    assert shared[1] >= most > shared[2] >= 5
    found = find(FORGET, pool, pairs="fresh", max_overlap=5)
    assert found.found.excluded == ()
    assert found.records == [0, 2, 3]


def test_where_all_of_the_pool_repeats_a_record_the_pairs_are_learned():
    """Better the least overlapping than nothing: the report counts them."""
    pool = texts("p", f"{FORGET.records[0].text} since a long time ago, people say, and evermore")
    found = find(FORGET, pool, pairs="fresh")
    assert (found.records, found.partners) == ([0], [0, 0])
    assert found.found.overlapping == 1


@pytest.mark.parametrize("num_windows", [1, 2, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_each_window_is_drawn_once_before_any_is_drawn_again(num_windows, count):
    """After every draw the most drawn and the least drawn are at most one apart."""
    some, generator = deck(num_windows), torch.Generator().manual_seed(0)
    times = [0] * num_windows
    for _ in range(40):
        drawn = some.draw(count, generator)
        assert len(drawn) == len(set(drawn)) == min(count, num_windows)
        for index in drawn:
            times[index] += 1
        assert max(times) - min(times) <= 1


def test_draws_follow_the_seed():
    def draws(seed):
        some, generator = deck(9), torch.Generator().manual_seed(seed)
        return [some.draw(4, generator) for _ in range(5)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
