"""Attacks on the records of answered requests: does a model still hold what its limits do not show?

The audit of each run's records, on any model: the run's own, a later one, one that was fine-tuned
or quantised since. An attack is judged beside the model from before the run, so that has to be
there; what it has to be compared with otherwise is told by the audit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unlearner.models.lineage import digest_weights
from unlearner.output import Json
from unlearner.pipeline.audit import AuditRequest, audit, open_models
from unlearner.pipeline.pipeline import read_config
from unlearner.requests.book import Run
from unlearner.requests.holds import HOLDS, LOST, NOT_MEASURED, Asked, StillHeld
from unlearner.requests.records import as_row

STATUSES = {"met": HOLDS, "not met": LOST, "not measured": NOT_MEASURED}


def attack_requests(
    runs: Sequence[tuple[Run, Asked]],
    model: str,
    sections: Mapping[str, Mapping[str, Any]],
    wanted: AuditRequest,
    say: Callable[[str], None],
) -> list[StillHeld]:
    """What the audit says of each run's records on a model.

    Args:
        runs: Each with its records.
        sections: Laid over those of each run.
        wanted: Budget, and what the control is made of.

    Raises:
        UserError: A model or a set cannot be used.
    """
    return [_attacked(run, asked, model, sections, wanted, say) for run, asked in runs]


def _attacked(
    run: Run,
    asked: Asked,
    model: str,
    sections: Mapping[str, Mapping[str, Any]],
    wanted: AuditRequest,
    say: Callable[[str], None],
) -> StillHeld:
    before = run.begun["model"]
    reason = ""
    if asked.records is None:
        reason = "the text of its records is gone"
    elif digest_weights(Path(before["path"])) != before["weights"]:
        reason = "the model from before it is gone, and an attack is judged beside that"
    if reason or asked.records is None:
        return StillHeld(asked.requests, NOT_MEASURED, {}, f"attacks: {reason}")
    own = {name: dict(values) for name, values in run.begun["sections"].items()}
    own.pop("method", None)
    for name, values in sections.items():
        own.setdefault(name, {}).update(values)
    own.setdefault("model", {}).update(name=before["path"], original="", base="")
    own.setdefault("data", {}).update(forget="", drop_duplicates=True)
    config, family = read_config(own)
    rows = {"forget": [as_row(record) for record in asked.records]}
    say(f"attacking the records of request {', '.join(asked.requests)} on {model}")
    opened = open_models(config, family, model, say, rows)
    with TemporaryDirectory() as folder:
        found = audit(opened, wanted, Path(folder), resume=False, say=say)
    return replace(_told(found), requests=asked.requests)


def _told(found: Json) -> StillHeld:
    """An audit in a sentence."""
    control = f"control: {found['control']['kind']}"
    words = "; ".join(f"{one['claim']} {one['status']}: {one['reason']}" for one in found["claims"])
    return StillHeld((), STATUSES[found["status"]], {}, f"attacks ({control}): {words}")
