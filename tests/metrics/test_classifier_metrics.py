"""Every metric of classifiers by hand and against the libraries that define it."""

import csv
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import seqeval.metrics
from scipy.spatial.distance import jensenshannon
from scipy.stats import binomtest
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score

from class_answers import (
    ATTACKS,
    TAGS,
    answer,
    evaluate,
    metric,
    random_answers,
    said,
    tagged,
)
from unlearner import registry
from unlearner.data.tag_schemes import tag_use
from unlearner.evaluation.intervals import Value, evaluate_set, record_values
from unlearner.evaluation.retrained_gap import (
    distance_to_retrained,
    margin_kl,
    margin_kls,
    tug_of_war,
)
from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, TOKEN_CLASSIFICATION, Metric
from unlearner.metrics.f1_entity import entities

CLASS_METRICS = [
    name for name in registry.names("metrics") if set(CLASSIFIERS) & set(metric(name).families)
]

# What holds for all of them


def test_the_metrics_of_classifiers_are_those_of_the_contract():
    assert set(CLASS_METRICS) == {
        "accuracy",
        "f1_micro",
        "f1_macro",
        "f1_entity",
        "loss",
        "js_to_retrained",
        *ATTACKS,
    }
    assert metric("f1_entity").families == (TOKEN_CLASSIFICATION,)
    for name in ("loss", "mia_loss_auc"):
        assert set(metric(name).families) == {*CAUSAL_LM, *CLASSIFIERS}


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_an_example_without_labels_says_nothing(name):
    """Nor does a set of such examples have a value."""
    empty = answer([], [], names=TAGS, retrained=[])
    assert evaluate_set([empty], {name: metric(name)}, ["s"], versus=[empty]) == {}


@pytest.mark.parametrize("names", [("O", "per", "loc"), TAGS])
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_the_order_of_records_and_windows_changes_no_digit(name, names):
    """Records are re-numbered and windows re-ordered; subjects of three records each."""
    answers, versus = random_answers(0, names=names), random_answers(1, names=names)
    groups = [f"person {record % 10}" for record in range(30)]
    order = random.Random(5).sample(range(30), 30)
    moved = [
        ClassAnswer(**{**vars(each), "record": order.index(each.record)})
        for each in reversed(answers)
    ]
    moved_groups = [groups[old] for old in order]
    only = {name: metric(name)}
    before = evaluate_set(answers, only, groups, versus=versus, resamples=200)
    after = evaluate_set(moved, only, moved_groups, versus=versus[::-1], resamples=200)
    assert after == before
    assert math.isfinite(before[name].low)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_certainty_is_no_fault(name):
    """Probabilities of exactly 0 and 1, right and wrong: a value, and never NaN."""
    sure = [tagged("B-per I-per", "B-per I-per"), tagged("B-loc", "B-per", record=1)]
    rows = np.eye(5)
    sure = [
        answer(a.labels, rows[a.predicted], record=a.record, names=TAGS, retrained=rows[a.labels])
        for a in sure
    ]
    assert not math.isnan(evaluate(sure, name, versus=sure).value)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_a_broken_model_gives_no_number(name):
    """NaN probabilities have a most probable class by index; it is not taken for an answer."""
    broken = [tagged("B-per O", "B-per O"), tagged("B-loc", "B-loc", record=1)]
    broken[0].class_log_probs[0] = np.nan
    broken = [ClassAnswer(**{**vars(each), "retrained": each.class_log_probs}) for each in broken]
    value = evaluate(broken, name, versus=broken[1:], resamples=50)
    assert value.to_json() == {"value": None, "low": None, "high": None, "records": 2}


def test_answers_of_the_other_kind_of_model_are_left_out():
    """`loss` reads both kinds; `ma` has no value for a classifier, `accuracy` none for text."""
    ids = np.arange(5)
    text = Answer(0, "x", ids, np.ones(4, dtype=bool), -np.ones(4, dtype=np.float32), ids[1:])
    metrics = {name: metric(name) for name in ("loss", "ma", "accuracy", "f1_micro")}
    assert set(evaluate_set([text], metrics, ["s"])) == {"loss", "ma"}
    assert set(evaluate_set([said([0], [0])], metrics, ["s"])) == {"loss", "accuracy", "f1_micro"}


