"""Whether a run will fit into memory, and what would make it smaller if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from unlearner import processes
from unlearner.errors import UserError
from unlearner.planning import Memory, Plan, device_of
from unlearner.run import RunConfig

Say = Callable[[str], None]
SYSTEM = Path("/")
# Where the limit, the use and the figures of a control group stand, in its second version and its
# first, and what the cache of files, which is given back, is called among those figures.
GROUPS = (
    ("sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
ADAPTER_RANK = 16
LARGEST_PARTS = 3


def announce(plan: Plan, config: RunConfig, say: Say, *, checkpoints: bool = True) -> None:
    """Say what the run will take, or refuse it where that is more than there is.

    Args:
        checkpoints: Whether the run has a place for them.

    Raises:
        UserError: The expected peak is above the memory that is available; it names the largest
            parts, and settings that would lower the peak with what it would come to.
    """
    if not checkpoints:
        config = changed(config, [("training.checkpoint_every", "never")])
        plan = replace(plan, memory=plan.again(config))
    say(in_words(plan))
    lack = processes.from_main(_lack(plan, config))  # or some would go on without the others
    if lack and not config.training.ignore_memory_plan:
        raise UserError(lack)
    if lack:
        say("this is more memory than is available; training.ignore_memory_plan is set")


def in_words(plan: Plan) -> str:
    """The plan in one line."""
    memory = plan.memory
    seconds = plan.seconds_per_epoch
    return (
        f"a run takes about {duration(seconds)} an epoch, at most {plan.max_epochs} epochs "
        f"({duration(seconds * plan.max_epochs)}), and up to {size(memory.peak_bytes)} of memory "
        f"(when {memory.phase})"
    )


def _lack(plan: Plan, config: RunConfig) -> str:
    """The refusal; empty where the run fits.

    Every process has a model of its own; those of one run are taken to share one machine.
    """
    memory, machine = plan.memory, available_bytes() // processes.count()
    if device_of(config.training) != "cuda":  # other accelerators have no memory of their own
        there = machine + memory.held_bytes
        return _refusal(plan, config, there, "machine") if _needed(memory) > there else ""
    there = available_on_cuda() + memory.held_bytes
    if memory.peak_bytes > there:
        return _refusal(plan, config, there, "accelerator")
    if memory.host_bytes > machine:
        return (
            f"training: beside the accelerator's memory the run is expected to need "
            f"{size(memory.host_bytes)} of the machine's, and {size(machine)} is available; set "
            "training.checkpoint_every=never, or training.ignore_memory_plan=true to go on anyway"
        )
    return ""


def _needed(memory: Memory) -> int:
    """Of the machine's memory, where the model is in it."""
    return memory.peak_bytes + memory.host_bytes


def _refusal(plan: Plan, config: RunConfig, there: int, place: str) -> str:
    memory = plan.memory
    largest = sorted(memory.in_peak.items(), key=lambda part: -part[1])[:LARGEST_PARTS]
    parts = ", ".join(f"{name} {size(number)}" for name, number in largest)
    found = sorted(_smaller(plan, config), key=lambda one: one[1])
    advice = ", ".join(
        f"{setting} ({size(number)}{'' if number <= there else ', still too much'})"
        for setting, number in found
    )
    return (
        f"training: the run is expected to need {size(memory.peak_bytes)} of the {place}'s memory "
        f"when {memory.phase} ({parts}), and {size(there)} is there for it; "
        + (f"set {advice}; or " if advice else "")
        + "set training.ignore_memory_plan=true to go on anyway"
    )


def _smaller(plan: Plan, config: RunConfig) -> Iterator[tuple[str, int]]:
    """Settings that lower the peak, and what it would come to with each; the last is all of them.

    Each is tried alone, on the plan itself.
    """
    helpful: list[tuple[str, Any]] = []
    for setting, value in _candidates(config):
        number = plan.again(changed(config, [(setting, value)])).peak_bytes
        if number < plan.memory.peak_bytes:
            helpful.append((setting, value))
            yield f"{setting}={_text(value)}", number
    if len(helpful) > 1:
        yield "all of these", plan.again(changed(config, helpful)).peak_bytes


def _candidates(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Settings that take less, at the price of time, or of another course of the training."""
    training, fields = config.training, config.method.model_dump()
    if not training.lora_rank and not config.method.begins_anew:
        yield "training.lora_rank", ADAPTER_RANK
    if training.checkpoint_every != "never":
        yield "training.checkpoint_every", "never"
    if not training.gradient_checkpointing:
        yield "training.gradient_checkpointing", True
    if training.precision == "float32":
        yield "training.precision", "bfloat16"
    for name in ("batch_size", "fresh_per_step", "retain_batch_size"):
        number = fields.get(name) or 0
        if number > 1:
            yield f"method.{name}", number // 2
    yield "evaluation.memory_bytes", max(1, config.evaluation.memory_bytes // 8)
    yield "evaluation.batch_tokens", max(1, config.evaluation.batch_tokens // 4)


def changed(config: RunConfig, settings: list[tuple[str, Any]]) -> RunConfig:
    """The configuration with some settings, given as section.key, replaced."""
    for setting, value in settings:
        name, _, key = setting.partition(".")
        section = getattr(config, name).model_copy(update={key: value})
        config = replace(config, **{name: section})
    return config


def available_bytes(root: Path = SYSTEM) -> int:
    """What the processes of this machine, and of this process's control group, may still take."""
    return min([psutil.virtual_memory().available, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """What is left of the limit of each control group that this process is in."""
    for place, controller, most, used, cache in GROUPS:
        for folder in _group_folders(root / place, controller, root):
            try:
                limit = int((folder / most).read_text(encoding="ascii"))
                taken = int((folder / used).read_text(encoding="ascii"))
                lines = (folder / "memory.stat").read_text(encoding="ascii").split("\n")
                cached = dict(line.split() for line in lines if line)
                yield max(0, limit - taken + int(cached.get(cache, 0)))
            except (OSError, ValueError):  # no such group, or "max": without a limit
                continue


def _group_folders(top: Path, controller: str, root: Path) -> Iterator[Path]:
    """The group's folder and those above it; a limit of any of them holds."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = top / path.strip("/")
            yield from [some for some in [folder, *folder.parents] if some.is_relative_to(top)]


def available_on_cuda() -> int:
    """What the accelerator has free, and what torch holds of it without using it."""
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + unused


def size(number: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
