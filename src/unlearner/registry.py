"""The folder is the registry: a file in methods, metrics, attacks or datasets is a name to use.

Listing and describing read file names and source text only, so that they import nothing heavy.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from unlearner.errors import UserError

PACKAGE = Path(__file__).parent

ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")


@dataclass(frozen=True)
class MethodFacts:
    """What a method's source says of it.

    Attributes:
        paper: Its arXiv ids, or what its docstring has in their place.
        families: Families of models it is for; empty where the source does not say it plainly.
        needs: The sets it works on; likewise.
        begins_anew: It makes the model again from a pretrained one.
    """

    paper: str
    families: tuple[str, ...]
    needs: tuple[str, ...]
    begins_anew: bool


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


def summary(folder: str, name: str) -> str:
    """First line of the module's docstring, for a method of its public class's; may be empty.

    Raises:
        UserError: The folder holds no such name.
    """
    tree = _source(folder, name)
    described = _public_class(tree) if folder == "methods" else tree
    return (ast.get_docstring(described) or "").partition("\n")[0]


def method_facts(name: str) -> MethodFacts:
    """Paper, families and needs of a method, from its source text.

    Raises:
        UserError: There is no such method.
    """
    tree = _source("methods", name)
    described = _public_class(tree)
    fields = {
        field: _field(described, tree, field) for field in ("families", "needs", "begins_anew")
    }
    return MethodFacts(
        paper=_paper(ast.get_docstring(described) or ""),
        families=_names(fields["families"]),
        needs=_names(fields["needs"]),
        begins_anew=fields["begins_anew"] is True,
    )


def _source(folder: str, name: str) -> ast.Module:
    """The source of `unlearner.<folder>.<name>`, parsed.

    Raises:
        UserError: The folder holds no such name.
    """
    _check(folder, name)
    return _parsed(PACKAGE / folder / name)


def _parsed(place: Path) -> ast.Module:
    """A module or a package by its path without the ending."""
    path = place.with_name(f"{place.name}.py")
    return ast.parse((path if path.exists() else place / "__init__.py").read_text("utf-8"))


def _paper(docstring: str) -> str:
    """The arXiv ids in the paragraph "Reference: ...", or its first words."""
    found = re.search(r"^Reference: (.*?)(?=^Differs? |^$|\Z)", docstring, re.DOTALL | re.MULTILINE)
    text = " ".join(found[1].split()) if found else "none"
    ids = dict.fromkeys(ARXIV.findall(text))
    return ", ".join(f"arXiv:{one}" for one in ids) if ids else re.split(r"[;.]", text)[0]


def _names(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _field(described: ast.AST, tree: ast.Module, field: str) -> object:
    """The value that a class body gives a field, else that of a base class; None for none."""
    if not isinstance(described, ast.ClassDef):
        return None
    given = _assigned(described.body, field)
    if given is not None:
        return _value(given, tree)
    for base in described.bases:
        found = _find(base.id, tree) if isinstance(base, ast.Name) else None
        value = None if found is None else _field(*found, field)
        if value is not None:
            return value
    return None


def _value(node: ast.expr, tree: ast.Module) -> object:
    """A constant, a name of one, or a tuple of these; None for what would have to be computed."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        found = _find(node.id, tree)
        return None if found is None else _value(*found)  # type: ignore[arg-type]
    if not isinstance(node, ast.Tuple):
        return None
    parts: list[object] = []
    for item in node.elts:
        value = _value(item.value if isinstance(item, ast.Starred) else item, tree)
        parts += value if isinstance(value, tuple) and isinstance(item, ast.Starred) else [value]
    return None if None in parts else tuple(parts)


def _find(name: str, tree: ast.Module) -> tuple[ast.AST, ast.Module] | None:
    """A module's class or value of a name, with the module that defines it, if it is of ours."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlearner."):
            theirs = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in theirs:
                place = PACKAGE.joinpath(*str(node.module).split(".")[1:])
                return _find(theirs[name], _parsed(place))
    given = _assigned(tree.body, name)
    return None if given is None else (given, tree)


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """What a statement `name = ...` or `name: ... = ...` of a body gives the name."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if any(isinstance(one, ast.Name) and one.id == name for one in targets) and value:
            return value
    return None


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
