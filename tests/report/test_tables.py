"""The tables of a report: criteria, records, what only classifiers have, trials of a search."""

import re

import pytest

from page_reader import Page, plain
from report_classifier_example import EMOTIONS, N, sequence
from report_example import example
from report_variants import HOSTILE, searched
from unlearner.report import tables
from unlearner.report.page import markdown_report, render
from unlearner.report.tables import claims, trial_rows
from unlearner.report.writing import visible

# Criteria


@pytest.mark.parametrize(
    ("value", "status"), [(0.44, "not met"), (0.45, "met"), (0.55, "met"), (0.56, "not met")]
)
def test_a_criterion_with_two_limits_is_met_between_them(value, status):
    report = sequence()
    report["results"]["unlearned"]["forget"]["mia_loss_auc"]["value"] = value
    criterion = claims(report)[1].criteria[0]
    assert (criterion.limit, criterion.status) == ("0.450 to 0.550", status)


def test_a_value_that_only_just_misses_its_limit_does_not_look_equal_to_it():
    """0.04991 and 0.0499 are both 4.99 % with three digits, but not with five."""
    report = example(3)
    report["results"]["unlearned"]["forget"]["el_10"]["value"] = 0.04991
    shown = Page(render(report)).shown
    assert "4.9910 %" in shown.replace("\xa0", " ")
    assert "≤ 4.9900 %" in shown.replace("\xa0", " ")


# Of classifiers


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
    label = "KL of margins to the retrained model’s: records to be forgotten"
    assert rows[label] == ["0.207", "0.0210"]
    assert rows["Tug-of-war score"] == ["0.791", "0.974"]
    assert rows["Distance to retrained (JS): records to be forgotten"] == ["0.0912", "0.0174"]


def test_what_a_repeated_quantity_means_is_told_once():
    meanings = [row.meaning for row in tables.distance_rows(sequence()) if row.meaning]
    assert len(meanings) == len(set(meanings)) == 5


# The search


def test_without_a_search_there_is_no_table_of_one():
    assert trial_rows(example(3).get("search")) == []
    assert 'id="search"' not in render(example(3))
    assert "search for settings" not in markdown_report(example(3))


def test_a_trial_is_a_row_and_the_one_taken_is_marked():
    """Rates of 1e-5 keep their digits; what is not known is a dash."""
    report = searched(4)
    found = trial_rows(report["search"])
    assert [cells[0] for _, cells in found] == ["0", "1", "2", "3"]
    assert [taken for taken, _ in found] == [False, False, True, False]
    _, settings, *rest = found[0][1]
    assert settings == "learning_rate 1.23e-05, retain_weight 1.5"
    assert plain(" ".join(rest)) == "not reached 28.1 % 1.04 7 42 s"
    assert found[-1][1][2:5] == ["failed", "–", "–"]


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
