"""Layers that wait in the machine's memory: the same figures, and nothing else left there.

The device of these tests is torch's "meta", which has no numbers but is a device of its own; that
figures are the same is seen on the processor, where a layer waits where it computes.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import drawn
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.llama.modeling_llama import LlamaMLP

from command_world import SETS, caller
from conftest import ARCHITECTURES, HYBRIDS, MIXTURES, tiny_model, tiny_tokenizer
from unlearner import processes
from unlearner.cli.app import MET, NOT_MET
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.models import adapters, loading, offloading
from unlearner.models.number_format import NumberFormat
from unlearner.models.offloading import OffloadedLinear, has_offloaded_layers, place
from unlearner.settings import Holding

torch.set_num_threads(1)
TOKENS = torch.arange(3, 40)[None]
CPU, DEVICE = torch.device("cpu"), torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses what computes with numbers of two devices, and counts what is copied to another."""

    def __init__(self):
        super().__init__()
        self.copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {
            some.device
            for some in tree_leaves((args, kwargs))
            if isinstance(some, torch.Tensor) and some.dim()
        }
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, *given):
            self.copies += 1
        elif len(given) > 1:
            raise AssertionError(f"{func} of {given}")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _autocast(monkeypatch):
    """Autocast, which does not know of "meta", is there what it is on a processor."""
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        known = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda _="", known=known: known("cpu"))


def loaded(folder, dtype=torch.bfloat16, name="llama", **holding):
    loading.save(tiny_model(name), tiny_tokenizer(), folder, NumberFormat(dtype))
    return loading.load_causal_lm(str(folder), holding=Holding(**holding))


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


# One layer


def test_a_layers_weights_stay_and_its_bias_goes():
    layer = nn.Linear(2, 3)
    before = layer.weight.data.clone()
    layer.__class__ = OffloadedLinear
    nn.Sequential(layer).to("meta")
    assert (layer.weight.device, layer.bias.device) == (CPU, DEVICE)
    assert torch.equal(layer.weight.data, before)
    assert [*layer.state_dict()] == ["weight", "bias"]
    with OneDevice() as seen:
        found = layer(torch.empty(4, 2, device="meta"))
    assert (found.device, found.shape, seen.copies) == (DEVICE, (4, 3), 1)


# A model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_device_only_weights_of_layers_come_from_elsewhere(tmp_path, dtype):
    """Two blocks of seven layers: each is copied once forwards and once backwards."""
    some = loaded(tmp_path / "given", dtype, casting=True, offload=True)
    model = some.to(DEVICE)
    waiting = {name for name, weight in model.named_parameters() if weight.device == CPU}
    assert len(waiting) == 2 * 7
    assert all(name.endswith("_proj.weight") for name in waiting)
    assert {model.get_parameter(name).dtype for name in waiting} == {dtype}
    assert model.device == DEVICE
    tokens = torch.zeros(2, 9, dtype=torch.long, device="meta")
    with OneDevice() as seen, torch.no_grad():
        model(tokens)
    assert seen.copies == 14
    adapters.attach(model, 2, None)
    with OneDevice() as seen:
        model(tokens, labels=tokens).loss.backward()
    # No gradient is needed of what the first layers read: the embeddings are frozen.
    assert 14 + 11 <= seen.copies <= 2 * 14
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert len(gradients) == 2 * 14
    assert all(gradient is not None and gradient.device == DEVICE for gradient in gradients)
    with OneDevice(), torch.autocast("cpu", torch.bfloat16):
        model(tokens)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES | HYBRIDS | MIXTURES))
def test_a_model_gives_the_same_bits(tmp_path, name):
    some = loaded(tmp_path / "given", torch.float32, name, offload=True)
    whole = logits(some.model)
    assert torch.equal(logits(some.to(CPU)), whole)
    assert has_offloaded_layers(some.model) or not offloading.inner_layers(some.model)


@pytest.mark.slow
def test_a_real_model_too(smollm2, tmp_path):
    """SmolLM2-135M, in bfloat16: what is left on a device are the embeddings, a fifth."""
    known = loading.load_causal_lm(str(smollm2))
    loading.save(known.model, known.tokenizer, tmp_path / "given", NumberFormat(torch.bfloat16))
    some = loading.load_causal_lm(str(tmp_path / "given"), holding=Holding(True, offload=True))
    whole = loading.load_causal_lm(str(tmp_path / "given")).model
    assert torch.equal(logits(some.to(CPU)), logits(whole))
    model = some.to(DEVICE)
    head = "lm_head.weight"  # which is the embeddings on any device that has numbers
    named = ((name, weight) for name, weight in model.named_parameters() if name != head)
    here = sum(weight.nbytes for _, weight in named if weight.device == DEVICE)
    assert here / sum(weight.nbytes for weight in whole.parameters()) < 0.22


def test_adapters_go_where_the_weights_are_to_be_merged_and_the_model_comes_back(
    tmp_path, monkeypatch
):
    some = loaded(tmp_path / "given", torch.float32, offload=True)
    handle, moved = drawn(some.to(CPU)), []
    monkeypatch.setattr(type(handle), "to", lambda _, device: moved.append(("handle", device)))
    monkeypatch.setattr(type(some.model), "to", lambda _, device: moved.append(("model", device)))
    adapters.merge(handle)
    assert moved == [("handle", "cpu"), ("model", CPU)]


def test_adapters_are_merged_into_what_waits(tmp_path):
    found = []
    for offload in (False, True):
        some = loaded(tmp_path / "given", torch.float32, offload=offload)
        found.append(adapters.merge(drawn(some.to(CPU))))
    assert torch.equal(logits(found[0]), logits(found[1]))
    assert [*found[0].state_dict()] == [*found[1].state_dict()]


