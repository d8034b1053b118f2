"""`report.html`: one page that needs nothing but itself, every text in it escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlearner.report import (
    classifier_figures,
    classifier_tables,
    classifier_tiles,
    classifier_words,
    facts,
    figures,
    names,
    tables,
    words,
)
from unlearner.report.measures import measure
from unlearner.report.writing import visible, when

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
    if names.is_classifier(report):
        style += Markup((FOLDER / "classifier.css").read_text(encoding="utf-8"))
        drawn = {"answers": classifier_figures.answers(report), "galleries": []}
    else:
        drawn = {"answers": [], "galleries": figures.galleries(report)}
    page = environment.get_template("page.html.j2")
    return page.render(style=style, **drawn, **context(report)) + "\n"


def context(report: dict[str, Any]) -> dict[str, Any]:
    """What the templates show, as text; shared by the page and the Markdown files."""
    verdict = report["verdict"]
    labels = names.model_labels(report)
    classifier = names.is_classifier(report)
    told = classifier_words if classifier else words
    return {
        "classifier": classifier,
        "evaluated": report["command"] == "evaluate",
        "request_id": visible(report["request"]["id"]),
        "model": visible(report["model"]["name"]),
        "method": names.method_name(report),
        "created": when(report["created"]),
        "status": verdict["status"],
        "status_words": names.STATUS_WORDS,
        "headline": words.headline(report),
        "requested": told.requested(report),
        "done": told.done(report),
        "findings": told.findings(report),
        "limits": told.limits(report),
        "notes": [visible(note) for note in verdict.get("notes", [])],
        "not_measured": [visible(item) for item in verdict.get("not_measured", [])],
        "summary": (classifier_tiles if classifier else tables).summary(report),
        "claims": tables.claims(report),
        "models": [labels[m] for m in tables.models_of(report)],
        "results": tables.results(report),
        **(_classifier(report) if classifier else _language_model(report)),
        "data": facts.data(report),
        "facts": [
            ("Request and model", facts.request(report)),
            ("Method", facts.method(report)),
            ("Retrieval of similar text", facts.retrieval(report)),
            ("Cost", facts.cost(report)),
            ("Environment", facts.environment(report)),
        ],
        "trials": facts.rows(report),
        "trials_lead": facts.lead(report),
        "glossary": tables.glossary(report),
        "examples": tables.examples(report),
    }


def _language_model(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "records": tables.records(report),
        "record_metrics": [measure(m).label for m in tables.record_metrics(report)],
    }


def _classifier(report: dict[str, Any]) -> dict[str, Any]:
    labels = names.model_labels(report)
    sides = {"before": labels["target"], "after": labels["unlearned"], "retrained": "retrained"}
    counts = classifier_tables.record_counts(report)
    models = tables.models_of(report)
    return {
        "records": classifier_tables.records(report),
        "record_models": [sides[side] for side in classifier_tables.record_models(report)],
        "record_counts": [(sides[side], counted) for side, counted in counts],
        "record_statuses": bool(report["verdict"]["records"]),
        "distance": classifier_tables.distance(report),
        "distance_models": [labels[m] for m in models if m != "retrained"],
        "geometry": classifier_tables.geometry(report),
    }
