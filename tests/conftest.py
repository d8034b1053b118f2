"""Tiny models of many architectures, with weights that are not the initial ones.

An untrained model predicts nearly the same everywhere, so a padding fault would not show; the
weights are therefore drawn wider than the architectures' own initialisation does.
"""

import fcntl
import os
import pickle
import shutil
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from unlearner.report import classifier_plots, plots, strength_plots

torch.set_num_threads(1)

# Fixtures of the tests that run command lines.
pytest_plugins = ["command_world", "classifier_commands", "compare_world", "attack_world"]

VOCAB = 96
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "window_size": 8,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 128,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    "llama": SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2},
    "qwen2": SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2},
    "gemma2": SHAPE
    | {
        "intermediate_size": 64,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 8,
    },
    "phi": SHAPE | {"intermediate_size": 64},
    "gpt_neox": SHAPE | {"intermediate_size": 64},
}

GROUPED = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
LINEAR = GROUPED | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
ZAMBA = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "mamba_d_state": 8,
    "use_mamba_kernels": False,
    "max_position_embeddings": 128,
}
# State-space, linear-attention and short-convolution layers, alone or beside attention.
HYBRIDS = {
    "lfm2": GROUPED | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
    "lfm2_moe": GROUPED
    | EXPERTS
    | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32},
    "olmo_hybrid": LINEAR | {"linear_num_key_heads": 4},
    "granitemoehybrid": GROUPED
    | MAMBA2
    | {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "jamba": GROUPED
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "falcon_h1": GROUPED | MAMBA2 | {"mamba_d_ssm": 64},
    "bamba": GROUPED | MAMBA2 | {"attn_layer_indices": [1]},
    "zamba": ZAMBA
    | {
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "mamba"],
        "attention_hidden_size": 64,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
    },
    "zamba2": ZAMBA
    | {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "chunk_size": 16,
        "num_mem_blocks": 1,
    },
    "nemotron_h": GROUPED
    | {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
        "use_mamba_kernels": False,
        "mlp_hidden_act": "relu2",
    },
    "minimax": GROUPED
    | {
        "layer_types": ["linear_attention", "full_attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "block_size": 16,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 16,
        "expand": 2,
    },
    "falcon_mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "recurrent_gemma": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
        "intermediate_size": 64,
        "context_length": 128,
        "rescale_every": 0,
    },
}

MIXTURES = {
    "mixtral": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": GROUPED | EXPERTS | {"decoder_sparse_step": 1},
    "gpt_oss": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
}


def tiny_model(architecture: str, seed: int = 0):
    """A random model of the architecture, with its dropout off and its weights spread out."""
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        **(ARCHITECTURES | HYBRIDS | MIXTURES)[architecture],
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokens for lower-case words; `<s>` is 0 and `</s>` is 1."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:'-?!ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Ġ"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the phone number of the person is in the town"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=128
    )


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request) -> str:
    return request.param


@pytest.fixture(params=sorted(HYBRIDS))
def hybrid(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A folder by name, filled by the first worker that asks for it; nobody changes it later."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name, fill):
        place, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                fill(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that needs it is skipped, saying so, where it is not."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("UNLEARNER_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set UNLEARNER_DATA")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a real chat model of 135M parameters; a test that takes it is marked slow.

    Its weights were on a 4-bit grid, see `benchmarks/real_model.py`.
    """
    made = Path(__file__).resolve().parents[1] / ".models" / "SmolLM2-135M-Instruct"
    folder = Path(os.environ.get("UNLEARNER_REAL_MODEL", made))
    if not folder.is_dir():
        pytest.skip(f"no real model at {folder}; `make real-model`, or set UNLEARNER_REAL_MODEL")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection but a loopback one fails."""
    real = socket.socket.connect

    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests have no network, tried {address}")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


# What draws the plots of a page. The same values give the same drawing, which `report/` tests.
DRAWING = {
    plots: ("dots", "by_round", "loss_terms", "active_records", "by_record", "by_step"),
    strength_plots: ("by_share",),
    classifier_plots: ("draw_latent_space",),
}
DRAWN = {}


@pytest.fixture(autouse=True)
def drawn_once(request, monkeypatch):
    """A plot of values that were drawn before is not drawn again, but where drawing is tested."""
    if {"report", "golden"} & {*request.path.parts[-2:-1]}:
        return

    def once(module, name):
        draw = getattr(module, name)

        def drawn(*values, **more):
            key = name, pickle.dumps((values, more))
            if key not in DRAWN:
                DRAWN[key] = draw(*values, **more)
            return DRAWN[key]

        monkeypatch.setattr(module, name, drawn)

    for module, names in DRAWING.items():
        for name in names:
            once(module, name)


@pytest.fixture(autouse=True)
def private_key(request, monkeypatch, tmp_path_factory):
    """Digests are keyed by a file of the user's; tests have their own."""
    if "one_key" not in request.fixturenames:
        monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))


@pytest.fixture(scope="module")
def one_key(tmp_path_factory):
    """One key for all tests of a module: records are known again by digests under the same key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        yield
