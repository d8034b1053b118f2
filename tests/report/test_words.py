"""The words of a report: what it leads with, what it says, and how numbers are written."""

import copy
import re

import pytest

from page_reader import Page, plain
from report_classifier_example import (
    class_removal,
    evaluated_classifier,
    exact,
    sequence,
    tokens,
)
from report_example import example, failed
from report_variants import classifier, shown, with_strength
from unlearner import registry
from unlearner.methods.base import load_method
from unlearner.report import facts
from unlearner.report.facts import perplexity_limit
from unlearner.report.measures import measures
from unlearner.report.page import markdown_report, model_card, render
from unlearner.report.tables import claims
from unlearner.report.words import BY_CONSTRUCTION, sentences
from unlearner.report.writing import change, duration, show, significant, size

# The verdict and what was found


def test_the_headline_counts_and_names_the_claims_that_failed():
    """Of failed()'s four claims, two are not met and two were not tested."""
    expected = "2 of 4 claims are not met: word-for-word recall, quality on everything else."
    assert sentences(failed()).headline == expected


def test_the_findings_name_the_records_that_remain():
    """24 records, one remembered: 23 pass, and the last one is named."""
    assert "23 of 24 records pass one by one; not: rec-0024." in sentences(failed()).findings


def test_a_retrained_model_is_mentioned_where_there_is_one():
    report = example(3)
    assert "There was no model retrained" in markdown_report(report)
    report["results"]["retrained"] = copy.deepcopy(report["results"]["target"])
    report["results"]["retrained"]["forget"]["el_10"]["value"] = 0.0321
    text = markdown_report(report).replace("\xa0", " ")
    assert "A model trained without the records: 3.21 %." in text
    assert "There was no model retrained" not in text


@pytest.mark.parametrize("make", [render, markdown_report, model_card])
def test_nothing_is_called_forgotten(make):
    """Records are `to be forgotten`; none `is`, `was` or `has been`."""
    text = make(example(3)).lower()
    text = text.split("</style>")[-1].replace("to be forgotten", "")
    assert not re.search(r"\b(is|are|was|were|been|has|have|model) forgotten", text)
    assert "suppressed on the tests run" in text
    assert "evidence, not proof" in text


# Of classifiers


def said(report: dict) -> str:
    return " ".join(sentences(report).findings).replace("\xa0", " ")


def test_a_classifier_is_described_by_its_labels():
    """1.0 before and 0.25 after are 100 % and 25.0 %."""
    said = " ".join(sentences(classifier()).findings).replace("\xa0", " ")
    assert "On the records to be forgotten, the model labels 25.0 % right; before 100 %." in said


def test_the_report_leads_with_use_distance_membership_and_time_and_ends_with_what_was_aimed_at():
    """0.8044 and 0.8009 of test records; 184 s of 2460 s are 7.5 %."""
    tiles = sentences(sequence()).tiles
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
    assert sentences(report).tiles[0][0] == "Unseen records, right"


def test_without_a_retrained_model_the_distance_is_not_measured():
    report = sequence(retrained=False)
    assert "is not known: none was given" in said(report)
    assert "There was no model retrained" in sentences(report).limits
    tiles = {label: (value, beside) for label, value, beside in sentences(report).tiles}
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
    assert facts.method_name({"method": {"name": method}}) == load_method(method).label


def test_a_method_that_is_not_known_has_the_name_that_the_run_gives_it():
    report = sequence()
    report["method"] = {"name": "some_method_of_ours"}
    assert facts.method_name(report) == "some_method_of_ours"
    assert "The method is approximate" in sentences(report).limits


def test_records_that_stand_out_by_being_answered_too_badly_are_said_to():
    report = sequence()
    assert "stand out as treated" not in said(report)
    report["results"]["unlearned"]["forget"]["mia_loss_auc"]["value"] = 0.21
    assert "Below 0.5 they stand out as treated." in said(report)


# Part of the change


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
            "75 % of the change is the most, of the 5 shares that were tried, that leaves the "
            "quality of text to be kept within its limit (perplexity at most 1.02 times that "
            "before); there the model’s first guess for the next token of a record is right in "
            "40.0 % of cases, and the records are not suppressed yet.",
        ),
        (
            1.0,
            True,
            "Even the whole change leaves the quality of text to be kept within its limit "
            "(perplexity at most 1.02 times that before); there the model’s first guess for the "
            "next token of a record is right in 20.0 % of cases, and the records are suppressed on "
            "these tests.",
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


# How numbers are written


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
