"""Layers that are quantised for as long as adapters are trained on them (QLoRA).

The target is measured as it is, the steps are taken on its quantised layers, and the adapters are
merged into the layers as they were. So nothing quantised is measured or saved.

Reference: Dettmers et al. (2023), arXiv:2305.14314. Differs from the paper: the scales of NF4's
blocks are not quantised a second time, what is no linear layer stays float32, and the optimiser is
the run's own, whose moments are those of adapters alone.
"""

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from unlearner.errors import UserError
from unlearner.models import adapters

Layers = Mapping[str, nn.Module]

# Numbers of NF4 that share a scale. Some backends read blocks wrongly that run over the end of a
# row (bitsandbytes 0.50.2 on a processor: a third of the weights' size off, without a word).
BLOCK = 64

KINDS = {4: "NF4", 8: "int8"}

# What peft asks a model before it puts an adapter on such layers.
MARKS = {4: "is_loaded_in_4bit", 8: "is_loaded_in_8bit"}

# LLM.int8() computes columns with a value above this in half precision; as its paper has it.
OUTLIER = 6.0


def quantise(
    model: nn.Module, names: list[str], bits: int, device: torch.device
) -> dict[str, nn.Module]:
    """Put quantised layers in place of some; returns these by name, off an accelerator's memory.

    Layers that 4 bits do not suit stay as they are, see `BLOCK`.

    Args:
        names: Of linear layers.
        bits: 4 or 8, see `KINDS`.
        device: Where training computes.

    Raises:
        UserError: bitsandbytes does not do it on that device, or no layer is of a size for it.
    """
    layers = {name: model.get_submodule(name) for name in names}
    if bits == 4:
        layers = {name: layer for name, layer in layers.items() if _columns(layer) % BLOCK == 0}
    if not layers:
        raise UserError(
            f"model.load_in_{bits}bit: no linear layer of the model takes a multiple of {BLOCK} "
            "numbers, which is what is quantised; leave it out"
        )
    # It says at every step that int8 layers round what they are given.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    setattr(model, MARKS[bits], True)
    for name, layer in layers.items():
        try:
            model.set_submodule(name, _quantised(layer, bits, device))
        except Exception as error:
            restore_layers(model, layers)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"model.load_in_{bits}bit: bitsandbytes cannot quantise {name} on {device.type}: "
                f"{reason}; leave it out"
            ) from error
        layer.to("cpu")
    return layers


def _columns(layer: nn.Module) -> int:
    shape = cast("Tensor", layer.weight).shape
    return shape[0] if isinstance(layer, Conv1D) else shape[-1]


def _quantised(layer: nn.Module, bits: int, device: torch.device) -> nn.Module:
    import bitsandbytes  # type: ignore[import-not-found] - an extra, and slow to import

    made: Any
    layers: Any = bitsandbytes.nn  # whose stubs leave most of it out
    weight = cast("Tensor", layer.weight).detach()
    # (out, in); its format is that of the sums with what is read back of it
    weight = weight.T.contiguous() if isinstance(layer, Conv1D) else weight.clone()
    weight = weight.float()
    columns, rows = weight.shape[1], weight.shape[0]
    if bits == 4:
        made = layers.Linear4bit(
            columns, rows, False, torch.bfloat16, compress_statistics=False, quant_type="nf4"
        )
        made.weight = layers.Params4bit(
            weight, False, blocksize=BLOCK, compress_statistics=False, quant_type="nf4", module=made
        )
        # Else some processors run what has no gradient through other numbers than the steps.
        made.support_avx512bf16_for_cpu = False
    else:
        made = layers.Linear8bitLt(columns, rows, False, has_fp16_weights=False, threshold=OUTLIER)
        made.weight = layers.Int8Params(weight, False, has_fp16_weights=False)
    if layer.bias is not None:
        bias = cast("Tensor", layer.bias).detach().clone()
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made.to(device).train(layer.training)


def restore_layers(model: nn.Module, layers: Layers) -> None:
    """Put the layers themselves back in their places, on the model's device."""
    device = next(model.parameters()).device
    for name, layer in layers.items():
        model.set_submodule(name, layer.to(device))
    for mark in MARKS.values():
        vars(model).pop(mark, None)


def merge_into(adapter: LoraModel, layers: Layers) -> PreTrainedModel:
    """The ordinary model: the adapters merged into the layers as they were before `quantise`."""
    weights = adapter.state_dict()
    trained: dict[str, Tensor] = {name: weights[name] for name in weights if "lora_" in name}
    config = adapter.peft_config[adapters.ADAPTER]
    model = adapter.unload()
    restore_layers(model, layers)
    names = sorted(config.target_modules)  # type: ignore[arg-type]
    again = adapters.attach(model, config.r, config.lora_alpha, names)  # type: ignore[union-attr]
    again.load_state_dict(trained, strict=False)
    return adapters.merge(again)
