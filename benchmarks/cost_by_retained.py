"""What forgetting costs by the number of retained records, beside training again without them.

    python benchmarks/cost_by_retained.py --target FOLDER --work FOLDER
    python benchmarks/cost_by_retained.py --work FOLDER --sizes 1600 --methods quantile_matching

TOFU: the 40 last questions are to be forgotten, 100 before them are unseen; the first 160, 1,600 or
3,600 are retained. A target that is given is that of `tofu_forget01_compare.yaml`: it knows 160
retained records by heart, whatever the number. Without one the target is made of all of them.
Processor seconds on one thread, of the whole command and of one epoch of `finetune` on the retained
records: the difference between some epochs and one. Writes `results/cost-by-retained.md` and
`.json`; rows that are not made this time stay.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
KNOWN = 160  # retained records that a target that is given knows
METHODS = ("icu", "quantile_matching", "counterfactual")
LINES = """# What forgetting costs by the number of retained records

TOFU, 40 records to forget, 100 unseen ones, a Llama of 0.26 M parameters; one run each, seed 0.
Processor seconds on one thread, reading and measuring included. `learned`: how many retained
records the target has learned beside those to forget, in 24 epochs, and its MA on the latter.
Retraining: 24 epochs, reckoned from one; where the target has learned them all, what that took.
Made by `benchmarks/cost_by_retained.py`.

"""
HEAD = (
    "retained",
    "learned",
    "MA before",
    "an epoch, s",
    "retraining, s",
    "method",
    "s",
    "of retraining",
    "steps",
    "MA, unseen",
    "AUC",
    "verdict",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", type=Path, help="one that knows 160; else it is made of all")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    for size in asked.sizes:
        for row in _rows(size, asked.target, asked.work, asked.methods):
            _write(row)


def _write(row: dict[str, Any]) -> None:
    """Put a row among those that are there, in place of that of the same name."""
    path = RESULTS / "cost-by-retained.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = {_place(one): one for one in (*before, row)}
    found = [rows[place] for place in sorted(rows)]
    text = json.dumps({"rows": found}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    head = _cells(HEAD) + _cells(["---"] * len(HEAD))
    (RESULTS / "cost-by-retained.md").write_text(
        LINES + head + "".join(map(line, found)), encoding="utf-8"
    )


def _place(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["learned"] != KNOWN, row["retained"], METHODS.index(row["method"])


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    again = row["retraining"]
    cells = [
        f"{row['retained']:,}",
        f"{row['learned']:,}",
        f"{row['before']:.2f}",
        f"{row['epoch']:.1f}",
        f"{again:.0f}",
        f"`{row['method']}`",
        f"{row['seconds']:.0f}",
        f"{row['seconds'] / again:.2f}",
        str(row["steps"]),
        f"{row['ma']:.2f}, {row['unseen']:.2f}",
        f"{row['auc']:.2f}",
        row["verdict"],
    ]
    return _cells(cells)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _rows(
    size: int, given: Path | None, work: Path, methods: Sequence[str]
) -> Iterator[dict[str, Any]]:
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
    epoch = (epochs[1] - epochs[0]) / further
    target, again = given or folder / "target", EPOCHS * epoch
    if given is None:
        both = folder / "learned.jsonl"
        both.write_text("\n".join(parts["forget"] + parts["retain"]) + "\n", encoding="utf-8")
        again = _command(target, "finetune", PRETRAINED, "--records", both, f"epochs={EPOCHS}")
    files = [part for name in parts for part in (f"--{name}", folder / f"{name}.jsonl")]
    for method in methods:
        more = (f"method.pretrained={PRETRAINED}",) if method == "counterfactual" else ()
        output = folder / (method if given else f"{method}-of-all")
        seconds = _command(output, "forget", target, *LAYOUT, *files, "--method", method, *more)
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        results = report["results"]
        yield {
            "retained": size,
            "learned": KNOWN if given else size,
            "before": results["target"]["forget"]["ma"]["value"],
            "ma": results["unlearned"]["forget"]["ma"]["value"],
            "unseen": results["unlearned"]["holdout"]["ma"]["value"],
            "auc": results["unlearned"]["forget"]["mia_loss_auc"]["value"],
            "epoch": epoch,
            "retraining": again,
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
