"""What a report shows of a search for settings, and of the path between the two models."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest

from page_reader import Page
from report_example import example
from report_variants import HOSTILE, searched, with_strength
from unlearner.report.facts import perplexity_limit
from unlearner.report.files import write_report
from unlearner.report.page import markdown_report, render
from unlearner.report.tables import trial_rows
from unlearner.report.words import sentences
from unlearner.report.writing import visible

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))


def plain(text):
    return " ".join(text.replace("\xa0", " ").split())


# The search


def test_without_a_search_there_is_no_table_of_one():
    assert trial_rows(example(3).get("search")) == []
    assert 'id="search"' not in render(example(3))
    assert "search for settings" not in markdown_report(example(3))


def test_a_trial_is_a_row_and_the_one_taken_is_marked():
    """Rates of 1e-5 keep their digits; what is not known is a dash."""
    report = searched(4)
    found = trial_rows(report["search"])
    assert [row.number for row in found] == ["0", "1", "2", "3"]
    assert [row.chosen for row in found] == [False, False, True, False]
    first, last = found[0], found[-1]
    assert first.settings == "learning_rate 1.23e-05, retain_weight 1.5"
    assert plain(f"{first.ended} {first.ma} {first.kept_ratio} {first.rounds} {first.time}") == (
        "not reached 28.1 % 1.04 7 42 s"
    )
    assert (last.ended, last.ma, last.kept_ratio) == ("failed", "–", "–")


def test_both_pages_have_the_same_rows():
    report = searched(4)
    page, text = Page(render(report)).shown, markdown_report(report)
    assert page.count("(taken)") == text.count("(taken)") == 1
    lines = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == 4
    for line in lines:
        cells = "".join(line.replace("|", "").replace("\\", "").split())
        assert cells in "".join(page.split())


@pytest.mark.parametrize(("trials", "opened"), [(12, True), (13, False)])
def test_a_long_table_is_folded(trials, opened):
    found = re.search(r'<h2 id="search">.*?<details( open)?>', render(searched(trials)), re.DOTALL)
    assert found is not None
    assert bool(found[1]) == opened


def test_a_search_that_reached_nothing_says_so():
    report = searched(4)
    report["search"]["reached"] = False
    assert "None of the 4 settings tried met the aim" in Page(render(report)).shown
    assert "None of the 4 settings tried met the aim" in markdown_report(report)


def test_hostile_names_of_settings_are_text():
    report = searched(2)
    for trial in report["search"]["trials"]:
        trial["settings"] = dict.fromkeys(HOSTILE, 1.0)
    shown = Page(render(report)).shown
    for name in HOSTILE:
        assert " ".join(visible(name).split()) in shown
    table = [line for line in markdown_report(report).splitlines() if line.startswith("| 0 ")]
    assert len(table) == 1
    assert "<script>" not in table[0]


# Strength


def test_the_floor_is_the_limit_of_perplexity_over_the_targets():
    """21.726 / 21.3 is 1.02; a report without that criterion has none."""
    assert perplexity_limit(example(3)) == pytest.approx(1.02)
    report = copy.deepcopy(example(3))
    report["criteria"] = [one for one in report["criteria"] if one["metric"] != "perplexity"]
    assert perplexity_limit(report) is None


@pytest.mark.parametrize(
    ("share", "suppressed", "said"),
    [
        (
            0.75,
            False,
            "75 % of the change is the most, of the 5 shares that were tried, that "
            "leaves the quality of text to be kept within its limit (perplexity at most 1.02 "
            "times that before); there the model’s first guess for the next token of a record is "
            "right in "
            "40.0 % of cases, and the records are not suppressed yet.",
        ),
        (
            1.0,
            True,
            "Even the whole change leaves the quality of text to be kept within its limit "
            "(perplexity at most 1.02 times that before); there the model’s first guess for the "
            "next token of a record is right in 20.0 % of cases, and the records are suppressed on "
            "these "
            "tests.",
        ),
        (
            0.0,
            False,
            "No part of the change, of the 5 shares that were tried, leaves the quality "
            "of text to be kept within its limit (perplexity at most 1.02 times that before).",
        ),
    ],
)
def test_one_sentence_says_what_a_part_of_the_change_would_do(share, suppressed, said):
    report = with_strength(share, suppressed=suppressed)
    assert plain(sentences(report).findings[-1]) == said
    assert said in plain(Page(render(report)).shown)
    assert said.replace("(", "").split(";")[0] in plain(markdown_report(report)).replace("(", "")


def test_a_path_of_which_nothing_is_a_number_is_shown_as_such():
    report = with_strength(0.0)
    report["strength"]["at_the_floor"] = None
    for point in report["strength"]["points"]:
        point |= {"ma": None, "el_10": None, "kept_ratio": None}
    jsonschema.validate(report, SCHEMA)
    shown = Page(render(report)).shown
    assert "No part of the change" in shown
    assert not re.search(r"\b(nan|None|inf)\b", shown)


def test_the_plot_says_in_words_what_it_shows():
    page = Page(render(with_strength(0.75)))
    told = [a["aria-label"] or "" for _, a in page.tags if a.get("class") == "plot"]
    one = plain(next(label for label in told if label.startswith("By share of the change")))
    assert "0 %: MA 100 %, EL₁₀ 50.0 %, perplexity times 1.00; 25 %: MA 80.0 %" in one
    assert one.endswith(
        "The dashed lines are the limits: MA 29.9 %, EL₁₀ 4.99 %, perplexity times 1.02."
    )
    assert "The upright line is the largest share" in page.shown
    assert "The upright line" not in Page(render(with_strength(0.0))).shown


def test_a_wide_range_of_perplexities_is_drawn(tmp_path):
    """From 1 to 10,000 the scale is logarithmic; the page is written as any other."""
    report = with_strength(0.25)
    report["strength"]["points"][-1]["kept_ratio"] = 1e4
    write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    plot = re.search(r"<svg [^>]*By share of the change.*?</svg>", text, re.DOTALL)
    assert plot is not None
    assert all(f">{tick}<" in plot[0] for tick in ("1", "100", "10,000"))


def test_a_point_outside_of_the_path_does_not_follow_the_schema():
    report = with_strength(0.75)
    report["strength"]["points"][0]["share"] = 1.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, SCHEMA)
