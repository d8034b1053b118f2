"""Models that read images as well: the language model is unlearned, the rest stays as it was."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    BartConfig,
    T5Config,
)

from command_world import FORGET_RUN, SETS, SHORT, caller
from conftest import GROUPED, LINEAR, VOCAB, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.inference.generation import shares_cache
from unlearner.models import adapters, loading
from unlearner.models.heads import output_head
from unlearner.models.loading import load_causal_lm
from unlearner.models.number_format import NumberFormat

torch.set_num_threads(1)
TEXT = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 14,
}
TOKENS = {
    "image_token_id": 95,
    "video_token_id": 94,
    "vision_start_token_id": 93,
    "vision_end_token_id": 92,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
SHAPES = {
    "gemma3": {
        "text_config": GROUPED | TEXT | {"sliding_window": 8},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 95,
        "boi_token_index": 94,
        "eoi_token_index": 93,
    },
    "qwen2_5_vl": {
        "text_config": GROUPED | TEXT | {"rope_parameters": ROPE},
        "vision_config": QWEN_VISION | {"fullatt_block_indexes": [0]},
    }
    | TOKENS,
    "qwen3_vl": {
        "text_config": GROUPED | TEXT | {"rope_parameters": ROPE},
        "vision_config": QWEN_VISION
        | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    }
    | TOKENS,
    "qwen3_5": {
        "text_config": LINEAR | TEXT,
        "vision_config": QWEN_VISION | {"num_position_embeddings": 16},
    }
    | TOKENS,
    "llava": {
        "text_config": GROUPED | TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "siglip_vision_model"},
        "image_token_index": 95,
        "vision_feature_layer": -1,
    },
    "mistral3": {
        "text_config": GROUPED | TEXT | {"model_type": "mistral"},
        "vision_config": VISION | {"model_type": "pixtral", "head_dim": 16},
        "image_token_index": 95,
        "vision_feature_layer": -1,
    },
}
PROCESSOR = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}}


def folder_of(name, folder):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPES[name])
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    loading.save(model, tiny_tokenizer(), folder, NumberFormat(torch.bfloat16))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(params=SHAPES)
def multimodal(request, tmp_path):
    return folder_of(request.param, tmp_path / "given")


def test_only_the_language_model_is_trained(multimodal):
    loaded = load_causal_lm(str(multimodal))
    assert type(loaded.model).__name__.endswith("ForConditionalGeneration")
    assert loaded.family == "causal-lm"
    assert "its language model is used" in loaded.notes[0]
    trained = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("language_model" in name or "lm_head" in name for name in trained)
    assert output_head(loaded.model) is not None
    attached = adapters.linear_layers(loaded.model)
    assert attached
    assert all("language_model" in name for name in attached)
    assert shares_cache(loaded.model, output_head(loaded.model)) == (
        "qwen3_5" not in (loaded.model.config.model_type)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_changes_the_language_model_and_nothing_else(
    name, rank, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = folder_of(name, tmp_path / "given")
    call = caller(tmp_path, capsys, SETS, models=tmp_path)
    command = (FORGET_RUN + "--forget forget.jsonl --force").replace("good", "given")
    method = f"--method gradient_difference method.learning_rate=1e-2 training.lora_rank={rank}"
    short = SHORT.replace("method.fresh_per_step=4", "criteria.perplexity_ratio=1e6")
    status, _, err, _ = call(f"{command} {short} {method}")
    assert status in (0, 3), err
    out = tmp_path / "out/run/model"
    before, after = (load_file(f / "model.safetensors") for f in (given, out))
    assert before.keys() == after.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert all("language_model" in n or "lm_head" in n for n in changed)
    assert changed
    assert (
        json.loads((out / "config.json").read_text())["architectures"]
        == (json.loads((given / "config.json").read_text())["architectures"])
    )
    assert (out / "preprocessor_config.json").read_text() == json.dumps(PROCESSOR)
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert "its language model is used" in report["model"]["notes"][0]


@pytest.mark.parametrize(
    "config",
    [
        T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4),
        BartConfig(
            vocab_size=VOCAB,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
        ),
    ],
    ids=["t5", "bart"],
)
def test_encoder_decoders_are_refused(config, tmp_path):
    loading.save(AutoModelForSeq2SeqLM.from_config(config), tiny_tokenizer(), tmp_path / "given")
    with pytest.raises(UserError, match="a causal language model is needed"):
        load_causal_lm(str(tmp_path / "given"))
