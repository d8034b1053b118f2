"""Measure one round of ICU on one CUDA device: its step and its questions, over sizes of models.

Models have random weights and are made from their configuration; nothing is downloaded. Run
`make bench-gpu`, or `python benchmarks/gpu.py --help`. With `--seconds` the rows that tell most
come first and none is begun that would not end in time. `--shapes tiny --device cpu` runs the same
code on a processor and prints the page.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from gpu_looks import looks
from gpu_round import asking, matrix_rate, steps
from gpu_shapes import (
    COMPILED,
    EIGHT_BIT,
    HELD,
    KERNELS,
    OFFLOADED,
    PLAIN,
    SHAPES,
    WAYS,
    Combination,
    Load,
)
from unlearner import provenance

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.md"
MATRIX = {"cuda": 8192, "cpu": 256}  # rows of the matrices whose product gives the matrix rate
GOAL, GOAL_PARAMETERS = 0.5, 1e9
SHORTEST, LONGEST = 40, 2048  # below, EL_10 has too few prompts; GPT-Neo has no more positions
NOT_ENOUGH = "does not fit"
GIB = 1 << 30
LOOKED_AT = "smollm2-135m"  # the model of a whole run's looks, where nothing else is said


@dataclass(frozen=True)
class Row:
    """Lines of one of the tables that are measured together.

    Attributes:
        table: "steps", "asking" or "looks".
        case: The model and how it is trained; asking and looks are in float32.
    """

    table: str
    case: Combination

    @property
    def words(self) -> str:
        """What is measured."""
        if self.table != "steps":
            return f"{self.case.shape}, {self.table}"
        return _words(self.case)

    @property
    def rank(self) -> int:
        """The place in `MOST_TELLING`; behind them all where it is not there."""
        case = self.case
        trained = "LoRA" if case.lora_rank else "all"
        name = (self.table, case.shape)
        if self.table == "steps":
            kept = "checkpointing" if case.checkpointing else "plain"
            name = (*name, case.precision, trained, kept, case.way)
        return MOST_TELLING.index(name) if name in MOST_TELLING else len(MOST_TELLING)


# The order of a run that is given some minutes: what the goals are about, small models first.
MOST_TELLING: tuple[tuple[str, ...], ...] = (
    ("steps", "gpt-neo-125m", "bfloat16", "all", "plain", PLAIN),
    ("steps", "llama-1b", "bfloat16", "all", "plain", PLAIN),
    ("steps", "llama-1b", "bfloat16", "LoRA", "plain", PLAIN),
    ("asking", "gpt-neo-125m"),
    ("looks", LOOKED_AT),
    ("steps", "llama-8b", "bfloat16", "LoRA", "checkpointing", PLAIN),
    ("steps", "llama-8b", "bfloat16", "LoRA", "checkpointing", HELD),
    ("steps", "llama-8b", "bfloat16", "LoRA", "checkpointing", OFFLOADED),
    ("steps", "llama-1b", "bfloat16", "all", "plain", COMPILED),
    ("steps", "llama-1b", "bfloat16", "LoRA", "plain", COMPILED),
    ("steps", "llama-1b", "bfloat16", "all", "plain", EIGHT_BIT),
    ("steps", "llama-8b", "bfloat16", "all", "checkpointing", EIGHT_BIT),
    ("steps", "gpt-neo-125m", "bfloat16", "LoRA", "plain", PLAIN),
    ("asking", "llama-1b"),
    ("steps", "gpt-neo-125m", "bfloat16", "all", "plain", COMPILED),
    ("steps", "llama-1b", "bfloat16", "all", "checkpointing", PLAIN),
    ("steps", "llama-8b", "bfloat16", "LoRA", "plain", PLAIN),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything; the page and the figures are written anew behind every line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --shapes tiny --device cpu runs the same code")
    if not SHORTEST <= options.tokens <= LONGEST:
        parser.error(f"--tokens: {SHORTEST} to {LONGEST}, got {options.tokens}")
    if options.device == "cpu":
        torch.set_num_threads(1)
    output = options.output or (RESULTS if options.device == "cuda" else None)
    started = time.perf_counter()

    def keep(results: dict[str, Any]) -> None:
        results["seconds"] = time.perf_counter() - started
        if output:
            _write(results, output)

    print(render(run(options, keep, lambda: time.perf_counter() - started)))


def _write(results: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(results), encoding="utf-8")
    figures = json.dumps(results, indent=1) + "\n"
    output.with_suffix(".json").write_text(figures, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add, load = parser.add_argument, Load()
    kernels = dict.fromkeys(kernel for some in KERNELS.values() for kernel in some)
    published = [name for name in SHAPES if not name.startswith("tiny")]
    add("--shapes", nargs="+", choices=SHAPES, default=published)
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add(
        "--attention",
        nargs="+",
        choices=["auto", *kernels],
        default=["auto"],
        help="kernels; auto is the one that transformers takes",
    )
    add("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"])
    add("--ranks", nargs="+", type=int, default=[0, 16], help="of adapters; 0 trains all weights")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of training")
    add("--compile", action="store_true", help="also time torch.compile of the bare step")
    add("--tokens", type=int, default=load.tokens, help="of a window")
    add("--forget", type=_count, default=load.forget, help="forget windows of a step")
    add("--kept", type=_count, default=load.kept, help="analogous windows of a step")
    add("--records", type=_count, default=load.records, help="that are asked about")
    add("--looks", nargs="*", choices=SHAPES, help=f"shapes of runs' looks (CUDA: {LOOKED_AT})")
    add("--look-records", type=_count, default=200, help="of each set of a look")
    add(
        "--seconds",
        type=_count,
        help="a budget: rows that tell most first, and none that would not end in time",
    )
    add(
        "--repeats", type=_count, default=load.repeats, help="timings, of which the median is taken"
    )
    add("--output", type=Path, help="the page; figures beside it (default results/gpu.md on CUDA)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, got {text}")
    return number


def run(
    options: argparse.Namespace,
    keep: Callable[[dict[str, Any]], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All the figures, as the page and the JSON file hold them.

    Args:
        keep: Is given what there is so far, at first and behind every row.
        clock: Seconds since the start, for the budget.
    """
    device, chosen = options.device, vars(options)
    load = Load(
        **{name: chosen[name] for name in ("tokens", "forget", "kept", "records", "repeats")}
    )
    rates = {
        str(kind).removeprefix("torch."): matrix_rate(device, kind, MATRIX[device], load.repeats)
        for kind in (torch.bfloat16, torch.float32)
    }
    results: dict[str, Any] = {
        "options": {name: value for name, value in chosen.items() if name != "output"},
        **_environment(device),
        "matrix_size": MATRIX[device],
        "matrix_rates": rates,
        "steps": [],
        "asking": [],
        "looks": [],
        "left_out": [],
    }
    keep(results)
    longest: dict[str, float] = {}  # seconds of a row, by table
    for row in _rows(options):
        case, begun = row.case, clock()
        if case.unavailable:
            _leave_out(case, results["left_out"])
            continue
        if options.seconds and begun + longest.get(row.table, 0.0) > options.seconds:
            results["left_out"].append(f"{row.words}: no time was left of {options.seconds} s")
            continue
        _say(row.words)
        if row.table == "steps":
            found = steps(case, load, device, compiles=options.compile)
            results["steps"].append(_rated(found, rates["bfloat16"]))
        elif row.table == "asking":
            results["asking"] += asking(case.shape, case.attention, load, device)
        else:
            results["looks"].append(looks(case.shape, load, options.look_records, device))
        longest[row.table] = max(longest.get(row.table, 0.0), clock() - begun)
        keep(results)
    keep(results)
    return results


