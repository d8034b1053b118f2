"""Membership inference against classifiers, by hand and against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from class_answers import ATTACKS, answer, evaluate, metric, random_answers
from unlearner.evaluation.intervals import record_values
from unlearner.inference.answers import ClassAnswer


def attack_score(name, labels, probabilities, **fields):
    return metric(name).tally(answer(labels, probabilities, **fields))


def test_entropy_by_hand():
    """(1/2, 1/4, 1/4): log 2 / 2 + 2 log 4 / 4 = 1.5 log 2. Certain: 0. Even: log 3."""
    name = "mia_entropy_auc"
    assert attack_score(name, [0], [[0.5, 0.25, 0.25]]) == (pytest.approx(1.5 * math.log(2)), 1)
    assert attack_score(name, [0], [[0, 1, 0]]) == (0, 1)
    assert attack_score(name, [0], [[1, 1, 1]]) == (pytest.approx(math.log(3)), 1)
    both = attack_score(name, [0, 0], [[0.5, 0.25, 0.25], [1, 0, 0]])
    assert both == (pytest.approx(1.5 * math.log(2)), 2)


def test_modified_entropy_by_hand():
    """(1/2, 1/4, 1/4) with own a: -1/2 log 1/2 - 2 * 1/4 log 3/4.

    With own b: -3/4 log 1/4 - 1/2 log 1/2 - 1/4 log 3/4. Sure and right 0, sure and wrong infinite.
    """
    name, row = "mia_modified_entropy_auc", [0.5, 0.25, 0.25]
    log = math.log
    right = -0.5 * log(0.5) - 0.5 * log(0.75)
    wrong = -0.75 * log(0.25) - 0.5 * log(0.5) - 0.25 * log(0.75)
    assert attack_score(name, [0], [row]) == (pytest.approx(right), 1)
    assert attack_score(name, [1], [row]) == (pytest.approx(wrong), 1)
    assert attack_score(name, [0, 1], [row, row]) == (pytest.approx(right + wrong), 2)
    assert attack_score(name, [0], [[1, 0, 0]]) == (0, 1)
    assert attack_score(name, [1], [[1, 0, 0]]) == (math.inf, 1)


def test_records_known_by_heart_are_still_told_apart():
    """The top class has log p = 0 in float32; the other, q = e^-40 or e^-41, tells.

    Entropy is q (40 + 1) to first order, modified entropy q^2 + q^2.
    """
    for nats in (40, 41):
        logs = np.array([[0, -nats]], dtype=np.float32)
        one = ClassAnswer(0, "x", np.array([0]), logs, np.zeros((1, 1)), ("a", "b"))
        q = math.exp(-nats)
        assert metric("mia_entropy_auc").tally(one)[0] == pytest.approx(q * (nats + 1))
        assert metric("mia_modified_entropy_auc").tally(one)[0] == pytest.approx(2 * q * q)


def test_entropies_equal_exact_arithmetic_on_random_answers():
    """The definitions, in fractions up to the logarithms."""
    for each in random_answers(2, records=10):
        entropy = modified = 0.0
        for label, logs in zip(each.labels, each.class_log_probs, strict=True):
            shares = [Fraction(float(np.exp(np.float64(log)))) for log in logs]
            shares = [share / sum(shares) for share in shares]
            entropy -= sum(p * math.log(p) for p in shares)
            own = shares[label]
            modified -= (1 - own) * math.log(own)
            others = [p for c, p in enumerate(shares) if c != label]
            modified -= sum(p * math.log(1 - p) for p in others)
        assert metric("mia_entropy_auc").tally(each)[0] == pytest.approx(float(entropy))
        assert metric("mia_modified_entropy_auc").tally(each)[0] == pytest.approx(float(modified))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_call_the_surer_records_members(name):
    """Sure and right against unsure: 1; the other way round, as of treated records: 0."""
    sure = [answer([0], [[0.98, 0.01, 0.01]], record=record) for record in range(4)]
    unsure = [answer([0], [[0.4, 0.3, 0.3]], record=record) for record in range(3)]
    assert evaluate(sure, name, versus=unsure).value == 1
    assert evaluate(unsure, name, versus=sure).value == 0
    assert evaluate(sure, name, versus=sure).value == 0.5


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_equal_the_auc_of_scikit_learn(name):
    """A record's score is the mean over its positions, all windows together."""
    own, held = random_answers(0), random_answers(1)
    values = [list(record_values(each, metric(name)).values()) for each in (own, held)]
    member = [1] * len(values[0]) + [0] * len(values[1])
    expected = roc_auc_score(member, [-value for value in (*values[0], *values[1])])
    assert evaluate(own, name, versus=held).value == pytest.approx(expected)


def test_being_sure_and_wrong_is_not_mistaken_for_being_trained_on():
    """Entropy takes 0.98 for the wrong class as a sign of training; modified entropy does not."""
    wrong = [answer([1], [[0.98, 0.01, 0.01]], record=record) for record in range(4)]
    unsure = [answer([0], [[0.4, 0.3, 0.3]], record=record) for record in range(3)]
    assert evaluate(wrong, "mia_entropy_auc", versus=unsure).value == 1
    assert evaluate(wrong, "mia_modified_entropy_auc", versus=unsure).value == 0
