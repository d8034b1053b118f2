"""The folder is the registry: a file in methods, metrics, attacks or data is a name to use.

Listing and describing read file names and source text only, so that they import nothing heavy.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from unlearner.errors import UserError

if TYPE_CHECKING:
    from unlearner.methods.base import Method

PACKAGE = Path(__file__).parent


def names(folder: str) -> tuple[str, ...]:
    """The modules of `unlearner.<folder>` in alphabetical order, none where it does not exist.

    `base` and names with a leading underscore are not for use by name and are left out.
    """
    found = (module.name for module in pkgutil.iter_modules([str(PACKAGE / folder)]))
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


def load(folder: str, name: str) -> ModuleType:
    """Imports `unlearner.<folder>.<name>`.

    Raises:
        UserError: The folder holds no such name.
    """
    _check(folder, name)
    return importlib.import_module(f"unlearner.{folder}.{name}")


def load_method(name: str) -> type[Method]:
    """The one public class of `unlearner.methods.<name>` that is a method.

    Raises:
        UserError: There is no such method.
    """
    module = load("methods", name)
    found = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and (hasattr(value, "loss") or hasattr(value, "unlearn"))
    ]
    assert len(found) == 1, f"methods/{name}.py must define one public method, found {found}"
    return cast("type[Method]", found[0])


def summary(folder: str, name: str) -> str:
    """First line of the module's docstring, for a method of its public class's; may be empty.

    Raises:
        UserError: The folder holds no such name.
    """
    _check(folder, name)
    path = PACKAGE / folder / f"{name}.py"
    if not path.exists():
        path = PACKAGE / folder / name / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = _public_class(tree) if folder == "methods" else tree
    return (ast.get_docstring(described) or "").partition("\n")[0]


def _public_class(tree: ast.Module) -> ast.Module | ast.ClassDef:
    """The class that defines `loss` or `unlearn`, the module where there is none."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            defined = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if defined & {"loss", "unlearn"}:
                return node
    return tree


def _check(folder: str, name: str) -> None:
    allowed = names(folder)
    if name in allowed:
        return
    wanted = name.lower().replace("-", "_")
    close = get_close_matches(wanted, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(allowed) or "none"
    raise UserError(f"there is no {name!r} among the {folder}: {hint}available: {listed}")
