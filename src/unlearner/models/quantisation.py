"""Checkpoints whose weights are quantised: turned into ordinary numbers on loading, or refused.

What is trained, measured and saved is a model of ordinary numbers.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from unlearner.errors import UserError

WAY_OUT = (
    "give the checkpoint that it was quantised from, or turn it into one of ordinary numbers "
    "where that can be done and save it with save_pretrained"
)


def quantised_kind(config: PreTrainedConfig) -> str:
    """What the weights are quantised by; empty where they are ordinary numbers."""
    given = _given(config)
    if given is None:
        return ""
    kind = str(given.get("quant_method") or "")
    if given.get("load_in_4bit") or given.get("load_in_8bit"):
        kind = "bitsandbytes_4bit" if given.get("load_in_4bit") else "bitsandbytes_8bit"
    return kind or "an unnamed method"


def _given(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    for part in (config, config.get_text_config(decoder=True)):
        found = getattr(part, "quantization_config", None)
        if found is not None:
            if isinstance(found, QuantizationConfigMixin):
                return found.to_dict()
            return found if isinstance(found, Mapping) else {}
    return None


def ordinary_dtype(config: PreTrainedConfig) -> torch.dtype:
    """The format of the numbers that quantised weights are turned into."""
    named = config.get_text_config(decoder=True).dtype
    return torch.float16 if named == torch.float16 else torch.bfloat16


def dequantising(name: str, config: PreTrainedConfig) -> QuantizationConfigMixin | None:
    """What `from_pretrained` has to be given so that the weights come out as ordinary numbers.

    None where nothing has to be given: `dequantise` does it afterwards.

    Raises:
        UserError: transformers has no way to do it for this kind.
    """
    kind, given = quantised_kind(config), _given(config)
    own = AUTO_QUANTIZATION_CONFIG_MAPPING.get(kind)
    quantizer = AUTO_QUANTIZER_MAPPING.get(kind)
    if own is None or quantizer is None:
        raise refusal(name, kind, "transformers does not know this kind")
    if "dequantize" in inspect.signature(own).parameters:
        try:
            return own.from_dict({**(given or {}), "dequantize": True})
        except (ImportError, TypeError, ValueError) as error:
            raise refusal(name, kind, str(error)) from error
    if quantizer._dequantize is HfQuantizer._dequantize:
        raise refusal(name, kind, "transformers cannot turn this kind into ordinary numbers")
    return None


def dequantise(model: PreTrainedModel) -> PreTrainedModel:
    """The model with ordinary numbers, put into float32.

    Raises:
        ValueError: Some of its weights are still quantised, or would be read wrongly.
    """
    _check_blocks(model)
    if getattr(model, "hf_quantizer", None) is not None:
        model.dequantize()
    if hasattr(model, "_weight_conversions"):  # or saving would turn them back
        del model._weight_conversions
    model = model.float()
    left = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.element_size() < 4
    ]
    if left or getattr(model, "is_quantized", False):
        raise ValueError(f"{len(left)} weights are still quantised")
    return model


def _check_blocks(model: PreTrainedModel) -> None:
    """Refuse 4 bits in blocks that run over the end of a row: some backends read them wrongly."""
    for name, module in model.named_modules():
        size = getattr(
            getattr(getattr(module, "weight", None), "quant_state", None), "blocksize", 1
        )
        if size > 1 and module.in_features % size:  # type: ignore[operator]
            raise ValueError(
                f"{name} has rows of {module.in_features} numbers in blocks of {size}, which "
                "bitsandbytes does not read alike on every device"
            )


def refusal(name: str, kind: str, reason: str) -> UserError:
    """The line that says why quantised weights cannot be used."""
    reason = " ".join(reason.split())[:200]
    return UserError(
        f"{name}: its weights are quantised ({kind}) and cannot be turned into ordinary numbers "
        f"on this machine: {reason}; {WAY_OUT}"
    )
