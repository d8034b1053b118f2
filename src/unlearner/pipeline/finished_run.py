"""What a finished run began with, read again: its settings, records and models, all unchanged."""

from pathlib import Path

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.data.record import digest_records
from unlearner.errors import UserError
from unlearner.families import FAMILIES
from unlearner.families.base import AnyFamily, AnyPrepared
from unlearner.models.loading import Loaded
from unlearner.output import Json
from unlearner.pipeline.pipeline import read_config
from unlearner.yaml_values import read_yaml

HUB = "hf:"  # before the name of a data set of the hub, which is no local path


def config_of(run_dir: Path, report: Json, command: str) -> tuple[RunConfig, AnyFamily]:
    """The configuration and the family of the run, all of whose local paths are still there.

    Without what was measured beside the sets of the request, which nobody asks for again, and with
    weights that can be changed.

    Args:
        command: What needs them, in a message.

    Raises:
        UserError: They came from Python, or are no longer there.
    """
    file = run_dir / "run.yaml"
    sections = read_yaml(file)
    model, data = sections.get("model", {}), sections.get("data", {})
    records = any(data.get(key) for key in ("forget", "forget_class", "name"))
    if not model.get("name") or not records:
        raise UserError(
            f"{file}: the run was given its model or its records from Python, so they cannot be "
            f"read again; {command} needs a run whose model and records are files or hub ids"
        )
    roles = FAMILIES[report["model"]["family"]].roles
    paths = {f"data.{name}": str(data.get(name, "")) for name in (*roles, "folder")}
    if "hub_id" not in report["model"]:
        paths["model.name"] = str(model["name"])
    for name, path in paths.items():
        if path and not path.startswith(HUB) and not Path(path).expanduser().exists():
            raise UserError(
                f"{file}: {name} {path}: no longer there; restore it, or run the command in the "
                "folder that the run was started in"
            )
    config, family = read_config(sections)
    return config.of_request_alone().with_whole_weights(), family


def check_same(run_dir: Path, report: Json, prepared: AnyPrepared, unlearned: Loaded) -> None:
    """Refuse models and records that are not those of the report.

    Raises:
        UserError: They were changed since.
    """
    target, digests = prepared.loaded, report["model"]
    if provenance.digest_model(target.model) != digests["digest_target"]:
        raise UserError(
            f"{target.name}: is not the model that the run in {run_dir} began with, its weights "
            "were changed since; restore them, or make a new run"
        )
    if provenance.digest_model(unlearned.model) != digests["digest_unlearned"]:
        raise UserError(
            f"{run_dir / 'model'}: is not the model that was measured, its weights were changed "
            "since; make a new run"
        )
    key = provenance.read_key()
    for role, tokenized in prepared.sets.items():
        before = report["data"].get(role, {}).get("digest")
        if before not in (None, digest_records(tokenized.records, key)):
            raise UserError(
                f"data.{role} {tokenized.source}: its records are not those of the run in "
                f"{run_dir}; restore them, or set UNLEARNER_KEY_FILE if the run had another key of "
                "digests"
            )
