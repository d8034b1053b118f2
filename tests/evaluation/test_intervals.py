"""Values, intervals and counts: by hand, and the rules that hold for all data."""

import json
import logging
import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from unlearner import registry
from unlearner.evaluation.intervals import Value, evaluate_set, record_values
from unlearner.inference.answers import Answer
from unlearner.metrics._statistics import area_under_roc, clopper_pearson
from unlearner.metrics.base import Metric


def share(answer):
    """The window's hits of all: any ratio can be made with it."""
    return float(answer.hits.sum()), float(len(answer.hits))


SHARE = Metric(tally=share, better="higher")
POOLED = Metric(tally=share, better="higher", pooled=True)
RATE = Metric(tally=lambda answer: (float(answer.hits.all()), 1.0), better="lower", rate=True)
LOSS = registry.load("metrics", "loss").metric
PERPLEXITY = registry.load("metrics", "perplexity").metric
AUC = registry.load("metrics", "mia_loss_auc").metric


def window(record, hits, of=4, nats=1.0):
    """A window of `of` labels, the first `hits` of them hit, each with a loss of `nats`."""
    ids = np.arange(of + 1)
    argmax = np.where(np.arange(of) < hits, ids[1:], -1)
    return Answer(
        record=record,
        id=f"id{record}",
        input_ids=ids,
        scored=np.ones(of, dtype=bool),
        log_probs=np.full(of, -nats),
        argmax=argmax,
    )


def evaluate(answers, metric, groups=None, **options):
    groups = groups or [f"s{record}" for record in range(1 + max(a.record for a in answers))]
    return evaluate_set(answers, {"m": metric}, groups, **options)["m"]


def test_a_set_is_the_mean_of_its_records_and_pooled_the_ratio_of_its_sums():
    """Records 1 of 2 and 1 of 8: mean (1/2 + 1/8) / 2 = 5/16, pooled 2/10."""
    answers = [window(0, 1, of=2), window(1, 1, of=8)]
    assert evaluate(answers, SHARE).value == 5 / 16
    assert evaluate(answers, POOLED).value == 2 / 10


def test_windows_of_a_record_add_up():
    """1 of 2 and 1 of 8 of one record are 2 of 10, not the mean of 1/2 and 1/8."""
    answers = [window(0, 1, of=2), window(0, 1, of=8), window(1, 4)]
    assert record_values(answers, SHARE) == {0: 2 / 10, 1: 1}
    value = evaluate(answers, SHARE)
    assert value.value == (2 / 10 + 1) / 2
    assert value.records == 2


def test_a_record_that_cannot_say_is_neither_averaged_nor_counted():
    """Record 1 has no label; a metric that no record can answer is left out."""
    answers = [window(0, 1), window(1, 0, of=0), window(2, 2)]
    assert record_values(answers, SHARE) == {0: 1 / 4, 2: 2 / 4}
    value = evaluate(answers, SHARE)
    assert (value.value, value.records) == (3 / 8, 2)
    assert evaluate_set(answers[1:2], {"m": SHARE}, ["a", "b"]) == {}
    assert evaluate_set([], {"m": SHARE}, []) == {}


def random_answers(seed, records=30):
    draw = random.Random(seed)
    return [
        window(record, draw.randrange(8), of=7, nats=draw.random() * 3)
        for record in range(records)
        for _ in range(draw.randrange(1, 3))
    ]


@pytest.mark.parametrize("metric", [SHARE, POOLED, RATE, LOSS, PERPLEXITY, AUC])
def test_the_order_of_records_changes_no_digit(metric):
    """Records are re-numbered and windows re-ordered; subjects of three records each."""
    answers = random_answers(0)
    groups = [f"person {record % 10}" for record in range(30)]
    versus = random_answers(1)
    before = evaluate(answers, metric, groups, versus=versus, resamples=300)
    order = random.Random(5).sample(range(30), 30)
    shuffled = [
        window(order.index(a.record), int(a.hits.sum()), of=7, nats=-a.log_probs[0])
        for a in reversed(answers)
    ]
    after = evaluate(
        shuffled, metric, [groups[old] for old in order], versus=versus[::-1], resamples=300
    )
    assert after == before


