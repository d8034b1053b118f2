"""A step a few windows at a time: the gradient of the whole, whatever the method, and no more work
at a time than was asked for."""

import numpy as np
import pytest
import test_icu
import test_lm_methods
import torch
from test_lm_methods import CLASSES

from conftest import tiny_model
from unlearner.data.batches import collate
from unlearner.errors import UserError
from unlearner.inference.micro_batches import windows_at_most
from unlearner.inference.reference import TargetDistribution, likelihoods
from unlearner.methods.icu import ICU
from unlearner.models import sharding
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer


class _Stepped(Exception):  # noqa: N818 - an end, not an error
    pass


def gradients(monkeypatch, run):
    """The gradient of each weight at a run's first step, and the most windows of a pass."""
    found, sizes = [], [0]

    def step(optimiser, *_):
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        found.extend(None if weight.grad is None else weight.grad.clone() for weight in weights)
        raise _Stepped

    def count(module, inputs):
        if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled():
            sizes.append(len(inputs[0]))

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", step)
        hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
        try:
            with pytest.raises(_Stepped):
                run()
        finally:
            hook.remove()
    return found, max(sizes)


def in_micro_batches(monkeypatch, module, size):
    """Trainers of a module have these micro-batches, and models are in double precision."""
    settings = lambda **given: TrainingSettings(micro_batch=size, **given)  # noqa: E731
    monkeypatch.setattr(module, "TrainingSettings", settings)
    double = lambda *given, **named: tiny_model(*given, **named).double()  # noqa: E731
    monkeypatch.setattr(module, "tiny_model", double)


def assert_same(found, whole):
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 99])
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_methods_gradient_is_that_of_the_whole_step(monkeypatch, name, size):
    """Two records a step, of one to three windows of different lengths, and kept windows."""
    runs = {}
    for limit in (size, "auto"):
        in_micro_batches(monkeypatch, test_lm_methods, limit)
        runs[limit] = gradients(monkeypatch, lambda: test_lm_methods.run(name))
    assert any(grad is not None and grad.abs().max() > 1e-4 for grad in runs["auto"][0])
    assert_same(runs[size][0], runs["auto"][0])
    assert runs["auto"][1] > 2
    assert runs[size][1] <= size


@pytest.mark.parametrize("size", [1, 2, 99])
@pytest.mark.parametrize("fields", [{}, {"pairs": "fixed", "mean_over": "tokens"}])
def test_icus_gradient_is_that_of_the_whole_step(monkeypatch, tokenizer, fields, size):
    """Kept and forget records go forward together, off the way back: a part may be of both."""
    runs = {}

    def run():
        forget = test_icu.tokenized("f", (14, 9, 20, 8), 3, records=[0, 1, 1, 2])
        pool = test_icu.tokenized("p", (10, 16, 12, 8, 7), 4)
        data = test_icu.unlearning_data(tokenizer, forget, pool, test_icu.LOW)
        method = ICU(learning_rate=1e-3, batch_size=3, fresh_per_step=4, path=0, **fields)
        method.unlearn(test_icu.tiny_model("gpt_neo"), data, test_icu.trainer())

    for limit in (size, "auto"):
        in_micro_batches(monkeypatch, test_icu, limit)
        runs[limit] = gradients(monkeypatch, run)
    assert_same(runs[size][0], runs["auto"][0])
    assert runs["auto"][1] > 4
    assert runs[size][1] <= size


def test_an_average_of_micro_batches_would_be_another_gradient():
    """Windows of 3 and 19 labels: their mean over 22 tokens is not the mean of their two means."""
    model, windows = tiny_model("llama"), test_icu.tokenized("f", (4, 20), 0).windows

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    whole = gradient(likelihoods(model, collate(windows)).loss())
    with windows_at_most(1):
        parts = gradient(likelihoods(model, collate(windows)).loss())
    means = [likelihoods(model, collate([window])).loss() for window in windows]
    average = gradient(sum(means) / 2)
    size = float(whole.norm())
    assert float((parts - whole).norm()) < 1e-5 * size
    assert float((average - whole).norm()) > 1e-2 * size


def test_rows_are_those_of_the_whole_batch_also_without_a_gradient():
    """Three windows, the second without a label; the target is known at the first two."""
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    windows = list(test_icu.tokenized("f", (6, 9, 5), 0).windows)
    windows[1].scored[:] = False
    batch = collate(windows)
    target = TargetDistribution.of(other, windows).logits([0, 1, 2], batch)
    num_target = int(np.sum(windows[0].scored)) + 2
    with torch.no_grad():
        whole = likelihoods(model, batch, target, num_target)
        with windows_at_most(1):
            parts = likelihoods(model, batch, target, num_target)
    for one, two in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert (parts.kl != 0).sum() == num_target


@pytest.mark.parametrize(
    ("settings", "close"),
    [
        ({"precision": "bfloat16"}, 2e-2),
        ({"gradient_checkpointing": True}, 1e-5),
        ({"lora_rank": 2}, 1e-5),
    ],
)
def test_windows_are_computed_again_as_they_were(settings, close):
    """In the backward pass: in bfloat16, with activations computed again, with adapters alone."""
    windows = test_icu.tokenized("f", (9, 12, 7), 0).windows

    def gradient(size):
        torch.manual_seed(0)  # of new adapters
        model = tiny_model("llama")
        worker = Trainer(TrainingSettings(device="cpu", micro_batch=size, **settings), Log())
        worker.start(model, 1e-3)
        worker.step(lambda: {"loss": likelihoods(model, collate(windows)).loss()})
        found = [weight.grad for weight in model.parameters() if weight.requires_grad]
        return torch.cat([grad.flatten() for grad in found])

    whole, parts = gradient("auto"), gradient(1)
    assert float(whole.norm()) > 1e-3
    assert float((parts - whole).norm()) < close * float(whole.norm())


@pytest.mark.parametrize(
    "settings", [{"micro_batch": 2}, {"compile": True}, {"optimiser": "adamw_8bit"}]
)
def test_a_divided_model_takes_its_steps_whole_and_plain(monkeypatch, settings):
    monkeypatch.setattr(sharding, "wanted", lambda: True)
    with pytest.raises(UserError, match=f"training.{next(iter(settings))}"):
        Trainer(TrainingSettings(device="cpu", **settings), Log())
