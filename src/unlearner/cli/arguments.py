"""What commands with a MODEL and settings have in common: their options, and these as sections."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearner.errors import UserError
from unlearner.settings import SET_NAME
from unlearner.yaml_values import apply_settings, read_yaml

SETTING = re.compile(r"[a-z_]+(\.[a-z_0-9]+){0,2}=")


RECORDS = "Records: a file, a folder of files, or hf:owner/name[:config][:split]."

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL [SECTION.KEY=VALUE]...",
        show_default=False,
        help="A local folder or hub id, then settings.",
    ),
]

Config = Annotated[Path | None, typer.Option("--config", help="A run file, such as DIR/run.yaml.")]


def output_folder(name: str) -> Path:
    """The folder that `--output` names.

    Raises:
        UserError: It names none.
    """
    if not name:  # which would be the folder that the user is in
        raise UserError("--output: no name was given; give a folder that does not exist yet")
    return Path(name)


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        parser=output_folder,
        metavar="PATH",
        help="Folder for the results; must be empty.",
    ),
]

Map = Annotated[
    str,
    typer.Option(
        "--map",
        help="Rename columns: question=prompt,answer=response; a+b=prompt joins two, "
        "forget:question=prompt is for one set.",
    ),
]

Test = Annotated[str, typer.Option("--test", help="Unseen records for the report alone.")]

Neutral = Annotated[
    list[str] | None,
    typer.Option(
        "--neutral",
        metavar="[NAME=]FILE",
        help="Text that has nothing to do with the request: perplexity before and after. "
        "Repeatable.",
    ),
]

Dialogue = Annotated[
    list[str] | None,
    typer.Option(
        "--dialogue",
        metavar="[NAME=]FILE",
        help="Conversations whose last response is generated and compared. Repeatable.",
    ),
]

AllowRemoteJudge = Annotated[
    bool,
    typer.Option(
        "--allow-remote-judge",
        help="Let evaluation.judge.url be another machine, which is sent the records' text.",
    ),
]

ForgetClass = Annotated[
    str, typer.Option(help="A classifier's label to be lost, instead of --forget; from --retain.")
]

DropDuplicates = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave exact copies of forget records out elsewhere."),
]

Original = Annotated[
    str, typer.Option(help="The model before all requests, where MODEL was unlearned before.")
]

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the unfinished run in --output.")
]


def model_and_settings(arguments: list[str] | None) -> tuple[str, list[str]]:
    """The model and the settings: what has the form section.key=value is a setting.

    Raises:
        UserError: Something is neither.
    """
    given = list(arguments or [])
    model = "" if not given or SETTING.match(given[0]) else given.pop(0)
    stray = [argument for argument in given if not SETTING.match(argument)]
    if stray:
        raise UserError(f"{stray[0]!r} is neither an option nor a setting section.key=value")
    return model, given


def column_names(text: str) -> dict[str, str]:
    """The renames that `--map` gives.

    Raises:
        UserError: One has another form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    wrong = [name for name, equals, ours in pairs if not (equals and name.strip() and ours.strip())]
    if wrong:
        raise UserError(f"--map {text!r}: write theirs=ours, for example question=prompt")
    return {name.strip(): ours.strip() for name, _, ours in pairs}


def further_options(
    neutral: list[str] | None, dialogue: list[str] | None, allow_remote_judge: bool = False
) -> dict[str, Any]:
    """What is measured beside the sets of a request, as options of `sections_of`."""
    return {
        "data__neutral": named_files("--neutral", neutral),
        "data__dialogue": named_files("--dialogue", dialogue),
        "evaluation__judge__allow_remote": allow_remote_judge,
    }


def named_files(option: str, given: list[str] | None) -> dict[str, str]:
    """The files of a repeatable option by their names: NAME=FILE, or the name that the file has.

    Raises:
        UserError: A file has no name that can be used, or two have the same.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, path = text.partition("=")
        if not (equals and SET_NAME.fullmatch(name)):
            name, path = _own_name(text), text
        if not (SET_NAME.fullmatch(name) and path):
            raise UserError(
                f"{option} {text}: write NAME=FILE, with a name of letters, digits, dots, hyphens "
                "and underscores"
            )
        if name in found:
            raise UserError(f"{option}: two files are named {name}; write NAME=FILE for one")
        found[name] = path
    return found


def _own_name(source: str) -> str:
    """What a file, or a data set of the hub, is called without folders, parts and endings."""
    if source.startswith("hf:"):
        return source.removeprefix("hf:").partition(":")[0].rpartition("/")[2]
    return Path(source).name.partition(".")[0]


def sections_of(
    arguments: list[str] | None, config: Path | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """The model, and sections from the run file, options and settings, the later over the earlier.

    Options are named section__key, or section__key__key; those not given are left out.
    """
    model, settings = model_and_settings(arguments)
    sections = apply_settings(read_yaml(config) if config else {}, [])
    for name, value in options.items():
        section, *keys, last = name.split("__")
        if value:
            values = sections.setdefault(section, {})
            for key in keys:
                values = values.setdefault(key, {})
            values[last] = value
    return model, apply_settings(sections, settings)


def all_sections(
    arguments: list[str] | None, config: Path | None, **options: Any
) -> dict[str, Any]:
    """Sections from the run file, the options and the settings, with the model among them."""
    model, settings = model_and_settings(arguments)
    _, sections = sections_of([], config, **({"model__name": model} | options))
    return apply_settings(sections, settings)
