"""What the commands do, between the command line and the pipeline: folders, words, exit status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearner import assessing, pipeline
from unlearner.config import DataSettings, apply_settings, build, check_names
from unlearner.data.files import read_records
from unlearner.errors import UserError
from unlearner.finetuning import FinetuneSettings, Until, finetune
from unlearner.models import limit_threads, load_causal_lm, save
from unlearner.output import check_output, staged
from unlearner.preparation import prepare
from unlearner.private_text import write_texts
from unlearner.progress import RunProgress
from unlearner.report import model_card, write_report
from unlearner.run import RunConfig
from unlearner.terminal import print_check, print_verdict, quieten
from unlearner.training import Log, Trainer, TrainingSettings

MET, NOT_MET = 0, 3
SET_NAMES = ("request_id", "forget", "retain", "pool", "holdout")


def run_forget(
    sections: Mapping[str, Any], output: Path, *, force: bool, show_text: bool, quiet: bool
) -> int:
    """`unlearner forget`: 0 when the verdict is met or there is nothing to unlearn, else 3."""
    quieten()
    check_output(output)
    config = RunConfig.from_sections(sections)
    progress = RunProgress(quiet=quiet, num_rounds=config.method.max_epochs)
    prepared = pipeline.start(config, needs=pipeline.FORGET_NEEDS)
    limit_threads(prepared.loaded.model)
    try:
        with staged(output) as work:
            log = Log(work / "log.jsonl", progress.line)
            outcome = pipeline.forget(
                config, prepared, work, force=force, log=log, say=progress.say
            )
            write_outcome(outcome, config, work)
            if show_text:
                path = work / "before-after-PRIVATE.txt"
                write_texts(path, outcome.before["forget"], outcome.after["forget"])
    except pipeline.NothingToUnlearn as answer:
        progress.stop()
        print_check(answer.result)
        progress.say("no run was made and nothing was written; --force runs anyway")
        return MET
    finally:
        progress.stop()
    print_verdict(outcome.report, output)
    return MET if outcome.verdict.status == "met" else NOT_MET


def write_outcome(outcome: pipeline.Outcome, config: RunConfig, work: Path) -> None:
    """The report, the model card and the resolved configuration beside the saved model."""
    write_report(outcome.report, work)
    (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (work / "model" / "README.md").write_text(model_card(outcome.report), encoding="utf-8")


def run_check(sections: Mapping[str, Any]) -> int:
    """`unlearner check`: prints what it found; writes nothing."""
    quieten()
    config = RunConfig.from_sections(sections)
    prepared = pipeline.start(config)
    limit_threads(prepared.loaded.model)
    print_check(pipeline.check(config, prepared))
    return MET


def run_evaluate(
    sections: Mapping[str, Any], output: Path, *, target: str, retrained: str, quiet: bool
) -> int:
    """`unlearner evaluate`: 0 when the verdict is met, else 3."""
    quieten()
    check_output(output)
    config = RunConfig.from_sections(sections)
    progress = RunProgress(quiet=quiet, num_rounds=1)
    prepared = pipeline.start(config, needs=("level",))
    limit_threads(prepared.loaded.model)
    with staged(output) as work:
        verdict, report = assessing.evaluate(
            config, prepared, target=target, retrained=retrained, say=progress.say
        )
        write_report(report, work)
        (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    print_verdict(report, output)
    return MET if verdict.status == "met" else NOT_MET


def run_finetune(  # noqa: PLR0913 - what the command line has to say
    model: str, records: str, output: Path, *, settings: list[str], columns: dict[str, str],
    until: str, quiet: bool,
) -> int:  # fmt: skip
    """`unlearner finetune`: 0, or 3 when the goal of --until was not reached."""
    quieten()
    check_output(output)
    learning, training, data = _finetune_settings(settings, columns)
    goal = Until.parse(until) if until else None
    if not model or not records:
        raise UserError("finetune needs a MODEL and --records FILE")
    given = read_records(records, name="records", columns=data.columns)
    loaded = load_causal_lm(model)
    limit_threads(loaded.model)
    some = prepare(loaded, {"records": given}, data)["records"]
    progress = RunProgress(quiet=quiet, num_rounds=learning.epochs)
    try:
        with staged(output) as work:
            trainer = Trainer(training, Log(None, progress.line))
            result = finetune(loaded.model, loaded.tokenizer, some, learning, trainer, goal)
            save(trainer.accelerator.unwrap_model(result.model), loaded.tokenizer, work)
            _write_recipe(work, model, learning, training, data)
    finally:
        progress.stop()
    progress.say(f"trained {result.epochs} epochs on {len(some)} records; the model is in {output}")
    if goal is not None and not result.reached:
        progress.say(f"the goal {until} was not reached: {goal.metric} is {result.value:.4f}")
        return NOT_MET
    return MET


def _finetune_settings(
    settings: list[str], columns: dict[str, str]
) -> tuple[FinetuneSettings, TrainingSettings, DataSettings]:
    """Settings with or without their section: keys of learning, training and data are distinct."""
    kinds = {"finetune": FinetuneSettings, "training": TrainingSettings, "data": DataSettings}
    full = []
    for setting in settings:
        key = setting.partition("=")[0]
        if "." not in key:
            keys = {name: section for section, kind in kinds.items()
                    for name in kind.model_fields if name not in SET_NAMES}  # fmt: skip
            check_names([key], list(keys), what="key", where="finetune")
            setting = f"{keys[key]}.{setting}"
        full.append(setting)
    sections = apply_settings({"data": {"columns": columns}}, full)
    check_names(sections, list(kinds), what="section", where="finetune")
    return (
        build(FinetuneSettings, sections.get("finetune", {}), where="finetune"),
        build(TrainingSettings, sections.get("training", {}), where="training"),
        build(DataSettings, sections.get("data", {}), where="data"),
    )


def _write_recipe(
    work: Path, model: str, learning: FinetuneSettings, training: TrainingSettings,
    data: DataSettings,
) -> None:  # fmt: skip
    """How the model was made: a retrained model has to be made in the same way."""
    recipe = {
        "model": model,
        "finetune": learning.model_dump(),
        "training": training.model_dump(),
        "data": data.model_dump(exclude={*SET_NAMES}),
    }
    (work / "finetune.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
