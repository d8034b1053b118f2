"""The l1 penalty of `l1_sparse`: how far a step shrinks weights, and when it does no longer."""

import copy

import pytest
import torch

from classifier_world import learn_by_heart, mean_loss, tiny_classifier, tiny_data, tiny_trainer
from unlearner.errors import UserError
from unlearner.methods import l1_sparse
from unlearner.methods.finetune import FineTune
from unlearner.methods.l1_sparse import L1Sparse, shrink_weights

torch.set_num_threads(1)

# 24 remaining records in batches of 6: 4 steps an epoch.
FAST = {"learning_rate": 1e-3, "stop": "never", "batch_size": 6, "max_epochs": 2}


def same(first, second):
    return all(map(torch.equal, first.parameters(), second.parameters()))


def test_weights_move_to_nothing_by_rate_times_weight_and_not_past_it():
    """0.5 x 0.2 = 0.1."""
    weight = torch.nn.Parameter(torch.tensor([0.3, -0.25, 0.05, -0.1, 0.0]))
    shrink_weights(torch.optim.SGD([weight], lr=0.5), 0.2)
    assert weight.tolist() == pytest.approx([0.2, -0.15, 0.0, 0.0, 0.0])
    assert (weight[2:] == 0).all()


def test_the_penalty_falls_by_equal_parts_to_nothing(monkeypatch):
    """8 steps: 1, 7/8, 6/8 ... 1/8 of it."""
    seen = []
    monkeypatch.setattr(l1_sparse, "shrink_weights", lambda _, weight: seen.append(weight))
    method = L1Sparse(**FAST, sparsity_weight=0.4)
    method.unlearn(tiny_classifier(), tiny_data(), tiny_trainer())
    assert seen == pytest.approx([0.4 * left / 8 for left in range(8, 0, -1)])


def test_without_a_penalty_it_is_fine_tuning():
    made = []
    for method in (FineTune(**FAST), L1Sparse(**FAST, sparsity_weight=0.0)):
        torch.manual_seed(0)
        made.append(method.unlearn(tiny_classifier(), tiny_data(), tiny_trainer()))
    assert same(*made)


def test_weights_become_nothing_and_the_remaining_records_stay_known():
    """The larger the penalty the more weights are exactly 0; without one none are."""
    data = tiny_data()
    target = learn_by_heart(tiny_classifier(), data.forget, data.retain)
    zeros, losses = [], []
    for weight in (0.0, 1.0, 5.0):
        torch.manual_seed(0)
        method = L1Sparse(**FAST | {"max_epochs": 5}, sparsity_weight=weight)
        model = method.unlearn(copy.deepcopy(target), data, tiny_trainer())
        weights = [some for name, some in model.named_parameters() if name.endswith("weight")]
        zeros.append(float(torch.cat([(some == 0).flatten() for some in weights]).float().mean()))
        losses.append(mean_loss(model, data.forget))
        assert mean_loss(model, data.retain) < 0.2
    assert zeros[0] < zeros[1] < zeros[2]
    assert losses[2] > losses[0]


def test_adapters_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^training\.lora_rank: method l1_sparse") as caught:
        L1Sparse().unlearn(tiny_classifier(), tiny_data(), tiny_trainer(lora_rank=2))
    assert "\n" not in str(caught.value)
