"""A comparison's folder: what its finished runs have left there, and the comparison made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.evaluation.comparison import (
    SCHEMA,
    cost_over_seeds,
    figures_over_seeds,
    is_met,
    last_relearnt,
    mark_front,
    mean_mark,
    over_seeds,
    ratios_to_target,
    retrained_distance,
)
from unlearner.files import LARGE, read_json
from unlearner.output import Json
from unlearner.pipeline.compare_plan import Plan
from unlearner.pipeline.original import ORIGINAL

# The second stands in place of a method's seeds: why there are none.
STRENGTH_FILE, SKIPPED_FILE = "strength.json", "not-run.json"

# Of the retrained model, which is no method's.
RETRAINED_FILE = "retrained.json"
RETRAINED_RELEARNING_FILE = "retrained-relearning.json"
RETRAINED_TASKS_FILE = "retrained-tasks.json"

# How well a classifier tells the records from unseen ones: of a run's model, and of the others.
MARK_FILE = "mark.json"
TARGET_MARK_FILE, RETRAINED_MARK_FILE = "target-mark.json", "retrained-mark.json"


def method_folder(folder: Path, method: str) -> Path:
    """Where everything of a method lies."""
    return folder / "runs" / method


def diverged_file(own: Path, seed: int) -> Path:
    """Why a seed of a method whose folder is `own` gave no model."""
    return own / f"diverged-{seed}.json"


def is_finished(plan: Plan, folder: Path, method: str) -> bool:
    """Whether a method has been run for every seed, or cannot be."""
    own = method_folder(folder, method)
    done = all(
        (own / f"seed-{seed}").exists() or diverged_file(own, seed).exists() for seed in plan.seeds
    )
    return done or (own / SKIPPED_FILE).exists()


def gather_runs(plan: Plan, folder: Path) -> Json:
    """The comparison as `compare.json` holds it, from the files of its runs.

    Raises:
        UserError: None of the methods could be run.
    """
    places, diverged, skipped = _places_of_runs(plan, folder)
    if not places:
        raise UserError(f"--methods: none could be run: {'; '.join(skipped.values())}")
    reports = {
        method: {seed: read_result(place / "report.json") for seed, place in some.items()}
        for method, some in places.items()
    }
    entries = {
        method: _entry(method, reports[method], some, diverged[method])
        for method, some in places.items()
    }
    every = [report for some in reports.values() for report in some.values()]
    first = every[0]
    widest = max(every, key=_unseen_records)  # some methods set unseen records aside
    before = (ORIGINAL, "target")
    results = {one: widest["results"][one] for one in before if one in widest["results"]}
    if (folder / RETRAINED_FILE).exists():
        results["retrained"] = read_result(folder / RETRAINED_FILE)
    again = folder / RETRAINED_RELEARNING_FILE
    comparison = {
        "schema": SCHEMA,
        **{name: first[name] for name in ("created", "request", "model", "data", "criteria")},
        "criteria_digest": first["criteria_digest"],
        "evaluation": first["evaluation"],
        "seeds": list(plan.seeds),
        "results": results,
        "relearnt_retrained": last_relearnt([read_result(again)] if again.exists() else []),
        "marks": _marks(folder),
        "methods": entries,
        "not_run": skipped,
        "environment": first["environment"],
    }
    if "tasks" in first:
        comparison["tasks"] = _tasks_compared(
            first["tasks"], reports, folder / RETRAINED_TASKS_FILE
        )
    if plan.family != "causal-lm" and "retrained" in results:
        for entry in entries.values():
            entry["tug_of_war"] = retrained_distance(entry["summary"], results["retrained"])
    mark_front(comparison)
    return comparison


def _unseen_records(report: Json) -> int:
    figures = report["results"]["target"].get("holdout", {})
    return max((figure["records"] for figure in figures.values()), default=0)


def _places_of_runs(
    plan: Plan, folder: Path
) -> tuple[dict[str, dict[int, Path]], dict[str, dict[int, str]], dict[str, str]]:
    """By method: the folder of each seed's run, why a seed has none, why a method has none."""
    places, diverged, skipped = {}, {}, {}
    for method in plan.methods:
        own = method_folder(folder, method)
        if (own / SKIPPED_FILE).exists():
            skipped[method] = read_result(own / SKIPPED_FILE)
            continue
        failed = {
            seed: read_result(diverged_file(own, seed))
            for seed in plan.seeds
            if diverged_file(own, seed).exists()
        }
        found = {seed: own / f"seed-{seed}" for seed in plan.seeds if seed not in failed}
        if not found:
            skipped[method] = f"no seed gave a model: {failed[plan.seeds[0]]}"
            continue
        places[method], diverged[method] = found, failed
    return places, diverged, skipped


def _marks(folder: Path) -> Json:
    """The mark classifier's AUC on the models that are no method's, where it was run."""
    files = [folder / name for name in (TARGET_MARK_FILE, RETRAINED_MARK_FILE)]
    found = [read_result(file) for file in files if file.exists()]
    return {name: mean_mark([auc]) for one in found for name, auc in one.items()}


def _tasks_compared(
    first: Json, reports: Mapping[str, Mapping[int, Json]], retrained: Path
) -> Json:
    """The tasks of a comparison: the target's figures, and what each model has changed.

    Args:
        first: The tasks of a run's report.
        reports: Of each method's seeds.
        retrained: The file of the retrained model's, where there is one.
    """
    changes = {
        method: figures_over_seeds([one["tasks"]["change"]["unlearned"] for one in some.values()])
        for method, some in reports.items()
        if all("tasks" in one for one in some.values())
    }
    shared = {name: one for name, one in first.items() if name not in ("results", "change")}
    own = read_result(retrained)["change"] if retrained.exists() else {}
    results = {"target": first["results"]["target"]}
    return {**shared, "results": results, "change": {**own, **changes}}


def _entry(
    method: str,
    reports: Mapping[int, Json],
    places: Mapping[int, Path],
    diverged: Mapping[int, str],
) -> Json:
    runs = list(reports.values())
    paths = [place / STRENGTH_FILE for place in places.values()]
    strength = next(read_result(path) for path in paths if path.exists())
    marks = [place / MARK_FILE for place in places.values()]
    marks = [read_result(path).get("unlearned") for path in marks if path.exists()]
    return {
        "name": method,
        "settings": runs[0]["method"],
        "search": runs[0].get("search"),
        "met": is_met(runs),
        "summary": over_seeds(runs),
        "ratios": ratios_to_target(runs),
        "cost": cost_over_seeds(runs),
        "mark": mean_mark(marks),
        "relearnt": last_relearnt([run.get("relearning", {}) for run in runs]),
        "strength": strength,
        "seeds": [
            {
                "seed": seed,
                "status": run["verdict"]["status"],
                "cost": run["cost"],
                "results": run["results"]["unlearned"],
            }
            for seed, run in reports.items()
        ],
        "diverged": [{"seed": seed, "reason": reason} for seed, reason in diverged.items()],
    }


def read_result(path: Path) -> Any:
    """What one of a comparison's own files holds.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return read_json(path, LARGE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it and go on with --resume"
        ) from None
