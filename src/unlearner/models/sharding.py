"""Training with the model divided among the processes (torch's FSDP2), as the launcher asks for it.

Each process holds a part of every weight, of its gradient and of its moments. A layer's weights are
put together for as long as the layer works. Every process has to run the same forward passes in the
same order, and no part of the model can be run but inside its root module: see `inside`. For a
model that is not sharded, everything here passes through.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from unlearner import processes
from unlearner.errors import UserError

Item = TypeVar("Item")
Model = TypeVar("Model", bound=nn.Module)

# Names of what is put on a sharded model.
INSIDE, DEVICE = "_unlearner_inside", "_unlearner_device"


def wanted() -> bool:
    """Whether the processes are to divide the model, as `accelerate launch --use_fsdp` says."""
    return processes.count() > 1 and processes.is_set("ACCELERATE_USE_FSDP")


def check_family(family: str) -> None:
    """Refuse models that cannot be sharded.

    Raises:
        UserError: Sharding is wanted, and the model is a classifier.
    """
    if wanted() and family != "causal-lm":
        raise UserError(
            f"accelerate launch --use_fsdp: {family} models are not sharded, only causal language "
            "models are; leave --use_fsdp out, and each process has a whole model"
        )


def shard(model: nn.Module, device: torch.device) -> None:
    """Divide the model's parameters among the processes, block by block.

    With FSDP_OFFLOAD_PARAMS=true the parts stay in the machine's memory.

    Raises:
        UserError: This version of torch cannot sum gradients, only average them.
    """
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UserError(
            f"accelerate launch --use_fsdp: torch {torch.__version__} cannot sum the gradients of "
            "a sharded model; install a newer torch, or leave --use_fsdp out"
        )
    # The root's weights too are let go behind every forward pass, or they would be no parts
    # between two steps, where they are read.
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (processes.count(),)),
        "reshard_after_forward": True,
    }
    if processes.is_set("FSDP_OFFLOAD_PARAMS"):
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for block in blocks(model):
        fully_shard(block, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # each has its share of one loss: gradients add up
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, INSIDE, lambda function: function())
    register_fsdp_forward_method(model, INSIDE)
    setattr(model, DEVICE, device)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's body: the list of modules that holds most of its parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(map(Tensor.numel, some.parameters())) for some in lists]
    if not any(sizes):
        return []
    return list(lists[sizes.index(max(sizes))])


def is_sharded(model: nn.Module | None) -> bool:
    """Whether this process has but a part of the model."""
    return hasattr(model, INSIDE)


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model computes; the parts of a sharded one may be kept elsewhere."""
    return getattr(model, DEVICE, None) or model.device


def inside(model: nn.Module, function: Callable[[], Item], *, calls_model: bool = False) -> Item:
    """What a function gives that runs parts of the model without calling it: body or head.

    Weights outside the blocks are whole while it runs.

    Args:
        calls_model: It calls the model itself, which must not happen inside: it is run as it is.
    """
    if calls_model or not is_sharded(model):
        return function()
    return getattr(model, INSIDE)(function)


def agree(model: nn.Module | None, value: Item) -> Item:
    """The main process's value where the next forward pass of a sharded model depends on it.

    A last bit that differs between two accelerators must not make them go different ways, on which
    they would wait for each other.
    """
    if not is_sharded(model):
        return value
    if not isinstance(value, Tensor):
        return processes.from_main(value)
    tensor = value.to(getattr(model, DEVICE)).contiguous()
    distributed.broadcast(tensor, src=0)
    return cast("Item", tensor)


# Tensors


def own(tensor: Tensor) -> Tensor:
    """This process's part of it, in its place; all of it where it is not sharded."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def collect(like: Tensor, mine: Tensor) -> Tensor:
    """A copy on the CPU of what all have parts of; only the main process gets it, the others none.

    Args:
        like: A tensor that is laid out in the same way.
        mine: This process's part.
    """
    if not isinstance(like, DTensor):
        return mine.cpu().clone()
    whole = _laid_out(like, mine.to(like.device_mesh.device_type)).full_tensor()
    return whole.cpu().clone() if processes.is_main() else torch.empty(0)


def part(like: Tensor, whole: Tensor) -> Tensor:
    """This process's part of a whole tensor that is laid out as another one."""
    if not isinstance(like, DTensor):
        return whole
    parts = whole.chunk(processes.count())  # rows, as FSDP divides them
    return parts[processes.rank()] if processes.rank() < len(parts) else whole[:0]


def as_part(like: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor divided as another one of its shape is; one of another shape is left whole."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return _laid_out(like, part(like, whole).to(own(like).device).clone())


def _laid_out(like: DTensor, mine: Tensor) -> DTensor:
    return DTensor.from_local(
        mine,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], limit: float) -> float:
    """Scale gradients down to a norm, which is that of all parts together; returns what it was."""
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    if not sharded:
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    gradients = gradients_of(parameters)
    square = torch.zeros((), device=sharded[0].device_mesh.device_type)
    for gradient in gradients:
        square += gradient.float().square().sum().to(square.device)
    distributed.all_reduce(square)
    norm = math.sqrt(float(square))
    for gradient in gradients:
        gradient.mul_(min(1.0, limit / (norm + 1e-6)))
    return norm


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of the gradients, in their place."""
    return [own(parameter.grad) for parameter in parameters if parameter.grad is not None]


# The ordinary model


def skeleton(module: Model) -> Model:
    """A copy of a model that is not yet sharded, whose weights take no memory and have no values.

    Its buffers, which are not sharded, are copied.
    """
    memo: dict[int, object] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in module.parameters()
    }
    return copy.deepcopy(module, memo)


def filled(bones: Model, model: nn.Module) -> Model:
    """The ordinary model on the main process's CPU; that of the others stays without weights.

    Args:
        bones: Made by `skeleton`.
        model: The sharded model.
    """
    whole = copy.deepcopy(bones)
    made: dict[int, nn.Parameter] = {}
    for old, sharded in zip(whole.parameters(), model.parameters(), strict=True):
        values = collect(sharded, own(sharded))
        if processes.is_main():
            made[id(old)] = nn.Parameter(values, old.requires_grad)
    if not processes.is_main():
        return whole
    for module in whole.modules():  # a weight may stand in two of them
        for name, old in module._parameters.items():
            if old is not None:
                module._parameters[name] = made[id(old)]
    return whole.to("cpu")
