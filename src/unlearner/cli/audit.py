"""Options of `unlearner audit`; what it does is in `audit_commands`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unlearner.cli.arguments import (
    RECORDS,
    Config,
    DropDuplicates,
    ForgetClass,
    Map,
    Quiet,
    all_sections,
    column_names,
    model_and_settings,
    output_folder,
)
from unlearner.errors import UserError
from unlearner.settings import check_names

RunFolder = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN_DIR] [SECTION.KEY=VALUE]...",
        show_default=False,
        help="A folder that `unlearner forget` has written; else --model and --target.",
    ),
]

RetrainedModels = Annotated[
    list[str] | None,
    typer.Option(
        "--retrained", help="A model trained without --forget; again for those of other seeds."
    ),
]

Pretrained = Annotated[
    str, typer.Option(help="What training started from: makes a proxy, as control.")
]

Wordings = Annotated[
    str, typer.Option(help="JSON lines of id and prompt: your own wordings of the records.")
]

Unrelated = Annotated[
    str, typer.Option(help="Text of another kind, for `relearning` to go on with.")
]

AuditOutput = Annotated[
    Path | None,
    typer.Option("--output", parser=output_folder, metavar="PATH", help="With --model."),
]


def audit(
    arguments: RunFolder = None,
    model: Annotated[str, typer.Option(help="The model to be audited, whoever made it.")] = "",
    target: Annotated[str, typer.Option(help="The model before unlearning.")] = "",
    forget: Annotated[str, typer.Option(help=RECORDS)] = "",
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    holdout: Annotated[str, typer.Option(help="Like --forget, never trained on.")] = "",
    forget_class: ForgetClass = "",
    retrained: RetrainedModels = None,
    pretrained: Pretrained = "",
    proxy: Annotated[str, typer.Option(help="A finished proxy, as control.")] = "",
    attacks: Annotated[str, typer.Option(help="Such as membership,quantisation.")] = "",
    budget: Annotated[str, typer.Option(metavar="quick|full", help="How much is tried.")] = "quick",
    wordings: Wordings = "",
    unrelated: Unrelated = "",
    output: AuditOutput = None,
    config: Config = None,
    columns: Map = "",
    drop_duplicates: DropDuplicates = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an audit.")] = False,
    quiet: Quiet = False,
) -> int:
    """Attack an unlearned model beside a control; write audit.json, and the page again."""
    run_dir, settings = model_and_settings(arguments)
    check_names([budget], ["quick", "full"], what="budget", where="--budget")
    options = {
        "data__forget": forget,
        "data__retain": retain,
        "data__holdout": holdout,
        "data__forget_class": forget_class,
        "data__columns": column_names(columns),
        "data__drop_duplicates": drop_duplicates,
    }
    request = {
        "attacks": _attack_names(attacks),
        "budget": budget,
        "retrained": next(iter(retrained or ()), ""),
        "more_retrained": tuple(retrained or ())[1:],
        "pretrained": pretrained,
        "proxy": proxy,
        "wordings": wordings,
        "unrelated": unrelated,
    }
    if run_dir:
        _alone(run_dir, options | {"model": model, "target": target, "output": output}, settings)
        if config:
            raise UserError("--config: RUN_DIR has its own run.yaml; leave it out")
        folder, sections = Path(run_dir), {}
    else:
        folder = _folder_of(model, target, output)
        sections = all_sections(settings, config, **options)
        sections.setdefault("model", {})["name"] = target
    from unlearner.cli.audit_commands import run_audit

    return run_audit(folder, sections, request, model=model, resume=resume, quiet=quiet)


def _attack_names(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if text and not found:
        raise UserError("--attacks: names none; see `unlearner list attacks`")
    return found


def _alone(run_dir: str, options: dict[str, Any], settings: list[str]) -> None:
    """Refuse what a run's folder says already."""
    given = [name.partition("__")[2] or name for name, value in options.items() if value]
    names = [*(f"--{name.replace('_', '-')}" for name in given), *settings]
    if names:
        name = "--map" if names[0] == "--columns" else names[0]
        raise UserError(
            f"{name}: {run_dir} is a run's folder, whose run.yaml says that; leave it out, or give "
            "--model and --target in place of the folder"
        )


def _folder_of(model: str, target: str, output: Path | None) -> Path:
    """Where the audit of a model that is not a run's goes."""
    if not (model and target and output):
        missing = "--model" if not model else "--target" if not target else "--output"
        raise UserError(
            f"{missing}: none given; name a folder that `unlearner forget` has written, or give "
            "--model, --target and --output with the files of records"
        )
    return output
