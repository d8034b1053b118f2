"""How far retrained models are from each other: the least that forgetting can be asked to reach.

    python benchmarks/retrained_seeds.py --work FOLDER [--seeds 4]

Trains a model for each seed on what `benchmarks/tofu_forget01_compare.yaml` keeps, by its recipe,
and evaluates each beside every other. Writes `results/retrained-seeds.md` and `.json`.
"""

import argparse
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from unlearner.datasets.base import named_sets
from unlearner.pipeline.run_file import read_run_file
from unlearner.requests.records import WorkingFiles

HERE = Path(__file__).parent
ROW = HERE / "tofu_forget01_compare.yaml"
RESULTS = HERE / "results" / "retrained-seeds.md"
FIGURES = ("ma", "es", "mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc", "mia_min_k_plus_plus_auc")
LINES = """# Retrained models beside each other

TOFU, 40 records that were left out, 160 learned, 100 never seen; a Llama of 0.26 M parameters, one
model for each seed. Figures are of the 40 records. KS: Kolmogorov distance of their token losses
between two of the models. Made by `benchmarks/retrained_seeds.py`.

| seed | MA | ES | AUC by loss | zlib | Min-K % | Min-K++ % |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    file = read_run_file(ROW, [])
    assert file.target is not None
    sets, files = named_sets(file.data, file.family), WorkingFiles(asked.work / "sets")
    for role, records in sets.items():
        files.write(role, records.records)
    paths = {role: files.path(role) for role in sets}
    layout = [f"data.{key}={file.sections['data'][key]}" for key in ("append_eos", "scope")]
    folders = []
    for seed in range(asked.seeds):
        folders.append(asked.work / f"seed-{seed}")
        recipe = [f"epochs={file.target.finetune['epochs']}", f"training.seed={seed}", *layout]
        learned = ["--records", paths["retain"], "--until", str(file.target.until)]
        _unlearner(folders[-1], "finetune", file.target.pretrained, *learned, *recipe)
    given = [part for role, path in paths.items() for part in (f"--{role}", path)]
    scores, distances = {}, {}
    for one, other in combinations(range(asked.seeds), 2):
        output = asked.work / f"{one}-beside-{other}"
        beside = ["--retrained", folders[other]]
        _unlearner(output, "evaluate", folders[one], *beside, *given, *layout)
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        results = report["results"]
        own = next(name for name in results if name != "retrained")
        scores[one], scores[other] = results[own]["forget"], results["retrained"]["forget"]
        distances[f"{one}, {other}"] = _distance(report)
    _write(scores, distances)


def _distance(report: dict[str, Any]) -> float:
    [found] = [
        values["token_loss_ks"]["forget"]
        for values in report["distance_to_retrained"].values()
        if "token_loss_ks" in values
    ]
    return found


def _write(scores: dict[int, dict[str, Any]], distances: dict[str, float]) -> None:
    lines = [
        f"| {seed} | " + " | ".join(f"{scores[seed][name]['value']:.3f}" for name in FIGURES) + " |"
        for seed in sorted(scores)
    ]
    lines += ["", "| seeds | KS of token losses |", "| --- | --- |"]
    lines += [f"| {pair} | {value:.3f} |" for pair, value in distances.items()]
    RESULTS.write_text(LINES + "\n".join(lines) + "\n", encoding="utf-8")
    figures = {
        str(seed): {name: some[name]["value"] for name in FIGURES} for seed, some in scores.items()
    }
    text = json.dumps({"models": figures, "distances": distances}, indent=1) + "\n"
    RESULTS.with_suffix(".json").write_text(text, encoding="utf-8")


def _unlearner(output: Path, *parts: object) -> None:
    """A command whose output is not there yet."""
    if output.exists():
        return
    line = [sys.executable, "-m", "unlearner", *map(str, parts), "--quiet", "--output", str(output)]
    status = subprocess.run(line, check=False).returncode
    if status not in (0, 3):
        raise SystemExit(f"{' '.join(line)}: ended with {status}")


if __name__ == "__main__":
    main()
