"""DeepCUT beside every other method for classifiers, on real data, against retraining.

    python benchmarks/deepcut_table.py --task banking77 --work FOLDER
    python benchmarks/deepcut_table.py --task wnut17 --work FOLDER
    python benchmarks/deepcut_table.py --task noisy4 --work FOLDER

trains what is missing, runs what is missing and writes `results/deepcut-TASK.md` and `.json`. Every
row is kept in FOLDER/table.jsonl: a run can be interrupted, and several can share the work
(`--no-table`).
"""

import argparse
import json
import math
import os
import platform
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers

from real_classifiers import FIGURES, PRECISION, Request, Rows, World, figures, one_thread
from unlearner.methods.base import load_method
from unlearner.methods.deepcut import MOST_STEPS_PER_ROUND, DeepCUT

RESULTS = Path(__file__).parent / "results"
REMOVALS = {
    "banking77": ("1%", "5%", "10%", "class"),
    "wnut17": ("5%",),
    "noisy4": ("6%",),
    "sms": ("6%",),
}
# Five shards of three slices cost as much to make as a target, so one seed has to do.
ONE_SEED = ("sisa",)
# Rows that were not measured again when others were.
EARLIER = (
    "A star marks rows of an earlier run, on another processor, in bfloat16, by the defaults of "
    "then."
)
# What a method may take that goes by forget batches; SCRUB and fine-tuning go by passes over the
# remaining records.
MOST_STEPS, MOST_SAMPLES = 80, 5000
FORGET_BATCH = DeepCUT().batch_size
METHODS: dict[str, dict[str, Any]] = {
    "deepcut": {},
    "gradient_ascent": {},
    "gradient_difference": {},
    "random_labels": {},
    "bad_teacher": {"max_epochs": 1},
    "calibrated_distillation": {},
    "salun": {},
    "l1_sparse": {"max_epochs": 1},
    "contrastive_unlearning": {},
    "scrub": {"max_epochs": 2},
    "finetune": {"max_epochs": 1},
    "sisa": {"max_epochs": 1},  # not read: its epochs are those of its training
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=tuple(REMOVALS), default="banking77")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--removals", nargs="+")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--no-table", action="store_true")
    asked = parser.parse_args()
    one_thread()
    rows = Rows(asked.work / "table.jsonl")
    for seed in asked.seeds:
        for removal in asked.removals or REMOVALS[asked.task]:
            request = Request(World(asked.task, seed, asked.work), removal)
            key = {"task": asked.task, "removal": removal, "seed": seed}
            if not rows.has(key | {"method": "retrained"}):
                _add_models(rows, key, request)
            for method in asked.methods:
                wanted = seed == 0 or method not in ONE_SEED
                if wanted and not rows.has(key | {"method": method}):
                    rows.add(key | {"method": method} | _run(request, method))
    if not asked.no_table:
        write_table(asked.task, [row for row in rows.all() if row["task"] == asked.task])


def _add_models(rows: Rows, key: dict[str, Any], request: Request) -> None:
    """The target and the retrained model, which every method is compared with."""
    seconds = request.world.retraining_seconds(request.removal)
    target = figures(request.score(request.infer(request.loaded.model)), request.world)
    retrained = figures(request.score(request.retrained), request.world)
    rows.add(key | {"method": "target", "seconds": 0.0, "share": 0.0, "steps": 0} | target)
    rows.add(key | {"method": "retrained", "seconds": seconds, "share": 1.0} | retrained)


def _run(request: Request, name: str) -> dict[str, Any]:
    method = load_method(name)(**METHODS[name])
    if "max_epochs" not in METHODS[name]:
        fields = method.model_dump()
        samples = method.batch_size + fields.get("retain_batch_size", 0)
        batches = math.ceil(len(request.sets["forget"]) / method.batch_size)
        epoch = batches * fields.get("remaining_per_forget", 1)
        steps = min(MOST_STEPS, MOST_SAMPLES // samples)
        update = {"max_epochs": max(1, steps // epoch)}
        if fields.get("steps_per_round") == MOST_STEPS_PER_ROUND:
            # as often as DeepCUT by itself looks at sets of this size
            few = math.ceil(len(request.sets["forget"]) / FORGET_BATCH)
            update["steps_per_round"] = min(MOST_STEPS_PER_ROUND, few)
        method = method.model_copy(update=update)
    model, trainer, seconds = request.unlearn(method)
    found = figures(request.score(request.infer(model)), request.world)
    share = seconds / request.world.retraining_seconds(request.removal)
    return {"seconds": seconds, "share": share, "steps": trainer.steps} | found


def write_table(task: str, measured: list[dict[str, Any]]) -> None:
    """Means over seeds by removal, and every row as JSON with what it was measured on."""
    lines = [
        f"# DeepCUT and the methods it is compared with: {task}",
        "",
        "Means over seeds; in brackets lowest and highest. `gap` is the mean distance from the",
        "retrained model of the same seed in the four figures before it; `share` is the processor",
        "time against retraining's. Made by `benchmarks/deepcut_table.py`; rows and machine in the",
        "JSON file beside this one.",
    ]
    if any(row.get("earlier") for row in measured):
        lines += ["", EARLIER]
    for removal in dict.fromkeys(row["removal"] for row in measured):
        mine = [row for row in measured if row["removal"] == removal]
        aims = {_run_of(row): row for row in mine if row["method"] == "retrained"}
        what = "one class" if removal == "class" else f"{removal} of the training records"
        lines += ["", f"## Forgetting {what}", ""]
        lines += [
            "| method | seeds | seconds | share | forget | retain | test | AUC | JS | gap |",
            "|" + " --- |" * 10,
        ]
        grouped = defaultdict(list)
        for row in mine:
            grouped[row["method"] + " *" * bool(row.get("earlier"))].append(row)
        lines += [_line(name, some, aims) for name, some in grouped.items()]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"deepcut-{task}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {"environment": _environment(), "rows": measured}
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / f"deepcut-{task}.json").write_text(text, encoding="utf-8")


def _run_of(row: dict[str, Any]) -> tuple[int, bool]:
    """What a row's own retrained model is known by: the seed, and which run of the benchmark."""
    return row["seed"], bool(row.get("earlier"))


def _line(method: str, some: list[dict[str, Any]], aims: dict[Any, dict[str, Any]]) -> str:
    gaps = [mean(abs(row[name] - aims[_run_of(row)][name]) for name in FIGURES) for row in some]
    cells = [
        method,
        str(len(some)),
        f"{mean(row['seconds'] for row in some):.0f}",
        f"{mean(row['share'] for row in some):.2f}",
    ]
    for name in (*FIGURES, "js"):
        values = [row[name] for row in some if name in row]
        cells.append(
            f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-"
        )
    cells.append(f"{mean(gaps):.3f}")
    return f"| {' | '.join(cells)} |"


def _environment() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": 1,
        "precision": PRECISION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
