"""What a benchmark row leaves beside its report: TOFU's own figures, and the expected one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unlearner.data.windows import Layout
from unlearner.datasets.base import options_of
from unlearner.datasets.tofu import questions
from unlearner.errors import UserError
from unlearner.models.loading import Loaded, limit_threads, load_causal_lm
from unlearner.pipeline.tofu import ask_tofu, figures, forget_quality
from unlearner.settings import DataSettings, EvaluationSettings, Section

BENCHMARK = "benchmark.json"

SCHEMA = "unlearner/benchmark/1"

TOFU = "tofu"  # the name of a set: TOFU's own figures, which are of several sets


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


def write_benchmark(
    output: Path,
    name: str,
    data: DataSettings,
    models: Mapping[str, Path],
    expected: ExpectedSettings | None,
) -> None:
    """Write `benchmark.json` beside the folder of the run.

    Args:
        models: The folders of the target and the retrained model, as far as the row made them.

    Raises:
        UserError: The report has no figure like the expected one.
    """
    report = json.loads((output / "run" / "report.json").read_text(encoding="utf-8"))
    tofu = _tofu(output, data, models)
    row = {
        "schema": SCHEMA,
        "row": name,
        "dataset": data.name,
        "options": data.options,
        "method": report["method"]["name"],
        "verdict": report["verdict"]["status"],
        "seconds": {role: _seconds(folder) for role, folder in models.items()}
        | {"run": report["cost"]["seconds"], "unlearning": report["cost"]["seconds_unlearning"]},
        "expected": None if expected is None else compare(expected, report["results"], tofu),
        "tofu": tofu,
    }
    text = json.dumps(_finite(row), indent=1, allow_nan=False) + "\n"
    (output / BENCHMARK).write_text(text, encoding="utf-8")


def compare(
    expected: ExpectedSettings, results: Mapping[str, Any], tofu: Mapping[str, Any]
) -> dict[str, Any]:
    """The expected figure beside the measured one, and whether it is within the tolerance.

    Raises:
        UserError: It was not measured.
    """
    if expected.set == TOFU:
        found = {"value": tofu.get(expected.model, {}).get(expected.metric)}
    else:
        found = results.get(expected.model, {}).get(expected.set, {}).get(expected.metric, {})
    measured = found.get("value")
    if measured is None:
        raise UserError(
            f"expected: no {expected.metric} of the set {expected.set!r} of the "
            f"{expected.model} model was measured; see run/report.json for what was"
        )
    within = abs(measured - expected.value) <= expected.tolerance
    return expected.model_dump() | {
        "measured": measured,
        "low": found.get("low"),
        "high": found.get("high"),
        "within": within,
    }


def _tofu(
    output: Path, data: DataSettings, models: Mapping[str, Path]
) -> dict[str, dict[str, float]]:
    """TOFU's figures of every model, where they are asked for; forget quality of all but one."""
    if data.name != TOFU or not options_of(data).tofu_metrics:
        return {}
    options = options_of(data)
    asked = questions(data.folder, options)
    answers = {}
    for role, folder in {**models, "unlearned": output / "run" / "model"}.items():
        loaded = load_causal_lm(str(folder))
        limit_threads(loaded.model)
        batch_tokens = EvaluationSettings().batch_tokens
        answers[role] = ask_tofu(loaded, asked, _layout(data, loaded), batch_tokens)
    found = {role: figures(some) for role, some in answers.items()}
    ratios = {
        role: [answer.truth_ratio for answer in some["forget"]] for role, some in answers.items()
    }
    for role in found:
        if "retrained" in found and role != "retrained":
            quality, distance = forget_quality(ratios[role], ratios["retrained"])
            found[role] |= {"forget_quality": quality, "forget_quality_ks": distance}
    return found


def _layout(data: DataSettings, loaded: Loaded) -> Layout:
    return Layout(
        template=data.template,
        chat=data.chat,
        append_eos=data.append_eos,
        max_length=max(2, min(data.max_length, loaded.context)),
    )


def _seconds(folder: Path) -> float | None:
    """What making the model took; None for one that says nothing of it."""
    recipe = folder / "finetune.json"
    return json.loads(recipe.read_text("utf-8"))["seconds"] if recipe.exists() else None


def _finite(value: Any) -> Any:
    """The value with null for what is not a finite number."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
