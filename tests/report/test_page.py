"""The page that people read: whole by itself, safe, and clear about what is missing."""

import re
import shutil
import subprocess

import pytest

from page_reader import Page
from report_example import example, failed
from report_variants import HOSTILE, REPORTS, hostile_labels, rendered
from unlearner.report.files import write_report
from unlearner.report.page import render
from unlearner.report.writing import visible


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_well_formed_and_its_ids_are_unique(name):
    page = Page(rendered(name))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for _, a in page.tags if (a.get("href") or "").startswith("#")]
    assert {link[1:] for link in links} <= set(ids)


@pytest.mark.parametrize("name", REPORTS)
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


@pytest.mark.parametrize("status", ["met", "not met", "not measured"])
def test_a_status_is_an_icon_and_a_word(status):
    report = example(3)
    report["verdict"]["status"] = status
    text = render(report)
    name = status.replace(" ", "-")
    word = status.capitalize()
    assert f'<use href="#icon-{name}"/></svg>{word}</span>' in text
    assert f"<title>{word}: unlearning report 2025-017</title>" in text


def test_missing_values_are_said_to_be_missing():
    report = failed()
    assert report["results"]["unlearned"]["holdout"]["perplexity"]["value"] is None
    shown = Page(rendered("failed")).shown
    assert "no value" in shown
    assert not re.search(r"\b(nan|None|inf)\b", shown)


def test_examples_appear_only_where_the_report_has_them():
    assert "4471-08" in rendered("demonstration")
    assert 'id="examples"' not in render(example(3))


def test_the_page_of_a_language_model_has_nothing_of_a_classifier():
    text = render(example(3))
    for sign in ("--class-1", "latent", "Unseen (holdout)", "Retrained model", "bdi"):
        assert sign not in text


# What a user can write


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


def test_hostile_labels_cannot_draw_or_act(tmp_path):
    """Label names stand in HTML only, so no formula of matplotlib can come of one."""
    report = hostile_labels()
    write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "a1"})
    assert "x" * 300 in page.shown
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "tspan" not in text  # what matplotlib makes of a formula
    assert "$\\frac{$" in page.shown


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
