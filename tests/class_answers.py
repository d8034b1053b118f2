"""Answers of classifiers made by hand, and sets of them scored."""

import numpy as np

from unlearner import registry
from unlearner.evaluation.intervals import Value, evaluate_set
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics.base import Metric

ATTACKS = ("mia_loss_auc", "mia_entropy_auc", "mia_modified_entropy_auc")
NAMES = ("a", "b", "c")
TAGS = ("O", "B-per", "I-per", "B-loc", "I-loc")


def metric(name) -> Metric:
    return registry.load("metrics", name).metric


def answer(labels, probabilities, *, record=0, names=NAMES, retrained=None) -> ClassAnswer:
    """Labels by index, with the probabilities of every class at each of their positions."""

    def logs(rows):
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(rows, dtype=float)).reshape(-1, len(names)).astype(np.float32)

    return ClassAnswer(
        record=record,
        id=f"id{record:03}",
        labels=np.asarray(labels, dtype=int),
        class_log_probs=logs(probabilities),
        features=np.zeros((len(labels), 2), dtype=np.float32),
        label_names=tuple(names),
        retrained=None if retrained is None else logs(retrained),
    )


def said(labels, predicted, *, record=0, names=NAMES) -> ClassAnswer:
    """The same of a classifier that gives 0.9 to the predicted class."""
    rest = 0.1 / (len(names) - 1)
    rows = np.full((len(labels), len(names)), rest)
    rows[np.arange(len(labels)), predicted] = 0.9
    return answer(labels, rows, record=record, names=names)


def tagged(own, predicted, *, record=0) -> ClassAnswer:
    """Tags by name, in one string each."""
    indices = [[TAGS.index(tag) for tag in tags.split()] for tags in (own, predicted)]
    return said(*indices, record=record, names=TAGS)


def evaluate(answers, name, **options) -> Value:
    groups = [f"s{record}" for record in range(1 + max(a.record for a in answers))]
    options = {"resamples": 0, **options}
    return evaluate_set(answers, {"m": metric(name)}, groups, **options)["m"]


def random_answers(seed, records=30, names=NAMES, longest=3):
    draw = np.random.default_rng(seed)
    found = []
    for record in range(records):
        for _ in range(draw.integers(1, 3)):
            count = draw.integers(1, longest + 1)
            rows = draw.dirichlet(np.ones(len(names)), size=(2, count))
            labels = draw.integers(len(names), size=count)
            found.append(answer(labels, rows[0], record=record, names=names, retrained=rows[1]))
    return found
