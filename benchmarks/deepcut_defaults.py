"""Which settings should DeepCUT have? A grid around a base, on real classifiers, over seeds.

    python benchmarks/deepcut_defaults.py --task banking77 --seeds 0 1 2 --work FOLDER

Every row is appended to FOLDER/defaults.jsonl, and what stands there is not computed again: a run
can be interrupted, and several can share the work. `--table` writes `results/deepcut-defaults.md`
and `.json` from it.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from real_classifiers import FIGURES, Request, Rows, World, figures, one_thread
from unlearner.methods.deepcut import DeepCUT

REMOVAL = "5%"
RESULTS = Path(__file__).parent / "results"
# The base that one setting at a time departs from; taggers have what `auto` gives them.
BASE: dict[str, Any] = {
    "temperature": 1.0,
    "forget_weight": 2.0,
    "learning_rate": 1e-4,
    "stop": "auc",
    "related_share": 0.5,
    "repair_steps": 0,
    "remaining_per_forget": 4,
    "batch_size": 16,
    "retain_batch_size": 32,
    "retain_views": 1,
    "steps_per_round": 5,
    "max_epochs": 2,
}
BASES = {
    "banking77": BASE,
    "wnut17": BASE | {"forget_weight": 0.3, "stop_gradient": True, "stop": "score"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "tau 0.1": {"temperature": 0.1},
    "tau 0.5": {"temperature": 0.5},
    "tau 2": {"temperature": 2.0},
    "tau 2, gamma doubled": {"temperature": 2.0, "forget_weight": 2.0},
    "gamma halved": {"forget_weight": 0.5},
    "gamma doubled": {"forget_weight": 2.0},
    "learning rate 5e-5": {"learning_rate": 5e-5},
    "learning rate 2e-4": {"learning_rate": 2e-4},
    "remaining twice": {"retain_views": 2},
    "16 remaining, twice": {"retain_batch_size": 16, "retain_views": 2},
    "48 remaining": {"retain_batch_size": 48},
    "none related": {"related_share": 0.0},
    "all related": {"related_share": 1.0},
    "stop by score": {"stop": "score"},
    "stop by loss": {"stop": "loss"},
    "stop by AUC": {"stop": "auc"},
    "repair 5": {"repair_steps": 5},
    "repair 20": {"repair_steps": 20},
    "own view left out": {"own_view": False},
    "remaining only": {"contrast_with": "retain"},
    "stop gradient": {"stop_gradient": True},
    "gradient to remaining": {"stop_gradient": False},
    "linear (Lee et al.)": {"form": "contrastive_unlearning"},
    "flipped supcon": {"form": "flipped_supcon"},
    "hard samples 8": {"hard_samples": 8},
    "preset paper": {"preset": "paper", "max_epochs": 2},
}


def settings(task: str, variant: str) -> dict[str, Any]:
    """The method's fields of a variant; the preset stands for itself."""
    change = dict(VARIANTS[variant])
    if "preset" in change:
        return change
    if "forget_weight" in change:  # a factor: the two families' weights differ
        change["forget_weight"] *= BASES[task]["forget_weight"]
    return BASES[task] | change


def departs(task: str, variant: str) -> bool:
    """Whether a variant is anything but the task's base (a base has some of them built in)."""
    return variant == "base" or settings(task, variant) != BASES[task]


def measure(request: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """One row: what DeepCUT with these settings leaves, and how far that is from retraining."""
    model, trainer, seconds = request.unlearn(DeepCUT(**fields))
    found = figures(request.score(request.infer(model)), request.world)
    aim = figures(request.score(request.retrained), request.world)
    return {
        "steps": trainer.steps,
        "seconds": seconds,
        **found,
        "gap": mean(abs(found[name] - aim[name]) for name in FIGURES),
        "retrained": aim,
        "retraining_seconds": request.world.retraining_seconds(request.removal),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("banking77", "wnut17"), default="banking77")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    rows = Rows(asked.work / "defaults.jsonl")
    if asked.table:
        write_table(rows.all())
        return
    one_thread()
    for seed in asked.seeds:
        request = Request(World(asked.task, seed, asked.work), REMOVAL)
        for variant in asked.variants:
            key = {"task": asked.task, "seed": seed, "variant": variant}
            if departs(asked.task, variant) and not rows.has(key):
                rows.add(key | measure(request, settings(asked.task, variant)))


def write_table(measured: list[dict[str, Any]]) -> None:
    """The means over seeds as a table, and every row as JSON."""
    lines = [
        "# DeepCUT's settings on real classifiers",
        "",
        f"Forgetting {REMOVAL} of the training records; means over seeds, the gap's range in",
        "brackets. `gap` is the mean distance from the retrained model's four figures (score on",
        "the forget set, kept and test records; membership AUC); `share` the processor time",
        "against retraining's. Made by `benchmarks/deepcut_defaults.py`.",
    ]
    for task in dict.fromkeys(row["task"] for row in measured):
        mine = [row for row in measured if row["task"] == task]
        aims = {(row["seed"]): row["retrained"] for row in mine}.values()
        told = ", ".join(f"{name} {mean(aim[name] for aim in aims):.3f}" for name in FIGURES)
        lines += ["", f"## {task}", "", f"Retrained model: {told}.", ""]
        lines += [
            "| variant | seeds | steps | seconds | share | forget | retain | test | AUC | JS "
            "| gap |",
            "|" + " --- |" * 11,
        ]
        grouped = defaultdict(list)
        for row in mine:
            grouped[row["variant"]].append(row)
        lines += [_line(name, grouped[name]) for name in VARIANTS if name in grouped]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "deepcut-defaults.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(measured, indent=1) + "\n"
    (RESULTS / "deepcut-defaults.json").write_text(text, encoding="utf-8")


def _line(variant: str, some: list[dict[str, Any]]) -> str:
    gaps = [row["gap"] for row in some]
    shares = [row["seconds"] / row["retraining_seconds"] for row in some]
    cells = [
        variant,
        str(len(some)),
        f"{mean(row['steps'] for row in some):.0f}",
        f"{mean(row['seconds'] for row in some):.0f}",
        f"{mean(shares):.2f}",
        *(f"{mean(row[name] for row in some):.3f}" for name in (*FIGURES, "js")),
        f"{mean(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f})",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