def test_a_metric_has_either_a_tally_or_counts_and_their_function():
    f1 = metric("f1_micro")
    with pytest.raises(ValueError, match="either a tally or counts"):
        Metric(better="higher")
    with pytest.raises(ValueError, match="both of counts and of_counts"):
        Metric(better="higher", counts=f1.counts)
    with pytest.raises(ValueError, match="belong to a tally"):
        Metric(better="higher", counts=f1.counts, of_counts=f1.of_counts, pooled=True)


def test_a_record_has_no_f1_of_its_own():
    with pytest.raises(ValueError, match="for a set, not for a record"):
        record_values([said([0], [0])], metric("f1_micro"))


# Loss, accuracy and F1


def test_loss_of_a_classifier_is_the_mean_over_labelled_positions():
    """log 2 and log 4 of a record of two words, log 8 of one of one: (1.5 + 3) / 2 = 2.25 log 2."""
    two = answer([0, 1], [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    one = answer([2], [[0.5, 0.375, 0.125]], record=1)
    assert record_values([two, one], metric("loss"))[0] == pytest.approx(1.5 * math.log(2))
    assert evaluate([two, one], "loss").value == pytest.approx(2.25 * math.log(2))


def test_accuracy_is_pooled_over_words_and_a_record_has_its_share():
    """2 of 3 words and 0 of 1: 2 of 4, and not the mean of 2/3 and 0."""
    answers = [said([0, 1, 2], [0, 1, 1]), said([0], [1], record=1)]
    assert evaluate(answers, "accuracy").value == 0.5
    assert record_values(answers, metric("accuracy")) == {0: pytest.approx(2 / 3), 1: 0}


def test_accuracy_of_sequences_has_the_exact_interval_and_of_words_a_bootstrap():
    """3 of 20 sequences are binomial. Of 20 texts of two words, half of them right, each is 1/2."""
    sequences = [said([0], [0 if record < 3 else 1], record=record) for record in range(20)]
    value = evaluate(sequences, "accuracy", resamples=200)
    exact = binomtest(3, 20).proportion_ci(method="exact")
    assert (value.low, value.high) == pytest.approx((exact.low, exact.high))
    words = [said([0, 0], [0, 1], record=record) for record in range(20)]
    value = evaluate(words, "accuracy", resamples=200)
    assert (value.low, value.value, value.high) == (0.5, 0.5, 0.5)


def test_f1_of_sequences_by_hand():
    """Own a a b c, said a b b b: 2 right of 4, so micro 4 / (4 + 2 + 2) = 1/2, the accuracy.

    a: 2 / (2 + 1 missed) = 2/3; b: 2 / (2 + 2 false) = 1/2; c: 0. Macro (2/3 + 1/2 + 0) / 3 = 7/18.
    """
    decided = zip([0, 0, 1, 2], [0, 1, 1, 1], strict=True)
    answers = [said([own], [told], record=i) for i, (own, told) in enumerate(decided)]
    assert evaluate(answers, "f1_micro").value == evaluate(answers, "accuracy").value == 0.5
    assert evaluate(answers, "f1_macro").value == pytest.approx(7 / 18)
    # Without its only c, that class is neither there nor said, and is not in the mean: 7/12.
    assert evaluate(answers[:3], "f1_macro").value == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_f1_of_tags_leaves_the_outside_tag_out_of_the_classes():
    """B-per right, I-per missed, O right, O called B-per: 2 / (2 + 1 + 1) = 1/2.

    B-per: 2 / (2 + 1 false) = 2/3; I-per: 0; macro 1/3. The text of O's alone does not count.
    """
    answers = [tagged("B-per I-per O O", "B-per O O B-per"), tagged("O O", "O O", record=1)]
    micro = evaluate(answers, "f1_micro")
    assert (micro.value, micro.records) == (0.5, 1)
    assert evaluate(answers, "f1_macro").value == pytest.approx(1 / 3)
    assert evaluate(answers, "f1_entity").value == 0
    for name in ("f1_micro", "f1_macro", "f1_entity"):
        assert evaluate_set(answers[1:], {name: metric(name)}, ["a", "b"]) == {}


def test_entities_by_hand():
    """Of two own entities one is found and one cut short, which is one false and one missed: 1/2.

    An I- tag that follows no B- is no entity in IOB2: nothing is found, one is missed.
    """
    cut = tagged("B-per I-per O B-loc", "B-per O O B-loc")
    assert evaluate([cut], "f1_entity").value == 2 / (2 + 1 + 1)
    headless = tagged("B-loc", "I-loc", record=1)
    assert metric("f1_entity").counts(headless).tolist() == [0, 0, 1]
    assert evaluate([cut, headless], "f1_entity").value == 2 / (2 + 1 + 2)


def test_labels_without_prefixes_or_an_outside_tag_name_no_entities():
    """Nor do the texts of a sequence classifier hold any."""
    assert evaluate_set([said([0], [0])], {"m": metric("f1_entity")}, ["s"]) == {}


def test_chunks_that_fill_every_sentence_need_no_outside_tag():
    names = ("B-np", "I-np", "B-vp")
    assert metric("f1_entity").counts(said([0, 1, 2], [0, 1, 0], names=names)).tolist() == [1, 1, 1]


# CoNLL-2003's, in every scheme of its own.
CONLL = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
IOE = ("O", "E-LOC", "E-PER", "I-LOC", "I-PER")
BIOES = (*CONLL, "E-LOC", "E-PER", "S-LOC", "S-PER")
BMES = ("O", "B-LOC", "M-LOC", "E-LOC", "S-LOC", "B-PER", "M-PER", "E-PER", "S-PER")
BILOU = (*CONLL, "L-LOC", "L-PER", "U-LOC", "U-PER")
SUFFIX = ("O", "LOC-B", "LOC-I", "PER-B", "PER-I")
PLAIN = ("O", "LOC", "PER")


@pytest.mark.parametrize(
    ("scheme", "names", "own", "predicted", "counts"),
    [
        # CoNLL-2003 as published: all right, nothing found, wrong types.
        ("IOB1", CONLL, "I-PER O O I-LOC I-LOC O", "I-PER O O I-LOC I-LOC O", [2, 0, 0]),
        ("IOB1", CONLL, "I-PER O O I-LOC I-LOC O", "O O O O O O", [0, 0, 2]),
        ("IOB1", CONLL, "I-PER O O I-LOC I-LOC O", "I-LOC O O I-PER I-PER O", [0, 2, 2]),
        # B- parts two neighbours of one type; of two types I- does.
        ("IOB1", CONLL, "I-PER B-PER I-PER I-LOC", "I-PER B-PER I-PER I-LOC", [3, 0, 0]),
        ("IOB1", CONLL, "I-PER B-PER O", "I-PER I-PER O", [0, 1, 2]),
        # B- after O is none of its own in IOB1.
        ("IOB1", CONLL, "I-PER O I-LOC", "B-PER O I-LOC", [1, 0, 1]),
        ("IOB2", CONLL, "B-PER O O B-LOC I-LOC O", "B-PER O O B-LOC I-LOC O", [2, 0, 0]),
        ("IOB2", CONLL, "B-PER O O B-LOC I-LOC O", "B-PER O O B-LOC O O", [1, 1, 1]),
        # I- after O, and after B- or I- of another type, is none.
        ("IOB2", CONLL, "B-PER O B-LOC", "I-PER O B-LOC", [1, 0, 1]),
        ("IOB2", CONLL, "B-PER B-LOC I-LOC", "B-PER I-LOC I-LOC", [1, 0, 1]),
        ("IOB2", CONLL, "B-PER I-PER B-PER", "B-PER I-PER I-PER", [0, 1, 2]),
        ("IOE2", IOE, "I-PER E-PER O E-LOC", "I-PER E-PER O E-LOC", [2, 0, 0]),
        ("IOE2", IOE, "I-PER E-PER O E-LOC", "I-PER I-PER O E-LOC", [1, 0, 1]),
        ("IOE1", IOE, "I-PER I-PER O I-LOC", "I-PER I-PER O I-LOC", [2, 0, 0]),
        # E- ends one of two neighbours: words 0 and 1, and 2.
        ("IOE1", IOE, "I-PER E-PER I-PER O", "I-PER E-PER I-PER O", [2, 0, 0]),
        ("IOE1", IOE, "I-PER E-PER I-PER O", "I-PER I-PER I-PER O", [0, 1, 2]),
        ("BIOES", BIOES, "B-PER E-PER O S-LOC", "B-PER E-PER O S-LOC", [2, 0, 0]),
        ("BIOES", BIOES, "B-PER E-PER O S-LOC", "B-PER I-PER O S-LOC", [1, 0, 1]),
        ("BIOES", BIOES, "B-PER E-PER O S-LOC", "B-PER E-LOC O B-LOC", [0, 0, 2]),
        ("BIOES", BMES, "B-PER M-PER E-PER S-LOC", "B-PER M-PER E-PER S-PER", [1, 1, 1]),
        ("BILOU", BILOU, "B-PER I-PER L-PER U-LOC", "B-PER I-PER L-PER U-LOC", [2, 0, 0]),
        ("BILOU", BILOU, "B-PER I-PER L-PER U-LOC", "B-PER I-PER I-PER U-LOC", [1, 0, 1]),
        ("IOB2", SUFFIX, "PER-B PER-I O LOC-B", "PER-B PER-I O LOC-I", [1, 0, 1]),
        ("types", PLAIN, "PER PER LOC O PER", "PER PER LOC O LOC", [2, 1, 1]),
    ],
)
def test_entities_are_counted_in_the_scheme_that_the_data_use(
    scheme, names, own, predicted, counts
):
    use = tag_use(names, [own.split()])
    assert (use.scheme, use.num_broken) == (scheme, 0)
    indices = ([names.index(tag) for tag in tags.split()] for tags in (own, predicted))
    answer = replace(said(*indices, names=names), scheme=use.scheme)
    assert metric("f1_entity").counts(answer).tolist() == counts


def test_a_tag_that_the_scheme_does_not_know_is_outside():
    """Labels of BIOES on data in IOB2: what the model calls S- is no entity, and fails nothing."""
    names = BIOES
    own, predicted = (
        [names.index(t) for t in tags] for tags in (["B-PER", "I-PER"], ["S-PER"] * 2)
    )
    answer = replace(said(own, predicted, names=names), scheme="IOB2")
    assert metric("f1_entity").counts(answer).tolist() == [0, 0, 1]


def test_entities_of_names_without_a_scheme_are_runs_of_one_type():
    """per per loc O per: words 0 and 1, word 2, word 4."""
    found = entities(np.array([1, 1, 2, 0, 1]), ("O", "per", "loc"))
    assert found == {("per", 0, 2), ("loc", 2, 3), ("per", 4, 5)}


def test_f1_equals_that_of_scikit_learn_on_real_intents(shared_data):
    """77 intents, a third of them misread as one that stands elsewhere in the file."""
    with (shared_data / "banking77" / "test.csv").open(encoding="utf-8") as file:
        intents = [row["category"] for row in csv.DictReader(file)][::7]
    names = sorted(set(intents))
    own = np.array([names.index(intent) for intent in intents])
    draw = np.random.default_rng(0)
    told = np.where(draw.random(len(own)) < 1 / 3, draw.permutation(own), own)
    answers = [said(own[[i]], told[[i]], record=i, names=names) for i in range(len(own))]
    for average in ("micro", "macro"):
        expected = f1_score(own, told, average=average)
        assert evaluate(answers, f"f1_{average}").value == pytest.approx(expected, rel=1e-12)
    assert 0.5 < expected < 0.9


def real_tags(folder):
    """Sentences of tag names, and the tags they were given: some by a neighbour's mistake."""
    sentences = [[]]
    for line in (folder / "wnut17" / "emerging.dev.conll").read_text(encoding="utf-8").splitlines():
        if line.strip():
            sentences[-1].append(line.split("\t")[-1])
        elif sentences[-1]:
            sentences.append([])
    sentences = [tags for tags in sentences if tags]
    names = sorted({tag for tags in sentences for tag in tags})
    draw = random.Random(0)
    told = [
        [draw.choice(names) if draw.random() < 0.1 else tag for tag in tags] for tags in sentences
    ]
    return sentences, told, names


def test_f1_of_real_tags_equals_that_of_seqeval_and_scikit_learn(shared_data):
    """Sentences with every tenth word mistaken, many of the tags out of their scheme's order."""
    own, told, names = real_tags(shared_data)
    answers = [
        said(*([names.index(tag) for tag in tags] for tags in pair), record=i, names=names)
        for i, pair in enumerate(zip(own, told, strict=True))
    ]
    expected = seqeval.metrics.f1_score(own, told, mode="strict", scheme=IOB2)
    assert evaluate(answers, "f1_entity").value == pytest.approx(expected, rel=1e-12)
    assert 0.2 < expected < 0.9
    classes = [name for name in names if name != "O"]
    flat = [[tag for tags in each for tag in tags] for each in (own, told)]
    for average in ("micro", "macro"):
        expected = f1_score(*flat, labels=classes, average=average)
        assert evaluate(answers, f"f1_{average}").value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_the_interval_of_f1_draws_whole_subjects(average):
    """Every resample by hand: the records of the drawn subjects, through scikit-learn."""
    answers = random_answers(3, records=12)
    groups = [f"person {record % 4}" for record in range(12)]
    found = evaluate_set(answers, {"m": metric(f"f1_{average}")}, groups, seed=7, resamples=40)["m"]
    values = []
    for drawn in np.random.default_rng(7).integers(4, size=(40, 4)):
        chosen = [a for who in drawn for a in answers if groups[a.record] == f"person {who}"]
        own, told = (
            np.concatenate([getattr(a, of) for a in chosen]) for of in ("labels", "predicted")
        )
        values.append(f1_score(own, told, average=average))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert found.low < found.value < found.high


# Distances


def test_divergence_by_hand():
    """(1, 0) against (1/2, 1/2), middle (3/4, 1/4): 1/2 log 4/3 + 1/4 log 2/3 + 1/4 log 2.

    (1, 0) against (0, 1) is log 2, the most there is; equal ones are 0.
    """
    cases = [([1, 0], [0.5, 0.5]), ([1, 0], [0, 1]), ([0.2, 0.8], [0.2, 0.8])]
    expected = [
        0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2),
        math.log(2),
        0,
    ]
    tally = metric("js_to_retrained").tally
    for (own, other), nats in zip(cases, expected, strict=True):
        one = answer([0], [own], names="ab", retrained=[other])
        assert tally(one) == (pytest.approx(nats, abs=1e-15), 1)
    rows = [[case[side] for case in cases] for side in (0, 1)]
    whole = answer([0, 0, 1], rows[0], names="ab", retrained=rows[1])
    assert evaluate([whole], "js_to_retrained").value == pytest.approx(sum(expected) / 3)


def test_divergence_is_the_square_of_the_distance_of_scipy():
    answers = random_answers(0)
    expected = [
        jensenshannon(np.exp(own), np.exp(other)) ** 2
        for each in answers
        for own, other in zip(each.class_log_probs, each.retrained, strict=True)
    ]
    assert evaluate(answers, "js_to_retrained").value == pytest.approx(np.mean(expected), rel=1e-5)


def test_answers_without_a_retrained_model_have_no_distance_to_it():
    assert metric("js_to_retrained").needs == "retrained"
    only = {"m": metric("js_to_retrained")}
    assert evaluate_set([said([0], [0])], only, ["s"]) == {}
    known = answer([0], [[1, 0, 0]], record=1, retrained=[[0, 1, 0]])
    assert evaluate_set([said([0], [0]), known], only, ["s", "t"])["m"].records == 1


def scores(f1, auc=math.nan):
    return {"f1_micro": Value(f1, 0, 1, 9), "mia_loss_auc": Value(auc, 0, 1, 9)}


def test_tug_of_war_by_hand():
    """Half of the forget set apart, a fifth and a tenth elsewhere: 0.5 * 0.8 * 0.9 = 0.36."""
    assert tug_of_war(0.5, -0.2, 0.1) == pytest.approx(0.36)
    assert tug_of_war(0, 0, 0) == 1
    assert tug_of_war(-1, 0, 0) == 0


def test_distances_are_signed_and_prefer_the_test_set():
    """0.9 against 0.7 on the forget set, 0.8 against 0.9 retained, 0.7 against 0.6 tested."""
    model = {
        "forget": scores(f1=0.9, auc=0.8),
        "retain": scores(f1=0.8),
        "holdout": scores(f1=0.5),
        "test": scores(f1=0.7),
    }
    retrained = {
        "forget": scores(f1=0.7, auc=0.5),
        "retain": scores(f1=0.9),
        "holdout": scores(f1=0.5),
        "test": scores(f1=0.6),
    }
    found = distance_to_retrained(model, retrained, "f1_micro")
    gaps = {"forget": 0.2, "retain": -0.1, "holdout": 0, "test": 0.1}
    assert found["f1_gap"] == pytest.approx(gaps)
    assert found["tug_of_war"] == pytest.approx(0.8 * 0.9 * 0.9)
    assert found["mia_auc_gap"] == pytest.approx(0.3)
    del model["test"]
    assert distance_to_retrained(model, retrained, "f1_micro")["tug_of_war"] == pytest.approx(
        0.8 * 0.9 * 1
    )


def test_distances_that_are_not_known_are_left_out():
    """No retained records for the one, and no finite score for the other."""
    forget, broken = {"forget": scores(f1=0.9)}, {"forget": scores(f1=math.nan)}
    assert distance_to_retrained(forget, forget, "f1_micro") == {"f1_gap": {"forget": 0}}
    assert distance_to_retrained(forget, broken, "f1_micro") == {}
    assert distance_to_retrained(forget, forget, "f1_entity") == {}


def of_margins(own, other):
    """Two-class answers whose label has these margins, a record each: p = 1 / (1 + e^-margin)."""

    def rows(margin):
        return [[1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))]]

    pairs = enumerate(zip(own, other, strict=True))
    return [
        answer([0], rows(a), record=record, names="ab", retrained=rows(b))
        for record, (a, b) in pairs
    ]


