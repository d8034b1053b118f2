"""Rules for the report of a classifier: what it leads with, what it shows and how it reads."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
from markdown_it import MarkdownIt

from page_reader import Page
from report_classifier_example import (
    EMOTIONS,
    N,
    class_removal,
    evaluated_classifier,
    exact,
    many_classes,
    sequence,
    tokens,
)
from report_example import example
from report_variants import REPORTS, hostile_labels
from unlearner import registry
from unlearner.methods.base import load_method
from unlearner.report import classifier_plots, names, svg, tables
from unlearner.report.card import model_card
from unlearner.report.files import write_report
from unlearner.report.page import markdown_report, render
from unlearner.report.plots import MODEL_STYLES
from unlearner.report.tables import claims
from unlearner.report.words import BY_CONSTRUCTION, sentences


@cache
def shown(name: str) -> str:
    return Page(render(REPORTS[name]())).shown.replace("\xa0", " ")


def said(report: dict) -> str:
    return " ".join(sentences(report).findings).replace("\xa0", " ")


# What it leads with


def test_the_report_leads_with_use_distance_membership_and_time_and_ends_with_what_was_aimed_at():
    """0.8044 and 0.8009 of test records; 184 s of 2460 s are 7.5 %."""
    tiles = tables.tiles(sequence())
    assert [(label, value.replace("\xa0", " ")) for label, value, _ in tiles] == [
        ("Test records, right", "80.4 → 80.1 %"),
        ("Records to be kept, right", "99.2 → 98.9 %"),
        ("Closeness to retraining", "0.791 → 0.974"),
        ("Membership inference (AUC)", "0.742 → 0.541"),
        ("Time of unlearning", "3 min"),
        ("To be forgotten, right", "99.8 → 81.2 %"),
    ]
    assert [beside.replace("\xa0", " ") for _, _, beside in tiles] == [
        "before → after; retrained 80.2 %",
        "before → after; retrained 99.3 %",
        "tug-of-war score, 1 is the same; JS on the records 0.0912 → 0.0174",
        "retrained 0.518; 0.5 is guessing",
        "7.5 % of retraining, 41 min",
        "retrained 79.2 %; unseen 79.9 %; proves nothing by itself",
    ]


def test_that_the_score_fell_to_that_of_unseen_records_is_said_to_prove_nothing():
    found = sentences(sequence()).findings
    assert BY_CONSTRUCTION in found[-2]  # the last one counts the records that pass
    assert "on unseen records 79.9" in found[-2]
    assert BY_CONSTRUCTION not in said(exact())  # nothing was stopped by a score
    assert BY_CONSTRUCTION not in said(evaluated_classifier())


def test_without_a_test_set_unseen_records_stand_in_and_the_page_says_so():
    report = sequence(test=False)
    assert "No test set was given; on unseen records, the model labels 79.9 % right" in said(report)
    assert tables.tiles(report)[0][0] == "Unseen records, right"


def test_without_a_retrained_model_the_distance_is_not_measured():
    report = sequence(retrained=False)
    assert "is not known: none was given" in said(report)
    assert "There was no model retrained" in sentences(report).limits
    tiles = {label: (value, beside) for label, value, beside in tables.tiles(report)}
    assert tiles["Closeness to retraining"] == ("not measured", "no retrained model was given")
    assert tiles["Time of unlearning"][1] == "retraining: not timed"
    assert "How close is it to a model" not in shown("sequence alone")
    assert "How close is it to a model" in shown("sequence")


def test_the_removal_of_a_class_is_told_as_its_recall():
    report = class_removal()
    assert (
        "no longer recognises the class “optimism”, to which 48 records belong"
        in sentences(report).requested
    )
    assert "Recall of the class “optimism” is 2.08 % on the records; before 99.3 %" in said(report)
    assert "on unseen records 1.83 %" in said(report)
    page = shown("class removal")
    assert "The class is suppressed on the tests run." in page
    assert "Unseen records of the class" in page
    assert claims(report)[0].title == claims(report)[0].criteria[0].what == "Recall of the class"
    assert "Recall of the class" not in shown("sequence")


def test_a_tagger_is_told_by_its_entities():
    """0.8009 of the words of test records, less 0.061, are 73.99 %."""
    assert "On test records, the model reaches F1 (entities) 74.0 %" in said(tokens())
    assert "83.3 % right" in shown("tagger")  # five of six words of a record


@pytest.mark.parametrize(("method", "words"), [("retrain", "without any"), ("sisa", "again")])
def test_a_method_that_trains_anew_is_exact_for_the_weights_and_any_other_approximate(
    method, words
):
    text = sentences(exact(method)).limits
    assert "exact by construction" in text
    assert words in text
    assert "evidence, not proof" in text
    assert "approximate" not in text
    assert "The method is approximate" in sentences(sequence()).limits
    assert "exact" not in sentences(sequence()).limits


@pytest.mark.parametrize("method", registry.names("methods"))
def test_every_method_has_a_name_that_people_can_read(method):
    assert load_method(method).label
    assert names.method_name({"method": {"name": method}}) == load_method(method).label


def test_a_method_that_is_not_known_has_the_name_that_the_run_gives_it():
    report = sequence()
    report["method"] = {"name": "some_method_of_ours"}
    assert names.method_name(report) == "some_method_of_ours"
    assert "The method is approximate" in sentences(report).limits


def test_records_that_stand_out_by_being_answered_too_badly_are_said_to():
    report = sequence()
    assert "stand out as treated" not in said(report)
    report["results"]["unlearned"]["forget"]["mia_loss_auc"]["value"] = 0.21
    assert "Below 0.5 they stand out as treated." in said(report)


# Criteria


@pytest.mark.parametrize(
    ("value", "status"), [(0.44, "not met"), (0.45, "met"), (0.55, "met"), (0.56, "not met")]
)
def test_a_criterion_with_two_limits_is_met_between_them(value, status):
    report = sequence()
    report["results"]["unlearned"]["forget"]["mia_loss_auc"]["value"] = value
    criterion = claims(report)[1].criteria[0]
    assert (criterion.limit, criterion.status) == ("0.450 to 0.550", status)


# Tables


def test_confusion_counts_every_pair_for_every_model():
    """12 records of each of four classes: 12 right before, 9 after and 3 wrong, retrained 10."""
    rows = tables.confusion_rows(sequence())
    right = [row for row in rows if row.right]
    assert [(row.own, row.counts) for row in right] == [(e, ["12", "9", "10"]) for e in EMOTIONS]
    assert [row.counts for row in rows if not row.right] == [["0", "3", "2"]] * 3


def test_a_pair_that_a_full_list_lacks_is_not_called_absent():
    """30 rows are the most that report.json has: a pair beyond them may exist."""
    report = sequence()
    full = [[f"class {i}", "other", 2] for i in range(30)]
    report["confusion"] = {"target": full, "unlearned": [["own", "own", 1]]}
    last = tables.confusion_rows(report)[-1]
    assert (last.own, last.counts) == ("own", ["–", "1"])


def test_each_record_is_right_or_wrong_under_each_model():
    report = sequence()
    report["per_record"][0] |= {"before": {"correct": True}, "after": {"correct": False}}
    report["per_record"][0]["retrained"] = {"correct": None}
    first = tables.record_rows(report)[0]
    assert first.cells == [("right", "right"), ("wrong", "wrong"), ("not known", "unknown")]
    counts = dict(tables.record_counts(report))
    known = [e["retrained"]["correct"] for e in report["per_record"][1:]]
    assert counts["retrained"] == f"{sum(known)} of {N - 1}"


def test_gaps_to_the_retrained_model_carry_their_sign():
    rows = {row.label: row.values for row in tables.distance_rows(sequence())}
    assert rows["F1 minus the retrained model’s: test records"] == ["+0.0021", "−0.0014"]
    assert rows["Tug-of-war score"] == ["0.791", "0.974"]
    assert rows["Distance to retrained (JS): records to be forgotten"] == ["0.0912", "0.0174"]


def test_what_a_repeated_quantity_means_is_told_once():
    meanings = [row.meaning for row in tables.distance_rows(sequence()) if row.meaning]
    assert len(meanings) == len(set(meanings)) == 4


# Pictures


def test_each_model_has_a_panel_of_the_latent_space_with_its_points():
    text = render(sequence())
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
    gone = classifier_plots._mark(0, [0], pale=False)
    kept = classifier_plots._mark(0, [0], pale=True)
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
        steps = [float(step) for step in re.findall(r">([\d.]+) %</text>", render(REPORTS[name]()))]
        assert steps
        assert max(steps) <= 100


# What a user can write


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


@pytest.mark.parametrize("make", [markdown_report, model_card])
def test_hostile_labels_cannot_act_as_markdown(make):
    parser = MarkdownIt("commonmark").enable("table")
    tokens_ = parser.parse(make(hostile_labels()).split("---\n\n", 1)[-1])
    inline = [child for token in tokens_ for child in token.children or []]
    kinds = {token.type for token in [*tokens_, *inline]}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image", "em_open"})


def test_markdown_has_distance_and_geometry():
    text = markdown_report(sequence()).replace("\xa0", " ")
    assert "| Tug-of-war score | 0.791 | 0.974 |" in text
    assert "| Neighbours of own class | 99.1 % | 74.8 % | 77.9 % |" in text
    assert "## Geometry of the latent space" not in markdown_report(example(3))


def test_points_stand_on_one_line_each_in_the_json(tmp_path):
    report = sequence()
    write_report(report, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["projection"] == report["projection"]
    assert len(text.splitlines()) < 3500  # with a number on each: over 7000


def test_the_page_of_a_language_model_has_nothing_of_a_classifier():
    text = render(example(3))
    for sign in ("--class-1", "latent", "Unseen (holdout)", "Retrained model", "bdi"):
        assert sign not in text
