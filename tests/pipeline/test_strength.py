"""The path from the target's weights to the unlearned ones, and how far along it is worth going."""

import math
from dataclasses import replace

import pytest
import torch
from test_stop_rule import data, tokenized
from torch import nn

from conftest import tiny_model
from unlearner.pipeline import strength
from unlearner.pipeline.strength import Point, largest_keeping, mix, strength_path
from unlearner.training.data import HoldoutBaseline
from unlearner.training.stop_rule import Refinement, RoundState, Rules

# MA is above it always, so that a quick look leaves EL_10 out.
LEVEL = HoldoutBaseline(-1.0, 0.1, 0.2, 3.0, worst_ma=0.6, worst_el_10=0.3, source="")


class Counting(nn.Module):
    """A weight, and a buffer of whole numbers."""

    def __init__(self, value, count=0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.register_buffer("count", torch.tensor(count))


def test_a_share_of_the_path_is_that_share_of_the_change():
    """(1 - 0.25) 2 + 0.25 * 10 = 4; (1 - 0.25) 8 + 0.25 * 0 = 6."""
    model = Counting([0.0, 0.0])
    mix(model, Counting([2.0, 8.0]).state_dict(), Counting([10.0, 0.0]).state_dict(), 0.25)
    assert model.weight.tolist() == [4.0, 6.0]


def test_both_ends_of_the_path_are_the_models_themselves_bit_by_bit():
    """0.1 + 1 * (0.3 - 0.1) would not be 0.3 in every precision."""
    target, unlearned = tiny_model("gpt2", 0), tiny_model("gpt2", 1)
    model = tiny_model("gpt2", 2)
    for share, end in ((0.0, target), (1.0, unlearned)):
        mix(model, target.state_dict(), unlearned.state_dict(), share)
        assert same(model.state_dict(), end.state_dict())


def test_what_is_no_number_with_a_point_stays_the_targets():
    target, unlearned = Counting([1.0], 3).state_dict(), Counting([2.0], 5).state_dict()
    model = Counting([0.0])
    for share in (0.0, 0.5, 1.0):
        mix(model, target, unlearned, share)
        assert model.count.item() == 3


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Reading:
    """In place of `Refinement`: MA is what the weight is below 1, kept text suffers as it falls."""

    def __init__(self, _rules, data, *, by_set):
        self.quick = by_set and data.quick_looks

    def examine(self, model, number, first=None):
        weight = model.weight.item()
        ratio = 2.0 - weight if first is not None else 1.0
        values = {"ma": weight, "es": weight / 2}
        return RoundState(number, (), values, 1.0, ratio, False, weight <= 0.4, 0.0, 0.0)


def test_the_points_are_those_of_the_shares_in_their_order(monkeypatch):
    """The weight is 0.75 - 0.5 a: 0.25 at 1, where MA is below 0.4, 0.5 at 0.5, 0.75 at 0."""
    monkeypatch.setattr(strength, "Refinement", Reading)
    model = Counting([9.0])
    target, unlearned = Counting([0.75]).state_dict(), Counting([0.25]).state_dict()
    found = strength_path(model, target, unlearned, data(tokenized("forget", 1)), (1.0, 0.5, 0.0))
    assert found == [
        Point(1.0, 0.25, None, 0.125, 1.75, suppressed=True),
        Point(0.5, 0.5, None, 0.25, 1.5, suppressed=False),
        Point(0.0, 0.75, None, 0.375, 1.0, suppressed=False),
    ]
    assert model.weight.item() == 0.75


@pytest.mark.parametrize("quick", [False, True])
def test_each_point_is_what_a_run_would_see_of_that_model(tokenizer, quick):
    """Equal to the mixed model made by hand and asked on its own; the target is given back."""
    some = replace(data(tokenized("forget", 3), tokenizer, LEVEL), quick_looks=quick)
    target, unlearned = tiny_model("gpt_neo", 0), tiny_model("gpt_neo", 1)
    before = {name: one.clone() for name, one in target.state_dict().items()}
    found = strength_path(target, before, unlearned.state_dict(), some, (0.5, 1.0))
    assert same(target.state_dict(), before)
    refinement = Refinement(Rules(), some, by_set=True)
    first = refinement.examine(target, 0)
    for point in found:
        mixed = tiny_model("gpt_neo", 2)
        mixed.load_state_dict(
            {
                name: (1 - point.share) * one + point.share * other
                for (name, one), other in zip(
                    before.items(), unlearned.state_dict().values(), strict=True
                )
            }
        )
        state = refinement.examine(mixed, 0, first)
        assert point.ma == pytest.approx(state.values["ma"])
        assert point.es == pytest.approx(state.values["es"])
        assert point.kept_ratio == pytest.approx(state.kept_ratio, rel=1e-4)
        assert point.suppressed == state.suppressed
        assert (point.el_10 is None) == quick


def test_the_largest_share_under_the_floor_is_taken_not_the_least_damaging():
    """At 0.875 the ratio is above 1.1; 1.0 is under it again, and further."""
    ratios = {0.5: 1.01, 0.25: 1.0, 1.0: 1.1, 0.875: 1.2}
    points = [Point(share, 0.5, None, None, ratio, False) for share, ratio in ratios.items()]
    found = largest_keeping(points, 1.1)
    assert found is not None
    assert found.share == 1.0
    assert largest_keeping(points, 1.05).share == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("ratio", [1.2, math.inf, math.nan])
def test_where_no_share_is_under_the_floor_there_is_none(ratio):
    assert largest_keeping([Point(1.0, 0.5, None, None, ratio, False)], 1.1) is None
    assert largest_keeping([], 1.1) is None


def test_a_ratio_that_is_no_number_is_null_in_a_report():
    assert Point(1.0, 0.5, None, None, math.inf, False).to_json()["kept_ratio"] is None
    assert Point(1.0, 0.5, None, None, 1.5, False).to_json() == {
        "share": 1.0,
        "ma": 0.5,
        "el_10": None,
        "es": None,
        "kept_ratio": 1.5,
        "suppressed": False,
    }