def test_intervals_follow_the_seed_and_hold_the_value():
    answers = random_answers(0)
    first = evaluate(answers, SHARE, seed=1)
    assert evaluate(answers, SHARE, seed=1) == first
    other = evaluate(answers, SHARE, seed=2)
    assert other.value == first.value
    assert (other.low, other.high) != (first.low, first.high)
    assert first.low < first.value < first.high


def test_a_metric_more_changes_no_interval_of_another():
    answers, groups = random_answers(0), [str(i) for i in range(30)]
    alone = evaluate_set(answers, {"b": SHARE}, groups)
    assert evaluate_set(answers, {"a": LOSS, "b": SHARE}, groups)["b"] == alone["b"]


def test_constant_data_has_an_interval_of_no_width():
    """Every record is 1 of 4, so every resample is."""
    for metric in (SHARE, POOLED):
        value = evaluate([window(record, 1) for record in range(12)], metric)
        assert (value.value, value.low, value.high) == (0.25, 0.25, 0.25)


def test_bootstrap_agrees_with_the_standard_error_of_a_mean():
    """Half of 400 records at 0 and half at 1: 1.96 * 0.5 / sqrt(400) = 0.049 either side."""
    value = evaluate([window(record, 4 * (record % 2)) for record in range(400)], SHARE)
    assert value.low == pytest.approx(0.451, abs=0.006)
    assert value.high == pytest.approx(0.549, abs=0.006)