def test_kl_of_margins_by_hand():
    """Means 0 and 2, deviations 1 and 1: (1 + 4) / 2 - 1/2 = 2. Twice the spread: 4/2 - 1/2 - ln 2.

    The order of the records does not matter.
    """
    assert margin_kl(of_margins([-1, 1], [1, 3])) == pytest.approx(2, rel=1e-5)
    twice = margin_kl(of_margins([-2, 2], [1, -1]))
    assert twice == pytest.approx(1.5 - math.log(2), rel=1e-5)
    assert margin_kl(of_margins([3, 0.5, -1], [-1, 3, 0.5])) == pytest.approx(0, abs=1e-6)


def test_kl_of_margins_takes_labels_that_are_certain():
    """Probabilities of 1 and 0 are margins of 100 and -100: the same in both models is 0."""
    sure = [answer([0], [[p, 1 - p]], names="ab", retrained=[[p, 1 - p]]) for p in (1, 0)]
    assert margin_kl(sure) == pytest.approx(0)


def test_kl_of_margins_is_left_out_where_it_is_not_known():
    """Of one position, of equal margins, and without a retrained model."""
    both = of_margins([-1, 1], [1, 3])
    assert margin_kl(both[:1]) is None
    assert margin_kl(of_margins([1, 1], [1, 3])) is None
    assert margin_kl([said([0], [0]), said([0], [1], record=1)]) is None
    found = margin_kls({"forget": both, "test": both[:1]})
    assert found == {"margin_kl": {"forget": pytest.approx(2, rel=1e-5)}}
    assert margin_kls({"test": both[:1]}) == {}