# Where it is done


def test_unasked_it_is_done_where_the_model_does_not_fit(tmp_path, monkeypatch):
    """Weights and a copy of the output layer may take nine tenths of what is free."""
    some = loaded(tmp_path / "given", casting=True, offload="auto")
    weights = sum(weight.nbytes for weight in some.model.parameters())
    head = some.model.get_output_embeddings().weight.nbytes
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 700)
    needed = (weights + head) / 0.9 - 200  # what torch holds there without using it is free
    for free, fits in ((needed + 1, True), (needed - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        assert offloading._fits(some.model, torch.device("cuda")) == fits
    assert not has_offloaded_layers(some.to(CPU))
    monkeypatch.setattr(offloading, "_fits", lambda *_: False)
    assert has_offloaded_layers(some.to(DEVICE))


def test_a_model_that_has_no_room_is_refused_in_a_line(tmp_path, monkeypatch):
    some = loaded(tmp_path / "given", torch.float32)
    weights = sum(weight.nbytes for weight in some.model.parameters())
    move = type(some.model).to

    def full(model, device):
        if device == DEVICE:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(model, device)

    monkeypatch.setattr(type(some.model), "to", full)
    said = f"the model, of {weights / 1e9:.1f} GB, has no room on meta"
    with pytest.raises(UserError, match=f"{said}; .* or, where .* takes it, model.offload=true"):
        some.to(DEVICE)
    assert not has_offloaded_layers(some.model)
    with pytest.raises(UserError, match=f"{said} even with its layers in the machine's memory; us"):
        place(some.model, DEVICE, offload=True)
    assert some.model.device == CPU


def test_a_model_that_seemed_to_fit_is_tried_once_more_with_its_layers_elsewhere(
    tmp_path, monkeypatch
):
    some = loaded(tmp_path / "given", torch.float32, offload="auto")
    move, tried = type(some.model).to, []

    def full(model, device):
        if device == DEVICE:
            tried.append(has_offloaded_layers(model))
            if not tried[-1]:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return move(model, device)

    monkeypatch.setattr(type(some.model), "to", full)
    assert has_offloaded_layers(some.to(DEVICE))
    assert tried[:2] == [False, True]
    assert some.model.device == DEVICE


def test_layers_whose_weights_other_code_reads_cannot_wait(tmp_path, monkeypatch):
    some = loaded(tmp_path / "given", torch.float32, offload=True)

    def forward(self, x):
        if self.up_proj.weight.device != x.device:
            raise RuntimeError("Expected all tensors to be on the same device")
        return x

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    with pytest.raises(UserError, match=r"LlamaForCausalLM does not run .* \(Expected all tenso"):
        some.to(DEVICE)
    assert not has_offloaded_layers(some.model)


def test_a_model_that_processes_divide_has_all_of_it_on_the_device(tmp_path, monkeypatch):
    some = loaded(tmp_path / "given", torch.float32)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(offloading, "_fits", lambda *_: False)
    place(some.model, CPU, "auto")
    assert not has_offloaded_layers(some.model)
    with pytest.raises(UserError, match=r"model.offload: .* --use_fsdp divides .* one of both out"):
        place(some.model, CPU, offload=True)


def test_who_changes_weights_has_them_on_the_device():
    config = RunConfig.from_sections({"model": {"offload": True}})
    assert config.model.holding == Holding("auto", True)
    assert config.with_whole_weights().model.holding == Holding()
    assert "offload" not in RunConfig.from_sections({}).to_yaml()


# Commands

with_package = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    loading.save(
        tiny_model("llama"), tiny_tokenizer(), tmp_path / "models/m", NumberFormat(torch.bfloat16)
    )
    monkeypatch.chdir(tmp_path)

    def run(command, out):
        return caller(tmp_path, capsys, SETS, models=tmp_path / "models", out=out)(command)

    return run


def test_layers_wait_while_adapters_learn_records(call, monkeypatch):
    placed, place = [], offloading.place
    monkeypatch.setattr(loading, "place", lambda *given: placed.append(given[2]) or place(*given))
    line = "finetune $models/m --records forget.jsonl --output $out --quiet epochs=1 "
    status, _, said, _ = call(f"{line} training.lora_rank=2 model.offload=true", "learned")
    assert (status, said) == (MET, "")
    assert placed == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "training.lora_rank=2 training.gradient_checkpointing=true",
        "training.lora_rank=2 training.precision=bfloat16 model.layerwise_casting=true",
        pytest.param("training.lora_rank=2 model.load_in_8bit=true", marks=with_package),
        "",
    ],
)
def test_a_run_has_the_figures_of_one_without(call, setting):
    """Adapters learn on layers that wait; weights that are trained themselves are on the device."""
    for out, offload in (("plain", "false"), ("waits", "true")):
        status, _, said, _ = call(
            "forget $models/m --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
            "--output $out --quiet --force method.max_epochs=2 method.fresh_per_step=4 "
            f"evaluation.resamples=20 {setting} model.offload={offload}",
            out,
        )
        assert status in (MET, NOT_MET), said
    reports = [json.loads(Path(out, "report.json").read_text()) for out in ("plain", "waits")]
    assert reports[0]["results"] == reports[1]["results"]
    notes = reports[1]["model"].get("notes", ())
    waits = any("wait in the machine's memory" in note for note in notes)
    assert waits == ("lora_rank" in setting)
    weights = [load_file(f"{out}/model/model.safetensors") for out in ("plain", "waits")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
