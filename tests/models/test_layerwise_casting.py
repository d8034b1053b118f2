"""Layers held in 16 bits: the same figures as of float32, half the memory, and when it is done."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from test_adapters import drawn
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from command_world import FORGET, RETAIN, SETS, caller
from conftest import ARCHITECTURES, HYBRIDS, MIXTURES, tiny_model, tiny_tokenizer
from unlearner.cli.app import MET, NOT_MET
from unlearner.config import RunConfig
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, tokenize_set
from unlearner.errors import UserError
from unlearner.families.causal_lm import CausalLM
from unlearner.models import adapters, loading
from unlearner.models.layerwise_casting import CastLinear, has_cast_layers, widen
from unlearner.models.number_format import NumberFormat
from unlearner.provenance import digest_model
from unlearner.settings import Holding, TrainingSettings
from unlearner.training.finetune import FinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)
TOKENS = torch.arange(3, 40)[None]
BFLOAT16 = NumberFormat(torch.bfloat16)


def stored(folder, name="llama", chosen=BFLOAT16):
    """A folder with a model in a format of 16 bits."""
    loading.save(tiny_model(name), tiny_tokenizer(), folder, chosen)
    return str(folder)


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def held(model):
    return sum(weight.nbytes for weight in model.parameters())


# One layer


def layer(dtype=torch.bfloat16):
    """W = [[1, 2], [-3, 0.5]], b = [1, 0]."""
    made = nn.Linear(2, 2)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5]]))
        made.bias.copy_(torch.tensor([1.0, 0.0]))
    made.weight.data, made.__class__ = made.weight.data.to(dtype), CastLinear
    return made


def test_one_layer_by_hand():
    """W (1.001, 2) + b = (1.001 + 4 + 1, -3.003 + 1), where bfloat16 has 1 for 1.001; the gradient
    of the sum is W' (1, 1) = (-2, 2.5)."""
    some = layer()
    given = torch.tensor([[1.001, 2.0]], requires_grad=True)
    found = some(given)
    torch.testing.assert_close(found, torch.tensor([[6.001, -2.003]]), rtol=0, atol=1e-6)
    found.sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [[-2.0, 2.5]]
    assert (some.weight.dtype, some.bias.dtype) == (torch.bfloat16, torch.float32)
    assert some.weight.grad is None


def test_under_autocast_a_layer_is_what_float32_weights_give_there():
    some, given = layer(), torch.randn(3, 2)
    whole = nn.Linear(2, 2)
    whole.load_state_dict(some.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(some(given), whole(given))


def test_nothing_float32_is_kept_for_the_backward_pass():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer()(torch.ones(1, 2, requires_grad=True)).sum()
    assert [tensor.dtype for tensor in kept] == [torch.bfloat16]


# A model

# Their layers' weights are read by other code, so that they stay in float32.
READ_THEMSELVES = {"falcon_mamba", "jamba", "mamba", "recurrent_gemma"}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES | HYBRIDS | MIXTURES))
def test_a_model_gives_the_same_bits_as_in_float32(tmp_path, name):
    folder = stored(tmp_path / "given", name)
    whole, cast = (
        loading.load_causal_lm(folder, holding=Holding(casting)) for casting in (False, True)
    )
    layers = [part for part in whole.model.modules() if type(part) is nn.Linear]
    inside = [part for part in layers if part is not whole.model.get_output_embeddings()]
    if name in READ_THEMSELVES:
        inside = []
    assert has_cast_layers(cast.model) == bool(inside)
    assert torch.equal(logits(whole.model), logits(cast.model))
    own = {id(part.weight): part.weight for part in inside}.values()
    assert held(whole.model) - held(cast.model) == sum(2 * weight.numel() for weight in own)
    assert digest_model(whole.model) == digest_model(cast.model)
    assert cast.model.dtype == torch.float32
    assert whole.notes == cast.notes[: len(whole.notes)]
    widen(cast.model)
    assert held(whole.model) == held(cast.model)
    assert torch.equal(logits(whole.model), logits(cast.model))


