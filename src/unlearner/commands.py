"""What the commands do, between the command line and the pipeline: folders, words, exit status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner import processes, sharding
from unlearner.errors import UserError
from unlearner.learning import run_finetune
from unlearner.lines import assessor_for, line_for
from unlearner.log import Log
from unlearner.models import FAMILIES, Loaded, family_named, limit_threads
from unlearner.outcome import NothingToUnlearn, Outcome
from unlearner.output import check_output, staged
from unlearner.private_text import write_texts
from unlearner.progress import RunProgress
from unlearner.publishing import file_digests
from unlearner.report import model_card, write_report
from unlearner.resuming import Resumable, settings_of
from unlearner.run import RunConfig
from unlearner.terminal import print_check, print_verdict, quieten
from unlearner.tracking import Listener, check_trackers, tracked
from unlearner.training import resolve_device

MET, NOT_MET = 0, 3

__all__ = ["run_check", "run_evaluate", "run_finetune", "run_forget", "write_outcome"]


def read_config(sections: Mapping[str, Any], loaded: Loaded | None = None) -> tuple[RunConfig, str]:
    """The configuration and the model's family, whose method it has where none is named."""
    model = sections.get("model", {})
    name, revision = str(model.get("name", "")), str(model.get("revision", "main"))
    family = loaded.family if loaded else family_named(name, revision)
    config = RunConfig.from_sections(sections, family=family)
    return replace(config, method=config.method.for_family(family)), family


def run_forget(
    sections: Mapping[str, Any],
    output: Path,
    *,
    force: bool,
    show_text: bool,
    resume: bool = False,
    quiet: bool,
) -> int:
    """`unlearner forget`: 0 when the verdict is met or there is nothing to unlearn, else 3."""
    processes.begin()
    quieten()
    check_output(output, resume=resume)
    resumable = Resumable(output, resume)
    config, family = read_config(settings_of(resumable, sections))
    sharding.check_family(family)
    line = line_for(family)
    if show_text and family != FAMILIES[0]:
        raise UserError("--show-text: for causal language models; a classifier writes no text")
    # A classifier is looked at every few steps; how many looks that will be is not known.
    num_rounds = config.method.max_epochs if family == FAMILIES[0] else None
    progress = RunProgress(quiet=quiet, num_rounds=num_rounds)
    check_trackers(config.training.trackers)
    prepared = line.start(config, needs=line.FORGET_NEEDS)
    limit_threads(prepared.loaded.model)

    def unlearn(work: Path, listen: Listener) -> Outcome:
        log = Log(work / "log.jsonl", listen)
        return line.forget(
            config, prepared, work, force=force, log=log, say=progress.say, resumable=resumable
        )

    try:
        outcome = _write_run(config, output, unlearn, progress, show_text=show_text, resume=resume)
    except NothingToUnlearn as answer:
        progress.stop()
        if processes.is_main():
            print_check(answer.result)
        progress.say("no run was made and nothing was written; --force runs anyway")
        return MET
    finally:
        progress.stop()
    if processes.is_main():
        print_verdict(outcome.report, output)
    return MET if outcome.verdict.status == "met" else NOT_MET


def _write_run(
    config: RunConfig,
    output: Path,
    unlearn: Callable[[Path, Listener], Outcome],
    progress: RunProgress,
    *,
    show_text: bool,
    resume: bool,
) -> Outcome:
    """Everything that a run leaves, in its folder."""
    with staged(output, resume=resume) as work:
        main = processes.is_main()
        with tracked(progress.line, config.training, _told(config), work, main=main) as listen:
            outcome = unlearn(work, listen)
        if main:
            write_outcome(outcome, config, work)
        if (work / "adapter").exists():
            progress.say(
                f"{output / 'adapter'}: keep it to yourselves; who has it and the model can undo "
                "the unlearning"
            )
        if main and show_text:
            path = work / "before-after-PRIVATE.txt"
            write_texts(path, outcome.before["forget"], outcome.after["forget"])
    return outcome


def _told(config: RunConfig) -> dict[str, Any]:
    """The sections that trackers get: nothing of the records."""
    return {
        name: values for name, values in config.sections().items() if name in ("method", "training")
    }


def write_outcome(outcome: Outcome, config: RunConfig, work: Path) -> None:
    """The report, the model card and the resolved configuration beside the saved model."""
    outcome.report["model"]["files"] = file_digests(work / "model")
    write_report(outcome.report, work)
    (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (work / "model" / "README.md").write_text(model_card(outcome.report), encoding="utf-8")


def run_check(sections: Mapping[str, Any]) -> int:
    """`unlearner check`: prints what it found; writes nothing."""
    processes.begin()
    quieten()
    config, family = read_config(sections)
    line = line_for(family)
    prepared = line.start(config)
    limit_threads(prepared.loaded.model.to(resolve_device(config.training)))
    found = line.check(config, prepared)
    if processes.is_main():
        print_check(found)
    return MET


def run_evaluate(
    sections: Mapping[str, Any], output: Path, *, target: str, retrained: str, quiet: bool
) -> int:
    """`unlearner evaluate`: 0 when the verdict is met, else 3."""
    processes.begin()
    quieten()
    check_output(output)
    config, family = read_config(sections)
    line, assessor = line_for(family), assessor_for(family)
    progress = RunProgress(quiet=quiet, num_rounds=1)
    prepared = line.start(config, needs=assessor.EVALUATE_NEEDS)
    limit_threads(prepared.loaded.model.to(resolve_device(config.training)))
    with staged(output) as work:
        verdict, report = assessor.evaluate(
            config, prepared, target=target, retrained=retrained, say=progress.say
        )
        if processes.is_main():
            write_report(report, work)
            (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    if processes.is_main():
        print_verdict(report, output)
    return MET if verdict.status == "met" else NOT_MET
