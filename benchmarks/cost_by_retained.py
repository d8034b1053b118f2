"""What forgetting costs by the number of retained records, beside training again without them.

    python benchmarks/cost_by_retained.py --target FOLDER --work FOLDER

TOFU: the 40 last questions are to be forgotten, 100 before them are unseen; the first 160, 1,600 or
3,600 are retained. The target is that of `tofu_forget01_compare.yaml`: it knows 160 retained
records by heart, whatever the number given. Processor seconds on one thread, of the whole command
and of one epoch of `finetune` on the retained records: the difference between some epochs and one.
Writes `results/cost-by-retained.md` and `.json`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("UNLEARNER_DATA", Path(__file__).parents[2] / "shared" / "data"))
PRETRAINED = DATA / "models" / "stories260k"
LAYOUT = ("data.append_eos=true", "data.scope=sequence")  # the target's
COLUMNS = "question=prompt,answer=response"
FORGET, UNSEEN = 40, 100
SIZES = (160, 1600, 3600)
EPOCHS = 24  # of the target's own training
METHODS = ("icu", "quantile_matching", "counterfactual")
LINES = """# What forgetting costs by the number of retained records

TOFU, 40 records to forget, 100 unseen ones, a Llama of 0.26 M parameters; one run each, seed 0.
Processor seconds on one thread, reading and measuring included. The target knows 160 of the
retained records by heart, whatever the number. Retraining: 24 epochs, reckoned from one.
Made by `benchmarks/cost_by_retained.py`.

| retained | an epoch, s | retraining, s | method | s | of retraining | steps | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for size in asked.sizes:
        for row in _rows(size, asked.target, asked.work):
            found.append(row)
            _write(found)


def _write(found: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"rows": found}, indent=1) + "\n"
    (RESULTS / "cost-by-retained.json").write_text(text, encoding="utf-8")
    (RESULTS / "cost-by-retained.md").write_text(
        LINES + "".join(map(line, found)), encoding="utf-8"
    )


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    again = EPOCHS * row["epoch"]
    cells = [
        f"{row['retained']:,}",
        f"{row['epoch']:.1f}",
        f"{again:.0f}",
        f"`{row['method']}`",
        f"{row['seconds']:.0f}",
        f"{row['seconds'] / again:.2f}",
        str(row["steps"]),
        row["verdict"],
    ]
    return f"| {' | '.join(cells)} |\n"


def _rows(size: int, target: Path, work: Path) -> Iterator[dict[str, Any]]:
    lines = (DATA / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    parts = {
        "forget": lines[-FORGET:],
        "retain": lines[:size],
        "holdout": lines[-FORGET - UNSEEN : -FORGET],
    }
    folder = work / str(size)
    folder.mkdir(exist_ok=True)
    for name, some in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(some) + "\n", encoding="utf-8")
    kept = folder / "retain.jsonl"
    further = max(1, max(SIZES) // (2 * size))  # enough to stand out from what starting takes
    epochs = [
        _command(
            folder / f"epochs-{n}",
            "finetune",
            PRETRAINED,
            "--records",
            kept,
            f"epochs={n}",
        )
        for n in (1, 1 + further)
    ]
    files = [part for name in parts for part in (f"--{name}", folder / f"{name}.jsonl")]
    for method in METHODS:
        more = (f"method.pretrained={PRETRAINED}",) if method == "counterfactual" else ()
        output = folder / method
        seconds = _command(output, "forget", target, *LAYOUT, *files, "--method", method, *more)
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        yield {
            "retained": size,
            "epoch": (epochs[1] - epochs[0]) / further,
            "method": method,
            "seconds": seconds,
            "steps": report["cost"]["steps"],
            "verdict": report["verdict"]["status"],
        }


def _command(output: Path, *parts: object) -> float:
    """The processor seconds of a command, kept beside its output so that it is run once."""
    note = output.with_suffix(".seconds")
    if not note.exists():
        before = _spent()
        line = [sys.executable, "-m", "unlearner", *map(str, parts), "--map", COLUMNS, "--quiet"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        status = subprocess.run(
            [*line, "--output", str(output)], check=False, env=environment
        ).returncode
        if status not in (0, 3):
            raise SystemExit(f"{' '.join(line)}: ended with {status}")
        note.write_text(str(_spent() - before), encoding="utf-8")
    return float(note.read_text(encoding="utf-8"))


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
