"""What forgetting leaves of a mark: a line for each seed of each method of a comparison.

    unlearner run benchmarks/tofu_forget01_compare.yaml --output FOLDER
    python benchmarks/no_mark.py FOLDER/run

reads the reports of its runs, also of one that is not finished, and writes `results/no-mark.md` and
`.json`.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ATTACKS = ("mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc", "mia_min_k_plus_plus_auc")
RATIOS = ("retain", "holdout")
HEADING = (
    "model",
    "seed",
    "verdict",
    "MA",
    "AUC by loss",
    "zlib",
    "Min-K %",
    "Min-K++ %",
    "kept perplexity, times the target's",
    "unseen, times",
    "relearnt MA",
    "relearnt AUC",
    "seconds",
)
INTRODUCTION = """# What is left of a mark

TOFU, 40 of 200 records to forget, 160 kept, 100 never seen, of which ICU, quantile matching and
counterfactual teaching set 40 aside; a Llama of 0.26 M parameters. Made by `benchmarks/no_mark.py`
from the runs of `benchmarks/tofu_forget01_compare.yaml`, each method at the settings of that file.
AUC: how well the forgotten records are told from unseen ones; 0.5 is guessing, 0.11 more or less is
chance at 40 and 100 records. Relearnt: after 50 further steps on kept text alone. Seconds are by
the clock, on a machine that did other work beside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of the comparison")
    found = list(lines(parser.parse_args().run))
    rows = [HEADING, ["---"] * len(HEADING), *map(cells, found)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "no-mark.md").write_text(f"{INTRODUCTION}\n\n{table}", encoding="utf-8")
    kept = {"machine": platform.machine(), "rows": found}
    (RESULTS / "no-mark.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def lines(run: Path) -> Iterator[dict[str, Any]]:
    """The figures of each model: the target, the retrained one, and each seed of each method."""
    paths = sorted(run.glob("runs/*/seed-*/report.json"))
    reports = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    targets = [report["results"]["target"] for _, report in reports]
    # With all unseen records: some methods set a part of them aside.
    target = max(targets, key=lambda one: one["holdout"]["loss"]["records"])
    yield line("target", "", "", target, target, {}, None)
    if (run / "retrained.json").exists():
        retrained, again = (
            json.loads((run / name).read_text(encoding="utf-8"))
            for name in ("retrained.json", "retrained-relearning.json")
        )
        yield line("retrained", "", "", retrained, target, again, None)
    for path, report in reports:
        yield line(
            path.parts[-3],
            path.parts[-2].removeprefix("seed-"),
            report["verdict"]["status"],
            report["results"]["unlearned"],
            report["results"]["target"],
            report["relearning"],
            report["cost"]["seconds_unlearning"],
        )


def line(
    model: str,
    seed: str,
    verdict: str,
    results: Mapping[str, Any],
    target: Mapping[str, Any],
    relearning: Mapping[str, Any],
    seconds: float | None,
) -> dict[str, Any]:
    again = relearning.get("figures", {})
    found: dict[str, Any] = {"model": model, "seed": seed, "verdict": verdict}
    for name in ("ma", *ATTACKS):
        found[name] = results["forget"].get(name, {}).get("value")
    for role in RATIOS:
        value = results[role].get("perplexity", {}).get("value")
        found[role] = None if value is None else value / target[role]["perplexity"]["value"]
    for name in ("ma", "mia_loss_auc"):
        found[f"relearnt_{name}"] = again[name][-1] if name in again else None
    return found | {"seconds": seconds}


def cells(found: Mapping[str, Any]) -> list[str]:
    """A line of the table as text."""
    words = [found[name] or "-" for name in ("model", "seed", "verdict")]
    numbers = [value for name, value in found.items() if name not in ("model", "seed", "verdict")]
    *figures, seconds = numbers
    shown = ["-" if value is None else f"{value:.3f}" for value in figures]
    return [*words, *shown, "-" if seconds is None else f"{seconds:.0f}"]


if __name__ == "__main__":
    main()
