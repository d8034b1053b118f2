"""`unlearner compare`: methods side by side, as a table, a page and data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearner import catalog, processes
from unlearner.comparing import (
    INPUTS_FILE,
    PLAN_FILE,
    RETRAINED_FILE,
    SKIPPED_FILE,
    STRENGTH_FILE,
    Plan,
    check_plan,
    diverged_file,
    method_folder,
    run_all,
)
from unlearner.comparison import SCHEMA, cost_over_seeds, front, is_met, over_seeds, place
from unlearner.config import SECTIONS, TrainingSettings, build
from unlearner.errors import Interrupted, UserError
from unlearner.models import FAMILIES
from unlearner.progress import RunProgress
from unlearner.report.compare import not_run, write_comparison
from unlearner.report.compare_table import short_headings, short_rows
from unlearner.terminal import quieten

MET = 0


def run_compare(  # noqa: PLR0913 - the command's options
    sections: Mapping[str, Any],
    methods: str,
    output: Path,
    *,
    seeds: int,
    retrained: str,
    jobs: int,
    resume: bool,
    keep_models: bool,
    quiet: bool,
) -> int:
    """`unlearner compare`: 0 once every method has been run, whatever it reached.

    Raises:
        UserError: The input cannot be used, or several processes were launched for one run.
    """
    processes.begin()
    if processes.count() > 1:
        raise UserError(
            "compare: not for processes that share a run; leave `accelerate launch` out"
            " and give --jobs"
        )
    quieten()
    plan = make_plan(sections, methods, seeds, retrained=retrained, keep_models=keep_models)
    check_plan(plan)
    progress = RunProgress(quiet=quiet, num_rounds=None)
    with _opened(plan, output, resume=resume):
        run_all(plan, output, jobs=jobs, say=progress.say)
        comparison = gather(plan, output)
    write_comparison(comparison, output)
    _print_table(comparison, output)
    return MET


def make_plan(
    sections: Mapping[str, Any], methods: str, seeds: int, *, retrained: str, keep_models: bool
) -> Plan:
    """The plan of a command line.

    Args:
        methods: Names with commas between them, or "all".

    Raises:
        UserError: There is no such method, or none at all.
    """
    names = (
        _all_methods()
        if methods == "all"
        else [name.strip() for name in methods.split(",") if name.strip()]
    )
    if not names:
        raise UserError("--methods: none given; name some, such as icu,npo, or all")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--methods: {twice[0]} is given twice; leave one out")
    if seeds < 1:
        raise UserError(f"--seeds: at least 1, got {seeds}")
    known = (*SECTIONS, "method")
    shared = {name: section for name, section in sections.items() if name in known}
    own = {name: section for name, section in sections.items() if name not in known}
    first = build(TrainingSettings, shared.get("training", {}), where="training").seed
    return Plan(
        shared, own, tuple(names), tuple(range(first, first + seeds)), retrained, keep_models
    )


def _all_methods() -> list[str]:
    """Every method for language models that needs no other model than the target."""
    kinds = {name: catalog.load_method(name) for name in catalog.names("methods")}
    return [
        name
        for name, kind in kinds.items()
        if FAMILIES[0] in kind.families and not kind.begins_anew
    ]


@contextmanager
def _opened(plan: Plan, output: Path, *, resume: bool) -> Iterator[None]:
    """The folder, open for as long as the block runs; gone where nothing in it was finished.

    Raises:
        UserError: It holds something else, or cannot be made.
        Interrupted: The user wants to stop; what is finished is kept.
    """
    made = [path for path in (output, *output.parents) if not path.exists()]
    _open_folder(plan, output, resume=resume)
    try:
        yield
    except BaseException as error:
        if not _is_begun(output):
            _remove(output, made)
        elif isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; what is finished is kept in {output}: give the same command with "
                "--resume"
            ) from None
        raise


def _is_begun(output: Path) -> bool:
    """Whether a trial, a run or the retrained model's figures are there."""
    finished = (path for path in output.glob("runs/*/*") if not path.name.startswith("."))
    return (output / RETRAINED_FILE).exists() or any(path.name != SKIPPED_FILE for path in finished)


def _remove(output: Path, made: Sequence[Path]) -> None:
    for name in (PLAN_FILE, INPUTS_FILE):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "runs", ignore_errors=True)
    for path in made:
        with suppress(OSError):  # not empty: another's
            path.rmdir()


