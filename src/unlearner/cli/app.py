"""The command line. Everything heavy is imported inside the commands: `--help` must be quick."""

import errno
import io
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearner._version import __version__
from unlearner.cli import audit, requests
from unlearner.cli.arguments import (
    RECORDS,
    AllowRemoteJudge,
    Arguments,
    Config,
    Dialogue,
    DropDuplicates,
    ForgetClass,
    Map,
    Neutral,
    Original,
    Output,
    Quiet,
    Resume,
    Test,
    all_sections,
    column_names,
    further_options,
    model_and_settings,
    output_folder,
)
from unlearner.errors import DiskError, Interrupted, TrainingError, UserError, one_message, quoted
from unlearner.settings import SEARCH_TRIALS, check_names

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(requests.app, name="requests")

MET, WRONG_INPUT, NOT_MET, FAILED, INTERRUPTED = 0, 2, 3, 1, 130

Search = Annotated[
    bool, typer.Option("--search", help="Try settings of the method; take the best.")
]

ShowText = Annotated[
    bool, typer.Option(help="Also write before-after-PRIVATE.txt, with the records' text.")
]

AuditBehind = Annotated[
    str, typer.Option(metavar="quick|full", help="Also audit what was made, see `audit`.")
]

LISTED = ("methods", "metrics", "attacks", "datasets")


