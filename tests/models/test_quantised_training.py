"""Adapters trained on quantised layers: what is measured, merged and saved is not quantised."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import conftest
from command_world import FORGET, RETAIN, SETS, caller
from conftest import GROUPED, tiny_model, tiny_tokenizer
from unlearner import config
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT
from unlearner.config import RunConfig
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, tokenize_set
from unlearner.errors import UserError
from unlearner.models import adapters, loading
from unlearner.models.loading import Loaded
from unlearner.models.quantised_training import BLOCK, merge_into, quantise, restore_layers
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import FinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.memory import measure_step
from unlearner.training.trainer import Trainer

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
CPU = torch.device("cpu")
TOKENS = torch.arange(3, 11)[None]
RANK = 2
WIDE = GROUPED | {"hidden_size": BLOCK, "intermediate_size": 2 * BLOCK, "head_dim": BLOCK // 4}
FORGETTING = (
    "forget $models/known --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
    "--output $out --quiet method.max_epochs=4 method.fresh_per_step=4 evaluation.resamples=20 "
)
LOW = f"training.lora_rank={RANK} method.learning_rate=2e-2 "

with_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def wide(monkeypatch):
    """A model of layers that 4 bits suit, with weights of a trained one's spread."""

    def make(kind="llama"):
        shape = WIDE if kind == "llama" else conftest.ARCHITECTURES[kind] | {"hidden_size": BLOCK}
        monkeypatch.setitem(conftest.ARCHITECTURES, kind, shape)
        model = tiny_model(kind)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.3 if weight.dim() > 1 else 1)
        return model

    return make


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys, wide):
    """What runs a command beside a wide model that knows its records."""
    model, tokenizer = wide(), tiny_tokenizer()
    some = tokenize_set(read_records([*FORGET, *RETAIN], name="records"), tokenizer, Layout())
    learning = FinetuneSettings(epochs=25, batch_size=4, learning_rate=5e-3)
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    learned = finetune_model(model, tokenizer, some, learning, trainer)
    loading.save(learned.model, tokenizer, tmp_path / "models/known")
    monkeypatch.chdir(tmp_path)

    def call(command, out="out"):
        run = caller(tmp_path, capsys, SETS, models=tmp_path / "models", out=out)
        return run(command)

    return call


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def on_quantised(model, bits, rank=RANK):
    """Adapters that do something on quantised layers; their handle, and the layers themselves."""
    names = adapters.linear_layers(model)
    layers = quantise(model, names, bits, CPU)
    torch.manual_seed(1)
    handle = adapters.attach(model, rank, None, names)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    return handle, layers


@with_package
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_learn_on_quantised_layers_and_merge_into_the_layers_as_they_were(
    wide, kind, bits
):
    """Merged: W + 2 B A, alpha being twice the rank, with W not rounded anywhere."""
    model = wide(kind)
    before = copy.deepcopy(model)
    handle, layers = on_quantised(model, bits)
    with adapters.without_adapters(model):
        difference = (logits(model) - logits(before)).norm() / logits(before).norm()
    assert 0 < difference < (0.3 if bits == 4 else 0.03)
    model(TOKENS).logits.logsumexp(-1).sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    plain = copy.deepcopy(before)
    adapters.attach(plain, RANK, None).load_state_dict(
        {f"model.{name}": weight for name, weight in trained.items()}, strict=False
    )
    plain(TOKENS).logits.logsumexp(-1).sum().backward()
    for name, weight in plain.named_parameters():
        if weight.requires_grad:
            alike = torch.cosine_similarity(weight.grad.ravel(), trained[name].grad.ravel(), dim=0)
            assert alike > (0.7 if bits == 4 else 0.98), name

    merged = merge_into(handle, layers).state_dict()
    for name, weight in before.state_dict().items():
        place = name.removesuffix(".weight")
        if place not in layers or not name.endswith(".weight"):
            assert torch.equal(merged[name], weight), name
            continue
        down = trained[f"{place}.lora_A.default.weight"]
        change = 2 * trained[f"{place}.lora_B.default.weight"] @ down
        transposed = weight.shape != change.shape or kind == "gpt2"
        expected = weight + (change.T if transposed else change)
        torch.testing.assert_close(merged[name], expected.detach())


@with_package
def test_four_bits_are_as_near_as_the_format_can_be(wide):
    """The error of NF4 in blocks of 64 on normal numbers is 9 %; layers of 96 stay as they are."""
    model = wide()
    odd = torch.nn.Linear(96, 64)
    model.odd = odd
    names = adapters.linear_layers(model)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    layers = quantise(model, names, 4, CPU)
    assert "odd" in names
    assert {*layers} == {*names} - {"odd"}
    assert model.odd is odd
    for name in layers:
        eye = torch.eye(before[name].shape[1])
        found = model.get_submodule(name)(eye).T
        assert 0.05 < (found - before[name]).norm() / before[name].norm() < 0.12, name
    restore_layers(model, layers)
    assert all(torch.equal(model.get_submodule(n).weight, before[n]) for n in names)
    assert not hasattr(model, "is_loaded_in_4bit")


