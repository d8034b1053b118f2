"""Moments of 8 bits: their size, their steps beside those of float32, checkpoints, refusals."""

from importlib import util

import pytest
import torch
from test_memory_plan import plan, texts
from test_resume import check_every_cut
from torch import nn

from in_processes import in_processes
from unlearner import config as ground
from unlearner import processes
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.models.loading import num_parameters
from unlearner.settings import TrainingSettings
from unlearner.training import memory, optimisers
from unlearner.training.log import Log
from unlearner.training.memory import CHECKPOINT, Cost
from unlearner.training.optimisers import keep_gradients_in
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)

RATE, ROWS, COLUMNS = 0.01, 64, 128  # 8,192 weights; below 4,096 they keep moments of float32


class Layer(nn.Module):
    """One weight matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ROWS, COLUMNS))


def train(optimiser, steps, **settings):
    """A layer after a step along each of these gradients, and its trainer."""
    settings = TrainingSettings(device="cpu", optimiser=optimiser, **settings)
    some, layer = Trainer(settings, Log()), Layer()
    some.start(layer, RATE)
    for gradient in steps:
        some.step(lambda gradient=gradient: {"a": (layer.weight * gradient).sum()})
    return layer.weight.detach(), some


def test_both_moments_of_a_weight_take_a_byte_each():
    _, some = train("adamw_8bit", [torch.ones(ROWS, COLUMNS)])
    [values] = some.optimiser.state.values()
    moments = [value for value in values.values() if getattr(value, "dtype", None) == torch.uint8]
    assert [one.numel() for one in moments] == [ROWS * COLUMNS] * 2


def test_the_first_step_by_hand():
    """m / (1 - 0.9) = g and v / (1 - 0.999) = g^2, so that it is the rate against g's sign."""
    gradient = torch.where(torch.arange(COLUMNS) % 2 == 0, 3.0, -0.5).expand(ROWS, COLUMNS)
    weight, _ = train("adamw_8bit", [gradient])
    assert torch.allclose(weight, -RATE * gradient.sign(), rtol=1e-3)


def test_thirty_steps_go_where_those_of_float32_go():
    """Gradients of noise around 1: all weights walk; rounded moments turn them by little."""
    torch.manual_seed(0)
    gradients = [1 + torch.randn(ROWS, COLUMNS) for _ in range(30)]
    whole, _ = train("adamw", gradients)
    rounded, _ = train("adamw_8bit", gradients)
    apart = (rounded - whole).norm() / whole.norm()
    assert 0 < apart < 0.05


@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_a_run_goes_on_from_every_step(tmp_path, gradients):
    def unlearn(some):
        torch.manual_seed(1)
        layer = some.start(Layer(), RATE, schedule=lambda step: 1 / (1 + step))
        for _ in range(4):
            goal = torch.randn(ROWS, COLUMNS, generator=some.generator)
            some.step(lambda goal=goal: {"a": (layer.weight - goal).square().sum()})
        return layer

    check_every_cut(tmp_path, unlearn, None, optimiser="adamw_8bit", gradients=gradients)


def test_the_plan_has_a_quarter_of_the_moments(monkeypatch):
    monkeypatch.setattr(memory, "measure_step", lambda *_, **__: Cost(700, 6.0))
    some = texts()
    whole = 4 * num_parameters(some.loaded.model)
    found = plan(some, training={"optimiser": "adamw_8bit"}).parts
    assert found["optimiser moments"] == whole // 2
    assert found[CHECKPOINT] == whole + whole // 2
    assert found["gradients"] == whole
    short = plan(some, training={"optimiser": "adamw_8bit", "gradients": "bfloat16"}).parts
    assert short == found | {"gradients": whole // 2, "held already": short["held already"]}


def test_without_its_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr(
        ground, "find_spec", lambda name: None if name == "bitsandbytes" else util.find_spec(name)
    )
    with pytest.raises(UserError, match=r"training\.optimiser=adamw_8bit: needs the package"):
        RunConfig.from_sections({"training": {"optimiser": "adamw_8bit"}})


# Gradients in two bytes


def test_gradients_of_bfloat16_are_what_the_step_is_taken_by():
    """A step of 8-bit AdamW along gradients that were rounded to bfloat16 by hand."""
    torch.manual_seed(0)
    gradients = [torch.randn(ROWS, COLUMNS) for _ in range(5)]
    rounded, _ = train("adamw_8bit", [some.bfloat16().float() for some in gradients])
    short, _ = train("adamw_8bit", gradients, gradients="bfloat16")
    assert torch.equal(short, rounded)
    assert not torch.equal(short, train("adamw_8bit", gradients)[0])


def test_gradients_take_two_bytes_until_their_weights_turn_comes():
    layer, some = (
        Layer(),
        Trainer(
            TrainingSettings(device="cpu", optimiser="adamw_8bit", gradients="bfloat16"), Log()
        ),
    )
    some.start(layer, RATE)
    seen = []
    layer.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.dtype))
    for _ in range(2):
        some.step(lambda: {"a": layer.weight.sum()})
    assert seen == [torch.bfloat16] * 2
    assert layer.weight.dtype == torch.float32
    some.finish(layer)
    assert layer.weight.grad_dtype == torch.float32


def test_terms_of_a_step_are_summed():
    """1 + 2 in bfloat16 is 3: two terms, each with a gradient of its own."""
    layer, some = (
        Layer(),
        Trainer(
            TrainingSettings(device="cpu", optimiser="adamw_8bit", gradients="bfloat16"), Log()
        ),
    )
    some.start(layer, RATE, max_gradient_norm=1e9)
    found = []
    some.optimiser.register_step_pre_hook(lambda *_: found.append(layer.weight.grad[0, 0].item()))
    some.step(lambda: {"a": layer.weight.sum(), "b": 2 * layer.weight.sum()})
    assert found == [3.0]


def test_two_processes_sum_them_where_one_has_none():
    """Rank 0 brings a gradient of 1.5, rank 1 none of its own."""

    def share():
        settings = TrainingSettings(device="cpu", optimiser="adamw_8bit", gradients="bfloat16")
        some, layer = Trainer(settings, Log()), Layer()
        some.start(layer, RATE)
        if processes.rank() == 0:
            (1.5 * layer.weight).sum().backward()
        processes.sum_gradients([layer.weight])
        return layer.weight.grad.dtype, layer.weight.grad[0, 0].item()

    assert in_processes(2, share) == [(torch.bfloat16, 1.5)] * 2


def test_the_plan_takes_its_step_with_them_and_leaves_none_behind():
    some = texts()
    weight = next(some.loaded.model.parameters())
    plan(some, training={"optimiser": "adamw_8bit", "gradients": "bfloat16"})
    assert weight.grad is None
    assert weight.grad_dtype == torch.float32


@pytest.mark.parametrize("settings", [{}, {"optimiser": "adamw"}])
def test_with_moments_of_float32_they_are_refused(settings):
    with pytest.raises(
        UserError, match=r"gradients=bfloat16: is for training\.optimiser=adamw_8bit"
    ):
        RunConfig.from_sections({"training": {"gradients": "bfloat16", **settings}})


def test_an_older_torch_is_one_line(monkeypatch):
    monkeypatch.setattr(optimisers, "Tensor", object)  # has no `grad_dtype`
    with pytest.raises(UserError, match="install a newer torch"):
        keep_gradients_in(torch.bfloat16, [])
