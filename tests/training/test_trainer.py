"""One step by hand, and what surrounds it: precision, clipping, what is not finite, the log."""

import json
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

from conftest import tiny_model
from unlearner.settings import TrainingSettings
from unlearner.training.checkpoints import TrainingError
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer


class One(nn.Module):
    """A model of one parameter w."""

    def __init__(self, start=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))


def trainer(log=None, **settings):
    return Trainer(TrainingSettings(device="cpu", **settings), log or Log())


def started(start=1.0, rate=0.1, log=None, betas=(0.9, 0.98), **settings):
    some, model = trainer(log, **settings), One(start)
    return some, some.start(model, rate, betas=betas)


# One step


def test_two_adam_steps_by_hand():
    """L = 3 w^2 + 2 w, two terms. At w = 1 the gradient is 6 + 2 = 8.

    Step 1: m = 0.1 * 8 = 0.8, corrected by 1 - 0.9 to 8; v = 0.02 * 64 = 1.28, corrected by
    1 - 0.98 to 64; w = 1 - 0.1 * 8 / sqrt(64) = 0.9.
    Step 2: gradient 6 * 0.9 + 2 = 7.4; m = 0.9 * 0.8 + 0.1 * 7.4 = 1.46, over 0.19;
    v = 0.98 * 1.28 + 0.02 * 54.76 = 2.3496, over 0.0396.
    """
    some, model = started()

    def loss():
        return {"square": 3 * model.w**2, "line": 2 * model.w}

    assert some.step(loss) == {"square": 3.0, "line": 2.0}
    assert model.w.item() == pytest.approx(0.9)
    some.step(loss)
    second = 0.9 - 0.1 * (1.46 / 0.19) / math.sqrt(2.3496 / 0.0396)
    assert model.w.item() == pytest.approx(second, rel=1e-6)
    assert some.steps == 2


def test_the_step_is_on_the_sum_of_the_terms():
    """2 w - 2 w has gradient 0, so nothing moves; 2 w alone would move by the rate."""
    some, model = started()
    some.step(lambda: {"a": 2 * model.w, "b": -2 * model.w})
    assert model.w.item() == 1.0


def test_gradients_do_not_pile_up_between_steps():
    """With both betas 0 a step is rate * sign(gradient) whatever was before: 1, 0.9, 1.0."""
    some, model = started(betas=(0.0, 0.0))
    some.step(lambda: {"a": 100 * model.w})
    some.step(lambda: {"a": -model.w})
    assert model.w.item() == pytest.approx(1.0)


def test_weight_decay_is_decoupled():
    """AdamW: w * (1 - 0.1 * 0.5) = 0.95, then the step of 0.1."""
    some, model = trainer(), One()
    some.start(model, 0.1, weight_decay=0.5)
    some.step(lambda: {"a": model.w * 1.0})
    assert model.w.item() == pytest.approx(0.85)


def test_gradients_are_scaled_down_to_the_given_norm_and_never_up():
    """Two parameters with gradients 3 and 4 have norm 5: limit 0.5 makes them 0.3 and 0.4."""

    def gradients(limit):
        some, model = trainer(max_gradient_norm=limit), nn.Linear(2, 1, bias=False)
        model = some.start(model, 0.0)
        some.step(lambda: {"a": (model.weight * torch.tensor([[3.0, 4.0]])).sum()})
        return model.weight.grad.flatten().tolist()

    assert gradients(0.5) == pytest.approx([0.3, 0.4], rel=1e-5)
    assert gradients(50.0) == gradients(None) == [3.0, 4.0]


