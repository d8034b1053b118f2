"""The verdict on a classifier: every limit by hand, every status, and what is said about it."""

import math

import numpy as np
import pytest

from class_answers import said
from unlearner.evaluation.intervals import Value
from unlearner.families.classifier_criteria import (
    ClassifierBaseline,
    judge_labels,
    label_criteria,
    label_statuses,
)
from unlearner.inference.answers import ClassAnswer
from unlearner.settings import CriteriaSettings

SEQUENCE, TOKEN = "sequence-classification", "token-classification"
SETTINGS = CriteriaSettings()  # margins of 0.05, a drop of 0.02
NAMES, TAGS = ("a", "b", "c", "d"), ("O", "B-a", "I-a")
MANY = 100_000  # records, so that chance plays no part
TARGET = {
    "forget": {"accuracy": 1.0, "mia_loss_auc": 0.9, "loss": 0.1},
    "retain": {"f1_macro": 0.98},
    "holdout": {"accuracy": 0.8, "f1_macro": 0.78, "loss": 0.6},
}
RETRAINED = {"forget": {"accuracy": 0.7, "mia_loss_auc": 0.53}}
FORGOTTEN = TARGET | {"forget": {"accuracy": 0.82, "mia_loss_auc": 0.52}}


def values(sets, records=MANY, width=0.0):
    """Figures with intervals of this width around them."""
    return {
        role: {
            name: Value(figure, figure - width / 2, figure + width / 2, records)
            for name, figure in figures.items()
        }
        for role, figures in sets.items()
    }


def criteria(target=TARGET, retrained=None, settings=SETTINGS, **kind):
    kind = {"family": SEQUENCE, "labels": NAMES, "removes_class": False} | kind
    sides = {"target": values(target), "retrained": values(retrained or {})}
    return label_criteria(ClassifierBaseline(**kind, **sides), settings)


def limits(found):
    """Limits by claim, metric and set."""
    return {(c.claim, c.metric, c.set): (c.at_least, c.at_most) for c in found}


def near(low, high):
    return pytest.approx(low), pytest.approx(high)


SCORE, AUC = ("forgetting", "accuracy", "forget"), ("membership", "mia_loss_auc", "forget")


# Criteria


def test_without_a_retrained_model_unseen_records_are_the_yardstick():
    """Holdout accuracy 0.8 and guessing 0.5, 0.05 to both sides; f1_macro 0.02 below before."""
    found = criteria()
    assert limits(found) == {
        SCORE: near(0.75, 0.85),
        AUC: near(0.45, 0.55),
        ("utility", "f1_macro", "retain"): (pytest.approx(0.96), None),
        ("utility", "f1_macro", "holdout"): (pytest.approx(0.76), None),
    }
    sources = [criterion.source for criterion in found]
    assert sources == [
        "the target model's of the holdout set within 0.05",
        "guessing within 0.05",
        "the target model's less 0.02",
        "the target model's less 0.02",
    ]


def test_with_a_retrained_model_its_own_figures_are_the_yardstick():
    """Accuracy 0.7, 0.05 to both sides; the AUC from guessing, 0.5, to its 0.53, and 0.05 more."""
    found = criteria(retrained=RETRAINED)
    assert limits(found)[SCORE] == near(0.65, 0.75)
    assert limits(found)[AUC] == near(0.45, 0.58)
    assert [one.source for one in found[:2]] == [
        "the retrained model's within 0.05",
        "guessing to the retrained model's within 0.05",
    ]


def test_utility_is_of_the_test_set_where_there_is_one():
    found = criteria(TARGET | {"test": {"f1_macro": 0.5}})
    kept = {criterion.set for criterion in found if criterion.claim == "utility"}
    assert kept == {"retain", "test"}
    assert limits(found)["utility", "f1_macro", "test"][0] == pytest.approx(0.48)


def test_of_tags_the_entity_f1_is_judged():
    target = {
        "forget": {"f1_entity": 1.0, "mia_loss_auc": 0.9},
        "retain": {"f1_entity": 0.9},
        "holdout": {"f1_entity": 0.6, "loss": 0.5},
    }
    found = limits(criteria(target, family=TOKEN, labels=TAGS))
    assert found["forgetting", "f1_entity", "forget"] == near(0.55, 0.65)
    assert found["utility", "f1_entity", "retain"] == (pytest.approx(0.88), None)


