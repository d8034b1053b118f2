"""The pictures of a report: what they show, in which colours, and what stands for them in words."""

import re

import jsonschema
import pytest

from page_reader import Page, plain
from report_classifier_example import EMOTIONS, N, many_classes, sequence
from report_example import example
from report_variants import REPORTS, SCHEMA, rendered, shown, with_strength
from unlearner.report import classifier_plots, svg
from unlearner.report.files import write_report
from unlearner.report.page import render
from unlearner.report.plots import MODEL_STYLES

# Every picture


@pytest.mark.parametrize("name", REPORTS)
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


def test_the_models_are_told_apart_by_shape_or_filling():
    signs = {(style["marker"], style["markerfacecolor"]) for style in MODEL_STYLES.values()}
    assert len(signs) == 3


def test_unknown_scores_of_a_round_leave_a_gap_and_no_curve_has_fewer_than_two_points():
    report = sequence()
    assert "of what is to be kept, round by round" in shown("sequence")
    for entry in report["rounds"][:-1]:
        entry["retain_score"] = None
    assert "of what is to be kept, round by round" not in render(report)


def test_a_scale_of_shares_has_no_step_above_one_hundred_percent():
    for name in ("sequence", "class removal", "tagger"):
        steps = [float(step) for step in re.findall(r">([\d.]+) %</text>", rendered(name))]
        assert steps
        assert max(steps) <= 100


# The latent space


def test_each_model_has_a_panel_of_the_latent_space_with_its_points():
    text = rendered("sequence")
    for model in ("target", "unlearned", "retrained"):
        plot = re.search(rf'id="latent-{model}-figure_1".*?</svg>', text, re.S)
        assert plot is not None
        inside = plot[0].split("</defs>", 1)[1]
        assert len(re.findall("<use ", inside)) == 400 + N
    assert 'id="latent-retrained-' not in render(sequence(retrained=False))


def test_a_class_has_one_colour_and_shape_in_every_panel_and_no_two_classes_share_one():
    report = sequence()
    chosen = classifier_plots.chosen_classes(report["projection"]["models"], len(EMOTIONS))
    assert chosen == [0, 1, 2, 3]
    keys = classifier_plots.legend_keys(EMOTIONS, chosen)
    assert [key.label for key in keys] == EMOTIONS
    assert len({key.path for key in keys}) == len({key.color for key in keys}) == 4
    with svg.style():
        for points in report["projection"]["models"].values():
            drawing = classifier_plots.draw_latent_space("name", points, chosen, "words")
            assert all(f"var(--class-{i})" in drawing for i in (1, 2, 3, 4))


def test_forget_points_differ_from_kept_ones_by_more_than_colour():
    gone = classifier_plots._marker_style(0, [0], pale=False)
    kept = classifier_plots._marker_style(0, [0], pale=True)
    assert gone["color"] == kept["color"]
    assert gone["markeredgecolor"] == svg.INK
    assert kept["alpha"] < 0.5
    assert "alpha" not in gone


def test_classes_beyond_the_colours_are_one_entry_and_records_beyond_the_room_are_counted():
    """77 classes with 7 marks leave 70; of 1500 records every fifth is drawn."""
    report = many_classes()
    chosen = classifier_plots.chosen_classes(report["projection"]["models"], 77)
    keys = classifier_plots.legend_keys(report["projection"]["labels"], chosen)
    assert len(keys) == 8
    assert keys[-1].label == "70 other classes"
    assert "300 of 1,500 to be forgotten are drawn." in shown("many classes")


# Part of the change


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


def test_a_path_of_which_nothing_is_a_number_is_shown_as_such():
    report = with_strength(0.0)
    report["strength"]["at_the_floor"] = None
    for point in report["strength"]["points"]:
        point |= {"ma": None, "el_10": None, "kept_ratio": None}
    jsonschema.validate(report, SCHEMA)
    shown = Page(render(report)).shown
    assert "No part of the change" in shown
    assert not re.search(r"\b(nan|None|inf)\b", shown)


def test_a_wide_range_of_perplexities_is_drawn(tmp_path):
    """From 1 to 10,000 the scale is logarithmic; the page is written as any other."""
    report = with_strength(0.25)
    report["strength"]["points"][-1]["kept_ratio"] = 1e4
    write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    plot = re.search(r"<svg [^>]*By share of the change.*?</svg>", text, re.DOTALL)
    assert plot is not None
    assert all(f">{tick}<" in plot[0] for tick in ("1", "100", "10,000"))
