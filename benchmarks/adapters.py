"""Low-rank adapters beside full training: the same request, the same target, one table.

    python benchmarks/adapters.py --data FOLDER --work FOLDER

A real small model (stories260k) learns 200 rows of TOFU and forgets 40 of them, each time from the
same target, once training its weights and once adapters. `--data` holds `models/stories260k` and
`tofu/full.json`. What takes most of the memory of large models, gradients and the optimiser's two
moments, is counted from the tensors themselves; peaks of whole runs are in `memory.md`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from unlearner import provenance
from unlearner.cli.app import run
from unlearner.models import adapters

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
COLUMNS = "question=prompt,answer=response"
RANKS = (0, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    target = make_target(asked.data, asked.work)
    rows = [measure(target, asked.work, rank, seed) for rank in RANKS for seed in asked.seeds]
    write_table(rows)


def make_target(data: Path, work: Path) -> Path:
    """The model that has learned all 200 rows, and the record files; kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    lines = (data / "tofu" / "full.json").read_text(encoding="utf-8").splitlines(keepends=True)
    sets = {
        "records": lines[-200:],
        "forget": lines[-40:],
        "retain": lines[-200:-40],
        "holdout": lines[:100],
    }
    for name, some in sets.items():
        (work / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
    if not (work / "target").exists():
        run(
            [
                "finetune",
                str(data / "models" / "stories260k"),
                "--records",
                str(work / "records.jsonl"),
                "--output",
                str(work / "target"),
                "--map",
                COLUMNS,
                "--quiet",
            ]
        )
    return work / "target"


def measure(target: Path, work: Path, rank: int, seed: int) -> dict[str, Any]:
    """One row, from the run's own report."""
    output = work / f"rank-{rank}-seed-{seed}"
    if not (output / "report.json").exists():
        sets = [
            part
            for name in ("forget", "retain", "holdout")
            for part in (f"--{name}", str(work / f"{name}.jsonl"))
        ]
        run(
            [
                "forget",
                str(target),
                *sets,
                "--output",
                str(output),
                "--map",
                COLUMNS,
                "--quiet",
                f"training.lora_rank={rank}",
                f"training.seed={seed}",
            ]
        )
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    before, after = report["results"]["target"], report["results"]["unlearned"]
    model = AutoModelForCausalLM.from_pretrained(target)
    if rank:
        adapters.attach(model, rank, None)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "rank": rank,
        "seed": seed,
        "verdict": report["verdict"]["status"],
        **{name: after["forget"][name]["value"] for name in ("ma", "el_10", "mia_loss_auc")},
        "kept": after["retain"]["perplexity"]["value"] / before["retain"]["perplexity"]["value"],
        "epochs": len(report["rounds"]) - 1,
        "seconds": report["cost"]["seconds_unlearning"],
        "trained": trained,
        "weight_bytes": weights,
        "step_bytes": 3 * 4 * trained,
        "environment": provenance.environment(torch.device("cpu"), seed),
    }


def write_table(rows: list[dict[str, Any]]) -> None:
    """The table, and every row as JSON."""
    full = next(row for row in rows if row["rank"] == 0)
    lines = [
        "# Low-rank adapters beside full training",
        "",
        "stories260k (0.26M parameters, 64 hidden units) with 200 rows of TOFU, 40 of them to be",
        "forgotten; ICU at its defaults. `state` is what training adds to the weights: gradients",
        "and two moments of what is trained, in float32. Made by `benchmarks/adapters.py`.",
        "",
        "| rank | seed | verdict | MA | EL_10 | AUC | kept perplexity | epochs | seconds | trained "
        "| state | state against full |",
        "|" + " --- |" * 12,
    ]
    for row in rows:
        cells = [
            row["rank"] or "full",
            row["seed"],
            row["verdict"],
            f"{row['ma']:.3f}",
            f"{row['el_10']:.4f}",
            f"{row['mia_loss_auc']:.3f}",
            f"{row['kept']:.3f}",
            row["epochs"],
            f"{row['seconds']:.0f}",
            f"{row['trained']:,}",
            f"{row['step_bytes'] / 1e6:.2f} MB",
            f"{row['step_bytes'] / full['step_bytes']:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (RESULTS / "adapters.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(rows, indent=1) + "\n"
    (RESULTS / "adapters.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
