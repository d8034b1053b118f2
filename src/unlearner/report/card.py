"""`report.md` and the model card: short Markdown, in which ids and names cannot act as markup."""

from __future__ import annotations

import re
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from unlearner.report import facts
from unlearner.report.page import FOLDER, context
from unlearner.report.writing import visible

PIPELINES = {
    "causal-lm": "text-generation",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown_report(report: dict[str, Any]) -> str:
    """The report in short, as Markdown."""
    return _environment().get_template("report.md.j2").render(context(report))


def model_card(report: dict[str, Any]) -> str:
    """A Hugging Face model card: what was done, what the tests gave, what risk remains.

    It says which procedure was executed on which request and never that something is forgotten.
    """
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": PIPELINES[report["model"]["family"]],
        "tags": ["unlearning", "unlearner"],
    }
    if report["model"].get("hub_id"):
        fields["base_model"] = report["model"]["hub_id"]
    front = yaml.safe_dump(fields, sort_keys=False)
    shown = {
        **context(report),
        "parameters": facts.request(report),
        "hyper_parameters": facts.method(report),
    }
    return f"---\n{front}---\n\n" + _environment().get_template("card.md.j2").render(shown)


def escape(text: object) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no link, no new table cell or line.

    Letters, digits, spaces and quiet punctuation stay readable in the source.
    """
    plain = visible(text).strip()
    plain = re.sub(r"[\\`*_{}\[\]|~$#@!^]", r"\\\g<0>", plain)
    plain = re.sub(r"[&<>]", lambda match: ENTITIES[match[0]], plain)
    plain = re.sub(r"(?i)(?<=:)//|(?<=www)\.", lambda m: "".join(f"\\{c}" for c in m[0]), plain)
    # At the start of a line these would begin a list or underline a heading.
    plain = re.sub(r"^[-+=]", r"\\\g<0>", plain)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", plain)


def _environment() -> Environment:
    """Templates in which every value is escaped, as autoescape does for HTML."""
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=False,  # that is for HTML; `finalize` escapes for Markdown
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
