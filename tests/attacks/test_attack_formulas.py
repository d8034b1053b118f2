"""The formulas of attacks, with numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from unlearner.attacks import (
    _cross_fitting,
    extraction,
    least_likely,
    margins,
    membership,
    noise,
    pair,
    paraphrase,
    pruning,
    quantisation,
    reference_models,
    relearning,
    sampling,
)
from unlearner.evaluation.attack_figures import RecordValues


def test_rounding_to_four_bits_by_channel():
    """The largest of the first row is 7, so a step is 7 / 7 = 1; of the second 0.7 / 7 = 0.1."""
    weight = torch.tensor([[7.0, 1.4, -2.6], [0.7, 0.04, -0.26]])
    expected = torch.tensor([[7.0, 1.0, -3.0], [0.7, 0.0, -0.3]])
    torch.testing.assert_close(quantisation.rounded(weight, 4), expected)


def test_rounding_to_eight_bits_has_127_steps():
    """The largest is 127, so that a step is 1."""
    weight = torch.tensor([[127.0, 0.6, -3.4]])
    torch.testing.assert_close(quantisation.rounded(weight, 8), torch.tensor([[127.0, 1.0, -3.0]]))


def test_a_channel_of_zeros_stays_as_it_is():
    weight = torch.zeros(2, 3)
    assert torch.equal(quantisation.rounded(weight, 4), weight)
    assert torch.equal(quantisation.nf4(weight), weight)


def test_nf4_takes_the_nearest_level_times_the_blocks_largest_magnitude():
    """Of a block of largest magnitude 2: 0.5 / 2 = 0.25 is nearest to 0.2461, -1.9 / 2 to -1."""
    weight = torch.zeros(1, 64)
    weight[0, :3] = torch.tensor([2.0, 0.5, -1.9])
    found = quantisation.nf4(weight)[0, :4]
    torch.testing.assert_close(found, torch.tensor([2.0, 2 * 0.24611230194568634, -2.0, 0.0]))


def test_nf4_has_sixteen_levels_in_order_and_blocks_of_their_own():
    assert len(quantisation.NF4_LEVELS) == 16
    assert list(quantisation.NF4_LEVELS) == sorted(quantisation.NF4_LEVELS)
    weight = torch.cat([torch.full((1, 64), 1.0), torch.full((1, 6), 1e-3)], 1)
    torch.testing.assert_close(quantisation.nf4(weight), weight)  # each is its block's largest


def test_pruning_takes_the_smallest_magnitudes():
    """Of four weights the half that is nearest to zero: -1 and 0.5."""
    weight = torch.tensor([[3.0, -1.0], [0.5, -2.0]])
    torch.testing.assert_close(pruning.pruned(weight, 0.5), torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    assert torch.equal(pruning.pruned(weight, 0.1), weight)  # a tenth of four is none


def test_noise_has_the_matrix_own_spread_times_sigma():
    weight = 3 * torch.randn(200, 200, generator=torch.Generator().manual_seed(1))
    drawn = torch.Generator().manual_seed(0)
    added = noise.disturbed(weight, 0.1, drawn) - weight
    assert added.std().item() == pytest.approx(0.1 * weight.std().item(), rel=0.02)


def test_the_chance_of_a_hit_in_n_samples():
    """p = 1/2: 1 - (1/2)^3 = 0.875; p of e^-100 a million times is a million e^-100."""
    found = extraction.hit_chance(np.log([0.5]), 3)
    assert found[0] == pytest.approx(0.875)
    tiny = extraction.hit_chance(np.array([-100.0]), 1_000_000)
    assert tiny[0] == pytest.approx(1e6 * math.exp(-100))
    assert extraction.hit_chance(np.array([0.0]), 1)[0] == 1.0


def test_samples_needed_for_a_hit():
    """(1 - 0.1)^n = 0.5 at n = 6.58, so 7; for 0.95 at 28.4, so 29."""
    log_p = np.array([math.log(0.1), 0.0, -800.0])
    np.testing.assert_array_equal(extraction.samples_needed(log_p, 0.5), [7, 1, math.inf])
    np.testing.assert_array_equal(extraction.samples_needed(log_p, 0.95), [29, 1, math.inf])
    within = extraction.records_within(np.append(log_p, np.nan), 0.5)
    assert within == {"1": 1, "10": 2, "100": 2, "1000": 2, "10000": 2}


def test_the_longest_common_subsequence():
    """3 1 4 1 5 and 1 9 4 5 share 1 4 5."""
    assert sampling.common_length([3, 1, 4, 1, 5], [1, 9, 4, 5]) == 3
    assert sampling.common_length([1, 2], []) == 0
    assert sampling.common_length([7] * 100, [7] * 60) == 60


def test_leak_at_k_and_the_bound_of_no_leak():
    """2 of 4 leak: of two samples none with chance C(2,2)/C(4,2) = 1/6; no leak in 100: 2.95 %."""
    assert sampling.leak_at(np.array([2, 0]), 4, 2) == pytest.approx((5 / 6 + 0) / 2)
    assert sampling.leak_at(np.array([1]), 4, 4) == 1.0
    assert sampling.upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert sampling.upper_bound(3, 3) == 1.0
    assert sampling.upper_bound(0, 0) is None


def test_the_last_of_all_and_the_last_of_the_most_likely():
    """Of twelve tokens 0 is the least likely; of the ten most likely (11 to 2) the last is 2."""
    logits = torch.arange(12.0).repeat(3, 1)
    found = least_likely.last_of_all_and_of_top(logits, torch.tensor([0, 2, 11]))
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_guidance_adds_the_difference_once():
    """Before (0.5, 0.5), after (0.8, 0.2): before^2 / after is (0.3125, 1.25): the second."""
    before, after = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()
    found = pair.guided_logits(before, after).exp()
    torch.testing.assert_close(found, torch.tensor([[0.3125, 1.25]]))


def test_guidance_by_the_model_itself_is_the_model_itself():
    logits = torch.randn(5, 7)
    torch.testing.assert_close(pair.guided_logits(logits, logits), logits.log_softmax(-1))


def test_privleak_has_its_sign_from_the_retrained_model():
    """100 (0.6 - 0.5) / 0.5 = 20: more learned than retrained; 100 (0.25 - 0.5) / 0.5 = -50."""
    assert membership.privleak(0.6, 0.5) == pytest.approx(20)
    assert membership.privleak(0.25, 0.5) == pytest.approx(-50)
    assert membership.privleak(0.5, 0.0) is None


def test_the_area_under_a_curve_by_trapezoids():
    """Looks at 0, 10, 25, 50: heights 0, 1, 1, 0 have 5 + 15 + 12.5 of 50 = 0.65."""
    heights = (0.0, 1.0, 1.0, 0.0)
    looks = [RecordValues(np.array([h, 2 * h]), np.array([0.5])) for h in heights]
    found = relearning.area(looks)
    np.testing.assert_allclose(found.forget, [0.65, 1.3])
    np.testing.assert_allclose(found.unseen, [0.5])


def test_the_divergence_of_margins_by_hand():
    """Two models at 0 and 2, at 1 and 3: each spread is 2, with (1 + 1/2) 3; of 4 from 1: 9 / 6."""
    known = np.array([[0.0, 1.0], [2.0, 3.0]])
    found = margins.divergences(np.array([4.0, 2.0]), known, known)
    np.testing.assert_allclose(found, [1.5, 0.0])
    # one held against the other: (0 - 2)^2 / (2 * 2 * (1 + 1))
    np.testing.assert_allclose(margins.divergences(known[0], known[1:], known), [0.5, 0.5])


def test_models_alike_diverge_by_a_half():
    draw = np.random.default_rng(0)
    known, own = draw.normal(size=(5, 4000)), draw.normal(size=4000)
    assert margins.divergences(own, known, known).mean() == pytest.approx(0.5, abs=0.03)
    alone = [margins.divergences(known[j], np.delete(known, j, 0), known) for j in range(5)]
    assert np.mean(alone) == pytest.approx(0.5, abs=0.03)


def test_whole_subjects_are_taught_again_until_the_share_is_there():
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 14
    for seed in range(5):
        found = relearning.some_subjects(groups, 0.1, seed)
        names = {groups[index] for index in found}
        assert len(found) >= 2
        assert len(found) == sum(group in names for group in groups)


def test_rmia_counts_unseen_records_that_are_not_above():
    """Ratios of unseen records 0, 1, 2, 3; a forget record at 1.5 is above two of four.

    The unseen record at 2 is at least as high as 0 and 1 of the three others.
    """
    forget, unseen = reference_models.rmia(np.array([1.5, 9.0, np.nan]), np.array([0.0, 1, 2, 3]))
    np.testing.assert_allclose(forget, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(unseen, [0.0, 1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the capital?", "Please tell me what the capital is."),
        ("Where was Ann born?", "Please tell me where Ann born was."),
        ("Name the town.", "Please answer this for me: Name the town."),
    ],
)
def test_a_question_becomes_a_request(prompt, expected):
    assert paraphrase.as_request(prompt) == expected


def test_small_talk_and_lower_case():
    assert paraphrase.without_case(" Who Is Ann?! ") == "who is ann"
    assert paraphrase.as_small_talk("Who is Ann?").endswith(" Who is Ann?")


def test_cross_fitting_scores_every_record_by_a_classifier_that_has_not_seen_its_subject():
    seen = []

    def scores(train, test, labels):
        seen.append((set(train.tolist()), set(test.tolist())))
        return labels[test].astype(float)

    groups = [str(number // 2) for number in range(12)]
    found = _cross_fitting.cross_fitted(scores, groups, groups, seed=0)
    assert np.isfinite(found.forget).all()
    assert found.forget.min() > found.unseen.max()
    for train, test in seen:
        assert train.isdisjoint(test)
        for place in test:  # the two records of a subject are next to each other
            assert place ^ 1 in test


def test_cross_fitting_of_one_person_leaves_out_the_record_itself():
    def scores(train, test, labels):
        assert not set(train) & set(test)
        return labels[test].astype(float)

    found = _cross_fitting.cross_fitted(scores, ["a"] * 6, list("bcdefg"), seed=0)
    assert np.isfinite(found.forget).all()
    assert found.forget.min() > found.unseen.max()


def test_cross_fitting_of_one_subject_says_nothing():
    found = _cross_fitting.cross_fitted(lambda *_: 0, ["a", "a"], ["b", "b"], seed=0)
    assert np.isnan(found.forget).all()
