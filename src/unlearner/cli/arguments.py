"""What commands with a MODEL and settings have in common: their arguments as sections."""

import re
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.settings import apply_settings, read_yaml

SETTING = re.compile(r"[a-z_]+(\.[a-z_0-9]+){0,2}=")


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


def sections_of(
    arguments: list[str] | None, config: Path | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """The model, and sections from the run file, options and settings, the later over the earlier.

    Options are named section__key; those not given are left out.
    """
    model, settings = model_and_settings(arguments)
    sections = apply_settings(read_yaml(config) if config else {}, [])
    for name, value in options.items():
        section, _, key = name.partition("__")
        if value:
            sections.setdefault(section, {})[key] = value
    return model, apply_settings(sections, settings)
