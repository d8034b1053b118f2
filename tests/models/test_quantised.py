"""Quantised checkpoints: turned into ordinary numbers where that can be done, else one line."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from classifier_world import SEQUENCE, tiny_classifier, toy_tokenizer
from conftest import VOCAB, tiny_model, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.models import loading
from unlearner.models.loading import load_causal_lm, load_classifier

torch.set_num_threads(1)
IDS = torch.arange(2, 14)[None]
BLOCK = 4

# As published checkpoints have them in config.json.
KINDS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "bitsandbytes_4bit": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
    },
    "bitsandbytes_8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {},
        "quantization_status": "compressed",
    },
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4"}}},
    "quanto": {"quant_method": "quanto", "weights": "int8"},
    "hqq": {"quant_method": "hqq", "quant_config": {}},
    "aqlm": {"quant_method": "aqlm"},
    "bitnet": {"quant_method": "bitnet"},
    "eetq": {"quant_method": "eetq", "weights": "int8"},
    "higgs": {"quant_method": "higgs"},
    "spqr": {"quant_method": "spqr"},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8"},
    "telepathy": {"quant_method": "telepathy"},
    "an unnamed method": {"bits": 4},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
}


@pytest.fixture
def folder(tmp_path):
    loading.save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "given")
    return tmp_path / "given"


def configure(folder, quantization):
    path = folder / "config.json"
    values = {"quantization_config": quantization, "dtype": "bfloat16"}
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def to_fp8(folder):
    """In blocks with a scale each, as Qwen3-FP8 and DeepSeek-V3; returns the weights meant."""
    kept, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            kept[name] = meant[name] = weight.to(torch.bfloat16)
            continue
        rows, columns = weight.shape
        blocks = weight.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        short = (blocks / scale[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn)
        kept[name], kept[f"{name}_scale_inv"] = short, scale.contiguous()
        wide = short.float().view_as(blocks) * scale[:, None, :, None]
        meant[name] = wide.view(rows, columns)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    configure(
        folder,
        {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
        },
    )
    return meant


def test_fp8_is_turned_into_ordinary_numbers_and_saved_as_such(folder, tmp_path):
    meant = to_fp8(folder)
    loaded = load_causal_lm(str(folder))
    own = loaded.model.state_dict()
    for name, weight in meant.items():  # rounded to bfloat16 by transformers
        torch.testing.assert_close(own[name], weight.float(), rtol=2**-7, atol=0)
    assert "quantised (fp8)" in loaded.notes[0]
    assert loaded.format.dtype == torch.bfloat16
    loaded.save(loaded.model, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(again.eval()(IDS).logits, loaded.model(IDS).logits)


def test_mxfp4_is_turned_into_ordinary_numbers_and_saved_as_such(tmp_path):
    """Experts as gpt-oss has them: 32 numbers of 4 bits to a scale."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_oss",
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    folder = tmp_path / "given"
    loading.save(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), folder)
    kept = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inner, outer = weight.shape
            shape = (experts, outer, inner // 32)
            kept[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            kept[f"{name}_scales"] = torch.full(shape, 120, dtype=torch.uint8)
        else:
            kept[name] = weight.to(torch.bfloat16)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    configure(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    loaded = load_causal_lm(str(folder))
    assert loaded.model.dtype == torch.float32
    assert "quantised (mxfp4)" in loaded.notes[0]
    loaded.save(loaded.model, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(again.eval()(IDS).logits, loaded.model(IDS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_turned_is_refused_with_its_kind_and_a_way_out(kind, folder):
    if kind.startswith("bitsandbytes") and importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed, and reads it")
    configure(folder, KINDS[kind])
    with pytest.raises(UserError, match="quantised") as refused:
        load_causal_lm(str(folder))
    words = str(refused.value)
    assert f"({kind})" in words
    assert "give the checkpoint that it was quantised from" in words
    assert "\n" not in words


@pytest.mark.parametrize("broken", [[], "gptq", 5, {"quant_method": 5}, {"quant_method": None}])
def test_a_broken_quantisation_section_is_refused_in_one_line(broken, folder):
    configure(folder, broken)
    with pytest.raises(UserError) as refused:
        load_causal_lm(str(folder))
    assert "\n" not in str(refused.value)


def test_a_classifier_is_looked_at_too(tmp_path):
    tiny_classifier(SEQUENCE).save_pretrained(tmp_path / "given")
    toy_tokenizer().save_pretrained(tmp_path / "given")
    configure(tmp_path / "given", KINDS["gptq"])
    with pytest.raises(UserError, match="gptq"):
        load_classifier(str(tmp_path / "given"))


@pytest.mark.parametrize("name", ["model.gguf", "a-folder/model-q4_k_m.gguf"])
def test_gguf_is_named(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"GGUF")
    given = path.parent if "/" in name else path
    with pytest.raises(UserError, match=r"GGUF files are quantised weights of llama\.cpp"):
        load_causal_lm(str(given))


def test_an_unfinished_run_is_named_with_the_way_on(folder, tmp_path):
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"not finished.*--resume"):
        load_causal_lm(str(tmp_path / "out"))
    shutil.copytree(folder, tmp_path / "run" / "model")
    with pytest.raises(UserError, match=r"its model is .*run/model"):
        load_causal_lm(str(tmp_path / "run"))