def _rows(options: argparse.Namespace) -> list[Row]:
    """What is to be measured, in its order."""
    rows = []
    for shape, attention in itertools.product(options.shapes, options.attention):
        rows += [Row("steps", case) for case in _combinations(shape, attention, options)]
        # Between epochs the model is asked in float32.
        rows.append(Row("asking", Combination(shape, attention)))
    looked_at = options.looks
    if looked_at is None:
        looked_at = [LOOKED_AT] if options.device == "cuda" else []
    rows += [Row("looks", Combination(shape)) for shape in looked_at]
    return sorted(rows, key=lambda row: row.rank) if options.seconds else rows


def _leave_out(case: Combination, reasons: list[str]) -> None:
    reason = f"{case.shape}, {case.attention}, {case.precision}: {case.unavailable}"
    if reason not in reasons:
        reasons.append(reason)


def _combinations(shape: str, attention: str, options: argparse.Namespace) -> Iterator[Combination]:
    settings = itertools.product(
        options.ranks, options.precision, options.checkpointing, options.ways
    )
    for rank, precision, checkpointing, way in settings:
        # An adapter's moments are few, and weights that are trained are float32, on the device.
        if way not in ((EIGHT_BIT,) if rank else (HELD, OFFLOADED)):
            yield Combination(shape, attention, precision, checkpointing == "on", rank, way)


def _words(case: Combination) -> str:
    trained = f"LoRA rank {case.lora_rank}" if case.lora_rank else "all weights"
    kept = "checkpointing" if case.checkpointing else "no checkpointing"
    words = f"{case.shape}, {case.attention} attention, {case.precision}, {trained}, {kept}"
    return words if case.way == PLAIN else f"{words}, {case.way}"


