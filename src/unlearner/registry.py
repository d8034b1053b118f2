"""The folder is the registry: a file in methods, metrics, attacks or datasets is a name to use."""

import importlib
import pkgutil
import re
from difflib import get_close_matches
from inspect import cleandoc
from pathlib import Path
from types import ModuleType

from unlearner.errors import UserError

PACKAGE = Path(__file__).parent

ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")


def names(folder: str) -> tuple[str, ...]:
    """The modules of `unlearner.<folder>` in alphabetical order, none where it does not exist.

    File names are read and nothing is imported. `base` and names with a leading underscore are not
    for use by name and are left out.
    """
    files = (module.name for module in pkgutil.iter_modules([str(PACKAGE / folder)]))
    return tuple(sorted(name for name in files if name != "base" and not name.startswith("_")))


def load(folder: str, name: str) -> ModuleType:
    """Imports `unlearner.<folder>.<name>`.

    Raises:
        UserError: The folder holds no such name.
    """
    allowed = names(folder)
    if name not in allowed:
        close = get_close_matches(name.lower().replace("-", "_"), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(allowed) or "none"
        raise UserError(f"there is no {name!r} among the {folder}: {hint}available: {listed}")
    return importlib.import_module(f"unlearner.{folder}.{name}")


def first_line(described: object) -> str:
    """The first line of the docstring of a module or class; may be empty."""
    return (described.__doc__ or "").strip().partition("\n")[0]


def paper(described: object) -> str:
    """The arXiv ids in the paragraph "Reference: ..." of a docstring, or its first words."""
    text = cleandoc(described.__doc__ or "")
    reference = re.search(r"^Reference: (.*?)(?=^Differs? |^$|\Z)", text, re.DOTALL | re.MULTILINE)
    text = " ".join(reference[1].split()) if reference else "none"
    ids = dict.fromkeys(ARXIV.findall(text))
    return ", ".join(f"arXiv:{one}" for one in ids) if ids else re.split(r"[;.]", text)[0]
