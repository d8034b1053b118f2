"""What the commands do, between the command line and the pipeline: folders, words, exit status."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unlearner import processes
from unlearner.cli.finetune import run_finetune
from unlearner.cli.terminal import (
    MET,
    NOT_MET,
    RunProgress,
    print_check,
    print_strength,
    print_verdict,
)
from unlearner.config import RunConfig
from unlearner.data.record import Record
from unlearner.datasets.base import named_sets
from unlearner.errors import Interrupted, UserError
from unlearner.files import read_small, saving, write_whole
from unlearner.models import sharding
from unlearner.models.folders import family_named
from unlearner.models.loading import (
    limit_threads,
)
from unlearner.output import CHECKPOINTS, Json, alone_in, check_free, check_output, staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.compare import INPUTS_FILE, PLAN_FILE, run_all
from unlearner.pipeline.compare_plan import Plan, check_plan, make_plan
from unlearner.pipeline.compare_results import RETRAINED_FILE, SKIPPED_FILE, gather_runs
from unlearner.pipeline.pipeline import (
    NothingToUnlearn,
    Outcome,
    read_config,
    settings_of,
    tracked_sections,
    write_outcome,
)
from unlearner.pipeline.run_file import BENCHMARK, RunFile, read_run_file, write_benchmark
from unlearner.pipeline.strength import add_strength, evenly_spaced, utility_floor
from unlearner.report.compare import comparison_rows, headings, not_run, write_comparison
from unlearner.report.files import write_report
from unlearner.report.page import is_unlearned
from unlearner.report.private_text import write_texts
from unlearner.training.log import Listener, Log, check_trackers, quieten, tracked
from unlearner.training.resume import Resumable
from unlearner.training.trainer import resolve_device
from unlearner.yaml_values import load_yaml, read_yaml

ROW = "row.yaml"  # in the output folder: what its contents were made from

# Of the `data` and `training` sections, what a target shares with the run.
SHARED_DATA = ("template", "chat", "scope", "max_length", "append_eos")

SHARED_TRAINING = ("seed", "device", "precision")


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
    sections = with_method(sections, Path(str(sections.get("model", {}).get("name", ""))))
    config, family = read_config(sections)
    progress = RunProgress(quiet=quiet, num_rounds=1)
    prepared = pipeline.start(config, family, command="evaluate")
    config = pipeline.dated(config, prepared)
    limit_threads(prepared.loaded.to(resolve_device(config.training)))
    with staged(output) as work:
        verdict, report = pipeline.evaluate(
            config, prepared, target=target, by_method="method" in sections, say=progress.say
        )
        if processes.is_main():
            write_report(report, work)
            (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    if processes.is_main():
        print_verdict(report, output)
    return MET if verdict.status == "met" else NOT_MET


def with_method(sections: Json, model: Path) -> Json:
    """The sections with the method that made the model, where it lies in the folder of a run.

    Which unseen records the method learned from depends on the seed, too.

    Args:
        model: Not checked yet.
    """
    run = model.parent / "run.yaml"
    if "method" in sections or not is_unlearned(model) or not run.is_file():
        return sections
    made = read_yaml(run)
    training = {"seed": made.get("training", {}).get("seed", 0), **sections.get("training", {})}
    return {**sections, "method": made.get("method", {}), "training": training}


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
        begun = [folder.name for folder in output.glob("runs/*")]
        if not plan.goes_on(_text_of(path), begun):
            raise UserError(
                f"--resume: the comparison in {output} began with other settings (see {path}); "
                "give the same, or another folder; methods may be added"
            )
        write_whole(path, plan.to_yaml())
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


def run_run(path: Path, settings: Sequence[str], output: Path | None, *, quiet: bool) -> int:
    """`unlearner run`: 0, or 3 when the verdict is not met or a figure is not as expected."""
    processes.begin()
    quieten()
    if processes.count() > 1:
        raise UserError("unlearner run: is for one process; start it without accelerate")
    file = read_run_file(path, settings)
    output = output or Path(file.run.output or f"runs/{file.name}")
    _check_row_folder(output, file)
    models = _make_models(file, output, quiet=quiet)
    if file.run.command == "finetune":
        return MET
    sections = _with_models(file, models)
    run = output / "run"
    try:
        status = MET if _is_finished(run) else _begin_row(file, sections, models, run, quiet=quiet)
    finally:
        if run.exists():
            _remember(output, file)
    if not (run / "report.json").exists():
        return status  # a comparison, or nothing was memorised, and that was said
    if not (output / BENCHMARK).exists():
        write_benchmark(output, file, models)
    return _conclude_row(output, file, quiet=quiet)


def _is_finished(run: Path) -> bool:
    return (run / "report.json").exists() or (run / "compare.json").exists()


def _with_models(file: RunFile, models: Mapping[str, Path]) -> Json:
    """The run's sections with the models that the row has made."""
    if not models:
        return file.sections
    chosen = {"name": str(models["target"])}
    if "retrained" in models:
        chosen["retrained"] = str(models["retrained"])
    return file.sections | {"model": {**file.sections.get("model", {}), **chosen}}


