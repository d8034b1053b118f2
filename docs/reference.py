"""Write the reference pages from the code: settings, commands, plug-ins, the Python interface.

    python docs/reference.py FOLDER

What a page says is what the classes and their docstrings say, so no page can be behind them.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel

import unlearner
from unlearner import registry
from unlearner.attacks.base import Attack
from unlearner.cli.app import app
from unlearner.methods.base import LossMethod, Method, load_method
from unlearner.metrics.base import Metric
from unlearner.requests import Ledger
from unlearner.settings import SECTIONS

SECTION_HEADS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Shape", "Example")
HEAD = re.compile(rf"^({'|'.join(SECTION_HEADS)}):\s*$", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+)(?: \([^)]*\))?:\s", re.MULTILINE)

# Of the interface: what a user of the package may name, in the order of the page.
PUBLIC: dict[str, Any] = {
    "unlearner.unlearn": unlearner.unlearn,
    "unlearner.Result": unlearner.Result,
    "unlearner.UserError": unlearner.UserError,
    "unlearner.NothingToUnlearn": unlearner.NothingToUnlearn,
    "unlearner.requests.Ledger": Ledger,
    "unlearner.methods.Method": Method,
    "unlearner.methods.LossMethod": LossMethod,
    "unlearner.metrics.Metric": Metric,
    "unlearner.attacks.base.Attack": Attack,
}


def write(folder: Path) -> None:
    """Every page, as a Markdown file; one that would not change is left as it is."""
    folder.mkdir(exist_ok=True)
    pages = {
        "settings": settings_page(),
        "commands": commands_page(),
        "methods": methods_page(),
        "metrics": plug_ins_page("metrics", "Measures"),
        "attacks": plug_ins_page("attacks", "Attacks"),
        "datasets": plug_ins_page("datasets", "Data sets"),
        "python": python_page(),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# Docstrings


def split_docstring(described: object) -> tuple[str, dict[str, str]]:
    """The prose of a docstring, and what stands under each of its heads, by head."""
    text = cleandoc(getattr(described, "__doc__", None) or "")
    pieces = HEAD.split(text)
    return pieces[0].strip(), {
        head: content.strip("\n") for head, content in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def entries(content: str) -> dict[str, str]:
    """The entries of an Args or Attributes section, each as one line."""
    pieces = ENTRY.split(f"{content}\n")
    return {
        name: " ".join(text.split()) for name, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def prose(text: str) -> str:
    """A docstring's prose as Markdown: formulas in blocks of their own, the rest as it stands."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if lines and lines[0].strip() == ".. math::":
            blocks.append(fenced("\n".join(lines[1:])))
        elif lines and all(line.startswith("    ") for line in lines if line):
            blocks.append(fenced(block))
        elif any(line.startswith("    ") for line in lines):  # a formula within its sentence
            blocks += _formulas_apart(lines)
        else:
            blocks.append(escaped(block))
    return "\n\n".join(block for block in blocks if block.strip())


def _formulas_apart(lines: list[str]) -> Iterator[str]:
    """A paragraph's runs of indented and of plain lines, the first kind fenced."""
    run: list[str] = []
    for line in [*lines, None]:
        if run and (line is None or line.startswith("    ") != run[0].startswith("    ")):
            formula = run[0].startswith("    ") and run[0].strip() != ".. math::"
            yield fenced("\n".join(run)) if formula else _without_mark(run)
            run = []
        if line is not None:
            run.append(line)


def _without_mark(lines: list[str]) -> str:
    return escaped("\n".join(line for line in lines if line.strip() != ".. math::"))


def fenced(text: str) -> str:
    """A block that is shown as it stands."""
    return f"```text\n{dedent(text).strip()}\n```"


def escaped(text: str) -> str:
    """Prose in which only backticks mean something."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([<>*_|\[\]#\\$])", r"\\\1", part)
        for part in parts
    )


def cell(text: str) -> str:
    """The same within a table."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") else escaped(part) for part in parts
    )


def code(text: str) -> str:
    """Code within a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


# Settings


def settings_page() -> str:
    """A table for each section of a run file; those of a method stand on the page of methods."""
    parts = [
        "# Settings",
        "Every setting is `section.key=value` behind the model, or a line of a run file "
        "(`--config`). The settings of a method, section `method`, stand with the "
        "[methods](methods.md). This page is made from the classes in `settings.py`.",
    ]
    for name, kind in SECTIONS.items():
        text, heads = split_docstring(kind)
        parts += [f"## {name}", prose(text), fields_table(kind, entries(heads.get("Args", "")))]
    return "\n\n".join(parts) + "\n"


def fields_table(kind: type[BaseModel], said: Mapping[str, str]) -> str:
    """A table of a class's fields: name, what is allowed, default, what it is."""
    rows = ["| key | allowed | default | what |", "| --- | --- | --- | --- |"]
    limits = kind.model_json_schema().get("properties", {})
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else _value(default)
        allowed = f"{_kind(field.annotation)}{_range(limits.get(name, {}))}"
        rows.append(f"| `{name}` | {allowed} | {shown} | {cell(said.get(name, ''))} |")
    return "\n".join(rows)


def _value(value: object) -> str:
    """A default as a run file has it."""
    if value in ("", {}, ()):
        return "empty"
    if value is None or isinstance(value, bool):
        return code(str(value).lower().replace("none", "null"))
    return code(f"{value}")


