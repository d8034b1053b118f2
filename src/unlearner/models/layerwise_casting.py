"""Linear layers whose weights stay in the 16 bits that they are stored in, and compute in float32.

A model of 8 billion parameters takes 16 GB so, and 32 GB in float32. A number of 16 bits is a
number of float32 too, so what a layer gives is what it gives with its weights in float32; they are
widened for as long as it computes, one layer at a time. For models that are measured, and for those
whose adapters alone are trained: weights that are trained have to be float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

SHORT = (torch.bfloat16, torch.float16)

# From so many parameters on it is done unasked; below, float32 weights are no burden.
LARGE_MODEL = 1_000_000_000


class NotWidenedError(RuntimeError):
    """A model that gives its layers numbers of the weights' own format: they would be rounded."""


class _Widened(torch.autograd.Function):
    """x W^T + b, (..., out), keeping for the backward pass the weights as they are stored.

    x is (..., in), W (out, in), b (out,) or None; the gradient g W of g (..., out) is for x alone.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return linear(given, _as(weight, given), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ _as(weight, gradients[0]), None, None


def _as(weight: Tensor, other: Tensor) -> Tensor:
    """A weight where another tensor is, and in its format; the fewer bytes go there."""
    return weight.to(other.device).to(other.dtype)


class CastLinear(nn.Linear):
    """A linear layer of frozen weights that computes in the format of what it is given."""

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`; the weights get no gradient.

        Raises:
            NotWidenedError: What is given is as short as the weights, outside of autocast.
        """
        kind, bias = input.device.type, self.bias
        if torch.is_autocast_enabled(kind):  # which rounds all three for the product
            input = input.to(torch.get_autocast_dtype(kind))
            bias = None if bias is None else bias.to(input.dtype)
        elif input.dtype in SHORT:
            raise NotWidenedError(f"a layer was given numbers of {input.dtype}")
        return cast("Tensor", _Widened.apply(input, self.weight, bias))


def cast_layers(model: PreTrainedModel, dtype: torch.dtype, *, rounded: bool = False) -> None:
    """Keep the weights of the layers within a model in a format, and put all others into float32.

    The output layer is left out, and what shares its weights with the embeddings. So is what is no
    linear layer, such as experts in one tensor.

    Args:
        model: Its layers' weights are numbers of that format, whatever they are held in; layers
            that have others stay in float32.
        rounded: Round those as well.

    Raises:
        NotWidenedError: It has made numbers of that format that no file holds.
    """
    stored = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if buffer.dtype in SHORT and name not in stored:
            raise NotWidenedError(f"{name} was made in {buffer.dtype}")
    held = set[int]()
    for layer in inner_layers(model):
        whole = layer.weight.data
        short = whole.to(dtype)
        exact = torch.equal(short.to(whole.dtype), whole)
        if exact or rounded:
            layer.weight.data, layer.__class__ = short, CastLinear
            held.add(id(layer.weight))
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in held and tensor.dtype in SHORT:
            tensor.data = tensor.data.float()
    model.config.dtype = torch.float32


def inner_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of its body that share their weights with no other kind of part."""
    output, layers, shared = model.get_output_embeddings(), [], set[int]()
    for part in model.modules():
        if type(part) in (nn.Linear, CastLinear) and part is not output:
            layers.append(cast("nn.Linear", part))
        else:
            shared |= {id(weight) for weight in part.parameters(recurse=False)}
    return [layer for layer in layers if id(layer.weight) not in shared]


def has_cast_layers(model: nn.Module) -> bool:
    """Whether layers of the model hold their weights in another format, or another place."""
    return any(isinstance(layer, CastLinear) for layer in model.modules())


@contextmanager
def seen_as_float32(model: nn.Module) -> Iterator[None]:
    """While the block runs, for what is made in the format of the weights and reads none of them.

    peft would round the numbers that it draws for adapters.
    """
    layers = (part for part in model.modules() if isinstance(part, CastLinear))
    held = {layer.weight: layer.weight.data for layer in layers}
    try:
        for weight, data in held.items():
            weight.data = torch.zeros((), device=data.device).expand(data.shape)
        yield
    finally:
        for weight, data in held.items():
            weight.data = data


def widen(model: PreTrainedModel) -> None:
    """Make them ordinary layers of float32 again, as training of the weights needs them."""
    for layer in model.modules():
        if isinstance(layer, CastLinear):
            layer.weight.data = layer.weight.data.to(model.device).float()
            layer.__class__ = nn.Linear  # type: ignore[assignment] - it was one
