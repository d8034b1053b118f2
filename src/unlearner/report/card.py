"""The model card: short Markdown, in which ids and names cannot act as markup."""

from contextlib import suppress
from pathlib import Path

import yaml

from unlearner.files import read_small
from unlearner.report.facts import Report
from unlearner.report.page import context
from unlearner.report.writing import templates

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
