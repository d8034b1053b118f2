"""Ten deletion requests in a row on one model, through the ledger; what holds after each.

    python benchmarks/requests_in_a_row.py --work DIR [--requests 10] [--records 2]

The target is that of `benchmarks/tofu_forget01_icu.yaml`, trained first where DIR has none. Each
request is for the next two records of the forget set. All 200 records that the target has learned
are given to be kept: the ledger leaves out those that were asked for by now. After every run the
table says its verdict, how many of the earlier requests still hold by their own limits, and the
perplexity of the kept records beside the first model's. Writes benchmarks/results/requests.md.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner.cli.commands import run_run
from unlearner.data.record import RecordSet
from unlearner.datasets.base import named_sets
from unlearner.pipeline.run_file import read_run_file
from unlearner.requests.ledger import Ledger
from unlearner.requests.records import WorkingFiles
from unlearner.training.log import quieten

ROW = Path(__file__).parent / "tofu_forget01_icu.yaml"
RESULTS = Path(__file__).parent / "results" / "requests.md"


def write_sets(folder: Path, sets: dict[str, RecordSet]) -> dict[str, str]:
    """The sets to keep and the unseen ones as files, by role."""
    files, found = WorkingFiles(folder / "sets"), {}
    learned = [*sets["retain"].records, *sets["forget"].records]
    for role, records in {"retain": learned, "holdout": sets["holdout"].records}.items():
        files.write(role, records)
        found[role] = str(files.path(role))
    return found


def perplexities(output: Path) -> dict[str, float]:
    """Of the kept records, by model."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return {
        name: figures["retain"]["perplexity"]["value"]
        for name, figures in report["results"].items()
        if "perplexity" in figures.get("retain", {})
    }


def row_of(number: int, ended: Any, seconds: float) -> str:
    """A line of the table."""
    earlier = [one for one in ended.held if one.requests and one.requests != ended.requests]
    holding = sum(one.status == "holds" for one in earlier)
    own = perplexities(ended.output) if (ended.output / "report.json").exists() else {}
    first = own.get("original", own.get("target"))
    kept = f"{own['unlearned'] / first:.3f}" if first and "unlearned" in own else "-"
    lost = ", ".join(
        f"{one.requests[0]} ({one.reason})" for one in earlier if one.status != "holds"
    )
    return (
        f"| {number} | {ended.state} | {holding} of {len(earlier)} | {kept} | {seconds:.0f} | "
        f"{lost or '-'} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--records", type=int, default=2)
    asked = parser.parse_args(arguments)
    quieten()
    base = asked.work / "row"
    if not (base / "target").exists():
        run_run(ROW, [], base, quiet=True)
    file = read_run_file(ROW, [])
    sets = named_sets(file.data, file.family)
    data = write_sets(asked.work, sets)
    ledger = Ledger(asked.work / "requests.db")
    sections = {"data": {**data, "append_eos": True, "scope": "sequence"}}
    lines = [
        "# Requests in a row",
        "",
        f"`python benchmarks/requests_in_a_row.py --work DIR`: {asked.requests} requests of "
        f"{asked.records} records each on the TOFU target (stories260k), one after another by "
        "`icu`'s defaults. Records that later requests are for are kept until then.",
        "",
        "| request | verdict | earlier ones that hold | kept perplexity / the first model's | "
        "seconds | what does not hold |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number in range(1, asked.requests + 1):
        start = (number - 1) * asked.records
        some = sets["forget"].records[start : start + asked.records]
        files = WorkingFiles(asked.work / f"asked-{number}")
        files.write("records", [replace(one, subject=f"s{number}") for one in some])
        ledger.add(str(files.path("records")), id=f"{number:02d}")
        started = time.perf_counter()
        model = base / "target" if number == 1 else ""
        [ended] = ledger.run(model, output=asked.work / "runs", sections=sections, say=print)
        lines.append(row_of(number, ended, time.perf_counter() - started))
        print(lines[-1], flush=True)
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("verify:", "holds" if ledger.verify(say=print).holds else "does not hold")


if __name__ == "__main__":
    main()