def _begin_row(
    file: RunFile,
    sections: Json,
    models: Mapping[str, Path],
    run: Path,
    *,
    quiet: bool,
) -> int:
    """Begin the run, or go on with it."""
    if file.run.command == "compare":
        return run_compare(
            sections,
            file.run.methods,
            run,
            seeds=file.run.seeds,
            retrained=str(models.get("retrained", "")),
            jobs=file.run.jobs,
            resume=run.exists(),
            keep_models=False,
            quiet=quiet,
        )
    resume = (run / CHECKPOINTS).exists()
    return run_forget(sections, run, force=False, show_text=False, resume=resume, quiet=quiet)


def _conclude_row(output: Path, file: RunFile, *, quiet: bool) -> int:
    """Say how the row came out."""
    row = json.loads((output / BENCHMARK).read_text(encoding="utf-8"))
    say = RunProgress(quiet=quiet, num_rounds=0).say
    say(f"{file.name}: verdict {row['verdict']}; {output / BENCHMARK}")
    expected = row["expected"]
    if expected:
        within = "as expected" if expected["within"] else "NOT as expected"
        say(
            f"{expected['metric']} {expected['set']}: {expected['measured']:.4g}, {within} "
            f"({expected['value']:.4g} ± {expected['tolerance']:.4g}; {expected['source']})"
        )
    met = row["verdict"] == "met" and (not expected or expected["within"])
    return MET if met else NOT_MET


def _check_row_folder(output: Path, file: RunFile) -> None:
    """Refuse a folder with anything but an earlier start of the same run.

    Raises:
        UserError: It holds something else.
    """
    begun = output / ROW
    if not begun.is_file():
        check_output(output)
    elif read_yaml(begun) != load_yaml(file.text):
        raise UserError(
            f"--output {output}: holds a run of other settings ({begun}); give another folder or "
            "remove it"
        )


def _remember(output: Path, file: RunFile) -> None:
    """Once something is finished, what it was made from."""
    (output / ROW).write_text(file.text, encoding="utf-8")


def _make_models(file: RunFile, output: Path, *, quiet: bool) -> dict[str, Path]:
    """The target and the retrained model by role, trained where they are not there yet."""
    if file.target is None:
        return {}
    folders = {"target": output / "target"}
    if file.target.retrained:
        folders["retrained"] = output / "retrained"
    missing = [role for role, folder in folders.items() if not folder.exists()]
    sets = named_sets(file.data, file.family) if missing else {}
    for role in missing:
        learned = ("forget", "retain") if role == "target" else ("retain",)
        records = [record for name in learned if name in sets for record in sets[name]]
        like = str(folders["target"]) if role == "retrained" else ""
        _finetune(file, records, folders[role], like=like, quiet=quiet)
        _remember(output, file)
    return folders


def _finetune(
    file: RunFile, records: Sequence[Record], folder: Path, *, like: str, quiet: bool
) -> None:
    """Train the pretrained model on records, with the run's own layout and precision.

    Args:
        like: The target, whose labels a retrained classifier gets.
    """
    assert file.target is not None
    shared = {
        f"{section}.{key}": file.sections[section][key]
        for section, keys in (("data", SHARED_DATA), ("training", SHARED_TRAINING))
        for key in keys
        if key in file.sections.get(section, {})
    }
    # One that is cut off begins anew: its checkpoints would name a file of records that is gone.
    shared["training.checkpoint_every"] = "never"
    settings = [
        f"{key}={json.dumps(value)}" for key, value in {**shared, **file.target.finetune}.items()
    ]
    has_new_head = family_named(file.target.pretrained) != file.family
    with tempfile.TemporaryDirectory() as place:  # the records' text stays nowhere
        path = Path(place) / "records.jsonl"
        path.write_text("".join(map(_line, records)), encoding="utf-8")
        run_finetune(
            file.target.pretrained,
            str(path),
            folder,
            settings=settings,
            columns={},
            until=file.target.until,
            labels=like if has_new_head else "",
            quiet=quiet,
        )


def _line(record: Record) -> str:
    return json.dumps({key: value for key, value in asdict(record).items() if value}) + "\n"