def main() -> None:
    """Run a command; every way it can end has its exit status and, when it fails, one line."""
    # It says at every import what it would be faster with.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # A job that is told to stop cleans up as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # an id may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit status of a command line."""
    command = typer.main.get_command(app)
    try:
        _check_letters(arguments)
        status = command.main(arguments, prog_name="unlearner", standalone_mode=False)
    except (UserError, TrainingError) as error:
        return _fail(str(error), WRONG_INPUT)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Interrupted as stop:
        return _fail(str(stop), INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback
        return _end_of(error)
    if status == INTERRUPTED:  # the command-line library may have caught the interrupt itself
        return _fail("interrupted; nothing was written", INTERRUPTED)
    return status if isinstance(status, int) else MET


def _end_of(error: Any) -> int:
    """The exit status of an error that no command expects."""
    if hasattr(error, "format_message"):  # a usage error of the command-line library
        return _fail(_usage(error), WRONG_INPUT)
    if type(error).__name__ == "Abort":
        return _fail("interrupted; nothing was written", INTERRUPTED)
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        name = quoted(str(error.filename))
        return _fail(f"{name}: {error.strerror}; give another name", WRONG_INPUT)
    if isinstance(error, DiskError):
        return _fail(str(error), FAILED)
    if os.environ.get("UNLEARNER_TRACEBACK"):
        raise error
    return _fail(f"{type(error).__name__}: {error}", FAILED)


def _check_letters(arguments: list[str]) -> None:
    for place, argument in enumerate(arguments, 1):
        if not argument.isascii() and re.search("[\ud800-\udfff]", argument):
            raise UserError(
                f"argument {place} ({quoted(argument)}) is not UTF-8; rename the file, or "
                "write the value in UTF-8"
            )


def _usage(error: Any) -> str:
    message = error.format_message() or "no command given"
    place = error.ctx.command_path if error.ctx else "unlearner"
    return f"{message.rstrip('.')}; see {place} --help"


def _fail(message: str, status: int) -> int:
    # Of several processes that read the same wrong input one says so.
    if status == FAILED or os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"unlearner: {one_message(message)}\n")
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unlearner {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Make a language model forget given records, and measure honestly whether it did."""


@app.command()
def forget(
    arguments: Arguments = None,
    output: Output = ...,  # type: ignore[assignment]
    forget: Annotated[str, typer.Option(help=RECORDS)] = "",
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    pool: Annotated[str, typer.Option(help="Text to learn meanwhile; default: --retain.")] = "",
    holdout: Annotated[str, typer.Option(help="Like --forget, never trained on.")] = "",
    test: Test = "",
    neutral: Neutral = None,
    dialogue: Dialogue = None,
    forget_class: ForgetClass = "",
    retrained: Annotated[str, typer.Option(help="A model trained without --forget.")] = "",
    method: Annotated[str, typer.Option(help="See `unlearner list methods`.")] = "",
    search: Search = False,
    original: Original = "",
    config: Config = None,
    columns: Map = "",
    drop_duplicates: DropDuplicates = False,
    request_id: Annotated[str, typer.Option(help="Name of the request in the report.")] = "",
    force: Annotated[bool, typer.Option(help="Run though nothing is memorised.")] = False,
    show_text: ShowText = False,
    resume: Resume = False,
    audit: AuditBehind = "",
    allow_remote_judge: AllowRemoteJudge = False,
    quiet: Quiet = False,
) -> int:
    """Make a model forget records; write the unlearned model and a report."""
    sections = all_sections(
        arguments,
        config,
        data__forget=forget,
        model__original=original,
        data__retain=retain,
        data__pool=pool,
        data__holdout=holdout,
        data__columns=column_names(columns),
        data__request_id=request_id,
        data__test=test,
        **further_options(neutral, dialogue, allow_remote_judge),
        data__forget_class=forget_class,
        data__drop_duplicates=drop_duplicates,
        model__retrained=retrained,
        method__name=method,
    )
    if search:
        sections.setdefault("search", {}).setdefault("trials", SEARCH_TRIALS)
    if audit:
        check_names([audit], ["quick", "full"], what="budget", where="--audit")
        if os.environ.get("WORLD_SIZE", "1") != "1":  # not once the run is done
            raise UserError("--audit: is for one process; run `unlearner audit` behind the run")
    from unlearner.cli.commands import run_forget

    status = run_forget(
        sections, output, force=force, show_text=show_text, resume=resume, quiet=quiet
    )
    if audit and (output / "report.json").is_file():  # nothing is written where nothing was known
        from unlearner.cli.audit_commands import run_audit

        run_audit(output, {}, {"budget": audit}, quiet=quiet)
    return status


@app.command()
def check(
    arguments: Arguments = None,
    forget: Annotated[str, typer.Option(help=RECORDS)] = "",
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    pool: Annotated[str, typer.Option(help="Text to learn meanwhile.")] = "",
    holdout: Annotated[str, typer.Option(help="Like --forget, never trained on.")] = "",
    test: Test = "",
    neutral: Neutral = None,
    dialogue: Dialogue = None,
    forget_class: ForgetClass = "",
    original: Original = "",
    config: Config = None,
    columns: Map = "",
    drop_duplicates: DropDuplicates = False,
) -> int:
    """Tell whether records are memorised, where copies are, and what a run would take."""
    sections = all_sections(
        arguments,
        config,
        data__forget=forget,
        model__original=original,
        data__retain=retain,
        data__pool=pool,
        data__holdout=holdout,
        data__columns=column_names(columns),
        data__test=test,
        **further_options(neutral, dialogue),
        data__forget_class=forget_class,
        data__drop_duplicates=drop_duplicates,
    )
    from unlearner.cli.commands import run_check

    return run_check(sections)


@app.command()
def evaluate(
    arguments: Arguments = None,
    output: Output = ...,  # type: ignore[assignment]
    forget: Annotated[str, typer.Option(help=RECORDS)] = "",
    target: Annotated[str, typer.Option(help="The model before unlearning.")] = "",
    retrained: Annotated[str, typer.Option(help="A model trained without the records.")] = "",
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    holdout: Annotated[str, typer.Option(help="Like --forget, never trained on.")] = "",
    test: Test = "",
    neutral: Neutral = None,
    dialogue: Dialogue = None,
    forget_class: ForgetClass = "",
    original: Original = "",
    config: Config = None,
    columns: Map = "",
    drop_duplicates: DropDuplicates = False,
    request_id: Annotated[str, typer.Option(help="Name of the request in the report.")] = "",
    allow_remote_judge: AllowRemoteJudge = False,
    quiet: Quiet = False,
) -> int:
    """Measure a model on records it was to forget; write a report."""
    sections = all_sections(
        arguments,
        config,
        data__forget=forget,
        model__original=original,
        data__retain=retain,
        data__holdout=holdout,
        data__columns=column_names(columns),
        data__request_id=request_id,
        data__test=test,
        **further_options(neutral, dialogue, allow_remote_judge),
        data__forget_class=forget_class,
        data__drop_duplicates=drop_duplicates,
        model__retrained=retrained,
    )
    from unlearner.cli.commands import run_evaluate

    return run_evaluate(sections, output, target=target, quiet=quiet)


app.command()(audit.audit)


@app.command()
def compare(
    arguments: Arguments = None,
    output: Output = ...,  # type: ignore[assignment]
    methods: Annotated[str, typer.Option(help="Such as icu,npo, or all.")] = "",
    forget: Annotated[str, typer.Option(help=RECORDS)] = "",
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    pool: Annotated[str, typer.Option(help="Text to learn meanwhile; default: --retain.")] = "",
    holdout: Annotated[str, typer.Option(help="Like --forget, never trained on.")] = "",
    test: Annotated[str, typer.Option(help="Further records never trained on.")] = "",
    neutral: Neutral = None,
    dialogue: Dialogue = None,
    forget_class: Annotated[str, typer.Option(help="A label that a classifier is to lose.")] = "",
    retrained: Annotated[str, typer.Option(help="A model trained without --forget.")] = "",
    seeds: Annotated[int, typer.Option(max=1000, help="Runs of each method.")] = 1,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Find each method's best settings first.")
    ] = True,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Methods at a time, a process each.")
    ] = 1,
    original: Original = "",
    config: Config = None,
    columns: Map = "",
    keep_models: Annotated[bool, typer.Option(help="Leave the models in the folder.")] = False,
    resume: Resume = False,
    allow_remote_judge: AllowRemoteJudge = False,
    quiet: Quiet = False,
) -> int:
    """Run several methods on the same request, each at its best settings; compare them.

    Settings method.key=value hold for every method that has the key, NAME.key=value for one.
    """
    sections = all_sections(
        arguments,
        config,
        data__forget=forget,
        model__original=original,
        data__retain=retain,
        data__pool=pool,
        data__holdout=holdout,
        data__test=test,
        **further_options(neutral, dialogue, allow_remote_judge),
        data__forget_class=forget_class,
        data__columns=column_names(columns),
    )
    if search:
        sections.setdefault("search", {}).setdefault("trials", SEARCH_TRIALS)
    else:
        sections.setdefault("search", {})["trials"] = 0
    from unlearner.cli.commands import run_compare

    return run_compare(
        sections,
        methods,
        output,
        seeds=seeds,
        retrained=retrained,
        jobs=jobs,
        resume=resume,
        keep_models=keep_models,
        quiet=quiet,
    )


@app.command()
def finetune(
    arguments: Arguments = None,
    output: Output = ...,  # type: ignore[assignment]
    records: Annotated[str, typer.Option(help=RECORDS)] = "",
    until: Annotated[str, typer.Option(help="Stop at a goal, for example 'ma>=0.99'.")] = "",
    columns: Map = "",
    labels_of: Annotated[
        str, typer.Option(help="A classifier whose labels a new head gets; else the records'.")
    ] = "",
    resume: Resume = False,
    quiet: Quiet = False,
) -> int:
    """Train a model on records: a target model, or a retrained one without the forget set.

    Settings may leave out the section: epochs=50 learning_rate=1e-4 seed=1.
    """
    model, settings = model_and_settings(arguments)
    from unlearner.cli.finetune import run_finetune

    return run_finetune(
        model,
        records,
        output,
        settings=settings,
        columns=column_names(columns),
        until=until,
        labels=labels_of,
        resume=resume,
        quiet=quiet,
    )


@app.command()
def lineage(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders of models.")],
    records: Annotated[str, typer.Option(help="Records to look for.")] = "",
    subject: Annotated[str, typer.Option(help="A subject of records, as its id.")] = "",
    columns: Map = "",
) -> int:
    """Tell which models a model was made of, and which records are still in it."""
    from unlearner.cli.lineage import run_lineage

    return run_lineage(models, records, subject, column_names(columns))


@app.command("run")
def run_file(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="RUN.yaml [SETTING]...")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            parser=output_folder,
            metavar="PATH",
            help="Default: run.output, or runs/NAME.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Run one run file, such as a benchmark row; what is finished is not made again."""
    path, settings = model_and_settings(arguments)
    if not path:
        raise UserError("run needs a run file; see benchmarks/ for examples")
    from unlearner.cli.commands import run_run

    return run_run(Path(path), settings, output, quiet=quiet)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="Folder with a report.json.")]) -> int:
    """Write report.html and report.md again from report.json."""
    from unlearner.report.files import rewrite

    rewrite(run_dir)
    print(run_dir / "report.html")
    return MET


