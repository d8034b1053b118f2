"""Layers whose weights wait in the machine's memory, and are on the device only as they compute.

A device then has to hold the embeddings, the output layer and one layer of the model, in place of
all. Each layer's weights are copied there for each pass, the backward pass too, so a pass takes at
least as long as copying the model does.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner.errors import UserError
from unlearner.models import sharding
from unlearner.models.layerwise_casting import CastLinear, inner_layers
from unlearner.settings import Choice

HOW_THEY_WAIT = "its layers wait in the machine's memory, each on the device while it computes"

# Of a device's free memory, which weights may take before layers wait elsewhere.
MOST_FOR_WEIGHTS = 0.9


class OffloadedLinear(CastLinear):
    """A linear layer of frozen weights, which stay where they are when the model is moved."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        waiting = self._parameters["weight"]
        self._parameters["weight"] = None  # in its place, which is that in a state dict
        try:
            return super()._apply(fn, recurse)
        finally:
            self._parameters["weight"] = waiting


def place(model: PreTrainedModel, device: torch.device, offload: Choice) -> None:
    """Put a model on a device, its layers but for their weights where that is wanted.

    Args:
        offload: "auto" for where the model does not fit on an accelerator.

    Raises:
        UserError: The model does not fit there, or this one's layers cannot wait elsewhere.
    """
    if offload == "auto":
        offload = not sharding.wanted() and not _fits(model, device)
    elif offload and sharding.wanted():
        raise UserError(
            "model.offload: layers of a model that --use_fsdp divides do not wait in the machine's "
            "memory; leave one of both out"
        )
    try:
        if offload and not has_offloaded_layers(model):
            _offload(model, device)
        model.to(device)  # type: ignore[arg-type] - its decorator hides what it takes
    except torch.OutOfMemoryError as error:
        model.to("cpu")  # type: ignore[arg-type]
        how = " even with its layers in the machine's memory" if offload else ""
        raise UserError(
            f"the model, of {_bytes(model) / 1e9:.1f} GB, has no room on {device}{how}; use a "
            "device with more memory, or training.device=cpu"
        ) from error


def has_offloaded_layers(model: nn.Module) -> bool:
    """Whether weights of the model wait in the machine's memory."""
    return any(isinstance(layer, OffloadedLinear) for layer in model.modules())


def _fits(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether the weights fit, with the copy of the output layer that measuring keeps."""
    if device.type != "cuda" or model.device.type == "cuda":
        return True
    head = model.get_output_embeddings()
    copy = 0 if head is None else cast("Tensor", head.weight).nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return _bytes(model) + copy <= MOST_FOR_WEIGHTS * free


def _bytes(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


@torch.no_grad()
def _offload(model: PreTrainedModel, device: torch.device) -> None:
    before = [(layer, layer.__class__) for layer in inner_layers(model)]
    for layer, _ in before:
        layer.__class__ = OffloadedLinear
    pinned = dict[int, Tensor]()
    for layer, _ in before:
        weight = layer.weight
        if device.type == "cuda" and id(weight) not in pinned:
            with suppress(RuntimeError):  # no more memory can be pinned: it is copied all the same
                pinned[id(weight)] = weight.data = weight.data.cpu().pin_memory()
    model.to(device)  # type: ignore[arg-type]
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        for layer, kind in before:
            layer.__class__ = kind
        raise UserError(
            f"model.offload: {type(model).__name__} reads weights of its layers itself, so that "
            "they have to be on the device; use one with more memory, or training.device=cpu"
        ) from error
