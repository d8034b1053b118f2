"""What the commands do, between the command line and the pipeline: folders, words, exit status."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unlearner import processes
from unlearner.cli.terminal import RunProgress, print_check, print_strength, print_verdict
from unlearner.config import RunConfig
from unlearner.errors import Interrupted, UserError
from unlearner.files import read_small, saving
from unlearner.models import sharding
from unlearner.models.loading import (
    limit_threads,
)
from unlearner.output import Json, alone_in, check_free, check_output, staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.compare import (
    INPUTS_FILE,
    PLAN_FILE,
    RETRAINED_FILE,
    SKIPPED_FILE,
    Plan,
    check_plan,
    gather_runs,
    make_plan,
    run_all,
)
from unlearner.pipeline.pipeline import (
    NothingToUnlearn,
    Outcome,
    read_config,
    settings_of,
    tracked_sections,
    write_outcome,
)
from unlearner.pipeline.strength import add_strength, evenly_spaced, utility_floor
from unlearner.report.compare import comparison_rows, headings, not_run, write_comparison
from unlearner.report.files import write_report
from unlearner.report.private_text import write_texts
from unlearner.training.log import Log, quieten
from unlearner.training.resume import Resumable
from unlearner.training.tracking import Listener, check_trackers, tracked
from unlearner.training.trainer import resolve_device

MET, NOT_MET = 0, 3


def run_forget(
    sections: Json,
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
    sharding.check_family(family.name)
    if show_text and not family.writes_text:
        raise UserError("--show-text: for causal language models; a classifier writes no text")
    progress = RunProgress(quiet=quiet, num_rounds=family.num_rounds(config))
    check_trackers(config.training.trackers)
    prepared = pipeline.start(config, family)
    config = pipeline.dated(config, prepared)
    limit_threads(prepared.loaded.model)

    def unlearn(work: Path, listen: Listener) -> Outcome:
        log = Log(work / "log.jsonl", listen)
        return pipeline.forget(
            config, prepared, work, force=force, log=log, say=progress.say, resumable=resumable
        )

    try:
        outcome = _write_run(config, output, unlearn, progress, show_text=show_text, resume=resume)
    except NothingToUnlearn as answer:
        progress.stop()
        if processes.is_main():
            print_check(answer.result)
        progress.say("no run was made and nothing was written; --force runs anyway")
        return NOT_MET if answer.result.memorised is None else MET  # None: too few to tell
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
        with tracked(
            progress.line, config.training, tracked_sections(config), work, main=main
        ) as listen:
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


def run_check(sections: Json) -> int:
    """`unlearner check`: prints what it found; writes nothing."""
    processes.begin()
    quieten()
    config, family = read_config(sections)
    prepared = pipeline.start(config, family, command="check")
    limit_threads(prepared.loaded.to(resolve_device(config.training)))
    found = pipeline.check(config, prepared, say=RunProgress(quiet=False, num_rounds=None).say)
    if processes.is_main():
        print_check(found, prepared.reading)
    return MET


def run_evaluate(sections: Json, output: Path, *, target: str, quiet: bool) -> int:
    """`unlearner evaluate`: 0 when the verdict is met, else 3."""
    processes.begin()
    quieten()
    check_output(output)
    config, family = read_config(sections)
    progress = RunProgress(quiet=quiet, num_rounds=1)
    prepared = pipeline.start(config, family, command="evaluate")
    config = pipeline.dated(config, prepared)
    limit_threads(prepared.loaded.to(resolve_device(config.training)))
    with staged(output) as work:
        verdict, report = pipeline.evaluate(config, prepared, target=target, say=progress.say)
        if processes.is_main():
            write_report(report, work)
            (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    if processes.is_main():
        print_verdict(report, output)
    return MET if verdict.status == "met" else NOT_MET


def run_compare(  # noqa: PLR0913 - the command's options
    sections: Json,
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
        comparison = gather_runs(plan, output)
    write_comparison(comparison, output)
    _print_table(comparison, output)
    return MET


@contextmanager
def _opened(plan: Plan, output: Path, *, resume: bool) -> Iterator[None]:
    """The folder, open for as long as the block runs; gone where nothing in it was finished.

    Raises:
        UserError: It holds something else, or cannot be made.
        Interrupted: The user wants to stop; what is finished is kept.
    """
    check_free(output)
    made = [path for path in (output, *output.parents) if not path.exists()]
    opened = False
    try:
        _make_parent(output)
        with alone_in(output), saving("the comparison", output):
            _open_folder(plan, output, resume=resume)
            opened = True
            yield
    except BaseException as error:
        if not opened:
            _remove_empty(made)
        elif not _is_begun(output):
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
    _remove_empty(made)


def _remove_empty(made: Sequence[Path]) -> None:
    for path in made:
        with suppress(OSError):  # not empty: another's
            path.rmdir()


def _make_parent(output: Path) -> None:
    try:
        output.resolve().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be made ({error}); give another folder"
        ) from None


def _open_folder(plan: Plan, output: Path, *, resume: bool) -> None:
    """Make the folder, or go on in one of the same comparison.

    Raises:
        UserError: It holds something else, or cannot be made.
    """
    path = output / PLAN_FILE
    if resume:
        if not path.is_file():
            raise UserError(f"--resume: {output} holds no comparison; leave --resume out")
        if _text_of(path) != plan.to_yaml():
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


def _text_of(path: Path) -> str:
    try:
        return read_small(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another folder") from None


def _print_table(comparison: Json, output: Path) -> None:
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=not os.isatty(1))
    table = Table(*headings(comparison, short=True))
    for row in comparison_rows(comparison, short=True):
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    for line in not_run(comparison):
        console.print(line)
    console.print(f"comparison: {output / 'compare.html'}")


def run_strength(run_dir: Path, *, points: int, quiet: bool) -> int:
    """`unlearner strength`: 0 once the report has the points, whatever they are.

    Args:
        points: Shares of the path that are measured, evenly spaced, its two ends among them.

    Raises:
        UserError: See `add_strength`.
    """
    processes.begin()
    quieten()
    progress = RunProgress(quiet=quiet, num_rounds=None)
    report, data = add_strength(run_dir, evenly_spaced(points), progress.say)
    if processes.is_main():
        write_report(report, run_dir)
        floor = utility_floor(data, report["strength"]["points"][0])
        print_strength(report["strength"], data, floor, run_dir)
    return MET
