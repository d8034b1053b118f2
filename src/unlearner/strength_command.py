"""`unlearner strength`: how much of a finished run's change can be had, and at what price.

The models between the target and the unlearned one are looked at as a run looks at its own between
rounds; the run's report then shows them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearner import pipeline, processes, provenance
from unlearner.commands import MET, read_config
from unlearner.config import read_yaml
from unlearner.data.sets import UnlearningData
from unlearner.errors import UserError, printable
from unlearner.models import FAMILIES, Loaded, limit_threads, load_causal_lm
from unlearner.preparation import ROLES, Prepared
from unlearner.progress import RunProgress
from unlearner.report import read_report, write_report
from unlearner.report.writing import NO_VALUE, SPACE, show, significant
from unlearner.run import RunConfig
from unlearner.strength import Point, largest_keeping, path
from unlearner.studying import NEEDS, study
from unlearner.terminal import quieten
from unlearner.training import resolve_device

HUB = "hf:"


def run_strength(run_dir: Path, *, points: int, quiet: bool) -> int:
    """`unlearner strength`: 0 once the report has the points, whatever they are.

    Args:
        points: Shares of the path that are looked at, evenly spaced, its two ends among them.

    Raises:
        UserError: It is not the folder of a finished run of `unlearner forget` on a causal language
            model, or what the run began with is no longer there or no longer the same.
    """
    processes.begin()
    quieten()
    progress = RunProgress(quiet=quiet, num_rounds=None)
    report = read_finished(run_dir)
    config = _config(run_dir, report)
    progress.say("loading the target model and the unlearned one")
    prepared = pipeline.start(config, needs=NEEDS)
    unlearned = load_causal_lm(str(run_dir / "model"))
    check_same(run_dir, report, prepared, unlearned)
    data, found = _look(config, prepared, unlearned, evenly_spaced(points), progress.say)
    best = largest_keeping(found, data.utility_floor)
    if processes.is_main():
        report["strength"] = {
            "points": [point.to_json() for point in found],
            "at_the_floor": None if best is None else best.to_json(),
        }
        write_report(report, run_dir)
        _print(report["strength"], data, run_dir)
    return MET


def evenly_spaced(points: int) -> list[float]:
    """So many shares from 0 to 1, both among them."""
    return [number / (points - 1) for number in range(points)]


def read_finished(run_dir: Path) -> dict[str, Any]:
    """The report of a run whose target and unlearned model can be mixed.

    Raises:
        UserError: It is no folder of such a run, or its model was removed.
    """
    report = read_report(run_dir)
    command, family = report["command"], report["model"]["family"]
    if command != "forget":
        raise UserError(
            f"{run_dir}: is a folder of `unlearner {command}`, which changed no model; give one of "
            "`unlearner forget`"
        )
    if family != FAMILIES[0]:
        raise UserError(
            f"{run_dir}: its model is for {family}; strength is for causal language models"
        )
    if not (run_dir / "model").is_dir():
        raise UserError(
            f"{run_dir / 'model'}: no such folder; the unlearned model is needed, so repeat the "
            f"run with `unlearner forget --config {run_dir / 'run.yaml'} --output DIR`"
        )
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"{run_dir}: cannot be written, and the report is there; copy the folder")
    return report


def _config(run_dir: Path, report: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run, all of whose local paths are still there."""
    file = run_dir / "run.yaml"
    sections = read_yaml(file)
    model, data = sections.get("model", {}), sections.get("data", {})
    if not model.get("name") or not (data.get("forget") or data.get("name")):
        raise UserError(
            f"{file}: the run was given its model or its records from Python, so they cannot be "
            "read again; strength needs a run whose model and records are files or hub ids"
        )
    paths = {f"data.{role}": str(data.get(role, "")) for role in ROLES}
    paths |= {"data.folder": str(data.get("folder", ""))}
    if "hub_id" not in report["model"]:
        paths |= {"model.name": str(model["name"])}
    for name, place in paths.items():
        if place and not place.startswith(HUB) and not Path(place).expanduser().exists():
            raise UserError(
                f"{file}: {name} {place}: no longer there; restore it, or run the command in the "
                "folder that the run was started in"
            )
    return read_config(sections)[0]


