"""What makes one trial of a search better than another: scores by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from unlearner.pipeline.search import FAILED, Trial, best_of, score_of
from unlearner.training.data import HoldoutBaseline

LEVEL = HoldoutBaseline(0.4, 0.1, 0.2, 3.0, worst_ma=0.6, worst_el_10=0.3, source="")
FLOOR = 1.1
FIRST = {"values": {"ma": 0.9, "el_10": 0.6, "es": 0.7}, "kept_ratio": 1.0, "suppressed": False}


def look(ma=0.9, ratio=1.0, suppressed=False, **values):
    return {"values": {"ma": ma, **values}, "kept_ratio": ratio, "suppressed": suppressed}


def score(some, first=FIRST, level=LEVEL):
    data = SimpleNamespace(level=level, utility_floor=FLOOR, unseen_floor=1.2)
    return score_of(some, first, data)


def test_a_round_that_reached_it_has_its_damage_as_score():
    assert score(look(0.3, 1.05, suppressed=True, el_10=0.0, es=0.1)) == 1.05
    assert score(look(0.3, FLOOR, suppressed=True, el_10=0.0, es=0.1)) == FLOOR


def test_kept_text_known_better_than_the_target_knows_it_is_no_less_damage():
    assert score(look(0.3, 0.7, suppressed=True, el_10=0.0, es=0.1)) == 1.0


def test_of_those_that_reached_it_the_mark_counts_before_the_damage():
    """10 * 0.02 is more than the floor's 0.1; unseen text over its floor is not reached."""
    plain = look(0.3, 1.05, suppressed=True, el_10=0.0, es=0.1)
    assert score(plain | {"mark": 0.02}) == pytest.approx(1.25)
    assert score(plain | {"unseen_ratio": 1.2}) == 1.05
    assert score(plain | {"unseen_ratio": 1.2 * math.e}) == pytest.approx(101.0)


def test_of_others_the_shares_of_the_way_that_are_left_are_added_up():
    """MA has 0.25 of 0.5 left, EL_10 0.25 of 0.5, ES 0.125 of 0.5: 0.5 + 0.5 + 0.25."""
    assert score(look(0.65, 1.0, el_10=0.35, es=0.325)) == pytest.approx(101.25)
    assert score(FIRST) == pytest.approx(103.0)


def test_perplexity_over_the_floor_counts_by_its_logarithm():
    """log(1.1 e / 1.1) = 1; forgotten or not, over the floor is not reached."""
    assert score(look(0.4, FLOOR * math.e, suppressed=True, el_10=0.1, es=0.2)) == (
        pytest.approx(101.0)
    )
    assert score(look(0.65, FLOOR * math.e, el_10=0.1, es=0.2)) == pytest.approx(101.5)


def test_an_el_10_that_was_left_out_counts_as_far_from_its_level_as_ma():
    """MA has 0.25 of 0.5 left, and so EL_10 counts 0.5; ES has none left."""
    assert score(look(0.65, es=0.2)) == pytest.approx(100 + 0.5 + 0.5)


def test_an_el_10_that_the_first_look_left_out_is_taken_to_have_been_1():
    """Its level is 0.1: 0.45 of 0.9 are left at 0.55, and nothing at 0; MA counts 0.5."""
    first = look(es=0.7)
    assert score(look(0.65, el_10=0.55, es=0.2), first) == pytest.approx(100 + 0.5 + 0.5)
    assert score(look(0.65, el_10=0.0, es=0.2), first) == pytest.approx(100 + 0.5)


def test_what_the_target_has_below_the_level_or_has_no_level_is_not_counted():
    first = look(0.9, el_10=0.1, es=0.7)
    without = replace(LEVEL, es=None)
    assert score(look(0.65, el_10=0.5, es=0.7), first, without) == pytest.approx(100.5)


@pytest.mark.parametrize("ratio", [math.inf, math.nan])
def test_a_perplexity_that_is_no_number_is_as_bad_as_a_failure(ratio):
    assert score(look(0.3, ratio, suppressed=True, el_10=0.0, es=0.0)) == FAILED


def test_any_that_reached_it_is_better_than_any_that_did_not():
    trials = [
        Trial(0, {}, "not reached", 100.0),
        Trial(1, {}, "reached", 1.1),
        Trial(2, {}, "reached", 1.05),
        Trial(3, {}, "reached", 1.05),
    ]
    assert best_of(trials).number == 2
    assert best_of(trials[:1]).number == 0