@app.command()
def strength(
    run_dir: Annotated[Path, typer.Argument(help="Folder that `unlearner forget` has written.")],
    points: Annotated[
        int, typer.Option(min=2, max=1001, help="Shares looked at, from 0 to 1.")
    ] = 9,
    quiet: Quiet = False,
) -> int:
    """Tell how much of a run's change can be had under the utility floor; add it to the report."""
    from unlearner.cli.commands import run_strength

    return run_strength(run_dir, points=points, quiet=quiet)


@app.command()
def push(
    run_dir: Annotated[Path, typer.Argument(help="Folder that `unlearner forget` has written.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who can see it; for a new repository.")
    ] = True,
    with_report: Annotated[
        bool, typer.Option("--with-report", help="Also the report, which names the records' ids.")
    ] = False,
    even_if_not_met: Annotated[
        bool, typer.Option("--even-if-not-met", help="Push though the verdict is not met.")
    ] = False,
) -> int:
    """Push the unlearned model, with its model card, to the Hugging Face hub."""
    from unlearner.pipeline.hub import push_model

    url = push_model(
        run_dir,
        repository,
        private=private,
        with_report=with_report,
        even_if_not_met=even_if_not_met,
    )
    print(url)
    return MET


@app.command("list")
def list_names(what: Annotated[str, typer.Argument(help=", ".join(LISTED))]) -> int:
    """List what can be used by name."""
    from unlearner.cli.terminal import lines

    check_names([what], LISTED, what="list", where="unlearner list")
    print("\n".join(lines(what)))
    return MET


@app.command()
def demo(
    story: Annotated[str, typer.Argument(help="icu or deepcut")] = "icu",
    output: Annotated[
        Path | None,
        typer.Option("--output", parser=output_folder, metavar="PATH", help="Default: demo-NAME."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random draws.")] = 0,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            parser=output_folder,
            metavar="PATH",
            help="Write the story's model and records there instead, to try the commands on.",
        ),
    ] = None,
) -> int:
    """The whole story on generated data: train, receive a request, forget, report. No network."""
    check_names([story], ["icu", "deepcut"], what="demo", where="unlearner demo")
    if files is not None:
        from unlearner.cli.demo import write_demo_files

        return write_demo_files(story, files, seed=seed)
    output = output or Path(f"demo-{story}")
    if story == "icu":
        from unlearner.cli.demo import run_demo

        return run_demo(output, seed=seed)
    from unlearner.cli.demo import run_classifier_demo

    return run_classifier_demo(output, seed=seed)
