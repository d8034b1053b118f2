"""The contrasts of an anchor with its views: by hand, and by what their gradients may never do."""

import math

import pytest
import torch

from unlearner.functional import (
    contrast_flipped,
    contrast_linear,
    contrast_saturating,
    cosine_similarities,
)

torch.set_num_threads(1)

FORMS = [contrast_saturating, contrast_linear, contrast_flipped]
TEMPERATURES = [0.1, 0.3, 1.0]
E1, E2 = math.e, math.e**2


def one_anchor(same, other):
    """s / tau of an anchor with views of its own class, and then with those of others."""
    is_same = torch.tensor([[True] * len(same) + [False] * len(other)])
    return torch.tensor([[*same, *other]]), is_same, ~is_same


def random_pairs(num_anchors, num_views, *, other_share=0.5, seed=0):
    """Cosines of random directions in 16 dimensions, and which are of the anchor's class."""
    draw = torch.Generator().manual_seed(seed)
    anchors = torch.randn(num_anchors, 16, generator=draw, dtype=torch.float64)
    views = torch.randn(num_views, 16, generator=draw, dtype=torch.float64)
    similar = torch.nn.functional.cosine_similarity(anchors[:, None], views, dim=-1)
    other = torch.rand(num_anchors, num_views, generator=draw) < other_share
    other[:, 0], other[:, 1] = True, False  # no row without either
    return similar, ~other, other


def gradient(form, similar, same, other, temperature):
    """d l_i / d s of every pair, at s / tau."""
    similar = similar.clone().requires_grad_()
    form(similar / temperature, same, other).sum().backward()
    return similar.grad


def num_wrong(slope, same, other):
    """Pairs that a step against the gradient moves the wrong way, or not at all."""
    return int((slope[same] <= 0).sum() + (slope[other] >= 0).sum())


# Numbers by hand


def test_saturating_by_hand():
    """Own class 2 and 0: e^r = e^2 + 1. Others 1 and -1: softplus(r - 1) = ln(1 + (e^2 + 1) / e).

    softplus(r + 1) = ln(1 + (e^2 + 1) e); the loss is the mean of the two.
    """
    expected = (math.log(1 + (E2 + 1) / E1) + math.log(1 + (E2 + 1) * E1)) / 2
    assert contrast_saturating(*one_anchor([2.0, 0.0], [1.0, -1.0])).tolist() == [
        pytest.approx(expected)
    ]


def test_linear_by_hand():
    """ln(e^2 + 1) - (1 + 0) / 2."""
    found = contrast_linear(*one_anchor([2.0, 0.0], [1.0, 0.0]))
    assert found.tolist() == [pytest.approx(math.log(E2 + 1) - 0.5)]


def test_flipped_by_hand():
    """The sum runs over all views: ln(e^2 + 1 + e + e^0) - (1 + 0) / 2."""
    found = contrast_flipped(*one_anchor([2.0, 0.0], [1.0, 0.0]))
    assert found.tolist() == [pytest.approx(math.log(E2 + 1 + E1 + 1) - 0.5)]


def test_one_view_of_each_kind_equally_near_costs_log_two():
    """softplus(0) = ln 2; of the flipped one ln(2 e^s) - s = ln 2; linear s - s = 0."""
    pair = one_anchor([0.7], [0.7])
    assert contrast_saturating(*pair).tolist() == [pytest.approx(math.log(2))]
    assert contrast_flipped(*pair).tolist() == [pytest.approx(math.log(2))]
    assert contrast_linear(*pair).tolist() == [pytest.approx(0.0)]


def test_saturating_is_the_masked_loss_with_the_roles_of_the_classes_exchanged():
    """-mean_o log( e^so / (e^so + sum_k e^sk) ), pair by pair."""
    similar, same, other = random_pairs(20, 30)
    scaled = similar / 0.3
    for row, found in enumerate(contrast_saturating(scaled, same, other).tolist()):
        own = sum(math.exp(s) for s in scaled[row][same[row]].tolist())
        terms = [
            -math.log(math.exp(s) / (math.exp(s) + own)) for s in scaled[row][other[row]].tolist()
        ]
        assert found == pytest.approx(sum(terms) / len(terms))


@pytest.mark.parametrize("form", FORMS)
def test_each_anchor_has_a_loss_of_its_own_whatever_the_order_of_the_views(form):
    similar, same, other = random_pairs(8, 20)
    whole = form(similar, same, other)
    assert whole.shape == (8,)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(form(*(some[:, order] for some in (similar, same, other))), whole)
    for row in range(8):
        some = slice(row, row + 1)
        torch.testing.assert_close(form(similar[some], same[some], other[some]), whole[some])


@pytest.mark.parametrize("form", FORMS)
def test_a_view_that_is_in_neither_set_counts_nothing(form):
    """So the anchor itself, whose cosine is 1, does not."""
    similar, same, other = random_pairs(8, 20)
    nothing = torch.zeros(8, 1, dtype=torch.bool)
    wide = torch.cat([similar, torch.ones(8, 1)], -1).requires_grad_()
    found = form(wide, torch.cat([same, nothing], -1), torch.cat([other, nothing], -1))
    torch.testing.assert_close(found, form(similar, same, other))
    found.sum().backward()
    assert (wide.grad[:, -1] == 0).all()


# Gradients


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("other_share", [0.25, 0.5, 0.9])
def test_saturating_pushes_every_own_pair_and_pulls_every_other_one(other_share, temperature):
    """0 wrong signs in 96 x 100 = 9,600 pairs."""
    similar, same, other = random_pairs(96, 100, other_share=other_share)
    slope = gradient(contrast_saturating, similar, same, other, temperature)
    assert slope.numel() == 9600
    assert num_wrong(slope, same, other) == 0


