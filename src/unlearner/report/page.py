"""`report.html`, one page that needs nothing but itself, and `report.md`, the same in short."""

from __future__ import annotations

from markupsafe import Markup

from unlearner.report import facts, names, tables
from unlearner.report.facts import Report
from unlearner.report.figures import galleries
from unlearner.report.measures import measure
from unlearner.report.words import sentences
from unlearner.report.writing import FOLDER, templates


def render(report: Report) -> str:
    """The page as HTML. The same report gives the same text."""
    sheets = ("style.css", "classifier.css") if facts.is_classifier(report) else ("style.css",)
    style = "".join((FOLDER / sheet).read_text(encoding="utf-8") for sheet in sheets)
    page = templates("html").get_template("page.html.j2")
    shown = page.render(style=Markup(style), galleries=galleries(report), **context(report))
    return shown + "\n"


def markdown_report(report: Report) -> str:
    """The report in short, as Markdown."""
    return templates("markdown").get_template("report.md.j2").render(context(report))


def context(report: Report) -> dict[str, object]:
    """What the templates show beside the report itself; shared by the page and Markdown files."""
    verdict = report["verdict"]
    labels = names.model_labels(report)
    return {
        "report": report,
        "classifier": facts.is_classifier(report),
        "evaluated": report["command"] == "evaluate",
        "method": names.method_name(report),
        "status": verdict["status"],
        "status_words": names.STATUS_WORDS,
        **vars(sentences(report)),
        "notes": verdict.get("notes", []),
        "not_measured": verdict.get("not_measured", []),
        "claims": tables.claims(report),
        "sets": names.sets(report),
        "models": [labels[model] for model in facts.models_of(report)],
        "results": tables.results(report),
        "records": tables.record_rows(report),
        "trials": tables.trial_rows(report.get("search")),
        "glossary": tables.glossary(report),
        **(_of_classifier(report) if facts.is_classifier(report) else _of_language_model(report)),
    }


def _of_language_model(report: Report) -> dict[str, object]:
    return {
        "record_columns": [measure(metric).label for metric in tables.record_columns(report)],
        "record_statuses": True,
    }


def _of_classifier(report: Report) -> dict[str, object]:
    labels = names.model_labels(report)
    sides = {"before": labels["target"], "after": labels["unlearned"], "retrained": "retrained"}
    return {
        "record_columns": [sides[side] for side in tables.record_columns(report)],
        "record_counts": [(sides[side], count) for side, count in tables.record_counts(report)],
        "record_statuses": bool(report["verdict"]["records"]),
        "distance": tables.distance_rows(report),
        "distance_models": [labels[m] for m in facts.models_of(report) if m != "retrained"],
        "geometry": tables.geometry_rows(report),
    }
