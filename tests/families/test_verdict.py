"""Every status by hand: what is met, what is not, and what was never measured."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from unlearner.errors import UserError
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.verdict import Criterion, digest_criteria
from unlearner.families.causal_lm_criteria import judge_text, text_criteria, text_statuses
from unlearner.inference.answers import Answer
from unlearner.settings import CriteriaSettings
from unlearner.training.data import HoldoutBaseline

LEVEL = HoldoutBaseline(
    0.3, 0.02, 0.1, 3.0, worst_ma=0.5, worst_el_10=0.2, source="the holdout's mean"
)
SETTINGS = CriteriaSettings(
    perplexity_ratio=1.5, unseen_perplexity_ratio=1.25, degenerate_increase=0.25
)
TARGET = {
    "forget": {"mia_loss_auc": 0.99, "mia_zlib_auc": 0.98, "mia_min_k_auc": 0.97},
    "retain": {"perplexity": 10.0, "degenerate": 0.125},
    "holdout": {"perplexity": 20.0, "loss": 3.0},
}
FORGOTTEN = {"ma": 0.3, "el_10": 0.02, "es": 0.1, "loss": 3.2, "mia_loss_auc": 0.45}
KEPT = {"perplexity": 15.0, "degenerate": 0.375}
UNSEEN = {"perplexity": 25.0, "loss": 3.0}
NOT_NUMBERS = [math.nan, math.inf]
NOTHING_KEPT = {role: TARGET[role] for role in ("forget", "holdout")}


def values(figures):
    return {name: Value(figure, 0.0, 0.0, 4000) for name, figure in figures.items()}


def results(forget=FORGOTTEN, kept=KEPT, **sets):
    sets = {"forget": forget, "retain": kept, "holdout": UNSEEN, **sets}
    return {"unlearned": of_sets(sets), "target": of_sets(TARGET)}


def of_sets(figures):
    return {role: values(some) for role, some in figures.items()}


def criteria(target=TARGET, level=LEVEL, settings=SETTINGS, **models):
    scores = {"target": target, **models}
    scores = {model: of_sets(figures) for model, figures in scores.items()}
    return text_criteria(level, scores, settings)


def verdict(records=("met", "met"), **changed):
    some = [{"id": str(i), "status": status} for i, status in enumerate(records)]
    return judge_text(criteria(), results(**changed), some)


def statuses(found):
    """Of membership only where it is not met."""
    found_by_claim = {claim.claim: claim.status for claim in found.claims}
    if found_by_claim["membership"] == "met":
        del found_by_claim["membership"]
    return found_by_claim | {"overall": found.status}


def limits(some):
    return {(one.claim, one.metric, one.set): one.at_most for one in some}


# Criteria


def test_limits_by_hand():
    """Perplexity 10 * 1.5 = 15 and 20 * 1.25 = 25, degenerate 0.125 + 0.25 = 0.375.

    AUC 0.5 + 0.05, since of 4000 records chance adds less; the rest is the level.
    """
    assert limits(criteria()) == {
        ("membership", "mia_loss_auc", "forget"): 0.55,
        ("utility", "perplexity", "holdout"): 25.0,
        ("verbatim", "ma", "forget"): 0.3,
        ("verbatim", "el_10", "forget"): 0.02,
        ("verbatim", "es", "forget"): 0.1,
        ("utility", "perplexity", "retain"): 15.0,
        ("utility", "degenerate", "retain"): 0.375,
    }
    assert {one.source for one in criteria() if one.claim == "verbatim"} == {"the holdout's mean"}


def test_a_level_without_es_asks_nothing_of_es():
    by_hand = HoldoutBaseline(0.3, 0.02, None, None, 0.3, 0.02, "by hand")
    assert [one.metric for one in criteria({}, by_hand)] == ["ma", "el_10"]


def test_utility_is_of_the_analogous_set_where_there_is_no_retain_set():
    found = criteria({"analogous": TARGET["retain"], "holdout": {"perplexity": 1.0}})
    kept = [one.set for one in found if one.claim == "utility"]
    assert kept == ["analogous", "holdout", "analogous"]


def test_unseen_text_may_lose_what_retraining_costs_it():
    """The retrained model's 26 is above 20 * 1.25 = 25, its 24 is not."""
    for control, limit in ((26.0, 26.0), (24.0, 25.0)):
        found = criteria(retrained={"holdout": {"perplexity": control}})
        assert limits(found)["utility", "perplexity", "holdout"] == limit


