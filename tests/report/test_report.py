"""Rules for the files that people read: report.json, report.html, report.md, the model card."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from page_reader import Page
from report_example import demonstration, evaluated, example, failed
from report_variants import HOSTILE, REPORTS
from unlearner.report.card import model_card
from unlearner.report.files import write_report
from unlearner.report.page import markdown_report, render
from unlearner.report.writing import visible

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))


@pytest.fixture(params=REPORTS)
def name(request) -> str:
    return request.param


@cache
def rendered(name: str) -> str:
    return render(REPORTS[name]())


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
        lambda r: r["criteria"][0].pop("at_most"),  # no limit at all
        lambda r: r["results"]["unlearned"]["forget"]["ma"].pop("records"),
        lambda r: r["results"]["unlearned"]["forget"]["ma"].update(value="0.3"),
        lambda r: r["results"].update(gold=r["results"]["target"]),
        lambda r: r["results"].pop("target"),
        lambda r: r.pop("rounds"),
        lambda r: r["rounds"][0].pop("active"),  # only a classifier has none
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


@pytest.mark.parametrize("which", ["hostile", "hostile labels"])
def test_hostile_names_are_shown_as_text_on_the_page(which):
    text = rendered(which)
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
