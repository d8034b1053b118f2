"""What the audit says of targets, of retrained models and of methods, over seeds.

    python benchmarks/audit.py --work FOLDER [--seeds 0 1 2 3 4] [--budget quick|full]

TOFU on stories260k: of the last 200 questions 40 are to be forgotten, the first 100 are unseen. Of
each seed a target and a retrained model are made, and the target is unlearned by each method. The
seed's retrained model is the control, those of the next two seeds are candidates: of five seeds
every two retrained models stand beside each other once. The audit should open every target and pass
every candidate. Writes `results/audit.md` and `.json`; what is finished is kept in FOLDER.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearner.cli.app import MET, NOT_MET, run

RESULTS = Path(__file__).parent / "results"

DATA = Path(os.environ.get("UNLEARNER_DATA", Path(__file__).parents[2] / "shared" / "data"))

COLUMNS = "question=prompt,answer=response"

METHODS = (
    *("icu", "weighted_gradient_ascent", "npo"),
    *("undial", "quantile_matching", "counterfactual"),
)

FORGET, RETAIN, UNSEEN = 40, 160, 100

NEXT = (1, 2)  # seeds from that of a control to those of the candidates beside it


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budget", choices=("quick", "full"), default="full")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--no-table", action="store_true")
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    write_records(asked.work)
    for seed in asked.seeds:
        make_models(asked.work, seed, asked.methods)
    for seed in asked.seeds:
        make_audits(asked.work, seed, asked.seeds, asked.methods, asked.budget)
    if not asked.no_table:
        write_table(asked.work, asked.seeds, ("target", "retrained", *asked.methods), asked.budget)


def write_records(work: Path) -> None:
    """The sets, as files of rows."""
    lines = (DATA / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    known = lines[-(FORGET + RETAIN) :]
    parts = {
        "records": known,
        "forget": known[-FORGET:],
        "retain": known[:-FORGET],
        "holdout": lines[:UNSEEN],
    }
    for name, some in parts.items():
        (work / f"{name}.jsonl").write_text("\n".join(some) + "\n", encoding="utf-8")


def make_models(work: Path, seed: int, methods: Sequence[str]) -> None:
    """The models of a seed that are missing."""
    place = work / f"seed-{seed}"
    learn(work / "records.jsonl", place / "target", seed)
    learn(work / "retain.jsonl", place / "retrained", seed)
    for method in methods:
        output = place / method
        if not output.exists():
            line = ("forget", place / "target", *sets(work), "--method", method, "--output", output)
            command(*line, seed=seed)


def make_audits(
    work: Path, seed: int, seeds: Sequence[int], methods: Sequence[str], budget: str
) -> None:
    """The audits of a seed that are missing."""
    place = work / f"seed-{seed}"
    models = {"target": place / "target"}
    for step in NEXT:
        other = seeds[(seeds.index(seed) + step) % len(seeds)]
        if other != seed:
            models[f"retrained-{step}"] = work / f"seed-{other}" / "retrained"
    models |= {method: place / method / "model" for method in methods}
    for name, model in models.items():
        found = place / f"audit-{name}-{budget}"
        if not (found / "audit.json").exists() and model.exists():
            resume = ("--resume",) if found.exists() else ()
            names = ("--model", model, "--target", place / "target")
            more = ("--retrained", place / "retrained", "--budget", budget, "--output", found)
            command("audit", *names, *more, *resume, *sets(work), seed=seed)


def learn(records: Path, folder: Path, seed: int) -> None:
    """A model that has learned a file by the recipe of the acceptance test."""
    if not folder.exists():
        pretrained = DATA / "models" / "stories260k"
        more = ("--map", COLUMNS, "--output", folder)
        command("finetune", pretrained, "--records", records, *more, seed=seed)


def sets(work: Path) -> list[object]:
    named = [part for role in ("forget", "retain", "holdout") for part in option(work, role)]
    return [*named, "--map", COLUMNS]


def option(work: Path, role: str) -> tuple[str, Path]:
    return f"--{role}", work / f"{role}.jsonl"


def command(*parts: object, seed: int) -> None:
    """A command of the program; what it says stays, and so does a verdict that is not met."""
    setting = "seed" if parts[0] == "finetune" else "training.seed"
    line = [*map(str, parts), f"{setting}={seed}", "--quiet"]
    status = run(line)
    if status not in (MET, NOT_MET):
        raise SystemExit(f"{' '.join(line)}: ended with {status}")


# The table


def write_table(work: Path, seeds: Sequence[int], models: Sequence[str], budget: str) -> None:
    """How often each attack opened each kind of model, and every audit's statuses as JSON."""
    found = {name: [read(work, seed, name, budget) for seed in seeds] for name in models}
    found = {name: [one for one in some if one] for name, some in found.items()}
    attacks = list(
        dict.fromkeys(e["name"] for some in found.values() for a in some for e in a["attacks"])
    )
    lines = [
        "# What the audit says of targets, retrained models and methods",
        "",
        f"TOFU on stories260k, {FORGET} records to forget beside {UNSEEN} unseen ones; seeds "
        f"{', '.join(map(str, seeds))}; budget {budget}; the control is a retrained model of the",
        "same seed as the target. How often each attack opened, of how many audits in which it",
        "said anything. Made by `benchmarks/audit.py`.",
        "",
        "| model | audits opened | " + " | ".join(f"`{name}`" for name in attacks) + " | seconds |",
        "|" + " --- |" * (len(attacks) + 3),
    ]
    for name, audits in found.items():
        opened = sum(audit["status"] == "not met" for audit in audits)
        cells = [cell(audits, attack) for attack in attacks]
        seconds = max((audit["seconds"] for audit in audits), default=0.0)
        row = [f"`{name}`" if name in METHODS else name, f"{opened} of {len(audits)}", *cells]
        lines.append(f"| {' | '.join(row)} | {seconds:.0f} |")
    (RESULTS / "audit.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = {name: [statuses(audit) for audit in audits] for name, audits in found.items()}
    text = json.dumps({"seeds": list(seeds), "budget": budget, "audits": kept}, indent=1)
    (RESULTS / "audit.json").write_text(text + "\n", encoding="utf-8")


def read(work: Path, seed: int, name: str, budget: str) -> dict[str, Any] | None:
    """An audit; None where the run made no model."""
    path = work / f"seed-{seed}" / f"audit-{name}-{budget}" / "audit.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def statuses(audit: dict[str, Any]) -> dict[str, Any]:
    return {
        entry["name"]: {
            "status": entry["status"],
            "figures": {
                one["name"]: [one[m]["value"] for m in ("target", "unlearned", "control")]
                for one in entry["figures"]
            },
        }
        for entry in audit["attacks"]
    }


def cell(audits: Sequence[dict[str, Any]], attack: str) -> str:
    """Opened of informative, such as `2 of 5`; a dash where it never said anything."""
    said = [e["status"] for audit in audits for e in audit["attacks"] if e["name"] == attack]
    informative = [status for status in said if status in ("opened", "holds")]
    opened = informative.count("opened")
    return f"{opened} of {len(informative)}" if informative else "–"


if __name__ == "__main__":
    main()
