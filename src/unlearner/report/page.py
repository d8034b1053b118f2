"""`report.html`, one page that needs nothing but itself, and `report.md`, the same in short."""

from unlearner.report import facts, names, tables
from unlearner.report.facts import Report
from unlearner.report.figures import galleries
from unlearner.report.words import sentences
from unlearner.report.writing import html_page, templates


def render(report: Report) -> str:
    """The page as HTML. The same report gives the same text."""
    sheets = ("style.css", "classifier.css") if facts.is_classifier(report) else ("style.css",)
    return html_page("page.html.j2", sheets, galleries=galleries(report), **context(report))


def markdown_report(report: Report) -> str:
    """The report in short, as Markdown."""
    return templates("markdown").get_template("report.md.j2").render(context(report))


def context(report: Report) -> dict[str, object]:
    """What the templates show beside the report itself; shared by the page and Markdown files."""
    verdict, classifier = report["verdict"], facts.is_classifier(report)
    labels = names.model_labels(report)
    return {
        "report": report,
        "classifier": classifier,
        "evaluated": report["command"] == "evaluate",
        "method": names.method_name(report),
        "status": verdict["status"],
        "status_words": names.STATUS_WORDS,
        **vars(sentences(report)),
        "notes": verdict.get("notes", []),
        "not_measured": verdict.get("not_measured", []),
        "claims": tables.claims(report),
        "sets": names.set_names(report),
        "models": [labels[model] for model in facts.models_of(report)],
        "results": tables.results(report),
        "records": tables.record_rows(report),
        "record_headings": tables.record_headings(report),
        "record_counts": tables.record_counts(report),
        "record_statuses": not classifier or bool(verdict["records"]),
        "trial_headings": tables.trial_headings(report.get("search")),
        "distance": tables.distance_rows(report),
        "distance_models": [labels[m] for m in facts.models_of(report) if m != "retrained"],
        "geometry": tables.geometry_rows(report),
        "trials": tables.trial_rows(report.get("search")),
        "glossary": tables.glossary(report),
    }