@pytest.mark.parametrize("broken", NOT_NUMBERS)
def test_a_target_without_a_finite_perplexity_is_refused(broken):
    with pytest.raises(UserError, match=f"perplexity of the retain set is {broken}"):
        criteria({"retain": {"perplexity": broken, "degenerate": 0.1}})


def test_the_digest_changes_with_every_part_of_every_criterion():
    first, *others = criteria()
    digests = {digest_criteria(criteria())}
    for change in (
        {"at_most": 0.30001},
        {"set": "retain"},
        {"metric": "es"},
        {"source": "x"},
        {"claim": "utility"},
    ):
        digests.add(digest_criteria([Criterion(**{**first.__dict__, **change}), *others]))
    digests |= {digest_criteria(others), digest_criteria([*others, first])}
    assert len(digests) == 8
    assert digest_criteria(criteria()) in digests
    assert all(len(digest.removeprefix("sha256:")) == 64 for digest in digests)


# Claims


def test_figures_at_their_limits_are_met():
    found = verdict()
    assert statuses(found) == {"verbatim": "met", "utility": "met", "overall": "met"}
    assert "ma of forget is 0.3, the limit 0.3" in found.claims[0].reason


@pytest.mark.parametrize("metric", ["ma", "el_10", "es"])
@pytest.mark.parametrize("figure", [0.300001, *NOT_NUMBERS])
def test_a_forget_figure_above_its_limit_or_no_number_is_not_met(metric, figure):
    found = verdict(forget={**FORGOTTEN, metric: figure})
    assert statuses(found) == {"verbatim": "not met", "utility": "met", "overall": "not met"}
    assert f"{metric} of forget" in found.claims[0].reason


@pytest.mark.parametrize("metric", ["perplexity", "degenerate"])
@pytest.mark.parametrize("figure", [15.001, *NOT_NUMBERS])
def test_a_kept_figure_above_its_limit_or_no_number_is_not_met(metric, figure):
    found = verdict(kept={**KEPT, metric: figure})
    assert statuses(found) == {"verbatim": "met", "utility": "not met", "overall": "not met"}


@pytest.mark.parametrize("limit", NOT_NUMBERS)
def test_infinity_is_not_met_where_the_limit_is_infinite(limit):
    """Infinity is at most infinity, yet no perplexity to be content with."""
    some = [Criterion("utility", "perplexity", "retain", limit, "")]
    for figure in NOT_NUMBERS:
        found = judge_text(some, results(kept={"perplexity": figure}), [])
        assert found.claims[2].status == "not met"


def test_a_figure_that_is_missing_is_not_measured_and_never_met():
    short = {name: value for name, value in FORGOTTEN.items() if name != "el_10"}
    found = verdict(forget=short)
    assert statuses(found) == {
        "verbatim": "not measured",
        "utility": "met",
        "overall": "not measured",
    }
    assert found.claims[0].reason == "Not measured: el_10 of forget."


def test_not_met_goes_before_not_measured():
    """EL_10 is missing and MA is above its limit; likewise between the claims."""
    found = verdict(forget={"ma": 0.9, "es": 0.0})
    assert found.claims[0].status == "not met"
    assert verdict(forget={"ma": 0.1}, kept={**KEPT, "perplexity": 99}).status == "not met"


def test_without_kept_text_utility_is_not_measured_and_the_whole_never_met():
    some = [{"id": "0", "status": "met"}]
    found = judge_text(criteria(NOTHING_KEPT), results(), some)
    assert statuses(found) == {
        "verbatim": "met",
        "utility": "not measured",
        "overall": "not measured",
    }


def test_a_set_that_was_not_asked_about_is_not_measured():
    found = judge_text(criteria(), {"unlearned": {"forget": values(FORGOTTEN)}}, [])
    assert found.claims[2].status == "not measured"


# Membership


@pytest.mark.parametrize(
    ("auc", "status", "way"),
    [
        (0.55, "met", "Within the limits"),
        (0.551, "not met", "The records are still recognisable as learned."),
        (0.449, "not met", "The records are recognisable as treated."),
        (math.nan, "not met", "Outside the limits"),
    ],
)
def test_membership_is_two_sided_and_says_which_way(auc, status, way):
    found = verdict(forget={**FORGOTTEN, "mia_loss_auc": auc})
    assert found.claims[1].status == status
    assert way in found.claims[1].reason
    assert found.status == status


