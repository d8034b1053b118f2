"""Moments of 8 bits: their size, their steps beside those of float32, checkpoints, refusals."""

from importlib import util

import pytest
import torch
from test_memory_plan import plan, texts
from test_resume import check_every_cut
from torch import nn

from unlearner import config as ground
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.models.loading import num_parameters
from unlearner.settings import TrainingSettings
from unlearner.training import memory
from unlearner.training.log import Log
from unlearner.training.memory import CHECKPOINT, Cost
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)

RATE, ROWS, COLUMNS = 0.01, 64, 128  # 8,192 weights; below 4,096 they keep moments of float32


class Layer(nn.Module):
    """One weight matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ROWS, COLUMNS))


def train(optimiser, gradients):
    """A layer after a step along each gradient, and its trainer."""
    some, layer = Trainer(TrainingSettings(device="cpu", optimiser=optimiser), Log()), Layer()
    some.start(layer, RATE)
    for gradient in gradients:
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


def test_a_run_goes_on_from_every_step(tmp_path):
    def unlearn(some):
        torch.manual_seed(1)
        layer = some.start(Layer(), RATE, schedule=lambda step: 1 / (1 + step))
        for _ in range(4):
            goal = torch.randn(ROWS, COLUMNS, generator=some.generator)
            some.step(lambda goal=goal: {"a": (layer.weight - goal).square().sum()})
        return layer

    check_every_cut(tmp_path, unlearn, None, optimiser="adamw_8bit")


def test_the_plan_has_a_quarter_of_the_moments(monkeypatch):
    monkeypatch.setattr(memory, "measure_step", lambda *_, **__: Cost(700, 6.0))
    some = texts()
    whole = 4 * num_parameters(some.loaded.model)
    found = plan(some, training={"optimiser": "adamw_8bit"}).parts
    assert found["optimiser moments"] == whole // 2
    assert found[CHECKPOINT] == whole + whole // 2


def test_without_its_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr(
        ground, "find_spec", lambda name: None if name == "bitsandbytes" else util.find_spec(name)
    )
    with pytest.raises(UserError, match=r"training\.optimiser=adamw_8bit: needs the package"):
        RunConfig.from_sections({"training": {"optimiser": "adamw_8bit"}})
