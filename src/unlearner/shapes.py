"""The numbers of a model that its memory follows from, read from its configuration and modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from unlearner.adapters import linear_layers
from unlearner.classifiers.ensemble import ShardEnsemble
from unlearner.models import num_parameters
from unlearner.prefix_attention import can_share

# Activation functions that transformers writes out in single operations of torch, each of which
# keeps an operand for the backward pass.
COMPOSED = frozenset({"gelu_new", "gelu_fast", "gelu_python", "quick_gelu", "gelu_accurate"})
ACTIVATION_NAMES = ("hidden_act", "activation_function", "hidden_activation", "activation")
ATTENTION_DROPOUT = (
    "attention_probs_dropout_prob",
    "attention_dropout",
    "attn_pdrop",
    "attn_dropout",
)


@dataclass(frozen=True)
class Shape:
    """Widths and counts of a transformer, as far as memory depends on them.

    Attributes:
        parameters: Numbers in the model, shared ones once.
        linear: Numbers of the weights that matrix products read, the output layer's among them.
        adapter_ends: Sum of (in + out) over the linear layers that get an adapter.
        layers: Blocks of the model's body.
        hidden: D, the width between blocks.
        heads: Attention heads of a block.
        attention: Width of the queries of all heads.
        keys: Width of the keys, and of the values, that a cache holds.
        inner: Width inside the feed-forward part.
        inner_kept: Tensors of that width that a block keeps for the backward pass.
        norms: Normalisations of width D in a block.
        norm_kept: Tensors that each of them and its reader keep in float32.
        readers: Linear layers of a block that read a normalisation.
        vocabulary: V, logits of one position; for a classifier its labels.
        embedding: Numbers of the token embeddings.
        plain_scores: Tensors of attention scores that every head keeps; 0 with a fused kernel.
        drops_scores: The model has dropout on attention scores.
        shares_prefix: Rows that continue one window can read it in common.
        has_logits: There are logits at every label position, not one vector of a few labels.
    """

    parameters: int
    linear: int
    adapter_ends: int
    layers: int
    hidden: int
    heads: int
    attention: int
    keys: int
    inner: int
    inner_kept: int
    norms: int
    norm_kept: int
    readers: int
    vocabulary: int
    embedding: int
    plain_scores: int
    drops_scores: bool
    shares_prefix: bool
    has_logits: bool

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of any of the models that the commands take.

        Shards of an ensemble count as blocks one behind the other.
        """
        if isinstance(model, ShardEnsemble):
            one, count = cls.of(model.shards[0]), len(model.shards)
            return replace(
                one,
                parameters=num_parameters(model),
                linear=count * one.linear,
                adapter_ends=count * one.adapter_ends,
                layers=count * one.layers,
            )
        config = model.config.get_text_config()
        layers, hidden = config.num_hidden_layers, config.hidden_size
        heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
        head_width = getattr(config, "head_dim", None) or hidden // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * head_width
        block = _Block(model, layers)
        output = model.get_output_embeddings()
        modules = dict(model.named_modules())
        adapted = [_ends(modules[name]) for name in linear_layers(model)]
        tokens = model.get_input_embeddings().weight
        vocabulary = config.num_labels if output is None else output.weight.shape[0]
        eager = config._attn_implementation == "eager"  # no public way to read it
        return cls(
            parameters=num_parameters(model),
            linear=sum(first * last for first, last in adapted)
            + (0 if output is None else output.weight.numel()),
            adapter_ends=sum(map(sum, adapted)),
            layers=layers,
            hidden=hidden,
            heads=heads,
            attention=heads * head_width,
            keys=keys,
            inner=block.inner,
            inner_kept=block.inner_kept(config),
            norms=block.norms,
            norm_kept=block.norm_kept,
            readers=block.readers,
            vocabulary=vocabulary,
            embedding=tokens.numel(),
            plain_scores=0 if not eager else 2 if _softcap(config) else 1,
            drops_scores=any(getattr(config, name, 0) or 0 for name in ATTENTION_DROPOUT),
            shares_prefix=output is not None and can_share(model),
            has_logits=output is not None,
        )


class _Block:
    """What stands in one of the blocks of a model's body, by its modules."""

    def __init__(self, model: Any, layers: int) -> None:
        blocks = (
            some
            for some in model.modules()
            if isinstance(some, nn.ModuleList) and len(some) == layers
        )
        modules = list(next(blocks, [model])[0].modules())
        linear = [_ends(some) for some in modules if isinstance(some, (nn.Linear, Conv1D))]
        norms = [some for some in modules if "Norm" in type(some).__name__]
        # The widest input is the second feed-forward layer's; what has its width as output feeds it
        self.inner = max((first for first, _ in linear), default=0)
        self.gated = sum(last for _, last in linear if last % max(self.inner, 1) == 0) > self.inner
        self.norms = len(norms)
        # LayerNorm keeps its input, and its reader the output. Written out in single operations (as
        # RMSNorm is) it keeps the scaled input before the weight as well.
        self.norm_kept = 2 if all(isinstance(some, nn.LayerNorm) for some in norms) else 3
        # All but the attention's output layer and the second feed-forward layer.
        self.readers = max(1, len(linear) - 2)

    def inner_kept(self, config: Any) -> int:
        """Input and output of the activation function; more where it is written out or gated."""
        name = next(
            (
                getattr(config, some)
                for some in ACTIVATION_NAMES
                if isinstance(getattr(config, some, None), str)
            ),
            "",
        )
        if self.gated:  # gate, its activation, the other factor, the product
            return 4
        if name == "relu":  # its output alone tells the gradient
            return 1
        # x, tanh(...), x / 2 and 1 + tanh(...), and the product that the next layer reads
        return 5 if name in COMPOSED else 2


def _ends(layer: Any) -> tuple[int, int]:
    """The widths of a linear layer's input and output; GPT-2's hold their weights transposed."""
    first, last = layer.weight.shape
    return (first, last) if isinstance(layer, Conv1D) else (last, first)


def _softcap(config: Any) -> bool:
    return bool(getattr(config, "attn_logit_softcapping", None))