def _rated(row: dict[str, Any], rate: float) -> dict[str, Any]:
    """With what follows from the seconds: rates and ratios."""
    if not row["fits"]:
        return row
    seconds, bare = row["step_seconds"], row["bare_seconds"]
    return row | {
        "tokens_per_second": row["tokens"] / seconds,
        "flops_per_second": row["flops"] / seconds,
        "share": row["flops"] / seconds / rate,
        "ratio": None if bare is None else seconds / bare,
    }


def _environment(device: str) -> dict[str, Any]:
    found = provenance.environment(torch.device(device), 0)
    hardware, versions = found["hardware"], found["versions"]
    hardware["float32_products"] = torch.get_float32_matmul_precision()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware["memory_bytes"] = properties.total_memory
        versions |= {"cuda": str(torch.version.cuda), "driver": _driver()}
    return {"hardware": hardware, "versions": versions}


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown, there is no nvidia-smi"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] or "unknown"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# The page

STEP_COLUMNS = (
    "model",
    "parameters",
    "trained",
    "attention",
    "precision",
    "checkpointing",
    "step, s",
    "tokens/s",
    "TFLOP/s",
    "share of bf16 rate",
    "goal",
    "",
    "bare, s",
    "step / bare",
    "bare compiled, s",
    "update, s",
    "peak, GiB",
    "expected, GiB",
    "expected / peak",
)
ASKING_COLUMNS = (
    "model",
    "attention",
    "set",
    "MA",
    "EL_10",
    "definition, s",
    "ours, s",
    "times faster",
    "continuations equal",
    "peak, GiB",
)


def render(results: dict[str, Any]) -> str:
    """The whole page, from the dictionary that is saved as JSON."""
    parts = [_head(results), _steps(results), _asking(results), _looks(results)]
    parts += [f"Left out: {reason}.\n" for reason in results["left_out"]]
    return "\n".join(parts)


