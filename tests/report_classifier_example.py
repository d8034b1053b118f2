"""Realistic reports of classifier runs, with invented numbers, for the tests of what shows them."""

import random
from itertools import pairwise
from math import cos, sin
from typing import Any

from report_example import _claim, _figure, _set, example

EMOTIONS = ["anger", "joy", "optimism", "sadness"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
MODELS = ("target", "unlearned", "retrained")
N = 48  # forget records

# Scores by set for the model before, after and retrained: accuracy, F1 of the metric named.
SAMPLE_SCORES = {
    "forget": (0.9983, 0.8125, 0.7917),
    "retain": (0.9921, 0.9894, 0.9930),
    "holdout": (0.8021, 0.7986, 0.8003),
    "test": (0.8044, 0.8009, 0.8023),
}
CLASS_SCORES = {
    "forget": (0.9930, 0.0208, 0.0),
    "retain": (0.9905, 0.9861, 0.9923),
    "holdout": (0.8410, 0.8377, 0.8462),
    "test": (0.8391, 0.8352, 0.8440),
    "holdout_class": (0.7124, 0.0183, 0.0),
}
SIZES = {"forget": N, "retain": 3209, "holdout": 374, "test": 1421, "holdout_class": 91}
DISTANCES = {"forget": (0.0912, 0.0174), "test": (0.0093, 0.0081)}  # JS before and after
AUCS = {"loss": (0.742, 0.541, 0.518), "entropy": (0.703, 0.522, 0.509)}
AUCS |= {"modified_entropy": (0.751, 0.547, 0.515)}
GEOMETRY = {
    "own_centroid_cosine": (0.962, 0.641, 0.688),
    "nearest_other_centroid_cosine": (0.104, 0.317, 0.262),
    "silhouette": (0.842, 0.214, 0.291),
    "knn_purity": (0.991, 0.748, 0.779),
    "linear_probe": (0.998, 0.833, 0.812),
}


def sequence(*, retrained: bool = True, test: bool = True) -> dict[str, Any]:
    """DeepCUT on an emotion classifier, single records removed; the criteria were met."""
    return _report("sequence-classification", SAMPLE_SCORES, EMOTIONS, retrained, test)


def tokens(*, retrained: bool = True, test: bool = True) -> dict[str, Any]:
    """DeepCUT on a tagger of named entities."""
    report = _report("token-classification", SAMPLE_SCORES, TAGS, retrained, test)
    report["evaluation"] = {"score": "f1_entity"}
    for entry in report["per_record"]:
        for side in set(entry) - {"id"}:
            entry[side]["correct"] = 1.0 if entry[side]["correct"] else 0.8333
    return report


def class_removal(*, retrained: bool = True, test: bool = True) -> dict[str, Any]:
    """A whole class removed: its recall falls, and the other classes stay."""
    report = _report("sequence-classification", CLASS_SCORES, EMOTIONS, retrained, test)
    report["request"]["forget_class"] = "optimism"
    report["projection"] = _projection(EMOTIONS, N, tuple(report["results"]), forget_class=2)
    report["confusion"] = {
        model: [["optimism", said, count] for said, count in rows]
        for model, rows in zip(
            report["results"],
            (
                [("optimism", 48)],
                [("joy", 31), ("sadness", 16), ("optimism", 1)],
                [("joy", 35), ("sadness", 9), ("anger", 4)],
            ),
            strict=False,
        )
    }
    report["criteria"][0] |= {"at_most": 0.25, "source": "chance among four classes"}
    del report["criteria"][0]["at_least"]
    return report


def exact(method: str = "retrain") -> dict[str, Any]:
    """A run of a method that trains anew without the records."""
    report = sequence(retrained=False)
    report["method"] = {"name": method, "learning_rate": 2e-5, "epochs": 3}
    report["cost"] |= {"seconds_unlearning": 2460.0, "seconds_retraining": None}
    return report


def evaluated_classifier() -> dict[str, Any]:
    """What `evaluate` leaves of a classifier: no model before, no rounds."""
    report = sequence(retrained=False)
    report["command"] = "evaluate"
    for key in ("method", "rounds", "per_record", "geometry", "projection"):
        del report[key]
    for key in ("results", "confusion"):
        del report[key]["target"]
    report["cost"] = {"seconds": 63.0, "seconds_evaluation": 61.0}
    return report


def many_classes(classes: int = 77, records: int = 1500) -> dict[str, Any]:
    """More classes than there are colours and more records than there is room for."""
    labels = [f"intent_{i}_of_a_customer_of_a_bank" for i in range(classes)]
    report = sequence()
    report["projection"] = _projection(labels, records, MODELS)
    report["confusion"] = _confusion(labels, MODELS)
    dice = random.Random(3)
    report["per_record"] = [_record(dice, i, MODELS) for i in range(records)]
    report["verdict"]["records"] = []
    return report


def _report(
    family: str, scores: dict[str, tuple], labels: list[str], retrained: bool, test: bool
) -> dict[str, Any]:
    models = MODELS if retrained else MODELS[:2]
    report = example(N)
    del report["retrieval"]
    report["model"] |= {"name": "emotion-bert-base", "family": family, "parameters": 109_486_085}
    report["method"] = {"name": "deepcut", "temperature": 1.0, "forget_weight": 0.3}
    report["method"] |= {"learning_rate": 2e-5, "stop": "score", "max_epochs": 20}
    sets = [name for name in scores if test or name != "test"]
    report["data"] = {name: _set(SIZES[name], f"{i}{i}aa", 0) for i, name in enumerate(sets)}
    report["evaluation"] = {"score": "accuracy"}
    report["results"] = _results(family, {name: scores[name] for name in sets}, models)
    report["criteria"] = _criteria(scores)
    report["geometry"] = _by_model(GEOMETRY, models)
    report["projection"] = _projection(labels, N, models)
    report["confusion"] = _confusion(labels, models)
    report["rounds"] = _rounds(scores)
    dice = random.Random(7)
    report["per_record"] = [_record(dice, i, models) for i in range(N)]
    report["verdict"] |= _verdict()
    report["cost"] |= {"seconds": 402.0, "seconds_unlearning": 184.0, "seconds_evaluation": 96.0}
    if retrained:
        report["cost"]["seconds_retraining"] = 2460.0
        report["distance_to_retrained"] = _distance(sets)
        report["verdict"]["not_measured"] = report["verdict"]["not_measured"][:1]
    return report


def _by_model(table: dict[str, tuple], models: tuple) -> dict[str, dict[str, float]]:
    return {m: {name: row[i] for name, row in table.items()} for i, m in enumerate(models)}


def _results(family: str, scores: dict[str, tuple], models: tuple) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, model in enumerate(models):
        found[model] = {}
        for name, row in scores.items():
            n, value = SIZES[name], row[i]
            figures = {"accuracy": value, "f1_micro": value, "f1_macro": max(value - 0.013, 0)}
            if family == "token-classification":
                figures |= {"f1_entity": max(value - 0.061, 0)}
            figures |= {"loss": 0.05 + 2.4 * (1 - value)}
            if i < 2 and len(models) == 3 and name in DISTANCES:
                figures["js_to_retrained"] = DISTANCES[name][i]
            spread = 0.03 if n > 300 else 0.1
            found[model][name] = {metric: _share(v, n, spread) for metric, v in figures.items()}
        for attack, aucs in AUCS.items():
            found[model]["forget"][f"mia_{attack}_auc"] = _share(aucs[i], N, 0.09)
    return found


def _share(value: float, records: int, spread: float) -> dict[str, Any]:
    figure = _figure(value, records, spread)
    return figure | {"high": min(figure["high"], max(1.0, value))}


def _criteria(scores: dict[str, tuple]) -> list[dict]:
    top, kept = scores["holdout"][0], scores["retain"][0]
    forget = {"claim": "forgetting", "metric": "accuracy", "set": "forget"}
    attack = {"claim": "membership", "metric": "mia_loss_auc", "set": "forget"}
    keep = {"claim": "utility", "metric": "accuracy", "set": "retain"}
    return [
        {**forget, "at_least": 0.68, "at_most": 0.92, "source": f"holdout level {top:.3f} ± 0.12"},
        {**attack, "at_least": 0.45, "at_most": 0.55, "source": "guessing ± 0.05"},
        {**keep, "at_least": kept - 0.02, "source": "target model − 0.02"},
    ]


def _verdict() -> dict[str, Any]:
    claims = [
        _claim(
            "forgetting", "met", "The score is that of unseen records, neither above nor below."
        ),
        _claim("membership", "met", "The AUC of the loss attack is within 0.05 of guessing."),
        _claim("utility", "met", "Accuracy on what is to be kept fell by 0.003."),
    ]
    missing = ["robustness: whether further training brings the records back"]
    missing += ["no retrained model was given to compare with"]
    records = [{"id": f"mail-{i:04d}", "status": "met"} for i in range(N)]
    return {"status": "met", "claims": claims, "records": records, "not_measured": missing}


def _distance(sets: list[str]) -> dict[str, Any]:
    gaps = [{"forget": 0.2066, "retain": -0.0009, "holdout": 0.0018, "test": 0.0021}]
    gaps += [{"forget": 0.0208, "retain": -0.0036, "holdout": -0.0017, "test": -0.0014}]
    rows = zip(("target", "unlearned"), (0.791, 0.974), gaps, (0.224, 0.023), strict=True)
    return {
        model: {
            "tug_of_war": score,
            "f1_gap": {name: gap[name] for name in sets if name in gap},
            "margin_kl": {name: round(abs(gap[name]), 3) for name in sets if name in gap},
            "mia_auc_gap": auc,
        }
        for model, score, gap, auc in rows
    }


def _rounds(scores: dict[str, tuple]) -> list[dict]:
    (start, end, _) = scores["forget"]
    (unseen, last, _) = scores.get("holdout_class", scores["holdout"])
    rounds = []
    for i in range(8):
        left = (1 - i / 7) ** 1.5
        loss = {"retain": 0.031 + 0.01 * i, "forget": 2.1 * left + 0.4} if i else {}
        rounds.append(
            {
                "round": i,
                "steps": 12 * i,
                "forget_score": end + (start - end) * left,
                "holdout_score": last + (unseen - last) * left - 0.004 * (i % 3),
                "retain_score": 0.9921 - 0.0004 * i if i % 2 else None,
                "forget_loss": 0.62 - 0.58 * left,
                "holdout_loss": 0.66 - 0.02 * (i % 2),
                "mia_loss_auc": 0.541 + 0.2 * left,
                "loss": loss,
                "seconds": 23.0 if i else 0.0,
            }
        )
    return rounds


def _projection(
    labels: list[str], forget: int, models: tuple, forget_class: int | None = None
) -> dict[str, Any]:
    dice = random.Random(11)
    centres = [
        (dice.uniform(5, 9) * cos(k), dice.uniform(4, 7) * sin(k)) for k in range(len(labels))
    ]

    def point(k: int, spread: float, shift: float) -> list:
        x, y = centres[k]
        away = (dice.gauss((1 - shift) * x, spread), dice.gauss((1 - shift) * y, spread))
        return [*(float(f"{v:.3g}") for v in away), k]

    spreads = {"target": (0.7, 0.0), "unlearned": (1.7, 0.35), "retrained": (1.6, 0.3)}
    shown = {}
    for model in models:
        kept = [point(i % len(labels), 0.7, 0.0) for i in range(400)]
        own = [(i * 3 + i // 5) % len(labels) for i in range(forget)]
        gone = [point(k if forget_class is None else forget_class, *spreads[model]) for k in own]
        shown[model] = {"retain": kept, "forget": gone}
    for points in shown.values():
        points["explained"] = [0.413, 0.247]
    return {"models": shown, "labels": labels}


def _confusion(labels: list[str], models: tuple) -> dict[str, Any]:
    def rows(wrong: int) -> list[list]:
        names = labels[:12]
        right = [[a, a, 12 - wrong] for a in names if wrong < 12]
        missed = [[a, b, wrong] for a, b in pairwise(names) if wrong]
        return sorted([*right, *missed], key=lambda row: -row[2])

    return {
        model: rows(wrong)
        for model, wrong in zip(MODELS, (0, 3, 2), strict=True)
        if model in models
    }


def _record(dice: random.Random, i: int, models: tuple) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": f"mail-{i:04d}", "before": {"correct": dice.random() < 0.99}}
    entry["after"] = {"correct": dice.random() < 0.8}
    if "retrained" in models:
        entry["retrained"] = {"correct": dice.random() < 0.8}
    return entry
