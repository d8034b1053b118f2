"""Rules for the files that people read: report.json, report.html, report.md, the model card."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
import yaml
from markdown_it import MarkdownIt

from report_example import demonstration, evaluated, example, failed
from unlearner.errors import UserError
from unlearner.report import model_card, read_report, rewrite, write_report
from unlearner.report.card import escape, markdown_report
from unlearner.report.measures import MEASURES, duration, show, significant, size, visible
from unlearner.report.page import render
from unlearner.report.words import change, findings, headline

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/report.schema.json").read_text("utf-8"))
HOSTILE = (
    "<script>alert(1)</script>",
    "| x | y |",
    "`code` **bold** [link](https://example.org)",
    '"><img src=x onerror=alert(1)>',
    "$x_1$ {{ 7 * 7 }} {% raw %}",
    "line\nbreak\u202eturned\x00null",
    "&lt;b&gt; https://example.org www.example.org",
    "# heading",
    "- item",
    "1. item",
    "\ud800 lone surrogate \uffff",
)
VOID = {"meta", "link", "img", "br", "hr", "input", "base", "area", "col", "embed", "source"}


def sparse() -> dict:
    """A forget run with every part left out that may be left out."""
    report = copy.deepcopy(example(3))
    del report["retrieval"]
    for model in report["results"]:
        report["results"][model] = {
            "forget": {"el_10": report["results"][model]["forget"]["el_10"]}
        }
    report["data"] = {"forget": {"records": 3, "digest": "hmac-sha256:00"}}
    del report["request"]["subjects"], report["model"]["hub_id"], report["model"]["parameters"]
    del report["verdict"]["notes"], report["verdict"]["not_measured"]
    report["rounds"] = [{"round": 0, "active": 3, "loss": {}, "seconds": 0.0}]
    report["cost"] = {"seconds": 1.0, "peak_memory_bytes": None}
    report["environment"]["seed"] = None
    return report


def classifier() -> dict:
    """A classifier has labels to get right and no text to recite."""
    report = sparse()
    report["model"]["family"] = "sequence-classification"
    report["method"] = {"name": "deepcut"}
    for model, accuracy in (("target", 1.0), ("unlearned", 0.25)):
        figure = {"value": accuracy, "low": None, "high": None, "records": 3}
        report["results"][model]["forget"] = {"accuracy": figure}
    report["per_record"] = [{**entry, "before": {}, "after": {}} for entry in report["per_record"]]
    return report


def three_models() -> dict:
    report = example(3)
    report["results"]["retrained"] = copy.deepcopy(report["results"]["unlearned"])
    return report


def hostile() -> dict:
    """Every text that a user can choose is hostile."""
    report = copy.deepcopy(failed(len(HOSTILE)))
    report["request"]["id"] = report["model"]["name"] = report["model"]["hub_id"] = HOSTILE[0]
    report["method"] = {"name": HOSTILE[1], **dict.fromkeys(HOSTILE, HOSTILE[2])}
    for entry, status, text in zip(
        report["per_record"], report["verdict"]["records"], HOSTILE, strict=True
    ):
        entry["id"] = status["id"] = text
        status["status"] = "met"
    report["verdict"]["records"][0]["status"] = "not met"
    report["verdict"]["claims"][0]["reason"] = HOSTILE[3]
    report["verdict"]["notes"] = report["verdict"]["not_measured"] = list(HOSTILE)
    report["criteria"][0]["source"] = HOSTILE[1]
    report["rounds"][1]["loss"] = {HOSTILE[4]: 1.0, HOSTILE[0]: 2.0}
    report["examples"] = [
        {**dict.fromkeys(("id", "prompt", "truth", "before", "after"), t), "role": "kept"}
        for t in HOSTILE
    ]
    return report


REPORTS = {
    "met": example,
    "failed": failed,
    "evaluated": evaluated,
    "demonstration": demonstration,
    "sparse": sparse,
    "hostile": hostile,
    "classifier": classifier,
    "three models": three_models,
    "one record": lambda: example(1),
    "many records": lambda: example(500, 3),
}


@pytest.fixture(params=REPORTS)
def name(request) -> str:
    return request.param


@cache
def rendered(name: str) -> str:
    return render(REPORTS[name]())


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


# The schema


def test_every_example_follows_the_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(REPORTS[name](), SCHEMA, cls=jsonschema.Draft202012Validator)


def _broken(report, change):
    change(report)
    return report


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["per_record"][0]["after"].update(loss=4.2),  # no per-record losses
        lambda r: r.update(examples=[{"id": "a", "text": "the record's own text"}]),
        lambda r: r["verdict"].update(status="forgotten"),
        lambda r: r["verdict"]["claims"][0].update(status="passed"),
        lambda r: r["criteria"][0].update(at_least=0.1),  # both limits at once
        lambda r: r["criteria"][0].pop("at_most"),  # no limit at all
        lambda r: r["results"]["unlearned"]["forget"]["ma"].pop("records"),
        lambda r: r["results"]["unlearned"]["forget"]["ma"].update(value="0.3"),
        lambda r: r["results"].update(gold=r["results"]["target"]),
        lambda r: r["results"].pop("target"),
        lambda r: r.pop("rounds"),
        lambda r: r.pop("criteria_digest"),
        lambda r: r.update(schema="unlearner/report/2"),
        lambda r: r.update(created="yesterday"),
        lambda r: r.update(comment="extra"),
    ],
)
def test_a_broken_report_does_not_follow_the_schema(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_broken(example(3), change), SCHEMA)


def test_an_evaluation_may_lack_rounds_and_target_but_a_forget_run_may_not():
    jsonschema.validate(evaluated(), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**evaluated(), "command": "forget"}, SCHEMA)


# The page


def test_the_page_is_well_formed_and_its_ids_are_unique(name):
    page = Page(rendered(name))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for _, a in page.tags if (a.get("href") or "").startswith("#")]
    assert {link[1:] for link in links} <= set(ids)


def test_the_page_loads_and_runs_nothing(name):
    page = Page(rendered(name))
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    )
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", rendered(name), re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_names_are_shown_as_text_on_the_page():
    text = rendered("hostile")
    page = Page(text)
    for name in HOSTILE:
        assert " ".join(visible(name).split()) in page.shown
    assert "49" not in [part.strip() for part in page.text]  # no template ran inside a name
    assert "\u202e" not in text
    assert "\x00" not in text
    text.encode("utf-8")  # the lone surrogate is written out


def test_every_plot_says_in_words_what_it_shows(name):
    page = Page(rendered(name))
    plots = [attributes for tag, attributes in page.tags if attributes.get("class") == "plot"]
    assert plots or name == "classifier"
    assert all(p["role"] == "img" and len(p["aria-label"] or "") > 20 for p in plots)


def test_plots_take_their_colours_from_the_page():
    """A fixed colour would be unreadable in one of the two colour schemes."""
    text = render(example(3))
    for plot in re.findall(r'<svg [^>]*class="plot".*?</svg>', text, re.S):
        assert not re.findall(r"#[0-9a-fA-F]{6}", plot)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", text))


@pytest.mark.parametrize("status", ["met", "not met", "not measured"])
def test_a_status_is_an_icon_and_a_word(status):
    report = example(3)
    report["verdict"]["status"] = status
    text = render(report)
    name = status.replace(" ", "-")
    word = status.capitalize()
    assert f'<use href="#icon-{name}"/></svg>{word}</span>' in text
    assert f"<title>{word}: unlearning report 2025-017</title>" in text


@pytest.mark.parametrize("make", [render, markdown_report, model_card])
def test_nothing_is_called_forgotten(make):
    """Records are `to be forgotten`; none `is`, `was` or `has been`."""
    text = make(example(3)).lower()
    text = text.split("</style>")[-1].replace("to be forgotten", "")
    assert not re.search(r"\b(is|are|was|were|been|has|have|model) forgotten", text)
    assert "suppressed on the tests run" in text
    assert "evidence, not proof" in text


def test_a_value_that_only_just_misses_its_limit_does_not_look_equal_to_it():
    """0.04991 and 0.0499 are both 4.99 % with three digits, but not with five."""
    report = example(3)
    report["results"]["unlearned"]["forget"]["el_10"]["value"] = 0.04991
    shown = Page(render(report)).shown
    assert "4.9910 %" in shown.replace("\xa0", " ")
    assert "≤ 4.9900 %" in shown.replace("\xa0", " ")


def test_missing_values_are_said_to_be_missing():
    report = failed()
    assert report["results"]["unlearned"]["holdout"]["perplexity"]["value"] is None
    shown = Page(rendered("failed")).shown
    assert "no value" in shown
    assert not re.search(r"\b(nan|None|inf)\b", shown)


def test_examples_appear_only_where_the_report_has_them():
    assert "4471-08" in render(demonstration())
    assert 'id="examples"' not in render(example(3))


# Words


def test_the_headline_counts_and_names_the_claims_that_failed():
    """Of failed()'s four claims, two are not met and two were not tested."""
    expected = "2 of 4 claims are not met: word-for-word recall, quality on everything else."
    assert headline(failed()) == expected


