"""Low-rank adapters (LoRA): what is trained in place of a model's own weights.

The layers are put into the model itself, which stays of its class: whatever works on a model works
on one with adapters. With the adapters off it is the target model, so that no copy of that is kept.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from unlearner.models import sharding
from unlearner.models.layerwise_casting import seen_as_float32
from unlearner.models.offloading import has_offloaded_layers

Weights = dict[str, torch.Tensor]

ADAPTER = "default"

# peft's own names of the files and of what a weight's name begins with.
CONFIG_FILE, WEIGHTS_FILE, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model"


def attach(
    model: nn.Module, rank: int, alpha: float | None, layers: list[str] | None = None
) -> LoraModel:
    r"""Put adapters on every linear layer and every expert, freeze the rest; returns their handle.

    .. math:: W x \to W x + \frac{\alpha}{r} B A x

    with A (r, in) drawn at random and B (out, r) zero, so that nothing changes at first. A language
    model's output layer is left out: it is tied to the embeddings in many. A classifier's is not.

    Reference: Hu et al. (2021), arXiv:2106.09685.

    Args:
        rank: r, at least 1.
        alpha: None takes twice the rank.
        layers: The linear layers' names, where they are quantised already; see `linear_layers`.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=linear_layers(model) if layers is None else layers,
        target_parameters=expert_weights(model) or None,
        init_lora_weights=True,
    )
    with warnings.catch_warnings():
        # GPT-2's layers hold their weights transposed; peft says so of each and does what is right.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        with seen_as_float32(model):
            handle = LoraModel(model, config, ADAPTER)
    if has_offloaded_layers(model):  # beside their weights, which are elsewhere
        handle.to(next(model.parameters()).device)
    for weight in handle.parameters():  # peft takes the arithmetic of a quantised layer's products
        if weight.requires_grad:
            weight.data = weight.data.float()
    return handle


def linear_layers(model: nn.Module) -> list[str]:
    """The names of the layers that get an adapter: of what is trained all but the output layer."""
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not output
        and module.weight.requires_grad
    ]


def expert_weights(model: nn.Module) -> list[str]:
    """The names of weights that get an adapter as they are: the experts of a layer in one tensor.

    (E, out, in) or (E, in, out): each expert's part gets factors of its own.
    """
    return [
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 3 and weight.requires_grad and "experts" in name.split(".")
    ]


def has_adapters(model: nn.Module) -> bool:
    """Whether the model is trained by adapters."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The target model for as long as the block runs: adapters and dropout off."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trained = model.training
    model.eval()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        model.train(trained)


def merge(adapter: LoraModel) -> PreTrainedModel:
    """The ordinary model with W + alpha / r B A for W; its weights can be trained again."""
    elsewhere = has_offloaded_layers(adapter)
    device = next(adapter.parameters()).device
    if elsewhere:
        adapter.to("cpu")  # where their weights are, to which the products are added
    model = cast("PreTrainedModel", adapter.merge_and_unload())
    if elsewhere:
        model.to(device)  # type: ignore[arg-type] - its decorator hides what it takes
    if hasattr(model, "peft_config"):  # or saving would write an adapter
        del model.peft_config
    return model.requires_grad_(True)


def detach(adapter: LoraModel) -> None:
    """Make the model what it was before `attach`, whatever the adapters have learned."""
    model = cast("PreTrainedModel", adapter.unload())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def save_adapter(adapter: LoraModel, base: str, folder: Path) -> None:
    """Write the adapter as peft reads it.

    Args:
        base: The target model's name, which `PeftModel` asks for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter.peft_config[ADAPTER].to_dict() | {"base_model_name_or_path": base}
    config = {
        name: sorted(value) if isinstance(value, set) else value for name, value in config.items()
    }
    text = json.dumps(config, indent=2, default=str)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    weights = {
        f"{PREFIX}.{name.replace(f'.{ADAPTER}', '')}": tensor.detach().cpu().contiguous()
        for name, tensor in adapter.state_dict().items()
        if "lora_" in name
    }
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def trained_weights(model: nn.Module) -> Weights:
    """Copies on the CPU of what training changes, by name; see `whole_weights`."""
    return whole_weights(model, {name: sharding.own(weight) for name, weight in _trained(model)})


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Put such copies back."""
    set_own_weights(model, parts(model, weights))


def own_weights(model: nn.Module) -> Weights:
    """Copies on the CPU of what this process has of them: all but for a sharded model."""
    return {name: sharding.own(weight).cpu().clone() for name, weight in _trained(model)}


def set_own_weights(model: nn.Module, weights: Weights) -> None:
    """Put such copies back."""
    parameters = dict(model.named_parameters())
    for name, tensor in weights.items():
        sharding.own(parameters[name]).copy_(tensor)


def whole_weights(model: nn.Module, weights: Weights) -> Weights:
    """Whole weights of what every process has its own of; of a sharded model in the main process.

    The others get tensors without numbers.
    """
    parameters = dict(model.named_parameters())
    return {name: sharding.collect(parameters[name], mine) for name, mine in weights.items()}


def parts(model: nn.Module, weights: Weights) -> Weights:
    """What this process has of whole weights."""
    parameters = dict(model.named_parameters())
    return {name: sharding.part(parameters[name], whole) for name, whole in weights.items()}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
