"""Layers whose weights wait in the machine's memory, and are on the device only as they compute.

A device then has to hold the embeddings, the output layer and one layer of the model, in place of
all. Each layer's weights are copied there for each pass, the backward pass too, so a pass takes at
least as long as copying the model does.
"""

from collections.abc import Callable
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
    divided = sharding.wanted()
    if offload is True and divided:
        raise UserError(
            "model.offload: layers of a model that --use_fsdp divides do not wait in the machine's "
            "memory; leave one of both out"
        )
    waits = has_offloaded_layers(model)
    tries = offload == "auto" and not divided and not waits
    try:
        if not waits and (offload is True or (tries and not _fits(model, device))):
            _offload(model, device)
        _move(model, device)
    except torch.OutOfMemoryError as error:
        _move(model, torch.device("cpu"))
        if tries and not has_offloaded_layers(model):
            place(model, device, offload=True)
            return
        raise UserError(_no_room(model, device)) from error


def _no_room(model: PreTrainedModel, device: torch.device) -> str:
    start = f"the model, of {_bytes(model) / 1e9:.1f} GB, has no room on {device}"
    if has_offloaded_layers(model):
        return (
            f"{start} even with its layers in the machine's memory; use a device with more memory, "
            "or training.device=cpu"
        )
    return (
        f"{start}; use a device with more memory, training.device=cpu or, where the command takes "
        "it, model.offload=true"
    )


def has_offloaded_layers(model: nn.Module) -> bool:
    """Whether weights of the model wait in the machine's memory."""
    return any(isinstance(layer, OffloadedLinear) for layer in model.modules())


def _fits(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether the weights fit, with the copy of the output layer that measuring keeps."""
    if device.type != "cuda" or model.device.type == "cuda":
        return True
    head = model.get_output_embeddings()
    copy = 0 if head is None else cast("Tensor", head.weight).nbytes
    return _bytes(model) + copy <= MOST_FOR_WEIGHTS * free_on_cuda(device)


def free_on_cuda(device: torch.device) -> int:
    """Bytes free on a CUDA device, with those that torch holds there without using them."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _bytes(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def _move(model: PreTrainedModel, device: torch.device) -> None:
    model.to(device)  # type: ignore[arg-type] - its decorator hides what it takes


@torch.no_grad()
def _offload(model: PreTrainedModel, device: torch.device) -> None:
    before = [(layer, layer.__class__) for layer in inner_layers(model)]
    for layer, _ in before:
        layer.__class__ = OffloadedLinear
    _move(model, device)
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # some read a layer's weights themselves
        for layer, kind in before:
            layer.__class__ = kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"model.offload: {type(model).__name__} does not run with the weights of its layers "
            f"elsewhere ({reason}); use a device with more memory, or training.device=cpu"
        ) from error