def test_an_interval_by_subject_is_wider_for_clustered_data():
    """Ten people with ten records each, all alike: ten facts, not a hundred; sqrt(10) wider."""
    answers = [window(record, 4 * (record // 10 % 2)) for record in range(100)]
    by_record = evaluate(answers, SHARE)
    by_subject = evaluate(answers, SHARE, [f"person {record // 10}" for record in range(100)])
    assert by_subject.value == by_record.value == 0.5
    widths = [value.high - value.low for value in (by_subject, by_record)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(10), rel=0.15)


def test_one_subject_has_a_value_and_no_interval(caplog):
    with caplog.at_level(logging.WARNING):
        value = evaluate([window(0, 1), window(1, 3)], SHARE, ["ann", "ann"])
    assert value.value == 0.5
    assert math.isnan(value.low)
    assert math.isnan(value.high)
    assert "no interval for m" in caplog.text
    assert value.to_json() == {"value": 0.5, "low": None, "high": None, "records": 2}


def test_a_rate_has_the_exact_interval():
    """3 of 20 records; none of 20 is [0, 1 - 0.025^(1/20)] = [0, 0.168], not of zero width."""
    value = evaluate([window(record, 4 if record < 3 else 0) for record in range(20)], RATE)
    exact = binomtest(3, 20).proportion_ci(method="exact")
    assert value.value == 3 / 20
    assert (value.low, value.high) == pytest.approx((exact.low, exact.high))
    none = evaluate([window(record, 0) for record in range(20)], RATE)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    every = evaluate([window(record, 4) for record in range(20)], RATE)
    assert (every.value, every.high) == (1, 1)


def test_a_rate_over_subjects_counts_them_by_their_effective_number():
    """Sizes 2 2 2 2 are worth 8^2 / 16 = 4 records, sizes 5 1 1 1 only 8^2 / 28 = 2.29."""
    even, odd = np.array([2, 2, 2, 2]), np.array([5, 1, 1, 1])
    four = binomtest(1, 4).proportion_ci(method="exact")
    assert clopper_pearson(0.25, even) == pytest.approx((four.low, four.high))
    assert clopper_pearson(0.0, odd)[1] == pytest.approx(1 - 0.025 ** (28 / 64))
    answers = [window(record, 4 * (record < 2)) for record in range(8)]
    value = evaluate(answers, RATE, [f"person {record // 2}" for record in range(8)])
    assert (value.low, value.high) == pytest.approx((four.low, four.high))


def test_perplexity_transforms_the_value_and_its_ends():
    """Losses log 2 and log 8 over equally many tokens: exp(2 log 2) = 4, between 2 and 8."""
    answers = [window(r, 0, nats=math.log(8 if r % 2 else 2)) for r in range(10)]
    value = evaluate(answers, PERPLEXITY)
    assert value.value == pytest.approx(4)
    loss = evaluate(answers, LOSS)
    assert value.low == pytest.approx(math.exp(loss.low))
    assert value.high == pytest.approx(math.exp(loss.high))
    assert record_values(answers, PERPLEXITY)[0] == pytest.approx(math.log(2))


def test_an_overflowing_perplexity_is_infinite_and_null_in_json():
    value = evaluate([window(record, 0, nats=800) for record in range(3)], PERPLEXITY)
    assert value.value == math.inf
    assert json.loads(json.dumps(value.to_json(), allow_nan=False))["value"] is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_model_gives_no_number_and_a_warning(broken, caplog):
    """One record of a NaN or an infinite loss spoils the mean; it is not passed over."""
    answers = [window(0, 0), window(1, 0, nats=broken), window(2, 0)]
    with caplog.at_level(logging.WARNING):
        value = evaluate(answers, LOSS)
    assert not math.isfinite(value.value)
    assert math.isnan(value.low)
    assert value.records == 3
    assert "no interval for m" in caplog.text
    if math.isnan(broken):  # by rank a NaN would look like a very high loss
        assert math.isnan(evaluate(answers, AUC, versus=answers[:1]).value)


def test_auc_of_separated_equal_and_treated_sets():
    """Losses 1 against 2: every member stands out. Equal: 0.5. Losses 3 against 2: 0."""
    held = [window(record, 0, nats=2) for record in range(5)]
    for nats, expected in ((1, 1), (2, 0.5), (3, 0)):
        own = [window(record, 0, nats=nats) for record in range(4)]
        value = evaluate(own, AUC, versus=held)
        assert value == Value(expected, expected, expected, 4)


def test_auc_equals_that_of_scikit_learn_with_and_without_weights():
    """Scores of one digit, so that many tie."""
    draw = np.random.default_rng(0)
    own, held = draw.integers(0, 9, 40).astype(float), draw.integers(2, 11, 30).astype(float)
    labels, scores = np.repeat([1, 0], [40, 30]), np.append(own, held)
    for _ in range(5):
        weights = draw.integers(0, 4, 70).astype(float)
        found = area_under_roc(own, held, weights[None, :40], weights[None, 40:])
        assert found[0] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_auc_interval_covers_chance_and_widens_by_subject():
    """Both sets from one distribution; the same records taken for three per person."""
    answers, held = random_answers(0, records=60), random_answers(1, records=60)
    by_record = evaluate(answers, AUC, versus=held)
    assert by_record.low < 0.5 < by_record.high
    twins = [window(r, 0, nats=-answers[r // 10].log_probs[0]) for r in range(60)]
    persons = [f"person {r // 10}" for r in range(60)]
    narrow, wide = evaluate(twins, AUC, versus=held), evaluate(twins, AUC, persons, versus=held)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    grouped = evaluate(answers, AUC, versus=twins, versus_groups=persons)
    assert grouped.value == evaluate(answers, AUC, versus=twins).value


def test_a_comparison_without_the_other_set_is_left_out():
    answers, groups = [window(0, 0), window(1, 0)], ["a", "b"]
    assert evaluate_set(answers, {"m": AUC}, groups) == {}
    assert evaluate_set(answers, {"m": AUC}, groups, versus=[]) == {}
