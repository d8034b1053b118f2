"""What forgetting leaves of a mark: a line for each seed of each method of a comparison.

    unlearner run benchmarks/tofu_forget01_compare.yaml --output FOLDER
    python benchmarks/no_mark.py FOLDER/run

reads the reports of its runs, also of one that is not finished, and writes `results/no-mark.md` and
`.json`. Of runs whose models were kept (`unlearner compare --keep-models`) it measures the distance
of token losses to the retrained model, and the AUC by loss after rounding to 8 bits, too;
`--retrained FOLDER` is a second retrained model, of another seed: how far two such models are
apart.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from unlearner.attacks._weights import change_matrices
from unlearner.attacks.quantisation import rounded
from unlearner.config import RunConfig
from unlearner.evaluation.retrained_gap import token_loss_ks
from unlearner.families import FAMILIES
from unlearner.families.causal_lm import questions_of
from unlearner.inference.answers import Answer
from unlearner.inference.language_model import infer
from unlearner.metrics._statistics import area_under_roc
from unlearner.models.loading import Loaded
from unlearner.pipeline.pipeline import start

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
    "mark classifier",
    "relearnt MA",
    "relearnt AUC",
    "seconds",
    "KS to retrained",
    "AUC at 8 bits",
)
INTRODUCTION = """# What is left of a mark

