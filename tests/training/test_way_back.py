"""Gradients on the way back to the target model."""

import pytest
import torch
from torch import nn

from conftest import tiny_model
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer
from unlearner.training.way_back import OnWayBack, WayBack, draw_share


class Two(nn.Module):
    """f(w, v) = w^2 v."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.v = nn.Parameter(torch.tensor(2.0))

    def forward(self):
        return self.w**2 * self.v


def test_the_gradient_is_that_of_the_model_between_by_hand():
    """From (1, 2), the target, to (3, 6); a quarter back it is (2.5, 5).

    f has the gradient (2 w v, w^2) = (25, 6.25) there, and at (3, 6) it would be (36, 9).
    """
    model = Two()
    way = WayBack(model)
    with torch.no_grad():
        model.w.fill_(3.0)
        model.v.fill_(6.0)
    with way.at(0.25):
        assert (model.w.item(), model.v.item()) == (2.5, 5.0)
        (way.factor(0.25) * model()).backward()
    assert (model.w.item(), model.v.item()) == (3.0, 6.0)
    assert (model.w.grad.item(), model.v.grad.item()) == (25.0, 6.25)


def test_adapters_are_scaled_and_have_the_gradient_of_the_weights_between():
    """Of a loss linear in the layer's weight, B's gradient is G A^T wherever on the way it is."""
    found = []
    for share in (0.0, 0.5):
        model = tiny_model("llama")
        trainer = Trainer(TrainingSettings(device="cpu", lora_rank=2), Log(None))
        model = trainer.start(model, 1e-3, path=0.9)
        layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
        with torch.no_grad():
            layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
        way, scale = WayBack(model), layer.scaling["default"]
        inputs = torch.ones(1, layer.in_features)
        before = layer(inputs).detach()
        with way.at(share):
            between = layer(inputs)
            (way.factor(share) * between.sum()).backward()
        base = layer.base_layer(inputs).detach()
        torch.testing.assert_close(between.detach() - base, (1 - share) * (before - base))
        assert layer.scaling["default"] == scale
        assert not way.target  # nothing is kept of the weights
        found.append(layer.lora_B["default"].weight.grad)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}])
def test_a_step_adds_both_gradients_and_leaves_the_weights_where_they_are(settings):
    """With a rate of 0 the weights are as before, to the last bit, and the gradient is the sum."""
    trainer = Trainer(TrainingSettings(device="cpu", **settings), Log(None))
    model = trainer.start(tiny_model("llama"), 1e-2, path=0.9)
    ids = torch.arange(5, 15)[None]

    def loss():
        return {"one": model(input_ids=ids, labels=ids).loss}

    trainer.step(loss)  # away from the target
    for group in trainer.optimiser.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in model.parameters()]
    values = trainer.step(loss, on_way_back=OnWayBack(lambda: {"two": loss()["one"]}, 0.5))
    for weight, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert values["two"] != values["one"]
    gradients = [w.grad.clone() for w in model.parameters() if w.grad is not None]
    wanted = []
    for share in (0.0, 0.5):
        model.zero_grad()
        with trainer._way_back.at(share):
            (trainer._way_back.factor(share) * loss()["one"]).backward()
        wanted.append([w.grad.clone() for w in model.parameters() if w.grad is not None])
    for found, one, two in zip(gradients, *wanted, strict=True):
        torch.testing.assert_close(found, one + two)


def test_shares_are_uniform_below_the_path_and_a_path_of_0_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    shares = [draw_share(0.6, generator) for _ in range(2000)]
    assert 0 <= min(shares) < 0.01
    assert 0.59 < max(shares) < 0.6
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.01)
    state = generator.get_state()
    assert draw_share(0.0, generator) == 0.0
    assert torch.equal(generator.get_state(), state)