@with_package
@pytest.mark.parametrize("bits", [4, 8])
def test_a_checkpoint_of_bitsandbytes_is_turned_into_ordinary_numbers(wide, tmp_path, bits):
    """With the error of its format, and in 4 bits only where a row is whole blocks."""
    chosen = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True}
    kind = {} if bits == 8 else {"bnb_4bit_quant_type": "nf4"}
    for name, model in (("wide", wide()), ("narrow", tiny_model("gpt_neo"))):
        loading.save(model, tiny_tokenizer(), tmp_path / "given")
        low = AutoModelForCausalLM.from_pretrained(
            tmp_path / "given",
            quantization_config=BitsAndBytesConfig(**chosen, **kind),
            device_map="cpu",
        )
        low.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    loaded = loading.load_causal_lm(str(tmp_path / "wide"))
    assert f"quantised (bitsandbytes_{bits}bit)" in loaded.notes[0]
    assert loaded.model.dtype == torch.float32
    given = wide().state_dict()
    for name, weight in loaded.model.state_dict().items():
        limit = 0.12 if bits == 4 else 0.02
        assert (weight - given[name]).norm() <= limit * given[name].norm(), name
    if bits == 8:
        loading.load_causal_lm(str(tmp_path / "narrow"))
        return
    with pytest.raises(UserError, match="rows of 32 numbers in blocks of 64"):
        loading.load_causal_lm(str(tmp_path / "narrow"))


@with_package
def test_detaching_gives_the_target_back(wide):
    model = wide()
    before = copy.deepcopy(model)
    trainer = Trainer(TrainingSettings(device="cpu", lora_rank=RANK), Log(), 4)
    trainer.start(model, 1e-2)
    trainer.step(lambda: {"loss": model(TOKENS).logits.square().mean()})
    trainer.detach(model)
    assert {*model.state_dict()} == {*before.state_dict()}
    assert torch.equal(logits(model), logits(before))
    assert [type(part) for part in model.modules()] == [type(part) for part in before.modules()]


@with_package
def test_the_memory_plans_step_is_taken_on_quantised_layers(wide):
    """They are there beside the layers on a processor; afterwards the model is as it was."""
    model, classes = wide(), []
    before = copy.deepcopy(model)

    def loss():
        classes.append(type(model.model.layers[0].mlp.up_proj).__name__)
        return model(TOKENS).logits.square().mean()

    some = Loaded(model, None, "", bits=4)
    cost = measure_step(some, loss, TrainingSettings(device="cpu", lora_rank=RANK))
    assert classes == ["Linear4bit"]
    assert cost.bytes >= 0
    assert [type(part) for part in model.modules()] == [type(part) for part in before.modules()]
    assert torch.equal(logits(model), logits(before))
    assert all(weight.requires_grad for weight in model.parameters())
    assert not hasattr(model, "is_loaded_in_4bit")


@with_package
@pytest.mark.parametrize("bits", [4, 8])
def test_a_run_measures_the_target_as_it_is_and_saves_a_change_of_low_rank(commands, caplog, bits):
    status, _, said, _ = commands(FORGETTING + LOW, "plain")
    assert status in (MET, NOT_MET), said
    status, _, said, _ = commands(f"{FORGETTING}{LOW} model.load_in_{bits}bit=true", "low")
    assert status in (MET, NOT_MET), said
    assert "its layers are quantised" in caplog.text
    assert "MatMul8bitLt" not in caplog.text + said
    plain, low = (json.loads(Path(out, "report.json").read_text()) for out in ("plain", "low"))
    assert low["results"]["target"] == plain["results"]["target"]
    assert any("quantised" in note for note in low["model"]["notes"])
    ma = [low["results"][model]["forget"]["ma"]["value"] for model in ("target", "unlearned")]
    assert ma[1] < ma[0]
    before = load_file("models/known/model.safetensors")
    after = load_file("low/model/model.safetensors")
    assert "quantization_config" not in json.loads(Path("low/model/config.json").read_text())
    assert {name: w.dtype for name, w in before.items()} == {n: w.dtype for n, w in after.items()}
    for name, weight in before.items():
        change = (after[name] - weight).double()
        assert bool(change.abs().sum()) == name.endswith("proj.weight"), name
        if name.endswith("proj.weight"):
            assert torch.linalg.svdvals(change)[RANK] < 1e-5