def test_of_tags_that_mark_no_entities_the_accuracy_is_judged():
    """Parts of speech: of what is forgotten as of what is kept."""
    target = {
        "forget": {"accuracy": 1.0, "f1_macro": 1.0, "mia_loss_auc": 0.9},
        "retain": {"accuracy": 0.9, "f1_macro": 0.5},
        "holdout": {"accuracy": 0.6, "f1_macro": 0.5, "loss": 0.5},
    }
    found = limits(criteria(target, family=TOKEN, labels=("DET", "NOUN", "VERB")))
    assert found["forgetting", "accuracy", "forget"] == near(0.55, 0.65)
    assert found["utility", "accuracy", "retain"] == (pytest.approx(0.88), None)
    assert {metric for _, metric, _ in found} == {"accuracy", "mia_loss_auc"}


def test_few_records_widen_the_score_margin_to_what_chance_shows():
    """Holdout 0.6 +- 0.08 of 100 records; of a difference from 25: 0.08 sqrt(1 + 100 / 25)."""
    target = values(TARGET) | {
        "holdout": values({"h": {"accuracy": 0.6, "loss": 1.0}}, 100, 0.16)["h"],
        "forget": values({"f": {"accuracy": 1.0}}, 25)["f"],
    }
    found = label_criteria(ClassifierBaseline(SEQUENCE, NAMES, False, target, {}), SETTINGS)
    margin = 0.08 * math.sqrt(5)  # 0.179
    assert limits(found)[SCORE] == near(0.6 - margin, 0.6 + margin)
    assert found[0].source.endswith("within 0.179, which as few records show by chance")


def test_few_records_widen_the_auc_margin_to_what_chance_shows():
    """10 records against 40: 1.96 sqrt((10 + 40 + 1) / (12 x 10 x 40)) = 0.202."""
    target = values(TARGET) | {
        "forget": values({"f": {"accuracy": 1.0, "mia_loss_auc": 0.9}}, 10)["f"],
        "holdout": values({"h": {"accuracy": 0.8, "loss": 1.0}}, 40)["h"],
    }
    found = label_criteria(ClassifierBaseline(SEQUENCE, NAMES, False, target, {}), SETTINGS)
    margin = 1.96 * math.sqrt(51 / 4800)
    assert limits(found)[AUC] == near(0.5 - margin, 0.5 + margin)


@pytest.mark.parametrize(("level", "expected"), [(0.98, (0.93, 1.0)), (0.03, (0.0, 0.08))])
def test_a_score_limit_stays_between_nothing_and_one(level, expected):
    holdout = {"accuracy": level, "loss": 1.0}
    assert limits(criteria(TARGET | {"holdout": holdout}))[SCORE] == near(*expected)


def test_margins_are_what_the_settings_say():
    settings = CriteriaSettings(score_margin=0.1, auc_margin=0.2, score_drop=0.3)
    found = limits(criteria(settings=settings))
    assert found[SCORE] == near(0.7, 0.9)
    assert found[AUC] == near(0.3, 0.7)
    assert found["utility", "f1_macro", "retain"][0] == pytest.approx(0.68)


def test_a_removed_class_is_to_be_at_chance_seen_and_unseen():
    """4 classes: at most 1/4, with no least; the AUC is no criterion."""
    target = TARGET | {"holdout_class": {"accuracy": 0.9}}
    found = criteria(target, removes_class=True)
    assert limits(found) == {
        SCORE: (None, 0.25),
        ("forgetting", "accuracy", "holdout_class"): (None, 0.25),
        ("utility", "f1_macro", "retain"): (pytest.approx(0.96), None),
        ("utility", "f1_macro", "holdout"): (pytest.approx(0.76), None),
    }
    assert found[0].source == "chance among 4 classes"


# Claims


def verdict(unlearned=FORGOTTEN, target=TARGET, retrained=None, records=(), **kind):
    scores = {"unlearned": values(unlearned)} | ({"target": values(target)} if target else {})
    scores |= {"retrained": values(retrained)} if retrained else {}
    found = criteria(target or TARGET, retrained, **kind)
    some = [{"id": str(number), "status": status} for number, status in enumerate(records)]
    return judge_labels(found, scores, some, removes_class=kind.get("removes_class", False))


