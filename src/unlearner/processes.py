"""Several processes that do one run: who does which part, and how the parts come together.

Every process runs the same program. What is slow, the model's forward and backward passes, is
divided; its results are gathered, and everything behind them is computed by all alike, so that no
process ever has to learn what another has decided. One process alone passes through here as if
there were nothing.

Threads: how a sum is divided among threads decides its last bits, so all processes of a run compute
on the same number of them. Where OMP_NUM_THREADS or MKL_NUM_THREADS is set, by the user or by the
launcher, that is the number; else each process has its share of the threads that one process alone
would have, at least one. Small models are computed on one thread in any case
(`models.limit_threads`), by one process as by several.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, distributed
from torch.autograd import Function

from unlearner.errors import UserError

Item = TypeVar("Item")

# Gradients are summed in parts of so many numbers: few messages, little memory beside.
SUMMED_AT_ONCE = 1 << 24

# Where one of them is set, torch has read its number of threads from it.
THREADS_SET_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_gathers = 0


def begin() -> None:
    """Join the processes that `accelerate launch` has started.

    Raises:
        UserError: They are to work together in a way that is not supported.
    """
    _check_launcher()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        _set_threads(_own_threads())  # or accelerate would set as many as there are processors
        # transformers would read the weights in the first process only, and the target is measured
        # by all of them.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        PartialState._reset_state()  # or one from before the launch would count for this
        # A machine without an accelerator talks by gloo; accelerate would look for others first.
        PartialState(cpu=not torch.cuda.is_available())
        _set_threads(min(gather(torch.get_num_threads())))  # machines may differ


def _own_threads() -> int:
    """How many threads each process of this machine may have."""
    number = torch.get_num_threads()
    if any(os.environ.get(name) for name in THREADS_SET_BY):
        return number
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    return max(1, number // processes_here)


def _set_threads(number: int) -> None:
    """Compute on so many threads, and let accelerate and processes started later know it."""
    torch.set_num_threads(number)
    os.environ["OMP_NUM_THREADS"] = str(number)


def _check_launcher() -> None:
    way_out = "use `accelerate launch --use_fsdp --fsdp_version 2`, or plain processes"
    if is_set("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(f"accelerate launch: DeepSpeed is not supported; {way_out}")
    if is_set("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(f"accelerate launch --use_fsdp: FSDP version 1 is not supported; {way_out}")


def is_set(name: str) -> bool:
    """Whether the launcher has set a switch in the environment."""
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def count() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one that writes files and talks to the user."""
    return rank() == 0


def share(items: Iterable[Item], of: int | None = None) -> list[Item]:
    """The items that are this process's work (or that of another): every n-th.

    Batches come in order of length, and so each process gets some of every length.
    """
    return list(items)[rank() if of is None else of :: count()]


def wait() -> None:
    """Until all have come here."""
    if count() > 1:
        distributed.barrier()


def gather(value: Item) -> list[Item]:
    """Every process's value, in order of rank; any object."""
    if count() == 1:
        return [value]
    found = [value] * count()
    distributed.all_gather_object(found, value)
    return found


def in_order(found: dict[int, Item]) -> list[Item]:
    """The values of all processes, each of which has found some, in order of their numbers."""
    for other in gather(found):
        found |= other
    return [found[number] for number in range(len(found))]


def from_main(value: Item) -> Item:
    """The value that the main process has."""
    return gather(value)[0]


def together(function: Callable[[], object]) -> None:
    """Let the main process do something; what stops it stops all."""
    error: BaseException | None = None
    if is_main():
        try:
            function()
        except (UserError, OSError) as raised:
            error = raised
    error = from_main(error)
    if error is not None:
        raise error


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in order of rank; each may have another number of them, or none.

    What is computed behind it, every process computes whole. The gradient that comes back to a
    process is that of its own rows; `sum_gradients` puts those of all together.
    """
    global _gathers
    if count() == 1:
        return rows
    if torch.is_grad_enabled() and rows.is_floating_point():
        _gathers += 1
        if not rows.requires_grad:  # a process without rows has its part of what comes behind
            rows = rows.detach().requires_grad_()
    return _GatherRows.apply(rows)  # type: ignore[return-value]


def gathers() -> int:
    """How often rows were gathered: a loss that never did was computed whole by every process."""
    return _gathers


class _GatherRows(Function):
    @staticmethod
    def forward(ctx, rows):  # type: ignore[override]
        numbers = gather(len(rows))
        ctx.start, ctx.length = sum(numbers[: rank()]), len(rows)
        longest = max(numbers)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in numbers]
        distributed.all_gather(found, padded)
        return torch.cat([some[:number] for some, number in zip(found, numbers, strict=True)])

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[override]
        return gradient[ctx.start : ctx.start + ctx.length]


def sum_gradients(parameters: Sequence[Tensor], *, divide_by: int = 1) -> None:
    """Give every process the sum of all processes' gradients, over `divide_by`."""
    if count() == 1:
        return
    part: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:  # it had no share of this step
            kind = getattr(parameter, "grad_dtype", None)  # an older torch has but the weight's
            parameter.grad = torch.zeros_like(parameter, dtype=kind)
        part.append(parameter.grad)
        if sum(map(Tensor.numel, part)) >= SUMMED_AT_ONCE:
            _sum(part, divide_by)
            part = []
    if part:
        _sum(part, divide_by)


def _sum(gradients: list[Tensor], divide_by: int) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = flat.div_(divide_by).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def same_weights(parameters: Iterable[Tensor]) -> None:
    """Give every process the main process's weights."""
    if count() > 1:
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)
