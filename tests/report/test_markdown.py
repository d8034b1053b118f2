"""report.md and the model card, in which nothing that a user wrote can act."""

import re

import pytest
import yaml
from markdown_it import MarkdownIt

from page_reader import Page
from report_classifier_example import sequence
from report_example import example, failed
from report_variants import HOSTILE, hostile, hostile_labels
from unlearner.report.page import markdown_report, model_card
from unlearner.report.writing import escape, visible


@pytest.mark.parametrize("make", [markdown_report, model_card])
def test_hostile_names_cannot_act_as_markdown(make):
    """Tables keep their columns, and no HTML, link, code or heading but our own appears."""
    body = make(hostile()).split("---\n\n", 1)[-1]
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(body)
    inline = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inline]}
    assert kinds.isdisjoint(
        {"html_block", "html_inline", "link_open", "image", "em_open", "code_block", "hr"}
    )
    code = {token.content for token in inline if token.type == "code_inline"}
    assert code <= {"report.html", "report.json"}
    lists = [token for token in tokens if token.type == "bullet_list_open"]
    assert {token.level for token in lists} == {0}
    assert "ordered_list_open" not in kinds
    own = example(len(HOSTILE))
    own["verdict"]["notes"] = ["a note"]
    expected = [t.tag for t in parser.parse(make(own)) if t.type == "heading_open"]
    found = [t.tag for t in tokens if t.type == "heading_open"]
    assert found == [tag for tag in expected if tag != "hr"][-len(found) :]
    widths = [
        len(re.findall(r"(?<!\\)\|", line)) - 1
        for line in body.splitlines()
        if line.startswith("|")
    ]
    assert set(widths) <= {2, 3, 6}


@pytest.mark.parametrize("make", [markdown_report, model_card])
def test_hostile_labels_cannot_act_as_markdown(make):
    parser = MarkdownIt("commonmark").enable("table")
    tokens_ = parser.parse(make(hostile_labels()).split("---\n\n", 1)[-1])
    inline = [child for token in tokens_ for child in token.children or []]
    kinds = {token.type for token in [*tokens_, *inline]}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image", "em_open"})


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_markdown_renders_as_the_text_itself(text):
    rendered = MarkdownIt("commonmark").render(f"- {escape(text)}\n")
    page = Page(rendered)
    assert page.shown == " ".join(visible(text).split())
    assert {tag for tag, _ in page.tags} == {"ul", "li"}


def test_markdown_has_distance_and_geometry():
    text = markdown_report(sequence()).replace("\xa0", " ")
    assert "| Tug-of-war score | 0.791 | 0.974 |" in text
    assert "| Neighbours of own class | 99.1 % | 74.8 % | 77.9 % |" in text
    assert "## Geometry of the latent space" not in markdown_report(example(3))


# The model card


def test_the_card_has_front_matter_and_names_a_base_model_only_from_the_hub():
    _, front, body = model_card(example(3)).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "unlearner"],
        "base_model": "EleutherAI/gpt-neo-125m",
    }
    assert body.startswith("\n# Model after unlearning request 2025-017\n")
    local = example(3)
    del local["model"]["hub_id"]
    assert "base_model" not in model_card(local).split("---\n", 2)[1]


def test_a_hostile_base_model_cannot_add_front_matter():
    report = example(3)
    report["model"]["hub_id"] = "a/b\nlicense: mit\n---\n"
    document = model_card(report)
    fields = next(yaml.safe_load_all(document.split("\n\n# Model", 1)[0]))
    assert fields["base_model"] == "a/b\nlicense: mit\n---\n"
    assert "license" not in fields


def test_the_card_says_procedure_request_tests_control_and_risk():
    text = model_card(failed()).replace("\xa0", " ")
    assert "The procedure ICU (iterative contrastive unlearning) was executed on request" in text
    assert "Verdict of the tests: **not met**." in text
    assert "| 7.13 % | 6.56 to 7.70 % | ≤ 4.99 % | holdout level of the target model |" in text
    assert "## Residual risk" in text
    assert "- membership: whether" in text