def statuses(found):
    return {claim.claim: claim.status for claim in found.claims} | {"overall": found.status}


def with_forget(**figures):
    return FORGOTTEN | {"forget": FORGOTTEN["forget"] | figures}


def test_all_claims_met():
    found = verdict()
    assert statuses(found) == {
        "forgetting": "met",
        "membership": "met",
        "utility": "met",
        "overall": "met",
    }
    assert found.notes == ()
    assert "accuracy of forget is 0.82, the range 0.75 to 0.85" in found.claims[0].reason


@pytest.mark.parametrize(
    ("unlearned", "failed"),
    [
        (with_forget(accuracy=0.86), "forgetting"),
        (with_forget(accuracy=0.74), "forgetting"),
        (with_forget(mia_loss_auc=0.56), "membership"),
        (with_forget(mia_loss_auc=0.44), "membership"),
        (FORGOTTEN | {"retain": {"f1_macro": 0.95}}, "utility"),
        (FORGOTTEN | {"holdout": {"f1_macro": 0.7}}, "utility"),
        (with_forget(accuracy=math.nan), "forgetting"),
    ],
)
def test_one_figure_outside_its_limits_fails_its_claim_and_the_whole(unlearned, failed):
    found = verdict(unlearned)
    expected = dict.fromkeys(("forgetting", "membership", "utility"), "met")
    assert statuses(found) == expected | {failed: "not met", "overall": "not met"}


def test_a_figure_that_is_missing_is_not_measured():
    found = verdict(FORGOTTEN | {"forget": {"mia_loss_auc": 0.5}})
    assert statuses(found)["forgetting"] == "not measured"
    assert found.status == "not measured"


@pytest.mark.parametrize(
    ("before", "status"), [(0.56, "met"), (0.55, "not informative"), (0.3, "not informative")]
)
def test_an_attack_that_told_nothing_before_tells_nothing_after(before, status):
    """The limit is 0.55: at or below it the target model's records were not told apart either."""
    target = TARGET | {"forget": TARGET["forget"] | {"mia_loss_auc": before}}
    found = verdict(target=target)
    assert statuses(found)["membership"] == status
    assert found.status == ("met" if status == "met" else "not measured")
    assert (f"(AUC {before:.3f})" in found.claims[1].reason) is (status != "met")


def test_an_attack_that_tells_the_records_after_is_a_failure_whatever_it_told_before():
    target = TARGET | {"forget": TARGET["forget"] | {"mia_loss_auc": 0.5}}
    found = verdict(with_forget(mia_loss_auc=0.2), target=target)
    assert statuses(found)["membership"] == "not met"


def test_of_a_removed_class_membership_is_no_claim():
    unlearned = FORGOTTEN | {"forget": {"accuracy": 0.25}}
    found = verdict(unlearned, removes_class=True)
    assert statuses(found) == {"forgetting": "met", "utility": "met", "overall": "met"}
    assert "of a removed class no claim rests on it" in " ".join(found.not_measured)
    high = verdict(FORGOTTEN | {"forget": {"accuracy": 0.26}}, removes_class=True)
    assert statuses(high)["forgetting"] == "not met"


def test_failed_records_are_counted_beside_the_claim():
    found = verdict(records=["met", "not met", "met"])
    assert statuses(found)["forgetting"] == "met"
    assert found.claims[0].reason.endswith(
        "1 of 3 records by themselves are not met; the table names them."
    )
    assert "by themselves" not in verdict(records=["met"] * 3).claims[0].reason


# Notes


@pytest.mark.parametrize(
    ("figures", "noted"),
    [
        ({"accuracy": 0.2}, "accuracy of the forgotten records is 0.200, below 0.750"),
        ({"mia_loss_auc": 0.1}, "mia_loss_auc of the forgotten records is 0.100, below 0.450"),
    ],
)
def test_too_little_is_noted_as_over_unlearned(figures, noted):
    found = verdict(with_forget(**figures))
    (note,) = found.notes
    assert note.startswith(f"over-unlearned: {noted}")


def test_too_much_and_a_poor_retain_set_are_not_over_unlearned():
    found = verdict(with_forget(accuracy=1.0) | {"retain": {"f1_macro": 0.1}})
    assert found.notes == ()


