"""The words of a report, its Markdown, and the files that it is written to and read from."""

from __future__ import annotations

import copy
import json
import re

import pytest
import yaml
from markdown_it import MarkdownIt

from page_reader import Page
from report_example import evaluated, example, failed
from report_variants import HOSTILE, classifier, hostile
from unlearner import registry
from unlearner.errors import UserError
from unlearner.report.card import model_card
from unlearner.report.files import read_report, rewrite, write_report
from unlearner.report.measures import measures
from unlearner.report.page import markdown_report, render
from unlearner.report.words import sentences
from unlearner.report.writing import change, duration, escape, show, significant, size, visible

# Words


def test_the_headline_counts_and_names_the_claims_that_failed():
    """Of failed()'s four claims, two are not met and two were not tested."""
    expected = "2 of 4 claims are not met: word-for-word recall, quality on everything else."
    assert sentences(failed()).headline == expected


def test_the_findings_name_the_records_that_remain():
    """24 records, one remembered: 23 pass, and the last one is named."""
    assert "23 of 24 records pass one by one; not: rec-0024." in sentences(failed()).findings


def test_a_classifier_is_described_by_its_labels():
    """1.0 before and 0.25 after are 100 % and 25.0 %."""
    said = " ".join(sentences(classifier()).findings).replace("\xa0", " ")
    assert "On the records to be forgotten, the model labels 25.0 % right; before 100 %." in said


def test_a_retrained_model_is_mentioned_where_there_is_one():
    report = example(3)
    assert "There was no model retrained" in markdown_report(report)
    report["results"]["retrained"] = copy.deepcopy(report["results"]["target"])
    report["results"]["retrained"]["forget"]["el_10"]["value"] = 0.0321
    text = markdown_report(report).replace("\xa0", " ")
    assert "A model trained without the records: 3.21 %." in text
    assert "There was no model retrained" not in text


def test_numbers_are_written_with_their_unit_and_without_false_precision():
    assert show("el_10", 0.0443).replace("\xa0", " ") == "4.43 %"
    assert show("perplexity", 48210.4) == "48,210"
    assert show("ma", None) == "no value"
    assert significant(-0.5) == "−0.500"
    assert significant(0) == "0"
    assert significant(3.21e8) == "3.21 × 10^8"
    assert change(21.3, 21.6).replace("\xa0", " ") == "+1.4 %"  # 21.6 / 21.3 = 1.0141
    assert change(20.0, 400.0) == "× 20.0"
    assert duration(0.25) == "0.25 s"
    assert duration(42) == "42 s"
    assert duration(1338) == "22 min"  # 22.3
    assert duration(11_100) == "3 h 5 min"  # 3 * 3600 + 5 * 60
    assert size(5_368_709_120) == "5.00 GiB"  # 5 * 1024^3
    assert size(512) == "512 bytes"


@pytest.mark.parametrize("of_labels", [False, True])
def test_every_metric_is_explained_in_its_own_file(of_labels):
    known = measures(of_labels=of_labels)
    assert set(known) == set(registry.names("metrics"))
    assert all(one.label and one.meaning and one.reading for one in known.values())


def test_metrics_of_language_models_come_first_and_a_classifiers_loss_last():
    text, labels = list(measures()), list(measures(of_labels=True))
    assert text[:5] == ["loss", "perplexity", "ma", "el_3", "el_10"]
    assert labels[-1] == "loss"
    assert [name for name in text if name != "loss"] == labels[:-1]
    assert measures()["loss"].meaning != measures(of_labels=True)["loss"].meaning


def test_a_metric_that_nobody_explained_is_shown_under_its_own_name():
    report = example(3)
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "records": 3}
    report["results"]["unlearned"]["forget"]["new_metric"] = figure
    assert "new_metric" in Page(render(report)).shown


# Markdown


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


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_markdown_renders_as_the_text_itself(text):
    rendered = MarkdownIt("commonmark").render(f"- {escape(text)}\n")
    page = Page(rendered)
    assert page.shown == " ".join(visible(text).split())
    assert {tag for tag, _ in page.tags} == {"ul", "li"}


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


# Files


@pytest.mark.parametrize("make", [hostile, evaluated])
def test_a_written_report_is_read_back_as_it_was(make, tmp_path):
    report = make()
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["report.html", "report.json", "report.md"]


def _reversed(value):
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def test_the_same_report_gives_the_same_bytes_in_whatever_order_its_keys_came(tmp_path):
    report = example(3)
    for name, value in (("one", report), ("two", report), ("three", _reversed(report))):
        (tmp_path / name).mkdir()
        write_report(value, tmp_path / name)
    for name in ("report.json", "report.html", "report.md"):
        first = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "two" / name).read_bytes() == first
        assert (tmp_path / "three" / name).read_bytes() == first


def test_the_keys_of_a_report_stand_in_the_order_of_the_contract(tmp_path):
    write_report(_reversed(example(3)), tmp_path)
    report = read_report(tmp_path)
    contract = "schema request model method data criteria results verdict rounds cost environment"
    assert [key for key in report if key in contract.split()] == contract.split()
    assert list(report["results"]["target"]["forget"]["ma"]) == ["value", "low", "high", "records"]
    assert next(iter(report["method"])) == "name"


def test_html_and_markdown_can_be_made_again_from_json_alone(tmp_path):
    write_report(example(3), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.md").write_text("lost")
    rewrite(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_number_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path):
    report = example(3)
    report["results"]["unlearned"]["forget"]["ma"]["value"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        ("[]", "schema must be 'unlearner/report/1', got None"),
        ('{"schema": "unlearner/report/9"}', "got 'unlearner/report/9'"),
        ('{"schema": "unlearner/report/1"}', "not whole, without command, created"),
    ],
)
def test_a_missing_or_broken_report_is_one_line_with_the_way_out(tmp_path, content, message):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "report.json").write_bytes(data)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        rewrite(tmp_path)
    assert str(tmp_path / "report.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_damaged_deep_inside_is_the_users_error_and_changes_no_file(tmp_path):
    write_report(example(3), tmp_path)
    report = read_report(tmp_path)
    del report["criteria"][0]["metric"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(UserError, match="does not follow"):
        rewrite(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
