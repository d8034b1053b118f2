"""A run file, and the benchmark row that it leaves: the sections of any run, and three of its own.

    run: {command: forget, output: runs/mine}
    target: {pretrained: FOLDER, until: "ma>=0.99", epochs: 60}    made first, if it is not there
    expected: {metric: ma, set: forget, value: 0.2, tolerance: 0.05, source: "table 2, row 3"}

A text may hold ${NAME}, an environment variable, or ${NAME:-what to take where NAME is not set}.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from unlearner import registry
from unlearner.config import RunConfig
from unlearner.datasets.base import data_settings, family_of, options_of
from unlearner.errors import UserError
from unlearner.evaluation.tofu_metrics import measure_tofu
from unlearner.files import LARGE, read_json
from unlearner.models.folders import family_named
from unlearner.models.lineage import PROVENANCE_FILE
from unlearner.output import Json
from unlearner.pipeline.compare_plan import check_plan, make_plan
from unlearner.settings import SECTIONS, DataSettings, Section, build, check_names
from unlearner.yaml_values import apply_settings, read_yaml

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^{}]*))?\}")

OWN = ("run", "target", "expected")

BENCHMARK, SCHEMA = "benchmark.json", "unlearner/benchmark/1"

TOFU = "tofu"  # the name of a set: TOFU's own figures, which are of several sets


class RunSettings(Section):
    """What a run file is for.

    Args:
        command: "forget"; "compare", several methods side by side; or "finetune", to make the
            target and stop there.
        output: Folder of the results; `runs/` and the file's name where it is empty. `--output`
            goes before it.
        methods: Of compare, a list of names, or "all".
        seeds: Of compare, runs of each method.
        jobs: Of compare, methods at a time.
    """

    command: Literal["forget", "compare", "finetune"] = "forget"
    output: str = ""
    methods: str = ""
    seeds: int = Field(default=1, gt=0, le=1000)
    jobs: int = Field(default=1, gt=0, le=1024)

    @field_validator("methods", mode="before")
    @classmethod
    def _with_commas(cls, methods: object) -> object:
        """A list as `--methods` takes it."""
        if isinstance(methods, list) and all(isinstance(name, str) for name in methods):
            return ",".join(methods)
        return methods


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
    finetune: Json = Field(default_factory=dict)


class ExpectedSettings(Section):
    """A figure that the row is to come to.

    Args:
        metric: Of the report, or one of TOFU's own figures.
        set: Of the report's sets, or "tofu".
        model: Which model's.
        value: The figure.
        tolerance: How far from it the row's may be.
        source: Where it stands.
        published: Somebody else's figure for the same model and data, not an earlier one of ours.
    """

    metric: str
    set: str = "forget"
    model: Literal["target", "unlearned", "retrained"] = "unlearned"
    value: float
    tolerance: float = Field(ge=0)
    source: str = Field(min_length=1)
    published: bool = False


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
    sections: Json
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
    name = str(given.get("model", {}).get("name", ""))
    file = RunFile(
        name=path.stem,
        run=run,
        target=_target(own.get("target")),
        expected=build(ExpectedSettings, expected, where="expected") if expected else None,
        sections=given,
        data=data,
        family=family_of(data.name) if data.name else family_named(name),
        text=yaml.safe_dump({**own, **given, "run": decides}),
    )
    _check_sections(file, path)
    return file


def _check_sections(file: RunFile, path: Path) -> None:
    """Refuse here what would else be refused after a target has been made."""
    allowed, run = [*SECTIONS, "method", *OWN], file.run
    if run.command == "compare":
        allowed += registry.names("methods")
    check_names(file.sections, allowed, what="section", where=str(path))
    if run.command == "compare":
        plan = make_plan(
            file.sections,
            run.methods,
            run.seeds,
            retrained="",
            keep_models=False,
            family=file.family,
        )
        check_plan(plan)
    else:
        RunConfig.from_sections(file.sections, family=file.family)
    if file.target is not None and not file.data.name:
        raise UserError(
            "target: needs data.name, the data set that it learns; see `unlearner list datasets`"
        )
    if run.command == "finetune" and file.target is None:
        raise UserError("run.command: finetune needs a section `target:` with `pretrained`")


def _target(given: Json | None) -> TargetSettings | None:
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
        replacement = os.environ.get(name) or default
        if replacement is None:
            raise UserError(
                f"{path}: ${{{name}}} is not set; set it, or write ${{{name}:-default}}"
            )
        return replacement

    return VARIABLE.sub(text, value)


# The row


def write_benchmark(output: Path, file: RunFile, models: Mapping[str, Path]) -> None:
    """Write `benchmark.json` beside the folder of the run.

    Args:
        models: The folders of the target and the retrained model, as far as the row made them.

    Raises:
        UserError: The report has no figure like the expected one.
    """
    report = json.loads((output / "run" / "report.json").read_text(encoding="utf-8"))
    data, tofu = file.data, {}
    if data.name == TOFU and (options := options_of(data)).tofu_metrics:
        tofu = measure_tofu(data, options, {**models, "unlearned": output / "run" / "model"})
    expected = file.expected and compare_expected(file.expected, report["results"], tofu)
    row = {
        "schema": SCHEMA,
        "row": file.name,
        "dataset": data.name,
        "options": data.options,
        "method": report["method"]["name"],
        "verdict": report["verdict"]["status"],
        "seconds": {role: _seconds(folder) for role, folder in models.items()}
        | {"run": report["cost"]["seconds"], "unlearning": report["cost"]["seconds_unlearning"]},
        "expected": expected,
        "tofu": tofu,
    }
    finite = json.loads(json.dumps(row), parse_constant=lambda _: None)
    (output / BENCHMARK).write_text(json.dumps(finite, indent=1) + "\n", encoding="utf-8")


def compare_expected(
    expected: ExpectedSettings, results: Json, tofu: Mapping[str, Mapping[str, float]]
) -> Json:
    """The expected figure beside the measured one, and whether it is within the tolerance.

    Raises:
        UserError: It was not measured.
    """
    if expected.set == TOFU:
        value = {"value": tofu.get(expected.model, {}).get(expected.metric)}
    else:
        value = results.get(expected.model, {}).get(expected.set, {}).get(expected.metric, {})
    measured = value.get("value")
    if measured is None:
        raise UserError(
            f"expected: no {expected.metric} of the set {expected.set!r} of the "
            f"{expected.model} model was measured; see run/report.json for what was"
        )
    return expected.model_dump() | {
        "measured": measured,
        "low": value.get("low"),
        "high": value.get("high"),
        "within": abs(measured - expected.value) <= expected.tolerance,
    }


def _seconds(folder: Path) -> float | None:
    """What making the model took; None for one that says nothing of it."""
    recipe = folder / PROVENANCE_FILE
    return read_json(recipe, LARGE)["seconds"] if recipe.exists() else None
