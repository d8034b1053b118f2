"""Optimisers by name, and their state as tensors for checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from unlearner.errors import UserError
from unlearner.models import sharding
from unlearner.models.loading import SMALL_MODEL, num_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Between the names of a tensor in a group of its own, as bitsandbytes has one for each weight.
WITHIN = "/"


def make_optimiser(
    name: str,
    model: "PreTrainedModel",
    learning_rate: float,
    *,
    betas: tuple[float, float],
    weight_decay: float,
    short_gradients: bool = False,
) -> Optimizer:
    """AdamW of the weights that are trained; with weight_decay 0 it is Adam.

    Args:
        name: "adamw", or "adamw_8bit": both moments in blocks of 256 numbers of 8 bits with a
            scale each, but those of tensors below 4,096 numbers, which stay float32 (Dettmers et
            al. 2021, arXiv:2110.02861).
        short_gradients: With the latter: gradients are bfloat16 until their weight's turn comes.

    Raises:
        UserError: This version of torch gives a gradient its weight's format.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    chosen = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay}
    if name == "adamw":
        # Fused, a step of 22M parameters took 32 ms, not 143.
        return AdamW(trained, **chosen, fused=num_parameters(model) >= SMALL_MODEL)
    from bitsandbytes.optim.adamw import AdamW8bit

    if short_gradients:
        return _with_short_gradients(trained, chosen)
    return AdamW8bit(trained, **chosen)


def give_format_back(weights: Iterable[Tensor]) -> None:
    """Gradients are in the format of their weights again; those that there are go."""
    for weight in weights:
        weight.grad = None
        keep_gradients_in(weight.dtype, [weight])


def keep_gradients_in(dtype: torch.dtype, weights: Iterable[Tensor]) -> None:
    """Let the gradients of these weights, of which there are none now, be of this format.

    Raises:
        UserError: This version of torch gives a gradient its weight's format.
    """
    if not hasattr(Tensor, "grad_dtype"):
        raise UserError(
            f"training.gradients=bfloat16: torch {torch.__version__} keeps gradients in the format "
            "of their weights; install a newer torch, or leave it out"
        )
    for weight in weights:
        weight.grad_dtype = dtype


def _with_short_gradients(trained: Sequence[Tensor], chosen: dict[str, Any]) -> Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit

    class ShortGradients(AdamW8bit):
        """A gradient is put into its weight's format for as long as the weight's step takes."""

        def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
            assert p.grad is not None
            short, p.grad = p.grad, None
            keep_gradients_in(p.dtype, [p])
            p.grad = short.to(p.dtype)
            super().update_step(group, p, gindex, pindex)
            p.grad = None
            keep_gradients_in(short.dtype, [p])

    keep_gradients_in(torch.bfloat16, trained)
    return ShortGradients(trained, **chosen)


def optimiser_state(optimiser: Optimizer) -> tuple[dict[str, Tensor], list[float]]:
    """Copies of an optimiser's tensors on the CPU, as "parameter.name", and its learning rates."""
    tensors = {
        f"{index}.{name}": sharding.collect(value, sharding.own(value))
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in _flat(values)
    }
    return tensors, [group["lr"] for group in optimiser.param_groups]


def set_optimiser_state(
    optimiser: Optimizer, tensors: Mapping[str, Tensor], rates: list[float]
) -> None:
    """Put them back into an optimiser of the same parameters."""
    whole: dict[str, Any] = optimiser.state_dict() | {"state": {}}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        own = whole["state"].setdefault(int(index), {})
        *groups, last = key.split(WITHIN)
        for group in groups:
            own = own.setdefault(group, {})
        counts = value.ndim == 0 and not value.is_floating_point()
        own[last] = int(value) if counts else sharding.as_part(parameters[int(index)], value)
    optimiser.load_state_dict(whole)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Every tensor by its name within groups; a count as a tensor of an integer."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [(f"{name}{WITHIN}{inner}", one) for inner, one in _flat(value)]
        else:
            found.append((name, torch.as_tensor(value)))
    return found
