"""Measure how fast `unlearner` asks a model and takes a step, against the plain ways.

Run `make bench`, or `python benchmarks/speed.py --help`.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from speed_asking import AskingPlan, AskingRow, Ours, compare
from speed_cases import (
    NUM_TOKENS,
    gpt_neo,
    gpt_neo_cases,
    random_ids,
    shared_data,
    small_cases,
)
from speed_definition import spread_lengths
from speed_step import Steps, StepTimes, kept_bytes
from speed_table import render
from unlearner import provenance

STARTS = (1, 150)  # the whole range of EL_10, and that of ICU's published code
RECORDS = 8
KEPT_RECORDS = 128


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        layers: Of the random GPT-Neo; 12 of width 768 are the 125M shape.
        width: Alike.
        small_lengths: Prompt lengths of the definition on the small model; None for all.
        neo_lengths: On the random GPT-Neo.
        repetitions: Of ours, and of the steps.
        whole_range_records: Records that ours is asked about on GPT-Neo where everything has to be
            decoded.
        windows: Forget windows of a step, and as many analogous ones.
    """

    layers: int = 12
    width: int = 768
    small_lengths: int | None = None
    neo_lengths: int = 6
    repetitions: int = 3
    whole_range_records: int = 2
    windows: int = 8


QUICK = Size(
    layers=4,
    width=256,
    small_lengths=6,
    neo_lengths=4,
    repetitions=1,
    whole_range_records=1,
    windows=2,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the table and the figures."""
    options = _parser().parse_args(arguments)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    size = QUICK if options.quick else Size()
    started, load = time.perf_counter(), os.getloadavg()[0]
    results = run(size, options.target, options.device)
    results["command"] = "python benchmarks/speed.py" + (" --quick" if options.quick else "")
    results["seconds"] = time.perf_counter() - started
    results["load"] = [load, os.getloadavg()[0]]
    page = render(results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    figures = json.dumps(results, indent=1) + "\n"
    options.output.with_suffix(".json").write_text(figures, encoding="utf-8")
    print(page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a smaller run of some minutes, on a smaller GPT-Neo"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speed-cpu.md"))
    parser.add_argument("--target", help="model folder instead of stories260k trained on TOFU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    return parser


def run(size: Size, target: str | None, device: str) -> dict[str, Any]:
    """All the figures, as the table and the JSON file hold them."""
    environment = provenance.environment(torch.device(device), 0)
    results: dict[str, Any] = {
        "hardware": environment["hardware"] | {"device": _device_name(device)},
        "versions": environment["versions"],
        "clock": "process" if device == "cpu" else "wall",
        "asking": [],
        "steps": [],
        "left_out": [],
    }
    _small(size, target, device, results)
    _neo(size, device, results)
    return results


def _small(size: Size, target: str | None, device: str, results: dict[str, Any]) -> None:
    if not shared_data().is_dir():
        reason = f"the small real model, since there is no {shared_data().name} folder of data"
        results["left_out"].append(f"{reason}; set UNLEARNER_DATA to one")
        _say(results["left_out"][-1])
        return
    _say("the small model learns its records")
    cases = small_cases(target, device, RECORDS)
    lengths = size.small_lengths and _lengths(size.small_lengths)
    plan = AskingPlan({start: Ours(size.repetitions) for start in STARTS}, lengths or None)
    for case in cases:
        _say(f"{case.name}, {case.kind}")
        results["asking"] += [_asking(row) for row in compare(case, plan)]
    case = cases[0]
    ids = torch.cat([cases[-1].ids, case.ids])[: 2 * RECORDS]
    steps = Steps(case.model, ids, device).measure(3 * size.repetitions)
    results["steps"].append(_step(case.name, RECORDS, steps))


def _neo(size: Size, device: str, results: dict[str, Any]) -> None:
    _say("a random GPT-Neo")
    model = gpt_neo(device, layers=size.layers, width=size.width)
    cases = gpt_neo_cases(model, RECORDS)
    for case in cases:
        _say(f"{case.name}, {case.kind}")
        plan = AskingPlan(_neo_plan(case.kind, size), _lengths(size.neo_lengths))
        results["asking"] += [_asking(row) for row in compare(case, plan)]
    results["left_out"].append(
        "an unlearned set of the random GPT-Neo, which knows nothing that it could forget; what is "
        "unseen takes the longest"
    )
    name = cases[0].name
    results["bytes"] = kept_bytes(model, cases[-1].ids, KEPT_RECORDS) | {"name": name}
    _say(f"{name}, steps")
    ids = random_ids(model, 2 * size.windows, seed=3)
    steps = Steps(model, ids, device).measure(size.repetitions)
    results["steps"].append(_step(name, size.windows, steps))


def _neo_plan(kind: str, size: Size) -> dict[int, Ours]:
    """What ours takes minutes for is run once, and on some of the records."""
    if kind == "memorised":
        return {start: Ours(size.repetitions) for start in STARTS}
    return {1: Ours(1, size.whole_range_records), 150: Ours(min(2, size.repetitions))}


def _lengths(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return spread_lengths(NUM_TOKENS, STARTS[1], count, generator)


def _asking(row: AskingRow) -> dict[str, Any]:
    return dataclasses.asdict(row) | {
        "extrapolated": row.extrapolated,
        "ratio": row.definition.over(row.ours),
    }


def _step(name: str, windows: int, times: StepTimes) -> dict[str, Any]:
    named = {"name": name, "windows": windows, "ratio": times.icu.over(times.plain)}
    return named | dataclasses.asdict(times)


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
