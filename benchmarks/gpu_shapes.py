"""The models of the GPU benchmark, how much of them is run, and the operations that a step takes.

B windows of a step, T tokens of each, n = B T; l = B (T - 1) label positions; D hidden, V
vocabulary, A width of a block's heads together, r rank of adapters.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.import_utils import is_flash_attn_2_available

from unlearner.models.adapters import linear_layers
from unlearner.models.layerwise_casting import cast_layers
from unlearner.models.offloading import place
from unlearner.settings import TrainingSettings

FLASH = "flash_attention_2"
# What transformers has for a kind of model; "auto" takes what it would take itself.
KERNELS = {"gpt_neo": ("eager", FLASH), "llama": ("eager", "sdpa", FLASH)}


def _gpt_neo(layers: int, width: int, heads: int, vocabulary: int = 50257) -> dict[str, Any]:
    last = vocabulary - 1
    return {
        "model_type": "gpt_neo",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "window_size": 256,
        "attention_types": [[["global", "local"], layers // 2]],
        "max_position_embeddings": 2048,
        "bos_token_id": last,
        "eos_token_id": last,
    }


def _llama(
    layers: int,
    width: int,
    heads: int,
    *,
    key_heads: int,
    inner: int,
    tied: bool,
    vocabulary: int = 128256,
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "intermediate_size": inner,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


# The widths and depths of the published models; their Llamas are 3.2 1B, 3.1 8B and SmolLM2.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _gpt_neo(2, 32, 2, vocabulary=200),
    "tiny-llama": _llama(2, 32, 2, key_heads=1, inner=64, tied=True, vocabulary=200),
    "gpt-neo-125m": _gpt_neo(12, 768, 12),
    "gpt-neo-1.3b": _gpt_neo(24, 2048, 16),
    "gpt-neo-2.7b": _gpt_neo(32, 2560, 20),
    "smollm2-135m": _llama(30, 576, 9, key_heads=3, inner=1536, tied=True, vocabulary=49152),
    "llama-1b": _llama(16, 2048, 32, key_heads=8, inner=8192, tied=True),
    "llama-8b": _llama(32, 4096, 32, key_heads=8, inner=14336, tied=False),
}


# As training is without more settings, with its layers compiled, with moments of 8 bits and
# gradients of 16, or with adapters on layers that are held in bfloat16, on the device or off it.
WAYS = (PLAIN, COMPILED, EIGHT_BIT, HELD, OFFLOADED) = (
    "plain",
    "compiled",
    "adamw_8bit",
    "layerwise_casting",
    "offload",
)


@dataclass(frozen=True)
class Combination:
    """A model and how it is trained; `attention` is "auto" or one of `KERNELS`, `way` of `WAYS`."""

    shape: str
    attention: str = "auto"
    precision: str = "float32"
    checkpointing: bool = False
    lora_rank: int = 0
    way: str = PLAIN

    @property
    def unavailable(self) -> str | None:
        """Why it cannot be run; None where it can."""
        kind = SHAPES[self.shape]["model_type"]
        if self.attention not in ("auto", *KERNELS[kind]):
            return f"transformers has no {self.attention} kernel for {kind}"
        if self.attention == FLASH and not is_flash_attn_2_available():
            return "the package flash-attn is not installed, or there is no device for it"
        if self.attention == FLASH and self.precision == "float32":
            return "flash attention takes no float32"
        if self.way == EIGHT_BIT and find_spec("bitsandbytes") is None:
            return "the package bitsandbytes is not installed"
        return None

    def settings(self, device: str) -> TrainingSettings:
        """As a run would be configured."""
        return TrainingSettings(
            device=device,
            precision=self.precision,
            lora_rank=self.lora_rank,  # type: ignore
            gradient_checkpointing=self.checkpointing,
            optimiser=EIGHT_BIT if self.way == EIGHT_BIT else "adamw",
            gradients="bfloat16" if self.way == EIGHT_BIT else "float32",
            compile=self.way == COMPILED,
            checkpoint_every="never",
        )


@dataclass(frozen=True)
class Load:
    """How much is run.

    Attributes:
        tokens: T.
        forget: Forget windows of a step; ICU's default.
        kept: Analogous windows of a step; ICU's default with fresh pairs.
        records: Records that are asked about.
        lengths: Prompt lengths of the definition that are run; the rest is extrapolated.
        repeats: Timings of everything, of which the median is taken.
    """

    tokens: int = 200
    forget: int = 8
    kept: int = 24
    records: int = 4
    lengths: int = 6
    repeats: int = 5

    @property
    def windows(self) -> int:
        """B."""
        return self.forget + self.kept

    @property
    def labels(self) -> int:
        """l, positions of a step with logits of their own."""
        return self.windows * (self.tokens - 1)


def build(shape: str, attention: str, device: str, way: str = PLAIN) -> Any:
    """A model with random weights in float32; on the device "meta" one without numbers.

    Args:
        way: With `HELD` its layers are rounded to bfloat16 and held so, with `OFFLOADED` in the
            machine's memory.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPES[shape])
    kernel = {} if attention == "auto" else {"attn_implementation": attention}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **kernel)
    if way in (HELD, OFFLOADED):
        cast_layers(model, torch.bfloat16, rounded=True)
    if way == OFFLOADED:
        place(model, torch.device(device), offload=True)
    return model.eval()


