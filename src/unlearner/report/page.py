"""What is made of report.json: `report.html`, whole by itself, `report.md`, a model card.

The Markdown of a card is short, and ids and names cannot act as markup in it.
"""

from contextlib import suppress
from pathlib import Path

import yaml

from unlearner.files import read_small
from unlearner.report import facts, tables, tasks
from unlearner.report.audit import audit_context
from unlearner.report.facts import Report
from unlearner.report.figures import galleries
from unlearner.report.words import sentences
from unlearner.report.writing import html_page, templates


def render(report: Report) -> str:
    """The page as HTML. The same report gives the same text."""
    sheets = ("style.css", "classifier.css") if facts.is_classifier(report) else ("style.css",)
    audit = audit_context(report["audit"]) if report.get("audit") else {}
    values = context(report) | audit
    return html_page("page.html.j2", sheets, galleries=galleries(report), **values)


def markdown_report(report: Report) -> str:
    """The report in short, as Markdown."""
    return templates("markdown").get_template("report.md.j2").render(context(report))


def context(report: Report) -> dict[str, object]:
    """What the templates show beside the report itself; shared by the page and Markdown files."""
    verdict, classifier = report["verdict"], facts.is_classifier(report)
    labels = facts.model_labels(report)
    return {
        "report": report,
        "classifier": classifier,
        "evaluated": report["command"] == "evaluate",
        "method": facts.method_name(report),
        "status": verdict["status"],
        "status_words": facts.STATUS_WORDS,
        **vars(sentences(report)),
        "notes": verdict.get("notes", []),
        "not_measured": verdict.get("not_measured", []),
        "claims": tables.claims(report),
        "sets": facts.set_names(report),
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
        "tasks": tasks.task_rows(report),
        "task_headings": tasks.task_headings(report),
    }


TAGS = ["unlearning", "unlearner"]

PIPELINES = {
    "causal-lm": "text-generation",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}


def model_card(report: Report) -> str:
    """A Hugging Face model card: what was done, what the tests gave, what risk remains.

    It says which procedure was executed on which request and never that something is forgotten.
    """
    fields: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": PIPELINES[report["model"]["family"]],
        "tags": TAGS,
    }
    if report["model"].get("hub_id"):
        fields["base_model"] = report["model"]["hub_id"]
    front = yaml.safe_dump(fields, sort_keys=False)
    body = templates("markdown").get_template("card.md.j2").render(context(report))
    return f"---\n{front}---\n\n{body}"


def is_unlearned(folder: Path) -> bool:
    """Whether the card in a model's folder says that `unlearner forget` made it."""
    with suppress(OSError, ValueError):
        front = read_small(folder / "README.md").partition("\n---\n")[0]
        return front.startswith("---\n") and all(f"\n- {tag}" in front for tag in TAGS)
    return False