def test_private_terms_are_learned_from_and_not_told(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    some, model = started(log=log)
    told = some.step(lambda: {"open": 0 * model.w, "secret": 8 * model.w}, private=("secret",))
    log.close()
    assert told == {"open": 0.0}
    assert "secret" not in (tmp_path / "log.jsonl").read_text()
    assert model.w.item() == pytest.approx(0.9)


# What is not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_stops_the_run_and_leaves_the_weights(value):
    some, model = started()
    with pytest.raises(TrainingError, match="step 1: bad is not a finite number"):
        some.step(lambda: {"good": model.w * 1.0, "bad": model.w * value})
    assert model.w.item() == 1.0
    assert some.steps == 0


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights(limit):
    """The root of 0 is 0, its slope is infinite; clipped it would be no number."""
    some, model = started(start=0.0, max_gradient_norm=limit)
    with pytest.raises(TrainingError, match="step 1: gradient norm is not a finite number"):
        some.step(lambda: {"root": model.w.sqrt()})
    assert model.w.item() == 0.0


# Precision


def test_bfloat16_computes_in_bfloat16_and_keeps_weights_and_optimiser_in_float32():
    some = trainer(precision="bfloat16")
    model = some.start(nn.Linear(4, 4), 0.1)
    seen = []

    def loss():
        out = model(torch.ones(2, 4))
        seen.append(out.dtype)
        return {"a": out.sum()}

    some.step(loss)
    assert seen == [torch.bfloat16]
    assert model.weight.dtype == torch.float32
    states = some.optimiser.state[model.weight]
    assert states["exp_avg"].dtype == torch.float32
    assert model(torch.ones(2, 4)).dtype == torch.float32  # behind the step all is as before


def test_runs_of_different_precision_can_follow_each_other_in_one_process():
    for precision in ("float32", "bfloat16", "float32"):
        some, model = started(precision=precision)
        some.step(lambda model=model: {"a": model.w * 1.0})
        assert model.w.item() == pytest.approx(0.9)


# Dropout and checkpointing


def dropping_model():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=96,
        hidden_size=32,
        ffn_dim=64,
        word_embed_proj_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        dropout=0.5,
        attention_dropout=0.5,
        activation_dropout=0.5,
        layerdrop=0.5,
    )
    return OPTForCausalLM(config)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_off_in_every_step(checkpointing):
    """OPT's layers hold the rate themselves and ask whether they are in training."""
    some = trainer(gradient_checkpointing=checkpointing)
    model = some.start(dropping_model(), 0.0)
    ids = torch.arange(2, 22)[None]

    def loss():
        return {"a": model(input_ids=ids, labels=ids).loss}

    values = {some.step(loss)["a"] for _ in range(4)}
    assert len(values) == 1


def test_checkpointing_recomputes_also_after_the_model_was_asked():
    """Asking ends training mode, in which alone a layer's forward runs again going backward."""
    calls = []
    ids = torch.arange(2, 22)[None]

    def layer_calls(model, some):
        calls.clear()
        some.step(lambda: {"a": model(input_ids=ids, labels=ids).loss})
        return len(calls)

    def make(checkpointing):
        some = trainer(gradient_checkpointing=checkpointing)
        model = some.start(tiny_model("llama"), 0.0)
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        return model, some

    model, some = make(True)
    assert layer_calls(model, some) == 2
    model.eval()
    assert layer_calls(model, some) == 2
    assert layer_calls(*make(False)) == 1


def test_checkpointing_gives_the_same_gradient():
    ids = torch.arange(2, 22)[None]

    def gradient(checkpointing):
        some = trainer(gradient_checkpointing=checkpointing)
        model = some.start(tiny_model("gpt_neo"), 0.0)
        some.step(lambda: {"a": model(input_ids=ids, labels=ids).loss})
        return model.transformer.wte.weight.grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-4, atol=1e-6)


def test_only_parameters_that_may_change_are_trained():
    some, model = trainer(), nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    some.start(model, 0.1)
    before = model.bias.clone()
    some.step(lambda: {"a": model(torch.ones(1, 2)).sum()})
    assert torch.equal(model.bias, before)


# Randomness, log, settings


def test_the_generator_follows_the_seed_and_not_the_global_one():
    def draws(seed):
        torch.manual_seed(torch.seed() % 1000)
        return torch.randperm(20, generator=trainer(seed=seed).generator).tolist()

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)


def test_the_log_has_a_line_for_each_step_and_round_and_tells_the_listener(tmp_path):
    heard = []
    log = Log(tmp_path / "log.jsonl", heard.append)
    some, model = started(log=log)
    some.log_round({"round": 0, "active": 2})
    some.step(lambda: {"a": model.w * 1.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    log.close()
    assert lines == heard == [{"round": 0, "active": 2}, {"step": 1, "loss": {"a": 1.0}}]
    assert some.rounds == [{"round": 0, "active": 2}]


def test_a_closed_log_is_opened_again_at_its_end(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for number in range(2):
        log.write({"step": number})
        log.close()
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n'


def test_a_log_without_a_path_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Log().write({"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("keep", "saved"), [(True, True), (False, False)])
def test_the_last_weights_are_kept_only_where_asked_for(tmp_path, keep, saved):
    log = Log(tmp_path / "log.jsonl")
    some = trainer(log, keep_checkpoints=keep)
    model = some.start(tiny_model("gpt2"), 0.1)
    some.keep(model)
    some.restore(model)
    assert (tmp_path / "checkpoints" / "last" / "model.safetensors").exists() is saved


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"max_gradient_norm": 0},
        {"precision": "float16"},
        {"device": "tpu"},
        {"epochs": 3},
        {"max_gradient_norm": math.inf},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)