TOFU, 40 of 200 records to forget, 160 kept, 100 never seen, of which ICU, quantile matching and
counterfactual teaching set 40 aside; a Llama of 0.26 M parameters. Made by `benchmarks/no_mark.py`
from the runs of `benchmarks/tofu_forget01_compare.yaml`, each method at the settings of that file.
AUC: how well the forgotten records are told from unseen ones; 0.5 is guessing, 0.11 more or less is
chance at 40 and 100 records. Mark classifier: a forest on token losses and entropies, cross-fitted;
texts differ anyway, so the retrained model's is the aim. Relearnt: after 50 further steps on kept
text alone. KS: distance of the forgotten records' token losses to the retrained model's. Seconds
are by the clock, on a machine that did other work beside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of the comparison")
    parser.add_argument("--retrained", default="", help="a retrained model of another seed")
    parser.add_argument("--name", default="no-mark", help="of the files that are written")
    asked = parser.parse_args()
    models = Models.of(asked.run)
    found = [one | models.figures(one) for one in lines(asked.run)]
    if asked.retrained:
        named = dict.fromkeys(found[0], None) | {"model": "retrained, another seed", "seed": ""}
        found.insert(2, named | models.figures_of(asked.retrained))
    rows = [HEADING, ["---"] * len(HEADING), *map(cells, found)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{asked.name}.md").write_text(f"{INTRODUCTION}\n\n{table}", encoding="utf-8")
    kept = {"machine": platform.machine(), "rows": found}
    (RESULTS / f"{asked.name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def lines(run: Path) -> Iterator[dict[str, Any]]:
    """The figures of each model: the target, the retrained one, and each seed of each method."""
    paths = sorted(run.glob("runs/*/seed-*/report.json"))
    reports = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    # With all unseen records: some methods set a part of them aside.
    targets = [_target(report) for _, report in reports]
    target = max(targets, key=lambda one: one["holdout"]["loss"]["records"])
    mark = read(run / "target-mark.json", "target")
    yield line("target", "", "", target, target, {}, None, mark)
    if (run / "retrained.json").exists():
        retrained, again = (
            json.loads((run / name).read_text(encoding="utf-8"))
            for name in ("retrained.json", "retrained-relearning.json")
        )
        mark = read(run / "retrained-mark.json", "retrained")
        yield line("retrained", "", "", retrained, target, again, None, mark)
    for path, report in reports:
        yield line(
            path.parts[-3],
            path.parts[-2].removeprefix("seed-"),
            report["verdict"]["status"],
            report["results"]["unlearned"],
            report["results"]["target"],
            report["relearning"],
            report["cost"]["seconds_unlearning"],
            read(path.with_name("mark.json"), "unlearned"),
        )


def _target(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return report["results"]["target"]


def read(path: Path, name: str) -> float | None:
    """A number of a file; None where there is neither."""
    return json.loads(path.read_text(encoding="utf-8")).get(name) if path.exists() else None


def line(
    model: str,
    seed: str,
    verdict: str,
    results: Mapping[str, Any],
    target: Mapping[str, Any],
    relearning: Mapping[str, Any],
    seconds: float | None,
    mark: float | None,
) -> dict[str, Any]:
    again = relearning.get("figures", {})
    found: dict[str, Any] = {"model": model, "seed": seed, "verdict": verdict}
    for name in ("ma", *ATTACKS):
        found[name] = results["forget"].get(name, {}).get("value")
    for role in RATIOS:
        value = results[role].get("perplexity", {}).get("value")
        found[role] = None if value is None else value / target[role]["perplexity"]["value"]
    found["mark"] = mark
    for name in ("ma", "mia_loss_auc"):
        found[f"relearnt_{name}"] = again[name][-1] if name in again else None
    return found | {"seconds": seconds}


def cells(found: Mapping[str, Any]) -> list[str]:
    """A line of the table as text."""
    words = ("model", "seed", "verdict")
    return [
        (value or "-") if name in words else _shown(name, value) for name, value in found.items()
    ]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if name == "seconds" else f"{value:.3f}"


class Models:
    """The models that a comparison kept, asked the records once more.

    Args:
        run: Its folder.
        plan: What `compare.yaml` there holds.
    """

    def __init__(self, run: Path, plan: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.run, self.retrained = run, plan["retrained"]
        sections = {**plan["sections"], "method": {"name": "gradient_ascent"}}
        self.config = RunConfig.from_sections(sections, family="causal-lm")
        self.prepared = start(self.config, FAMILIES["causal-lm"])
        self.beside: list[Answer] | None = None

    @classmethod
    def of(cls, run: Path) -> "Models":
        return cls(run, yaml.safe_load((run / "compare.yaml").read_text(encoding="utf-8")))

    def figures(self, found: Mapping[str, Any]) -> dict[str, float | None]:
        """Of the model of a line; of a method's run only where it was kept."""
        model, seed = found["model"], found["seed"]
        named = {"target": self.config.model.name, "retrained": self.retrained}
        folder = named.get(model) or str(self.run / "runs" / model / f"seed-{seed}" / "model")
        if not Path(folder).exists():
            return dict.fromkeys(("ks", "int8_auc"), None)
        return self.figures_of(folder)

    def figures_of(self, folder: str) -> dict[str, float | None]:
        """KS of token losses to the retrained model's, and the AUC by loss after rounding."""
        loaded = self._load(folder)
        ks = None
        if self.retrained:
            self.beside = self.beside or self._ask(self._load(self.retrained), "forget")
            ks = token_loss_ks(self._ask(loaded, "forget"), self.beside)
        change_matrices(loaded.model, partial(rounded, bits=8))
        losses = [self._losses(loaded, role) for role in ("forget", "holdout")]
        ones = [np.ones((1, len(some))) for some in losses]
        # a member's loss is the lower one
        return {"ks": ks, "int8_auc": float(area_under_roc(*(-one for one in losses), *ones)[0])}

    def _load(self, folder: str) -> Loaded:
        return self.prepared.family.load_like(folder, "a model", self.prepared, "")

    def _ask(self, loaded: Loaded, role: str) -> list[Answer]:
        asked = replace(questions_of(self.config.evaluation), continuations="none")
        windows = self.prepared.sets[role].windows
        return list(infer(loaded.model, loaded.tokenizer, windows, asked))

    def _losses(self, loaded: Loaded, role: str) -> np.ndarray:
        return np.array([-one.log_probs[one.scored].mean() for one in self._ask(loaded, role)])


if __name__ == "__main__":
    main()