def test_beside_a_retrained_model_other_attacks_count_too():
    """Retrained .6, .4 and .5: what lies between it and 0.5 is met, and 0.05 beyond."""
    control = {"mia_loss_auc": 0.6, "mia_zlib_auc": 0.4, "mia_min_k_auc": 0.5}
    some = criteria(retrained={"forget": control})
    ranges = {one.metric: (one.at_least, one.at_most) for one in some if one.claim == "membership"}
    assert ranges == {
        "mia_loss_auc": (0.45, pytest.approx(0.65)),
        "mia_zlib_auc": (pytest.approx(0.35), 0.55),
        "mia_min_k_auc": (0.45, 0.55),
    }
    found = {**FORGOTTEN, "mia_zlib_auc": 0.36, "mia_min_k_auc": 0.56}
    claim = judge_text(some, results(forget=found), []).claims[1]
    assert (claim.claim, claim.status) == ("membership", "not met")
    assert "mia_min_k_auc of forget is 0.56" in claim.reason
    assert "mia_zlib_auc" not in claim.reason


def test_an_attack_that_the_target_passes_too_is_not_informative():
    blind = {**TARGET, "forget": {"mia_loss_auc": 0.55}}
    found = judge_text(criteria(blind), {**results(), "target": of_sets(blind)}, [])
    assert found.claims[1].status == "not informative"
    assert "in the target model either (AUC 0.550)" in found.claims[1].reason
    assert found.status == "not measured"


def test_an_auc_of_records_too_few_to_fail_is_not_informative():
    """Of one record among 20 any rank is chance; among 39 the first and the last are not."""
    for others, status in ((20, "not informative"), (39, "met")):
        one = {"mia_loss_auc": Value(1.0, 0.0, 1.0, 1)}
        target = {"forget": one, "holdout": {"loss": Value(3.0, 3.0, 3.0, others)}}
        some = text_criteria(LEVEL, {"target": target}, SETTINGS)
        found = judge_text(some, {**results(), "target": target}, [])
        assert found.claims[1].status == status


def test_without_unseen_records_membership_is_not_measured():
    found = judge_text(criteria({"retain": TARGET["retain"]}), results(), [])
    assert found.claims[1].status == "not measured"
    assert "--holdout" in found.claims[1].reason


# Records


def test_one_remembered_record_is_not_hidden_by_the_mean():
    found = verdict(records=["met", "not met", "met"])
    assert statuses(found) == {"verbatim": "not met", "utility": "met", "overall": "not met"}
    assert found.claims[0].reason.startswith("1 of 3 records")


def test_one_remembered_record_is_not_hidden_by_a_missing_figure():
    found = verdict(records=["met", "not met"], forget={"ma": 0.1, "es": 0.0})
    assert found.claims[0].status == "not met"
    assert "Not measured: el_10 of forget. 1 of 2 records" in found.claims[0].reason


def answered(record, hits, of=20, decoded=0):
    """`hits` of so many labels are right; behind the first prompts `decoded` tokens are the text's.

    EL_10 of 21 tokens has the prompts 1 to 11.
    """
    ids = np.arange(of + 1)
    argmax = np.where(np.arange(of) < hits, ids[1:], 99)
    said = {t: np.full(of + 1 - t, 99) for t in range(1, of + 1)}
    if decoded:
        said[hits + 1] = np.concatenate([[99], ids[hits + 2 :]])
    return Answer(
        record, str(record), ids, np.ones(of, bool), np.zeros(of, np.float32), argmax, decoded=said
    )


def test_a_record_is_held_to_what_a_single_unseen_record_could_show():
    """worst_ma 0.5: ten of 20 labels are met and eleven are not, nor a record without an answer."""
    answers = [answered(0, 10), answered(1, 11), answered(3, 0)]
    found = text_statuses(["a", "b", "c", "d"], answers, LEVEL)
    assert [one["status"] for one in found] == ["met", "not met", "not met", "met"]
    assert [one["id"] for one in found] == ["a", "b", "c", "d"]


def test_a_record_that_comes_back_word_for_word_is_not_met_whatever_its_ma():
    """Five prompts of eleven go on with one wrong token and then the rest: EL_10 above 0.2."""
    found = text_statuses(["a"], [answered(0, 4, decoded=1)], LEVEL)
    assert found[0]["status"] == "not met"


def test_a_short_record_has_wider_limits():
    """0.3 + sqrt(0.2^2 + 1.2 / T): 0.5 for endless T, 0.6162 for 20, 0.7 for 10; 1 for two."""
    level = replace(LEVEL, chance=1.2)
    assert level.ma_limit(10**9) == pytest.approx(0.5, abs=1e-6)
    assert level.ma_limit(20) == pytest.approx(0.3 + 0.1**0.5)
    assert level.ma_limit(10) == pytest.approx(0.7)
    assert level.ma_limit(2) == 1.0
    long, short = answered(0, 13), answered(1, 7, of=10)
    found = text_statuses(["long", "short"], [long, short], level)
    assert [one["status"] for one in found] == ["not met", "met"]  # 0.65 and 0.7 of their labels


