"""Calibrated distillation: the goals of forget records, by hand, and what a run makes of them."""

import copy
import math

import numpy as np
import pytest
import torch

from classifier_world import (
    SEQUENCE,
    TOKEN,
    learn_by_heart,
    tiny_classifier,
    tiny_data,
    tiny_trainer,
)
from unlearner import functional
from unlearner.data.labelled import collate_examples
from unlearner.methods.calibrated_distillation import (
    CalibratedDistillation,
    CalibratedTeacher,
    QuantileMap,
    margins_of,
    match_quantiles,
    quantile_maps,
    with_margins,
)

torch.set_num_threads(1)

FAST = {"learning_rate": 1e-3, "batch_size": 3, "retain_batch_size": 6}


def test_as_many_unseen_margins_are_taken_in_their_order():
    """5, 1, 3 become 0.5, -2, 0, and halfway between 3 and 5 it is 0.25."""
    becomes = match_quantiles(np.array([5.0, 1.0, 3.0]), np.array([0.0, 0.5, -2.0]))
    assert becomes(np.array([5.0, 1.0, 3.0, 4.0])).tolist() == pytest.approx([0.5, -2.0, 0.0, 0.25])


def test_beyond_the_known_margins_the_ends_hold():
    becomes = match_quantiles(np.array([1.0, 3.0]), np.array([-1.0, 0.0]))
    assert becomes(np.array([-9.0, 9.0])).tolist() == [-1.0, 0.0]


def test_two_records_are_the_quartiles_of_four():
    """Ranks 1/4 and 3/4 of 0, 1, 2, 3, which stand at 1/8, 3/8, 5/8, 7/8: 0.5 and 2.5."""
    becomes = match_quantiles(np.array([7.0, 8.0]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert becomes.unseen.tolist() == pytest.approx([0.5, 2.5])


def test_equal_margins_have_one_goal():
    """The first and the second of 0, 2, 4: 1."""
    becomes = match_quantiles(np.array([5.0, 5.0, 6.0]), np.array([4.0, 0.0, 2.0]))
    assert becomes(np.array([5.0, 6.0])).tolist() == pytest.approx([1.0, 4.0])


def test_a_label_is_given_its_margin_and_the_others_keep_their_proportions():
    """1/2, 1/3, 1/6 with c = 1/4 for the second: the others share 3/4 as 3 to 1."""
    logits = torch.tensor([[math.log(3), math.log(2), 0.0]])
    found = with_margins(logits, torch.tensor([1]), torch.tensor([-math.log(3)]))
    assert found.exp()[0].tolist() == pytest.approx([9 / 16, 1 / 4, 3 / 16])


def test_a_removed_class_is_given_no_probability_which_is_the_papers_mask():
    """1/2, 1/4, 1/4 become 0, 1/2, 1/2; against 1/4, 1/4, 1/2 that is ln(2) / 2."""
    data = tiny_data(forget_class=0)
    becomes = quantile_maps(tiny_classifier(), data)[False]
    logits, label = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([0])
    margin = torch.from_numpy(becomes(np.array([0.0]))).float()
    taught = with_margins(logits, label, margin)
    assert taught.exp()[0].tolist() == pytest.approx([0.0, 0.5, 0.5])
    kl = functional.kl_divergence(taught, torch.tensor([[0.0, 0.0, math.log(2)]]))
    assert kl.item() == pytest.approx(0.5 * math.log(2))


def test_words_of_entities_and_words_outside_have_ranks_of_their_own():
    """Words outside go to a margin of 4; the others, of whose kind none is known, stay."""
    target = tiny_classifier(TOKEN)
    examples = tiny_data(TOKEN).forget.examples[:2]
    batch = collate_examples(examples)
    maps = {True: QuantileMap(np.zeros(1), np.array([4.0]))}
    found = CalibratedTeacher(target, maps, 0).log_probs(batch, batch["labels"])
    margins = functional.label_margins(found, batch["labels"])
    as_it_was = CalibratedTeacher(target, {}, 0).log_probs(batch, batch["labels"])
    before = functional.label_margins(as_it_was, batch["labels"])
    outside = batch["labels"] == 0
    torch.testing.assert_close(margins[outside], torch.full_like(margins[outside], 4.0))
    torch.testing.assert_close(margins[~outside], before[~outside])


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_the_terms_of_a_batch_are_those_of_its_examples(family):
    """The goals go with the target's margins, not with the batch: means over positions."""
    data, model = tiny_data(family), tiny_classifier(family, seed=1)
    target = tiny_classifier(family)
    teacher = CalibratedTeacher(target, quantile_maps(target, data), data.outside)
    method = CalibratedDistillation()
    forget, retain = data.forget.examples, data.retain.examples[:3]
    whole = method.loss(model, {"forget": forget, "retain": retain}, teacher)["forget"]
    single = [
        method.loss(model, {"forget": [some], "retain": retain}, teacher)["forget"].item()
        for some in forget
    ]
    sizes = [len(some.labels) for some in forget]
    assert whole.item() == pytest.approx(np.average(single, weights=sizes), rel=1e-3)


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_a_run_gives_the_forget_records_the_margins_of_unseen_ones(family):
    """Known by heart before: of texts, and of words of entities, half of the way to the goals.

    Words outside entities are learned on the remaining sentences meanwhile.
    """
    data = tiny_data(family, sizes=(9, 24, 30))
    target = learn_by_heart(tiny_classifier(family), data.forget, data.retain)
    method = CalibratedDistillation(**FAST, stop="never", max_epochs=30)
    before, is_outside = margins_of(target, data.forget, data)
    goals = quantile_maps(target, data)[False](before[~is_outside])
    torch.manual_seed(0)
    model = method.unlearn(copy.deepcopy(target), data, tiny_trainer())
    after = margins_of(model, data.forget, data)[0]
    gap, left = before[~is_outside] - goals, after[~is_outside] - goals
    assert gap.mean() > 0.5
    assert abs(left.mean()) < gap.mean() / 2
