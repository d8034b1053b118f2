"""Clocks. On a shared machine the processor time of this process says more than the wall's."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time (all threads together) and of wall time."""

    process: float = 0.0
    wall: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.process + other.process, self.wall + other.wall)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.process - other.process, self.wall - other.wall)

    def __mul__(self, factor: float) -> "Cost":
        return Cost(self.process * factor, self.wall * factor)

    def over(self, other: "Cost") -> dict[str, float]:
        """The ratio of both clocks."""
        return {"process": self.process / other.process, "wall": self.wall / other.wall}


def timed(function: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a function gives, and what it cost."""
    _wait()
    wall, process = time.perf_counter(), time.process_time()
    value = function()
    _wait()
    return value, Cost(time.process_time() - process, time.perf_counter() - wall)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each clock."""
    return Cost(
        statistics.median(cost.process for cost in costs),
        statistics.median(cost.wall for cost in costs),
    )


def sum_of(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


def peak_memory(function: Callable[[], Any]) -> int | None:
    """Most bytes that the process held beyond what it held before; None where nobody says.

    Linux forgets the highest resident size of a process that writes 5 to its `clear_refs`.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _resident("VmRSS")
        function()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