def _kind(annotation: Any) -> str:
    """What kind of value, in words."""
    if annotation is None or annotation is type(None):
        return "null"
    if get_origin(annotation) is not None:
        return _several(annotation)
    names = {"bool": "true, false", "str": "text", "int": "whole number", "float": "number"}
    return names.get(getattr(annotation, "__name__", ""), "value")


def _several(annotation: Any) -> str:
    """The words for a choice, a list or a mapping."""
    arguments = get_args(annotation)
    origin = getattr(get_origin(annotation), "__name__", "")
    if origin == "Literal" or all(isinstance(one, str) for one in arguments):
        return ", ".join(code(str(one)) for one in arguments)
    if origin == "Annotated":
        return _kind(arguments[0])
    if origin in ("dict", "Mapping"):
        return "mapping"
    if origin in ("tuple", "list"):
        return "list"
    return ", ".join(dict.fromkeys(_kind(one) for one in arguments))


def _range(schema: Mapping[str, Any]) -> str:
    """The bounds of a number by JSON schema, in words."""
    found: dict[str, Any] = {}
    for one in (schema, *schema.get("anyOf", ())):
        found |= {key: limit for key, limit in one.items() if key.lower().endswith("imum")}
    words = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    said = [f"{word} {found[key]:g}" for key, word in words.items() if key in found]
    return f", {' '.join(said)}" if said else ""


# Commands


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    parts = [
        "# Commands",
        "What `--help` says, of every command. `unlearner --install-completion` lets the shell "
        "complete commands and options (bash, zsh, fish, PowerShell); `--show-completion` prints "
        "what it would install.",
    ]
    for name, command in commands(typer.main.get_command(app)):
        told = cleandoc(command.help or "")
        parts += [f"## unlearner {name}", escaped(told), _parameters(command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, with their whole names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _parameters(command: Any) -> str:
    rows = ["| option | what |", "| --- | --- |"]
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        shown = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name)
        rows.append(f"| {code(shown)} | {cell(getattr(parameter, 'help', None) or '')} |")
    return "\n".join(rows) if len(rows) > 2 else ""


# What can be used by name


def methods_page() -> str:
    """Every method, with what it says of itself and its settings."""
    parts = [
        "# Methods and their settings",
        "`--method NAME` (`method.name`), and `method.key=value`. Which one when: "
        "[`choosing.md`](../choosing.md). Settings that all have stand with each.",
    ]
    for name in registry.names("methods"):
        kind = load_method(name)
        text, heads = split_docstring(kind)
        said = dict(entries(heads.get("Args", "")))
        for parent in kind.__mro__[1:]:
            if issubclass(parent, BaseModel):
                inherited = entries(split_docstring(parent)[1].get("Args", ""))
                said = inherited | said
        families = ", ".join(kind.families)
        parts += [
            f"## {name}",
            f"{escaped(kind.label)}. For: {families}.",
            prose(text),
            fields_table(kind, said),
        ]
    return "\n\n".join(parts) + "\n"


def plug_ins_page(folder: str, title: str) -> str:
    """Every file of a folder of plug-ins, by what its docstring says."""
    parts = [f"# {title}", f"`unlearner list {folder}`; each is one file in `{folder}/`."]
    for name in registry.names(folder):
        module = registry.load(folder, name)
        parts += [f"## {name}", prose(split_docstring(module)[0])]
        options = getattr(module, "Options", None)
        if isinstance(options, type) and issubclass(options, BaseModel):
            said = entries(split_docstring(options)[1].get("Args", ""))
            parts.append(fields_table(options, said))
    return "\n\n".join(parts) + "\n"


# From Python


def python_page() -> str:
    """The interface from Python: signatures, and what their docstrings say."""
    parts = ["# From Python", "Made from the docstrings."]
    for name, described in PUBLIC.items():
        parts += [f"## {name}", described_markdown(name, described)]
        if isinstance(described, type) and described.__module__.startswith("unlearner"):
            parts += list(_methods_of(described))
    return "\n\n".join(part for part in parts if part) + "\n"


def _methods_of(kind: type) -> Iterator[str]:
    for name, member in vars(kind).items():
        public = not name.startswith("_") and getattr(member, "__doc__", None)
        if public and inspect.isfunction(member):
            yield f"### {kind.__name__}.{name}\n\n{described_markdown(name, member)}"


def described_markdown(name: str, described: Any) -> str:
    """A signature and a docstring as Markdown."""
    text, heads = split_docstring(described)
    parts = []
    if inspect.isfunction(described) or is_dataclass(described):
        parts.append(f"```python\n{signature(name, described)}\n```")
    parts.append(prose(text))
    for head, content in heads.items():
        said = entries(content)
        lines = [f"- `{key}`: {cell(value)}" for key, value in said.items()]
        parts.append(f"**{head}**\n\n" + ("\n".join(lines) or prose(dedent(content))))
    return "\n\n".join(parts)


def signature(name: str, described: Any) -> str:
    """Names and defaults; the kinds stand in the words below."""
    found = inspect.signature(described)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in found.parameters.values()]
    shown = [str(one) for one in bare if one.name != "self"]
    keyword_only = [one for one in bare if one.kind is inspect.Parameter.KEYWORD_ONLY]
    if keyword_only:
        shown.insert(shown.index(str(keyword_only[0])), "*")
    line = f"{name}({', '.join(shown)})"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + indent(",\n".join(shown), "    ") + ",\n)"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