def check_same(
    run_dir: Path, report: Mapping[str, Any], prepared: Prepared, unlearned: Loaded
) -> None:
    """Refuse models and records that are not those of the report.

    Raises:
        UserError: The target, the unlearned model or a set was changed since the run.
    """
    told, name = report["model"], prepared.loaded.name
    if provenance.digest_model(prepared.loaded.model) != told["digest_target"]:
        raise UserError(
            f"{name}: is not the model that the run in {run_dir} began with, its weights were "
            "changed since; restore them, or make a new run"
        )
    if provenance.digest_model(unlearned.model) != told["digest_unlearned"]:
        raise UserError(
            f"{run_dir / 'model'}: is not the model that was measured, its weights were changed "
            "since; make a new run"
        )
    shapes = [
        {name: some.shape for name, some in one.model.state_dict().items()}
        for one in (prepared.loaded, unlearned)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{run_dir / 'model'}: is of another shape than {name}, so there is nothing between "
            "them"
        )
    key = provenance.read_key()
    for role, some in prepared.sets.items():
        before = report["data"].get(role, {}).get("digest")
        if before not in (None, provenance.digest_records(some.records, key)):
            raise UserError(
                f"data.{role} {some.source}: its records are not those of the run in {run_dir}; "
                "restore them, or set UNLEARNER_KEY_FILE if the run had another key of digests"
            )


def _look(
    config: RunConfig,
    prepared: Prepared,
    unlearned: Loaded,
    shares: Sequence[float],
    say: Callable[[str], None],
) -> tuple[UnlearningData, list[Point]]:
    """What the level and the floor are, and the points of the path."""
    model = prepared.loaded.model.to(resolve_device(config.training))
    limit_threads(model)
    say("measuring the target model")
    # Whether it still knows the records was decided by the run.
    data = study(config, prepared, lambda _: None, force=True).data
    say(f"looking at {len(shares)} models between the target and the unlearned one")
    before = {name: some.detach().clone() for name, some in model.state_dict().items()}
    return data, path(model, before, unlearned.model.state_dict(), data, shares)


def _print(strength: Mapping[str, Any], data: UnlearningData, run_dir: Path) -> None:
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=not sys.stdout.isatty())
    table = Table("share", "MA", "EL_10", "ES", "perplexity ×", "suppressed", "under the floor")
    for point in strength["points"]:
        ratio = point["kept_ratio"]
        under = ratio is not None and ratio <= data.utility_floor
        table.add_row(
            _percent(point["share"]),
            *(show(name, point[name]) for name in ("ma", "el_10", "es")),
            NO_VALUE if ratio is None else significant(ratio),
            "yes" if point["suppressed"] else "no",
            "yes" if under else "no",
        )
    console.print(table, soft_wrap=False)
    level, floor = data.level, data.utility_floor
    console.print(
        f"level of unseen text: MA {show('ma', level.ma)}, EL_10 {show('el_10', level.el_10)}; "
        f"floor: perplexity of kept text at most {floor:g} times the target model's"
    )
    console.print(f"largest share under the floor: {_best(strength['at_the_floor'])}")
    console.print(f"report: {printable(str(run_dir / 'report.html'))}")


def _best(best: Mapping[str, Any] | None) -> str:
    if best is None or best["share"] == 0:
        return "none of those looked at but the target model itself"
    state = "suppressed" if best["suppressed"] else "not suppressed"
    return (
        f"{_percent(best['share'])} (MA {show('ma', best['ma'])}, perplexity times "
        f"{significant(best['kept_ratio'])}, {state})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}{SPACE}%"
