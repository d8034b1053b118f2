"""Compiled layers: the same gradients, only while a step computes, one line where nothing can."""

from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from classifier_world import tiny_classifier
from conftest import tiny_model
from unlearner.errors import UserError
from unlearner.models import sharding
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)


@pytest.fixture
def graphs(monkeypatch):
    """The compiler's front half and its own gradients without the machine code, which takes long.

    Gives how many graphs there are so far.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def gradients(model, loss, **settings):
    """Of a step, with the values of the loss."""
    some = Trainer(TrainingSettings(device="cpu", **settings), Log())
    some.start(model, 1e-3)
    values = some.step(partial(loss, model))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), values


def of_text(model):
    ids = torch.arange(2, 26).view(2, 12)
    return {"a": model(input_ids=ids, labels=ids, use_cache=False).loss}


def of_labels(model):
    ids = torch.arange(5, 29).view(2, 12)
    return {"a": model(input_ids=ids, labels=torch.tensor([0, 1])).loss}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("llama", {"lora_rank": 2}),
        ("gpt_neo", {"gradient_checkpointing": True}),
        ("classifier", {}),
    ],
)
def test_losses_and_gradients_are_the_same_to_rounding(graphs, kind, settings):
    loss = of_labels if kind == "classifier" else of_text
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = tiny_classifier() if kind == "classifier" else tiny_model(kind)
        found.append(gradients(model, loss, compile=compiled, **settings))
    assert graphs() > 1
    (plain, value), (ours, its_value) = found
    assert its_value == pytest.approx(value, rel=1e-6)
    assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))


def test_layers_of_one_kind_and_steps_of_other_lengths_share_what_was_compiled(graphs):
    model = tiny_model("llama")
    assert len(sharding.blocks(model)) > 1
    counts = []
    some = Trainer(TrainingSettings(device="cpu", compile=True), Log())
    some.start(model, 1e-3)
    for rows, length in ((3, 12), (6, 9), (5, 7)):
        ids = torch.arange(rows * length).remainder(90).view(rows, length)
        some.step(lambda ids=ids: {"a": model(input_ids=ids, labels=ids, use_cache=False).loss})
        counts.append(graphs())
    assert counts == [2, 2, 2]  # one for what is tried, one for all layers


def test_evaluation_runs_the_layers_as_they_are(graphs):
    model = tiny_model("llama")
    some = Trainer(TrainingSettings(device="cpu", compile=True), Log())
    some.start(model, 1e-3)
    layers = sharding.blocks(model)
    during = []

    def loss():
        during.extend("forward" in vars(layer) for layer in layers)
        return of_text(model)

    some.step(loss)
    assert during == [True] * len(layers)
    assert graphs() > 1
    assert not any("forward" in vars(layer) for layer in layers)
    with pytest.raises(ZeroDivisionError):
        some.step(lambda: {"a": torch.ones(()) * (1 // 0)})
    assert not any("forward" in vars(layer) for layer in layers)


def test_a_machine_that_cannot_compile_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such file: g++ /private/path")

    monkeypatch.setattr(torch, "compile", broken)
    some = Trainer(TrainingSettings(device="cpu", compile=True), Log())
    with pytest.raises(UserError, match=r"training\.compile: torch .* cannot compile") as told:
        some.start(nn.Linear(2, 2), 1e-3)
    assert "/private" not in str(told.value)
    assert "\n" not in str(told.value)
