"""SalUn's mask: which weights are in it, by hand, and that no other weight moves."""

import copy

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
from in_processes import in_processes
from test_processes import NO_DROPOUT
from unlearner.methods import salun
from unlearner.methods.salun import SalUn, salient
from unlearner.training.losses import mean_losses

torch.set_num_threads(1)

FAST = {"learning_rate": 1e-3, "stop": "never", "batch_size": 3, "max_epochs": 2}


def kept_masks(monkeypatch):
    """The masks of the runs that follow, in their order."""
    kept = []

    def salient_too(*given):
        kept.append(salient(*given))
        return kept[-1]

    monkeypatch.setattr(salun, "salient", salient_too)
    return kept


@pytest.mark.parametrize(
    ("share", "first", "second"),
    [
        (0.01, [False, False, False], [False, True]),  # at least one: 5
        (0.5, [True, False, False], [False, True]),  # 2 of 4: 5 and 3
        (0.75, [True, False, False], [True, True]),  # 3 of 4: 5, 3 and 2
        (1.0, [True, True, False], [True, True]),  # all that are not 0
    ],
)
def test_the_largest_gradients_are_salient_and_none_that_is_nothing(share, first, second):
    masks = salient([torch.tensor([-3.0, 1.0, 0.0]), torch.tensor([2.0, -5.0])], share)
    assert [mask.tolist() for mask in masks] == [first, second]


def test_gradients_of_one_size_are_salient_together():
    assert salient([torch.tensor([1.0, -2.0, 2.0, 0.5])], 0.25)[0].tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_without_any_gradient_nothing_is_salient():
    assert not salient([torch.zeros(3)], 0.5)[0].any()


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_weights_outside_the_mask_keep_their_bits_and_the_others_move(family, monkeypatch):
    masks = kept_masks(monkeypatch)
    data, target = tiny_data(family), tiny_classifier(family)
    model = SalUn(**FAST).unlearn(copy.deepcopy(target), data, tiny_trainer())
    moved = [a != b for a, b in zip(model.parameters(), target.parameters(), strict=True)]
    for mask, some in zip(masks[0], moved, strict=True):
        assert not (some & ~mask).any()
    salient_too = torch.cat([mask.flatten() for mask in masks[0]])
    assert torch.cat([some.flatten() for some in moved])[salient_too].float().mean() > 0.9
    assert all(not weight._backward_hooks for weight in model.parameters())


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_the_mask_is_of_the_gradient_of_the_true_labels_of_the_whole_set(family, monkeypatch):
    """Whatever the batches: 6 records at once, with dropout off, give the same mask."""
    masks = kept_masks(monkeypatch)
    data, target = tiny_data(family), tiny_classifier(family)
    SalUn(**FAST).unlearn(copy.deepcopy(target), data, tiny_trainer())
    mean_losses(target, {"forget": data.forget.examples})["forget"].backward()
    expected = salient([weight.grad for weight in target.parameters()], 0.5)
    same = torch.cat([(a == b).flatten() for a, b in zip(masks[0], expected, strict=True)])
    assert same.float().mean() > 0.999  # a few lie at the threshold


def test_of_adapters_the_factor_that_has_no_gradient_yet_stays_as_drawn():
    """B is zero at first, so that nothing of A can matter."""
    data, target, trainer = tiny_data(), tiny_classifier(), tiny_trainer(lora_rank=2)
    trainer.prepare(target)
    before = {name: some.clone() for name, some in target.named_parameters()}
    model = SalUn(**FAST).unlearn(target, data, trainer)
    moved = {name for name, some in model.named_parameters() if not some.equal(before[name])}
    assert moved
    assert all("lora_B" in name for name in moved)


def test_several_processes_have_one_mask(monkeypatch):
    masks = kept_masks(monkeypatch)

    def work():
        model = tiny_classifier(**NO_DROPOUT)
        SalUn(**FAST).unlearn(model, tiny_data(sizes=(5, 12, 5)), tiny_trainer())
        return torch.cat([mask.flatten() for mask in masks.pop()])

    alone = work()
    first, second = in_processes(2, work)
    assert torch.equal(first, second)
    assert (first == alone).float().mean() > 0.999


def test_records_known_by_heart_are_forgotten_with_a_tenth_of_the_weights():
    data = tiny_data()
    target = learn_by_heart(tiny_classifier(), data.forget, data.retain)
    trainer = tiny_trainer()
    method = SalUn(learning_rate=1e-3, batch_size=3, saliency_share=0.1)
    method.unlearn(target, data, trainer)
    assert trainer.rounds[0]["mia_loss_auc"] > 0.5
    assert trainer.rounds[-1]["mia_loss_auc"] <= 0.5