def test_limits_that_chance_widened_are_the_criteria_and_say_so():
    level = replace(LEVEL, limits={"ma": 0.4, "el_10": 0.02, "es": 0.3})
    found = {one.metric: (one.at_most, one.source) for one in criteria(level=level)}
    assert found["ma"] == (0.4, "the holdout's mean, and what chance may add")
    assert found["el_10"] == (0.02, "the holdout's mean")
    assert found["es"][0] == 0.3


def test_records_too_few_to_fail_are_not_informative():
    found = judge_text(criteria(), results(), [{"id": "0", "status": "met"}], can_tell=False)
    assert statuses(found)["verbatim"] == "not informative"
    assert found.status == "not measured"
    worse = judge_text(criteria(), results({**FORGOTTEN, "ma": 1.0}), [], can_tell=False)
    assert statuses(worse)["verbatim"] == "not met"


def test_one_degenerate_continuation_of_sixteen_decides_nothing():
    """0 of 16 before: by Fisher's exact test 4 of 16 after have p = 0.0506, and 5 have 0.0217."""
    few = CriteriaSettings(degenerate_increase=0.01)
    target = {"target": {"retain": {"degenerate": Value(0.0, 0.0, 0.2, 16)}}}
    limit = {one.metric: one for one in text_criteria(LEVEL, target, few)}["degenerate"]
    assert limit.at_most == 4 / 16
    assert limit.source == "target model's share, and what chance may add to 16 records"
    many = {"target": {"retain": {"degenerate": Value(0.0, 0.0, 0.01, 1000)}}}
    limit = {one.metric: one for one in text_criteria(LEVEL, many, few)}["degenerate"]
    assert (limit.at_most, limit.source) == (0.01, "target model's share plus 0.01")


# Words


@pytest.mark.parametrize(
    ("loss", "auc", "noted"),
    [(4.0, 0.4, False), (4.01, 0.4, True), (3.0, 0.2, False), (3.0, 0.19, True), (1.0, 1.0, False)],
)
def test_over_unlearning_is_noted_beyond_one_nat_or_below_auc_one_fifth(loss, auc, noted):
    """The holdout's loss is 3: 4 is one nat above it, 4.01 more."""
    found = verdict(forget={**FORGOTTEN, "loss": loss, "mia_loss_auc": auc})
    assert any("over-unlearned" in note for note in found.notes) is noted


def test_over_unlearning_is_told_in_nats():
    (note,) = verdict(forget={**FORGOTTEN, "loss": 5.0, "mia_loss_auc": 0.1}).notes
    assert "mean loss 5.0 against 3.0 nats per token" in note
    assert "AUC 0.10" in note


def test_what_was_not_measured_is_always_listed():
    """Without a retrained model the highest claim is in words: suppressed on the tests run."""
    alone = verdict()
    assert any("suppressed on the tests run" in line for line in alone.not_measured)
    found = judge_text(criteria(), results() | {"retrained": {}}, [])
    assert len(found.not_measured) == len(alone.not_measured) - 1
    assert any(line.startswith("Robustness") for line in found.not_measured)


def test_a_verdict_is_plain_json():
    found = verdict(records=["met", "not met"]).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["records"] == [{"id": "0", "status": "met"}, {"id": "1", "status": "not met"}]
    assert set(found) == {"status", "claims", "records", "notes", "not_measured"}


def test_of_neutral_text_something_is_asked_where_the_user_asks_it():
    """12 choices under the target and 10 under the original model, ratio 1.05: 12.6, or 10.5."""
    target = {**TARGET, "neutral:wiki": {"perplexity": 12.0}}
    assert not [one for one in criteria(target) if one.set == "neutral:wiki"]
    some = SETTINGS.model_copy(update={"neutral_ratio": 1.05})
    (own,) = (one for one in criteria(target, settings=some) if one.set == "neutral:wiki")
    assert (own.claim, own.at_most) == ("utility", pytest.approx(12.6))
    original = {"retain": TARGET["retain"], "neutral:wiki": {"perplexity": 10.0}}
    found = criteria(target, settings=some, original=original)
    (own,) = (one for one in found if one.set == "neutral:wiki")
    assert (own.at_most, own.source) == (pytest.approx(10.5), "1.05 times the original model's")
