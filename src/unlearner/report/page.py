"""`report.html`: one page that needs nothing but itself, every text in it escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlearner.report import facts, figures, tables, words
from unlearner.report.measures import measure, visible

FOLDER = Path(__file__).parent


def render(report: dict[str, Any]) -> str:
    """The page as HTML. The same report gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
    page = environment.get_template("page.html.j2")
    return page.render(style=style, galleries=figures.galleries(report), **context(report)) + "\n"


def context(report: dict[str, Any]) -> dict[str, Any]:
    """What the templates show, as text; shared by the page and the Markdown files."""
    verdict = report["verdict"]
    labels = words.model_labels(report)
    return {
        "evaluated": report["command"] == "evaluate",
        "request_id": visible(report["request"]["id"]),
        "model": visible(report["model"]["name"]),
        "method": words.method_name(report),
        "created": words.when(report["created"]),
        "status": verdict["status"],
        "status_words": words.STATUS_WORDS,
        "headline": words.headline(report),
        "requested": words.requested(report),
        "done": words.done(report),
        "findings": words.findings(report),
        "limits": words.limits(report),
        "notes": [visible(note) for note in verdict.get("notes", [])],
        "not_measured": [visible(item) for item in verdict.get("not_measured", [])],
        "summary": tables.summary(report),
        "claims": tables.claims(report),
        "models": [labels[m] for m in tables.models_of(report)],
        "results": tables.results(report),
        "records": tables.records(report),
        "record_metrics": [measure(m).label for m in tables.record_metrics(report)],
        "data": facts.data(report),
        "facts": [
            ("Request and model", facts.request(report)),
            ("Method", facts.method(report)),
            ("Retrieval of similar text", facts.retrieval(report)),
            ("Cost", facts.cost(report)),
            ("Environment", facts.environment(report)),
        ],
        "glossary": tables.glossary(report),
        "examples": tables.examples(report),
    }