def test_the_findings_name_the_records_that_remain():
    """24 records, one remembered: 23 pass, and the last one is named."""
    assert "23 of 24 records pass one by one; not: rec-0024." in findings(failed())


def test_a_classifier_is_described_by_its_labels():
    """1.0 before and 0.25 after are 100 % and 25.0 %."""
    said = " ".join(findings(classifier())).replace("\xa0", " ")
    assert "It labels 25.0 % of the records as in training; before, 100 %." in said


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


def test_every_metric_of_the_contract_is_explained():
    contract = (
        "loss perplexity ma el_3 el_10 es bleu rouge_l bertscore_f1 accuracy f1_micro f1_macro "
        "f1_entity mia_loss_auc mia_zlib_auc mia_min_k_auc mia_min_k_plus_plus_auc degenerate "
        "kl_to_target"
    )
    assert set(contract.split()) == set(MEASURES)
    assert all(m.meaning and m.reading for m in MEASURES.values())


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


# A browser


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_the_page(tmp_path, width):
    """A page that is laid out fills most of a large screenshot with more than blank paper."""
    write_report(failed(), tmp_path)
    picture = tmp_path / "page.png"
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"),
        *(f"--window-size={width},3000", f"--screenshot={picture}"),
        (tmp_path / "report.html").as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, width)
    bands = pixels.reshape(30, 100, width, 3).std(axis=(1, 2, 3))
    assert (bands > 0.02).mean() > 0.9