@dataclass(frozen=True)
class Shape:
    """What of a model decides the operations of a step.

    Attributes:
        linear: Numbers of the weights that matrix products read, the output layer's among them.
        adapter_ends: E, sum of (in + out) over the linear layers that get an adapter.
        output: V D, numbers of the output layer.
        attention: A.
    """

    linear: int
    adapter_ends: int
    output: int
    attention: int

    @classmethod
    def of(cls, model: Any) -> "Shape":
        """The shape of a model; one without numbers will do."""
        config = model.config
        layers = [model.get_submodule(name).weight for name in linear_layers(model)]
        output = model.get_output_embeddings().weight.numel()
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return cls(
            linear=output + sum(layer.numel() for layer in layers),
            adapter_ends=sum(sum(layer.shape) for layer in layers),
            output=output,
            attention=config.num_attention_heads * width,
        )


def attention_pairs(config: Any, num_tokens: int) -> int:
    """Pairs of a query and a key of one window that the causal masks leave, over all blocks."""
    local = getattr(config, "attention_layers", []).count("local")  # GPT-Neo alone has them
    reach = config.window_size if local else num_tokens
    whole, near = (sum(min(t, r) for t in range(1, num_tokens + 1)) for r in (num_tokens, reach))
    return (config.num_hidden_layers - local) * whole + local * near


def step_flops(shape: Shape, load: Load, pairs: int, rank: int = 0) -> int:
    r"""Floating-point operations that a step of the model asks for; a multiply-add is two.

    .. math::
        full: 6 (N_b n + V D l) + 12 A P \qquad
        LoRA: 4 (N_b n + V D l) + 6 r E n + 12 A P

    with N_b the weights of the blocks' linear layers, P the pairs of a query and a key in all
    windows and blocks, and E the sum of (in + out) over the layers with adapters. Forwards a weight
    costs 2 for each token, backwards 2 for its input's gradient and 2 for its own, which frozen
    ones have not. This is the 6 N per token of Kaplan et al. (2020), arXiv:2001.08361, with the
    output layer at label positions only, and with the attention of Chowdhery et al. (2022),
    arXiv:2204.02311, less the pairs that are masked. Not counted: what checkpointing computes
    again, the target's logits, the update. With adapters the first block's queries, keys and values
    need no gradient of their input; it is counted all the same (a thousandth or two at 1B).

    Args:
        pairs: Of one window, as `attention_pairs` gives them.
    """
    tokens = load.windows * load.tokens
    products = (shape.linear - shape.output) * tokens + shape.output * load.labels
    attention = 12 * shape.attention * pairs * load.windows
    if not rank:
        return 6 * products + attention
    return 4 * products + 6 * rank * shape.adapter_ends * tokens + attention
