"""A run file: the sections of any run, three of its own, and what may stand in its texts.

    run: {command: forget, output: runs/mine}
    target: {pretrained: FOLDER, until: "ma>=0.99", epochs: 60}    made first, if it is not there
    expected: {metric: ma, set: forget, value: 0.2, tolerance: 0.05, source: "table 2, row 3"}

A text may hold ${NAME}, an environment variable, or ${NAME:-what to take where NAME is not set}.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt

from unlearner import registry
from unlearner.config import RunConfig
from unlearner.datasets.base import data_settings, family_of
from unlearner.errors import UserError
from unlearner.models.loading import family_named
from unlearner.pipeline.benchmark_row import ExpectedSettings
from unlearner.settings import (
    SECTIONS,
    DataSettings,
    Section,
    apply_settings,
    build,
    check_names,
    read_yaml,
)

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^{}]*))?\}")

OWN = ("run", "target", "expected")


class RunSettings(Section):
    """What a run file is for.

    Args:
        command: "forget"; "compare", several methods side by side; or "finetune", to make the
            target and stop there.
        output: Folder of the results; `runs/` and the file's name where it is empty. `--output`
            goes before it.
        methods: Of compare, with commas between them, or "all".
        seeds: Of compare, runs of each method.
        jobs: Of compare, methods at a time.
    """

    command: Literal["forget", "compare", "finetune"] = "forget"
    output: str = ""
    methods: str = ""
    seeds: PositiveInt = 1
    jobs: PositiveInt = 1


class TargetSettings(Section):
    """The model to unlearn from, where it has to be made: learned are forget and retain.

    Args:
        pretrained: A local folder or hub id; an encoder gets a new head.
        until: A goal, see `unlearner finetune`.
        retrained: Also make the model that never saw the forget set, in the same way.
        finetune: Settings of `unlearner finetune`, such as epochs.
    """

    pretrained: str = Field(min_length=1)
    until: str = ""
    retrained: bool = False
    finetune: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class RunFile:
    """A run file, checked.

    Attributes:
        sections: The sections that `unlearner forget` takes.
        text: All that decides the results, as YAML.
    """

    name: str
    run: RunSettings
    target: TargetSettings | None
    expected: ExpectedSettings | None
    sections: dict[str, Any]
    data: DataSettings
    family: str
    text: str


def read_run_file(path: Path, settings: Sequence[str] = ()) -> RunFile:
    """A run file with `section.key=value` settings laid over it, every section checked.

    Raises:
        UserError: It cannot be read, or a section, key or value is not allowed.
    """
    given = apply_settings(read_yaml(path), settings)
    given = {name: _expand(section, path) for name, section in given.items()}
    own = {name: given.pop(name) for name in OWN if name in given}
    expected = own.pop("expected", None)
    run = build(RunSettings, own.get("run", {}), where="run")
    data = data_settings(given.get("data", {}))
    decides = run.model_dump(exclude={"output", "jobs"})  # what the results depend on
    model = given.get("model", {})
    family = family_of(data.name) if data.name else family_named(str(model.get("name", "")))
    file = RunFile(
        name=path.stem,
        run=run,
        target=_target(own.get("target")),
        expected=build(ExpectedSettings, expected, where="expected") if expected else None,
        sections=given,
        data=data,
        family=family,
        text=yaml.safe_dump({**own, **given, "run": decides}),
    )
    _check(file, path)
    return file


def _check(file: RunFile, path: Path) -> None:
    """Refuse here what would else be found after a target has been made.

    Raises:
        UserError: A section, key or value is not allowed, or one is missing.
    """
    allowed = [*SECTIONS, "method", *OWN]
    if file.run.command == "compare":
        from unlearner.pipeline.compare import check_plan, make_plan

        check_names(
            file.sections, [*allowed, *registry.names("methods")], what="section", where=str(path)
        )
        run = file.run
        check_plan(
            make_plan(file.sections, run.methods, run.seeds, retrained="", keep_models=False)
        )
    else:
        check_names(file.sections, allowed, what="section", where=str(path))
        RunConfig.from_sections(file.sections, family=file.family)
    if file.target is not None and not file.data.name:
        raise UserError(
            "target: needs data.name, the data set that it learns; see `unlearner list datasets`"
        )
    if file.run.command == "finetune" and file.target is None:
        raise UserError("run.command: finetune needs a section `target:` with `pretrained`")


def _target(given: Mapping[str, Any] | None) -> TargetSettings | None:
    """Keys that are not of the section itself are settings of finetune."""
    if given is None:
        return None
    own = {key: value for key, value in given.items() if key in TargetSettings.model_fields}
    rest = {key: value for key, value in given.items() if key not in own}
    own["finetune"] = {**own.get("finetune", {}), **rest}
    return build(TargetSettings, own, where="target")


def _expand(value: Any, path: Path) -> Any:
    """The value with every ${NAME} and ${NAME:-default} in it replaced."""
    if isinstance(value, dict):
        return {key: _expand(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, path) for inner in value]
    if not isinstance(value, str):
        return value

    def text(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            unset = f"${{{name}}} is not set; set it, or write ${{{name}:-default}}"
            raise UserError(f"{path}: {unset}")
        return found

    return VARIABLE.sub(text, value)