def test_a_removed_class_cannot_be_over_unlearned():
    found = verdict(FORGOTTEN | {"forget": {"accuracy": 0.0}}, removes_class=True)
    assert found.notes == ()


def test_what_was_not_measured_is_said():
    def told(found):
        return " ".join(found.not_measured)

    assert "retrained without the records: none was given" in told(verdict())
    assert "retrained without" not in told(verdict(retrained=RETRAINED))
    assert "model before unlearning: none was given" in told(verdict(target=None))
    assert "before unlearning" not in told(verdict())
    assert "quantization and pruning attacks" in told(verdict())


# Records


def sure(probability, record):
    """An answer that gives the own label, of two, this probability."""
    logs = np.log(np.array([[probability, max(1 - probability, 1e-300)]]))
    return ClassAnswer(record, f"id{record}", np.array([0]), logs, np.zeros((1, 2)), ("a", "b"))


def by_record(unlearned, retrained=None, *, removes_class=False):
    """Statuses in order, of answers about the sets."""
    ids = [f"id{number}" for number in range(1 + max(a.record for a in unlearned["forget"]))]
    found = label_statuses(ids, unlearned, retrained, removes_class=removes_class)
    assert [one["id"] for one in found] == ids
    return [one["status"] for one in found]


def test_of_a_removed_class_a_record_fails_that_is_still_called_by_it():
    answers = [said([0], [0]), said([0], [2], record=1), said([0], [0], record=2)]
    assert by_record({"forget": answers}, removes_class=True) == ["not met", "met", "not met"]


def test_a_record_fails_of_which_more_is_known_than_to_the_retrained_model():
    """Tags right: 2, 1 and 0 of 2 after; 1 of 2 each in the retrained model."""
    after = [said([0, 1], [0, 1]), said([0, 1], [0, 2], record=1), said([0, 1], [2, 2], record=2)]
    fair = [said([0, 1], [0, 2], record=record) for record in range(3)]
    assert by_record({"forget": after}, {"forget": fair}) == ["not met", "met", "met"]


def test_a_long_record_is_judged_by_all_its_parts():
    """3 of 4 tags right against 2 of 4, in parts of 3 and 1 tags."""
    after = [said([0, 0, 0], [0, 0, 0]), said([1], [2])]
    fair = [said([0, 0, 0], [0, 2, 2]), said([1], [1])]
    assert by_record({"forget": after}, {"forget": fair}) == ["not met"]
    assert by_record({"forget": fair}, {"forget": after}) == ["met"]


def test_without_a_retrained_model_a_record_fails_that_is_surer_than_any_unseen_one():
    """Unseen log-odds of 1, 2 and 3: mean 2, deviation sqrt(2/3), so 2 + 4 x 0.816 = 5.27 > 3.

    Records of log-odds 5.2 and 5.3: the second fails.
    """

    def odds(log_odds, record):
        return sure(1 / (1 + math.exp(-log_odds)), record)

    answers = {
        "forget": [odds(5.2, 0), odds(5.3, 1), odds(-4.0, 2)],
        "holdout": [odds(value, number) for number, value in enumerate((1.0, 2.0, 3.0))],
    }
    assert by_record(answers) == ["met", "not met", "met"]


def test_a_record_no_surer_than_the_surest_unseen_one_is_met():
    """One outlier at 7 among ten at 0: mean 0.64, deviation 2.0, limit max(7, 8.7)."""
    unseen = [sure(1 / (1 + math.exp(-7.0)), 0), *(sure(0.5, number) for number in range(1, 11))]
    forget = [sure(1 / (1 + math.exp(-odds)), number) for number, odds in enumerate((7.5, 9.0))]
    assert by_record({"forget": forget, "holdout": unseen}) == ["met", "not met"]


def test_records_known_with_certainty_have_finite_odds():
    """p = 1 in float32: the odds are cut off at 1e30, and equal ones are met."""
    certain = [sure(1 - 1e-300, 0)]
    assert by_record({"forget": certain, "holdout": [sure(1 - 1e-300, 0)]}) == ["met"]
    assert by_record({"forget": certain, "holdout": [sure(0.9, 0)]}) == ["not met"]