def _open_folder(plan: Plan, output: Path, *, resume: bool) -> None:
    """Make the folder, or go on in one of the same comparison.

    Raises:
        UserError: It holds something else, or cannot be made.
    """
    path = output / PLAN_FILE
    if resume:
        if not path.is_file():
            raise UserError(f"--resume: {output} holds no comparison; leave --resume out")
        if path.read_text(encoding="utf-8") != plan.to_yaml():
            raise UserError(
                f"--resume: the comparison in {output} began with other settings (see {path}); "
                "give the same, or another folder; methods may be added"
            )
        return
    if output.is_dir() and path.is_file():
        raise UserError(
            f"--output {output}: holds a comparison; go on with --resume, or give another folder"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: is not an empty folder; give another one")
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(plan.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output}: cannot be made ({error}); give another folder") from (
            None
        )


def gather(plan: Plan, folder: Path) -> dict[str, Any]:
    """The comparison as `compare.json` holds it, from the files of its runs.

    Raises:
        UserError: None of the methods could be run.
    """
    entries, skipped, first = {}, {}, None
    for method in plan.methods:
        own = method_folder(folder, method)
        if (own / SKIPPED_FILE).exists():
            skipped[method] = _read(own / SKIPPED_FILE)
            continue
        diverged = {
            seed: _read(diverged_file(own, seed))
            for seed in plan.seeds
            if diverged_file(own, seed).exists()
        }
        places = {seed: own / f"seed-{seed}" for seed in plan.seeds if seed not in diverged}
        if not places:
            skipped[method] = f"no seed gave a model: {diverged[plan.seeds[0]]}"
            continue
        reports = {seed: _read(place / "report.json") for seed, place in places.items()}
        strength = next(
            _read(file) for place in places.values() if (file := place / STRENGTH_FILE).exists()
        )
        entries[method] = _entry(method, reports, strength, diverged)
        first = first or next(iter(reports.values()))
    if first is None:
        raise UserError(f"--methods: none could be run: {'; '.join(skipped.values())}")
    results = {"target": first["results"]["target"]}
    if (folder / RETRAINED_FILE).exists():
        results["retrained"] = _read(folder / RETRAINED_FILE)
    comparison = {
        "schema": SCHEMA,
        **{name: first[name] for name in ("created", "request", "model", "data", "criteria")},
        "criteria_digest": first["criteria_digest"],
        "evaluation": first["evaluation"],
        "seeds": list(plan.seeds),
        "results": results,
        "methods": entries,
        "not_run": skipped,
        "environment": first["environment"],
    }
    _mark_front(comparison)
    return comparison


def _entry(
    method: str,
    reports: Mapping[int, dict[str, Any]],
    strength: Mapping[str, Any],
    diverged: Mapping[int, str],
) -> dict[str, Any]:
    runs = list(reports.values())
    return {
        "name": method,
        "settings": runs[0]["method"],
        "search": runs[0].get("search"),
        "met": is_met(runs),
        "summary": over_seeds(runs),
        "cost": cost_over_seeds(runs),
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


def _mark_front(comparison: dict[str, Any]) -> None:
    """Note of each method whether another is at least as good in both numbers of the picture.

    One of which a seed gave no model is never on the front: its mean leaves out the worst.
    """
    limits = {(one["metric"], one["set"]): one["at_most"] for one in comparison["criteria"]}
    kept = next(role for name, role in limits if name == "perplexity")
    target = comparison["results"]["target"][kept]["perplexity"]["value"]
    level = limits["ma", "forget"]
    comparison["picture"] = {
        "set": kept,
        "level": level,
        "target": target,
        "floor": limits["perplexity", kept],
    }
    places = {
        name: place(entry, kept, level, target)
        for name, entry in comparison["methods"].items()
        if not entry["diverged"]
    }
    best = front(places)
    for name, entry in comparison["methods"].items():
        entry["on_front"] = name in best


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _print_table(comparison: Mapping[str, Any], output: Path) -> None:
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=not os.isatty(1))
    table = Table(*short_headings())
    for row in short_rows(comparison):
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    for line in not_run(comparison):
        console.print(line)
    console.print(f"comparison: {output / 'compare.html'}")