@with_package
def test_a_run_on_quantised_layers_goes_on_with_the_same_bytes(commands):
    low = f"{FORGETTING}{LOW} model.load_in_4bit=true training.checkpoint_every=1 "
    commands(low, "whole")
    write, steps = Log.write, []

    def stop(self, line):
        write(self, line)
        steps.append(line)
        if line.get("step") == 2 and not self.silent:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", stop)
        assert commands(low, "cut")[0] == 130
    status, _, said, _ = commands("forget --output $out --resume --quiet", "cut")
    assert status in (MET, NOT_MET), said
    files = [Path(out, "model/model.safetensors").read_bytes() for out in ("whole", "cut")]
    assert files[0] == files[1]
    assert "load_in_4bit: true" in Path("cut/run.yaml").read_text()


@with_package
def test_a_search_and_a_comparison_begin_each_run_with_the_target(commands):
    status, _, said, _ = commands(f"{FORGETTING}{LOW} model.load_in_4bit=true search.trials=2")
    assert status in (MET, NOT_MET), said
    comparing = FORGETTING.replace("forget ", "compare ", 1).replace(
        "method.max_epochs=4 method.fresh_per_step=4 ", "--methods npo,simnpo --seeds 1 "
    )
    low = f"training.lora_rank={RANK} model.load_in_4bit=true"
    status, _, said, _ = commands(comparing + low, "many")
    assert status in (MET, NOT_MET), said
    reports = [json.loads(path.read_text()) for path in Path("many").rglob("report.json")]
    assert len(reports) == 2
    assert reports[0]["results"]["target"] == reports[1]["results"]["target"]


@with_package
def test_finetune_learns_on_quantised_layers(commands):
    line = "finetune $models/known --records forget.jsonl --output $out --quiet epochs=1 "
    status, _, said, _ = commands(line + "lora_rank=2 model.load_in_8bit=true")
    assert status == 0, said
    loaded = loading.load_causal_lm("out")
    assert not loaded.notes
    assert loaded.model.dtype == torch.float32


@with_package
def test_a_model_without_a_layer_for_four_bits_is_refused():
    model = tiny_model("gpt_neo")  # 32 units, and 128 between two layers
    names = [name for name in adapters.linear_layers(model) if "c_proj" not in name]
    with pytest.raises(UserError, match=r"load_in_4bit: no linear layer .* multiple of 64"):
        quantise(model, names, 4, CPU)


@with_package
def test_what_cannot_be_quantised_is_refused_and_the_model_left_as_it_was(wide, monkeypatch):
    import bitsandbytes

    def fail(*_, **__):
        raise RuntimeError("no kernel\nfor it")

    model = wide()
    kinds = [type(part) for part in model.modules()]
    monkeypatch.setattr(bitsandbytes.nn, "Params4bit", fail)
    with pytest.raises(UserError, match=r"cannot quantise \S+ on cpu: no kernel for it; leave"):
        quantise(model, adapters.linear_layers(model), 4, CPU)
    assert [type(part) for part in model.modules()] == kinds


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_layers_need_adapters_and_the_package(monkeypatch, bits):
    sections = {"model": {f"load_in_{bits}bit": True}, "training": {"lora_rank": 4}}
    monkeypatch.setattr(config, "find_spec", lambda _: None)
    missing = rf"load_in_{bits}bit: needs the package bitsandbytes; pip install .*quantised"
    with pytest.raises(UserError, match=missing):
        RunConfig.from_sections(sections)
    monkeypatch.setattr(config, "find_spec", lambda _: object())
    assert RunConfig.from_sections(sections).model.bits == bits
    sections["training"] = {}
    with pytest.raises(UserError, match=r"only adapters .* training.lora_rank=16"):
        RunConfig.from_sections(sections)
    both = {"model": {"load_in_4bit": True, "load_in_8bit": True}, "training": {"lora_rank": 4}}
    with pytest.raises(UserError, match="both set"):
        RunConfig.from_sections(both)


def test_a_run_file_without_quantised_layers_does_not_name_them():
    assert "load_in" not in RunConfig.from_sections({}).to_yaml()


@pytest.mark.parametrize("command", ["forget", "finetune"])
def test_it_is_refused_in_one_line_before_anything_is_read(commands, monkeypatch, command):
    monkeypatch.setattr(config, "find_spec", lambda _: None)
    line = FORGETTING + "training.lora_rank=2"
    if command == "finetune":
        line = "finetune $models/known --records forget.jsonl --output $out --quiet lora_rank=2"
    status, _, said, left = commands(line + " model.load_in_4bit=true")
    assert status == WRONG_INPUT
    assert said.count("\n") == 1
    assert "pip install" in said
    assert not [name for name in left if name.startswith("out")]