@pytest.mark.parametrize("other_share", [0.25, 0.5, 0.9])
def test_the_flipped_loss_pushes_other_classes_away_as_well(other_share):
    """An other-class pair nearer than its share: its softmax weight is above 1 / |O|."""
    similar, same, other = random_pairs(96, 100, other_share=other_share)
    slope = gradient(contrast_flipped, similar, same, other, 0.1)
    assert num_wrong(slope, same, other) > 50
    assert (slope[same] > 0).all()


def test_a_wrong_sign_of_the_flipped_loss_by_hand():
    """Others at 2 and 0, own at 0: the softmax weight e^2 / (e^2 + 2) = 0.787 less 1/2 is > 0."""
    scaled, same, other = one_anchor([0.0], [2.0, 0.0])
    slope = gradient(contrast_flipped, scaled, same, other, 1.0)
    expected = [1 / (E2 + 2), E2 / (E2 + 2) - 0.5, 1 / (E2 + 2) - 0.5]
    assert slope[0].tolist() == pytest.approx(expected)
    assert slope[0, 1] > 0


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_saturating_gradient_is_bounded_by_one_over_tau(temperature):
    """For each pair, and for the sums over S_i and over O_i, wherever the vectors are."""
    similar, same, other = random_pairs(96, 100)
    # Whole rows at the ends, where an anchor is among its own or has left.
    similar[:10] = torch.where(same[:10], 1.0, -1.0)
    similar[10:20] = torch.where(same[10:20], -1.0, 1.0)
    slope = gradient(contrast_saturating, similar, same, other, temperature)
    limit = 1 / temperature + 1e-9
    assert slope.abs().max() <= limit
    assert (slope * same).sum(-1).max() <= limit
    assert (-slope * other).sum(-1).max() <= limit
    # Both sums are the mean of the same sigmoids.
    torch.testing.assert_close((slope * same).sum(-1), -(slope * other).sum(-1))


def test_the_saturating_gradient_by_hand():
    """r = 0 and s_o = 0: sigmoid(0) = 1/2, so 1/2 / tau; the other pair -1/2 / tau. tau = 1/4."""
    similar, same, other = one_anchor([0.0], [0.0])
    slope = gradient(contrast_saturating, similar, same, other, 0.25)
    assert slope.tolist() == [[2.0, -2.0]]


def test_an_anchor_that_has_left_is_moved_no_further():
    """One own view at -1, one other at 1, tau = 0.1: sigmoid(-10 - 10) = 2.1e-9, over tau 2.1e-8.

    The linear form goes on with 1 / tau = 10, for ever.
    """
    pair = one_anchor([-1.0], [1.0])
    slope = gradient(contrast_saturating, *pair, 0.1)
    assert slope.abs().tolist() == [[pytest.approx(10 * math.exp(-20), rel=1e-3)] * 2]
    assert gradient(contrast_linear, *pair, 0.1).tolist() == [[10.0, -10.0]]


def test_the_gradient_vanishes_ever_more_on_the_way_out():
    """The own view falls from 1 to -1 as the other rises: the slope falls at each step."""
    way = torch.linspace(1, -1, 21, dtype=torch.float64)
    similar = torch.stack([way, -way], -1)
    same = torch.tensor([[True, False]]).expand(21, 2)
    slope = gradient(contrast_saturating, similar, same, ~same, 0.3)[:, 0]
    assert (slope[1:] < slope[:-1]).all()
    assert slope[0] == pytest.approx(1 / 0.3, rel=2e-3)


def test_far_from_having_left_the_saturating_loss_is_the_linear_one():
    """softplus(x) - x = ln(1 + e^-x) < e^-x; here r - s / tau >= 1 / 0.05 + 0 = 20."""
    draw = torch.Generator().manual_seed(0)
    same = torch.rand(50, 12, generator=draw) < 0.5
    same[:, 0], same[:, 1] = True, False
    similar = torch.rand(50, 12, generator=draw, dtype=torch.float64)
    similar = torch.where(same, similar, -similar)
    similar[:, 0] = 1.0
    pair = (similar / 0.05, same, ~same)
    difference = contrast_saturating(*pair) - contrast_linear(*pair)
    assert difference.abs().max() < math.exp(-20)
    torch.testing.assert_close(
        gradient(contrast_saturating, similar, same, ~same, 0.05),
        gradient(contrast_linear, similar, same, ~same, 0.05),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("form", FORMS)
def test_no_loss_overflows_at_the_lowest_temperature_of_the_grid(form):
    """tau = 0.03: s / tau reaches 33, and e^33 in a sum of hundreds."""
    similar, same, other = random_pairs(20, 300)
    similar = torch.where(same, 1.0, similar).float()
    assert form(similar / 0.03, same, other).isfinite().all()
    assert gradient(form, similar, same, other, 0.03).isfinite().all()


# Similarities


def test_cosines_by_hand_whatever_the_lengths():
    """(3, 4) and (4, 3): 24 / 25; (3, 4) and (-6, -8): -1; a vector of zeros is like nothing."""
    found = cosine_similarities(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[40.0, 30.0], [-6.0, -8.0], [0.0, 0.0]])
    )
    assert found.tolist() == [pytest.approx([0.96, -1.0, 0.0])]


def test_cosines_are_float32_where_the_forward_pass_is_not():
    """Autocast would round them to 8 bits, by 0.002 on average: at tau 0.1 a factor of 1.02."""
    draw = torch.Generator().manual_seed(0)
    some, others = torch.randn(4, 64, generator=draw), torch.randn(6, 64, generator=draw)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_similarities(some, others)
    assert found.dtype == torch.float32
    assert torch.equal(found, cosine_similarities(some, others))
    assert cosine_similarities(some.bfloat16(), others.bfloat16()).dtype == torch.float32