def _head(results: dict[str, Any]) -> str:
    hardware, options = results["hardware"], results["options"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    memory = f", {hardware['memory_bytes'] / GIB:.0f} GiB" if "memory_bytes" in hardware else ""
    rates = results["matrix_rates"]
    return f"""# One round of ICU on one device

Written by `benchmarks/gpu.py`; do not edit. Models have random weights. Seconds are medians of
{options["repeats"]} timings of the wall clock, the device waited for, behind a warm-up.

- Device: {hardware["device"]}{memory}; {hardware["processors"]} processors beside it.
- Versions: {versions}
- Matrix rate, measured in this run on products of {results["matrix_size"]} rows and columns:
  bfloat16 {_tera(rates["bfloat16"])}, float32 {_tera(rates["float32"])} TFLOP/s
  (`float32_matmul_precision` is "{hardware["float32_products"]}").
- A step has {options["forget"]} forget windows and {options["kept"]} analogous ones, each of
  {options["tokens"]} tokens. Real windows differ in length, and padding comes on top.
- Took {results["seconds"] / 60:.1f} minutes.
"""


def _steps(results: dict[str, Any]) -> str:
    rows = results["steps"]
    reached = [row["share"] for row in rows if row["fits"] and _has_goal(row)]
    best = f"; the best here is {max(reached):.2f}" if reached else "; no such line was measured"
    return f"""## Steps

{_table(STEP_COLUMNS, [_step_line(row) for row in rows])}
Goal: at 1B parameters and more, in bfloat16, at least half of the measured bf16 matrix rate{best}.

Operations of a step are the model's own: 6 (N n + V D l) + 12 A P where all weights are trained,
and 4 (N n + V D l) + 6 r E n + 12 A P with adapters. N weights of the blocks' linear layers, V D
those of the output layer, n tokens, l label positions, A width of a block's heads, P pairs of a
query and a key that the causal masks leave in all blocks and windows, r rank, E sum of the adapted
layers' inputs and outputs. What checkpointing computes again, the target's logits and the update
are not counted, so the share is that of useful work.

A step is ICU's (`ICU._step` in `Trainer.step`): all three terms, backward, update. Bare is
`model(input_ids, labels=input_ids).loss.backward()` on the same windows as one batch in the same
precision, without an update; it computes logits at all positions at once and can need more memory.
"compiled": `training.compile`; "adamw_8bit": moments of 8 bits and gradients of 16;
"layerwise_casting": the frozen layers beside adapters are held in bfloat16; "offload": and in the
machine's memory.
The update alone is Adam's. Peak is that of two steps and all that they keep on the device
(`torch.cuda.max_memory_allocated`; on a processor the whole process); expected is the memory plan's
(`docs/memory.md`) for the steps of such a run, "-" where the model alone does not fit. The plan has
run a step of its own before; one that did not fit counts as what was free. "{NOT_ENOUGH}" is
`torch.OutOfMemoryError`.
"""


def _step_line(row: dict[str, Any]) -> list[str]:
    trained = f"LoRA rank {row['lora_rank']}" if row["lora_rank"] else "all"
    trained += "" if row["way"] == PLAIN else f", {row['way']}"
    kept = "on" if row["checkpointing"] else "off"
    named = [
        row["shape"],
        f"{row['parameters'] / 1e6:,.4g}M",
        trained,
        row["attention"],
        row["precision"],
        kept,
    ]
    goal = [f"at least {GOAL}", ""] if _has_goal(row) else ["-", ""]
    if not row["fits"]:
        return [
            *named,
            NOT_ENOUGH,
            "-",
            "-",
            "-",
            *goal,
            *"-----",
            _gib(row["expected_bytes"]),
            "-",
        ]
    if _has_goal(row):
        goal[1] = "reached" if row["share"] >= GOAL else "**not reached**"
    compiled = _seconds(row["compiled_seconds"]) if "compiled_seconds" in row else "-"
    return [
        *named,
        _seconds(row["step_seconds"]),
        f"{row['tokens_per_second']:,.0f}",
        _tera(row["flops_per_second"]),
        f"{row['share']:.2g}",
        *goal,
        _seconds(row["bare_seconds"]),
        "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        compiled,
        _seconds(row["update_seconds"]),
        *_sizes(row),
    ]


def _has_goal(row: dict[str, Any]) -> bool:
    return row["parameters"] >= GOAL_PARAMETERS and row["precision"] == "bfloat16"


def _asking(results: dict[str, Any]) -> str:
    tokens = results["options"]["tokens"]
    rows = [row for row in results["asking"] if row["fits"]]
    some = rows[0] if rows else {"records": 0, "start": 0, "asked_lengths": 0, "all_lengths": 0}
    return f"""## MA and EL_10

{_table(ASKING_COLUMNS, [_asking_line(row) for row in results["asking"]])}
Of {some["records"]} records of {tokens} tokens, in float32 as between the epochs of a run; prompts
of EL_10 from {some["start"]} on. The definition is one greedy `generate` for each prompt length and
the whole batch. {some["asked_lengths"]} of its {some["all_lengths"]} lengths were run; the time of
reading prompts is scaled by their tokens, and that of every further token by the number of forward
passes. Ours is `unlearner.inference.language_model.infer` with both metrics. Memorised is what the
model itself generates, unseen are random tokens. Kernels for other numbers of rows round otherwise,
and the most
probable tokens of a random model are close to each other, so that on an accelerator not every
continuation needs to be equal to the token.
"""


def _asking_line(row: dict[str, Any]) -> list[str]:
    named = [row["shape"], row["attention"], row["kind"] or "-"]
    if not row["fits"]:
        return [*named, "-", "-", "-", NOT_ENOUGH, *"---"]
    return [
        *named,
        f"{row['ma']:.3f}",
        f"{row['el_10']:.3f}",
        _seconds(row["definition_seconds"]),
        _seconds(row["seconds"]),
        f"{row['faster']:.1f}",
        f"{row['equal']:.0%}",
        _gib(row["peak_bytes"]),
    ]


LOOK_COLUMNS = (
    "model",
    "records of a set",
    "MA of forget",
    "measuring, s",
    "a look, s",
    "25 steps, s",
    "device busy, measuring",
    "a look",
    "25 steps",
    "peak, GiB",
)


def _looks(results: dict[str, Any]) -> str:
    rows = results["looks"]
    if not rows:
        return ""
    return f"""## Looks of a run

{_table(LOOK_COLUMNS, [_look_line(row) for row in rows])}
Three sets of so many records of {results["options"]["tokens"]} tokens, to forget, kept and unseen,
all in float32. Half of the records to forget are the model's own text, half random tokens.
Measuring is every continuation of all three sets, with MA and EL_10, as a report of target or
result has it; a look is `Refinement.examine`, as between the steps of a run; the steps are ICU's.
Busy is the mean of what `nvidia-smi` says of the device four times a second, "-" where there is
none.
"""


def _look_line(row: dict[str, Any]) -> list[str]:
    if not row["fits"]:
        return [row["shape"], str(row["records"]), NOT_ENOUGH, *"-------"]
    parts = ("measuring", "look", "steps")
    return [
        row["shape"],
        str(row["records"]),
        f"{row['ma']:.3f}",
        *(_seconds(row[f"{name}_seconds"]) for name in parts),
        *(_share(row[f"{name}_busy"]) for name in parts),
        _gib(row["peak_bytes"]),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _sizes(row: dict[str, Any]) -> list[str]:
    peak, expected = row["peak_bytes"], row["expected_bytes"]
    ratio = "-" if expected is None else f"{expected / peak:.2f}"
    return [_gib(peak), _gib(expected), ratio]


def _gib(number: int | None) -> str:
    return "-" if number is None else f"{number / GIB:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _seconds(value: float | None) -> str:
    if value is None:
        return NOT_ENOUGH
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g}"


if __name__ == "__main__":
    main()