@pytest.mark.slow
def test_a_real_model_too(smollm2, tmp_path):
    """SmolLM2-135M: logits of a long text and, with what was read kept, of a token behind it."""
    loaded = loading.load_causal_lm(str(smollm2))
    loading.save(loaded.model, loaded.tokenizer, tmp_path / "given", BFLOAT16)
    found = []
    for casting in (False, True):
        model = loading.load_causal_lm(str(tmp_path / "given"), holding=Holding(casting)).model
        with torch.no_grad():
            first = model(torch.arange(500, 900)[None], use_cache=True)
            then = model(torch.tensor([[7]]), past_key_values=first.past_key_values)
        found.append((first.logits, then.logits, held(model)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[1][2] < 0.61 * found[0][2]


def test_float16_too_and_layers_of_another_format_stay_whole(tmp_path):
    whole = tiny_model("llama")
    folder = stored(tmp_path / "half", chosen=NumberFormat(torch.float16))
    assert has_cast_layers(loading.load_causal_lm(folder, holding=Holding(True)).model)
    folder = stored(tmp_path / "given")
    path = Path(folder, "model.safetensors")
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = whole.state_dict()[name]
    save_file(weights, path, metadata={"format": "pt"})
    cast = loading.load_causal_lm(folder, holding=Holding(True)).model
    kinds = {n: part.weight.dtype for n, part in cast.named_modules() if type(part) is CastLinear}
    assert name.removesuffix(".weight") not in kinds
    assert len(kinds) == 2 * 7 - 1
    assert torch.equal(cast.state_dict()[name], weights[name])


def test_a_model_in_float32_has_nothing_to_hold(tmp_path):
    loading.save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "given")
    loaded = loading.load_causal_lm(str(tmp_path / "given"), holding=Holding(True))
    assert not has_cast_layers(loaded.model)
    assert not loaded.notes


def test_a_model_that_takes_its_layers_format_for_its_own_is_whole(tmp_path, monkeypatch):
    """As T5 gives a layer what it has in the format of the layer's weights."""
    forward = LlamaMLP.forward
    monkeypatch.setattr(
        LlamaMLP, "forward", lambda self, x: forward(self, x.to(self.up_proj.weight.dtype)).float()
    )
    folder = stored(tmp_path / "given")
    loaded = loading.load_causal_lm(folder, holding=Holding(True))
    assert not has_cast_layers(loaded.model)
    assert not loaded.notes
    assert held(loaded.model) == held(loading.load_causal_lm(folder).model)


def test_unasked_it_is_done_from_a_size_on(tmp_path, monkeypatch):
    folder = stored(tmp_path / "given")
    loaded = loading.load_causal_lm(folder, holding=Holding("auto"))
    assert not has_cast_layers(loaded.model)
    monkeypatch.setattr(loading, "LARGE_MODEL", loading.num_parameters(loaded.model))
    assert has_cast_layers(loading.load_causal_lm(folder, holding=Holding("auto")).model)
    assert not has_cast_layers(loading.load_causal_lm(folder).model)


@pytest.mark.parametrize("casting", [True, "auto"])
def test_a_damaged_file_is_refused_as_it_is_without(tmp_path, casting):
    folder = stored(tmp_path / "given")
    path = Path(folder, "model.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError) as plain:
        loading.load_causal_lm(folder)
    with pytest.raises(UserError) as refused:
        loading.load_causal_lm(folder, holding=Holding(casting))
    assert str(refused.value) == str(plain.value)


def test_the_files_of_a_hub_id_say_it_too(tmp_path, monkeypatch):
    """Those of an earlier download, and those that this one has brought."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    stored(folder / "snapshots" / "1234")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1234")
    loaded = loading.load_causal_lm("owner/name", holding=Holding(True))
    assert has_cast_layers(loaded.model)
    known, asked = loading._stored, []

    def late(folder):
        asked.append(folder)
        return NumberFormat() if len(asked) == 1 else known(folder)

    monkeypatch.setattr(loading, "_stored", late)
    again = loading.load_causal_lm("owner/name", holding=Holding(True))
    assert has_cast_layers(again.model)
    assert torch.equal(logits(loaded.model), logits(again.model))


def test_what_is_saved_of_it_are_the_files_that_it_was_loaded_from(tmp_path):
    folder = stored(tmp_path / "given")
    loaded = loading.load_causal_lm(folder, holding=Holding(True))
    loaded.save(loaded.model, tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("given", "again"))
    assert first.keys() == again.keys()
    assert all(first[name].dtype == again[name].dtype for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)
    configs = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("given", "again")
    ]
    assert configs[0] == configs[1]


# Adapters


def test_merged_adapters_are_rounded_as_they_would_be_saved(tmp_path):
    folder = stored(tmp_path / "given")
    whole, cast = (loading.load_causal_lm(folder, holding=Holding(c)).model for c in (False, True))
    handles = [drawn(model) for model in (whole, cast)]
    assert torch.allclose(logits(whole), logits(cast), rtol=1e-6, atol=1e-6)
    with adapters.without_adapters(cast):
        assert torch.equal(logits(cast), logits(loading.load_causal_lm(folder).model))
    merged = [adapters.merge(handle) for handle in handles]
    for name, weight in merged[0].state_dict().items():
        rounded = weight.bfloat16() if name.endswith("_proj.weight") else weight
        assert torch.equal(merged[1].state_dict()[name], rounded), name


def test_adapters_get_the_gradients_of_float32(tmp_path):
    folder = stored(tmp_path / "given")
    found = []
    for casting in (False, True):
        model = loading.load_causal_lm(folder, holding=Holding(casting)).model
        drawn(model)
        model(TOKENS, labels=TOKENS).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


# Commands

HELD, WHOLE = "model.layerwise_casting=true", "model.layerwise_casting=false"
FORGETTING = (
    "forget $models/known --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
    "--output $out --quiet method.max_epochs=4 method.fresh_per_step=4 evaluation.resamples=20 "
)
LOW = "training.lora_rank=2 method.learning_rate=2e-2 "


with_package = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def short(tmp_path, monkeypatch, capsys):
    """What runs a command beside a model of bfloat16 that knows its records."""
    tokenizer = tiny_tokenizer()
    some = tokenize_set(read_records([*FORGET, *RETAIN], name="records"), tokenizer, Layout())
    learning = FinetuneSettings(epochs=25, batch_size=4, learning_rate=5e-3)
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    learned = finetune_model(tiny_model("llama"), tokenizer, some, learning, trainer)
    loading.save(learned.model, tokenizer, tmp_path / "models/known", BFLOAT16)
    monkeypatch.chdir(tmp_path)

    def call(command, out="out"):
        return caller(tmp_path, capsys, SETS, models=tmp_path / "models", out=out)(command)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "",
        "training.precision=bfloat16 training.gradient_checkpointing=true training.micro_batch=2",
        pytest.param("model.load_in_8bit=true", marks=with_package),
    ],
)
def test_a_run_has_the_figures_of_one_in_float32(short, caplog, setting):
    """Adapters are trained on layers that are held so; the saved files are measured likewise."""
    for out, how in (("plain", WHOLE), ("cast", HELD)):
        status, _, said, _ = short(f"{FORGETTING}{LOW} {how} {setting}", out)
        assert status in (MET, NOT_MET), said
    assert "its layers are held in bfloat16" in caplog.text
    reports = [json.loads(Path(out, "report.json").read_text()) for out in ("plain", "cast")]
    assert reports[0]["results"] == reports[1]["results"]
    assert reports[0]["verdict"] == reports[1]["verdict"]
    weights = [load_file(f"{out}/model/model.safetensors") for out in ("plain", "cast")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any("held in bfloat16" in note for note in reports[1]["model"]["notes"])


def test_weights_that_are_trained_themselves_are_float32(short):
    for out, setting in (("plain", WHOLE), ("cast", HELD)):
        status, _, said, _ = short(f"{FORGETTING} {setting}", out)
        assert status in (MET, NOT_MET), said
    weights = [load_file(f"{out}/model/model.safetensors") for out in ("plain", "cast")]
    before = load_file("models/known/model.safetensors")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in before)
    assert not all(torch.equal(weights[0][name], before[name]) for name in before)


def test_check_and_evaluate_say_the_same(short):
    sets = "--forget forget.jsonl --holdout holdout.jsonl --retain retain.jsonl"
    said = [
        short(f"check $models/known {sets} training.lora_rank=2 {setting}", "")[1]
        for setting in (WHOLE, HELD)
    ]
    assert said[0].splitlines()[0] == said[1].splitlines()[0]
    figures = []
    for out, setting in (("plain", WHOLE), ("cast", HELD)):
        line = f"evaluate $models/known --target $models/known {sets} --output $out --quiet"
        status, _, err, _ = short(f"{line} evaluation.resamples=20 {setting}", out)
        assert status in (MET, NOT_MET), err
        figures.append(json.loads(Path(out, "report.json").read_text())["results"])
    assert figures[0] == figures[1]


def test_it_is_refused_with_another_format_and_for_a_classifier():
    sections = {"model": {"layerwise_casting": True, "dtype": "float32"}}
    with pytest.raises(UserError, match=r"held, and saved, .* model.dtype=float32 asks for anoth"):
        RunConfig.from_sections(sections)
    sections["model"]["layerwise_casting"] = "auto"
    assert RunConfig.from_sections(sections).model.holding.casting is False
    assert "layerwise_casting" not in RunConfig.from_sections({}).to_yaml()


def test_a_model_that_it_is_compared_with_is_held_alike(tmp_path):
    config = RunConfig.from_sections(
        {"model": {"name": stored(tmp_path / "given"), "layerwise_casting": True}}
    )
    loaded = CausalLM().load_named(config)
    assert (loaded.holding.casting, has_cast_layers(loaded.model)) == (True, True)
