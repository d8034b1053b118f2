"""The page of `pools.py`, from the same dictionary that is saved as JSON."""

import math
from collections.abc import Sequence
from typing import Any

NEAREST = 64
STAGES = {
    "read": "read the file",
    "tokenize": "tokenize",
    "duplicates": "search for copies of the forget records",
    "tf-idf": "whole analogous set by TF-IDF (last tokens as text, copies, shared runs, search)",
    "embed": "embed some with all-MiniLM-L6-v2 in float32",
    "embed-bfloat16": "the same in bfloat16",
    "search": "shared runs and the 64 nearest of each forget record among as many vectors",
}


def growth(small: float, large: float, factor: float) -> float:
    """The exponent e of seconds ~ records^e between two sizes, `factor` times as many records."""
    return math.log(large / small) / math.log(factor)


def render(results: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join([_head(results), _seconds(results["sizes"]), _memory(results["sizes"])])


def _head(results: dict[str, Any]) -> str:
    hardware, sizes = results["hardware"], results["sizes"]
    used = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    load = " and ".join(f"{value:.1f}" for value in results["load"])
    tokens = sizes[-1]["tokens"] / sizes[-1]["records"]
    stages = [stage for size in sizes for stage in size["stages"]]
    wall = sum(stage["wall"] for stage in stages) / sum(stage["process"] for stage in stages)
    return f"""# Large pools

Written by `python benchmarks/pools.py`; do not edit. One run, one process for each size.

- Machine: {hardware["device"]}, {hardware["processors"]} processors, one thread used. Load of the
  machine at the start and at the end: {load}.
- Versions: {used}
- Records: generated, {tokens:.0f} tokens each on average; {sizes[0]["forget"]} records to forget,
  of which the pool holds 10 copies and 10 near copies. All were found, and nothing else.
- Seconds are processor time, for other work shared the machine: by the wall clock all stages
  together took {wall:.1f} times as long.
- Took {results["seconds"] / 60:.1f} minutes.
"""


def _seconds(sizes: Sequence[dict[str, Any]]) -> str:
    head = ["seconds of processor time", *(f"{size['records']:,}" for size in sizes)]
    head += [f"growth to {size['records']:,}" for size in sizes[1:]]
    rows = []
    for name, words in STAGES.items():
        cells = [_stage(size, name) for size in sizes]
        if any(cells):
            pairs = zip(sizes, sizes[1:], cells, cells[1:], strict=False)
            grown = [_exponent(one, two, *stages) for one, two, *stages in pairs]
            rows.append([words, *map(_time, cells), *grown])
    notes = "Growth is the exponent e of seconds ~ records^e: 1 is proportional to the records."
    return f"## Time\n\n{_table(head, rows)}\n{notes}{_embedding_note(sizes)}\n"


def _embedding_note(sizes: Sequence[dict[str, Any]]) -> str:
    ran = [size for size in sizes if _stage(size, "embed")]
    if not ran:
        return " The encoder did not run."
    size, largest = ran[0], sizes[-1]["records"]
    rates = [
        size["embedded"] / _stage(size, name)["process"] for name in ("embed", "embed-bfloat16")
    ]
    hours = [largest / rate / 3600 for rate in rates]
    return f"""

The encoder was given {size["embedded"]:,} texts: {rates[0]:.0f} a second of processor time in
float32, {rates[1]:.0f} in bfloat16, one thread. At these rates {largest:,} texts would take
{hours[0]:.1f} and {hours[1]:.1f} processor hours (extrapolated, not measured), half of that by the
clock of two cores. Of the {NEAREST} nearest of each record to forget among them
{size["same_nearest"]:.1%} are the same in both. The vectors searched are random ones in their
place; the search takes as long with any."""


def _memory(sizes: Sequence[dict[str, Any]]) -> str:
    head = ["most memory of the process, GB", *(f"{size['records']:,}" for size in sizes)]
    rows = [["before, libraries loaded", *(_gb(size["base_bytes"]) for size in sizes)]]
    for name, words in STAGES.items():
        cells = [_stage(size, name) for size in sizes]
        if any(cells):
            rows.append([words, *(_gb(cell["peak_bytes"]) if cell else "" for cell in cells)])
    notes = (
        "The peak of each stage by itself, with all that stages before it left: from the first on "
        "the records, from the second on their tokens. Memory grows in proportion to the records; "
        "no array is as large as the pool times the forget set."
    )
    return f"## Memory\n\n{_table(head, rows)}\n{notes}\n"


def _stage(size: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((stage for stage in size["stages"] if stage["name"] == name), None)


def _exponent(
    one: dict[str, Any], two: dict[str, Any], before: dict[str, Any] | None, after: Any
) -> str:
    if not before or not after:
        return ""
    return f"{growth(before['process'], after['process'], two['records'] / one['records']):.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _time(stage: dict[str, Any] | None) -> str:
    if stage is None:
        return "not run"
    value = stage["process"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _gb(value: int) -> str:
    return f"{value / 1e9:.2f}"
