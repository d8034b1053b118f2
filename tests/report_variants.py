"""Reports that lack parts, hold hostile names or are of other kinds, and their pages."""

import copy
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

from page_reader import Page
from report_classifier_example import (
    class_removal,
    evaluated_classifier,
    exact,
    many_classes,
    sequence,
    tokens,
)
from report_example import demonstration, evaluated, example, failed
from unlearner.report.page import render

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/report.schema.json").read_text("utf-8"))

HOSTILE = (
    "<script>alert(1)</script>",
    "| x | y |",
    "`code` **bold** [link](https://example.org)",
    '"><img src=x onerror=alert(1)>',
    "$x_1$ {{ 7 * 7 }} {% raw %}",
    "line\nbreak\u202eturned\x00null",
    "&lt;b&gt; https://example.org www.example.org",
    "# heading",
    "- item",
    "1. item",
    "\ud800 lone surrogate \uffff",
)


def sparse() -> dict:
    """A forget run with every part left out that may be left out."""
    report = copy.deepcopy(example(3))
    del report["retrieval"]
    for model in report["results"]:
        report["results"][model] = {
            "forget": {"el_10": report["results"][model]["forget"]["el_10"]}
        }
    report["data"] = {"forget": {"records": 3, "digest": "hmac-sha256:00"}}
    del report["request"]["subjects"], report["model"]["hub_id"], report["model"]["parameters"]
    del report["verdict"]["notes"], report["verdict"]["not_measured"]
    report["rounds"] = [{"round": 0, "active": 3, "loss": {}, "seconds": 0.0}]
    report["cost"] = {"seconds": 1.0, "peak_memory_bytes": None}
    report["environment"]["seed"] = None
    return report


def classifier() -> dict:
    """A classifier of which hardly anything is known."""
    report = sparse()
    report["model"]["family"] = "sequence-classification"
    report["method"] = {"name": "deepcut"}
    for model, accuracy in (("target", 1.0), ("unlearned", 0.25)):
        figure = {"value": accuracy, "low": None, "high": None, "records": 3}
        report["results"][model]["forget"] = {"accuracy": figure}
    report["per_record"] = [{**entry, "before": {}, "after": {}} for entry in report["per_record"]]
    return report


def three_models() -> dict:
    report = example(3)
    report["results"]["retrained"] = copy.deepcopy(report["results"]["unlearned"])
    return report


def hostile_labels() -> dict:
    """Labels come from the user's file: every one of them is hostile."""
    report = class_removal()
    labels = [*HOSTILE, "x" * 300, "שלום עולם", "$\\frac{$", "_hidden"]
    report["request"]["forget_class"] = HOSTILE[5]
    report["projection"]["labels"] = labels
    for points in report["projection"]["models"].values():
        for which in ("retain", "forget"):
            points[which] = [[x, y, i % len(labels)] for i, (x, y, _) in enumerate(points[which])]
    for model in report["confusion"]:
        report["confusion"][model] = [[own, said, 1] for own, said in pairwise(labels)]
    for entry, status, text in zip(
        report["per_record"], report["verdict"]["records"], labels, strict=False
    ):
        entry["id"] = status["id"] = text
    report["rounds"][1]["loss"] = dict.fromkeys(labels[-4:], 1.0)
    return report


def hostile() -> dict:
    """Every text that a user can choose is hostile."""
    report = copy.deepcopy(failed(len(HOSTILE)))
    report["request"]["id"] = report["model"]["name"] = report["model"]["hub_id"] = HOSTILE[0]
    report["method"] = {"name": HOSTILE[1], **dict.fromkeys(HOSTILE, HOSTILE[2])}
    for entry, status, text in zip(
        report["per_record"], report["verdict"]["records"], HOSTILE, strict=True
    ):
        entry["id"] = status["id"] = text
        status["status"] = "met"
    report["verdict"]["records"][0]["status"] = "not met"
    report["verdict"]["claims"][0]["reason"] = HOSTILE[3]
    report["verdict"]["notes"] = report["verdict"]["not_measured"] = list(HOSTILE)
    report["criteria"][0]["source"] = HOSTILE[1]
    report["rounds"][1]["loss"] = {HOSTILE[4]: 1.0, HOSTILE[0]: 2.0}
    report["examples"] = [
        {**dict.fromkeys(("id", "prompt", "truth", "before", "after"), t), "role": "kept"}
        for t in HOSTILE
    ]
    return report


def searched(num_trials: int = 4) -> dict:
    """A run whose settings were searched for; the third trial was taken, the last one failed."""
    report = example(3)
    trials = [
        {
            "number": i,
            "settings": {"learning_rate": 1.23e-5 * (i + 1), "retain_weight": 1.5},
            "status": "reached" if i == 2 else "not reached",
            "score": 1.04 if i == 2 else 100.5,
            "ma": 0.281,
            "el_10": None,
            "es": 0.01,
            "kept_ratio": 1.04,
            "rounds": 7,
            "seconds": 42.2,
        }
        for i in range(num_trials)
    ]
    trials[-1] |= {"status": "failed", "score": 1000.0, "ma": None, "es": None, "kept_ratio": None}
    report["search"] = {"reached": True, "chosen": 2, "trials": trials}
    return report


def with_strength(at_the_floor: float = 0.75, *, suppressed: bool = False) -> dict:
    """A run that `unlearner strength` has looked at in five places."""
    report = example(3)
    points = [
        {
            "share": i / 4,
            "ma": 1 - 0.2 * i,
            "el_10": 0.5 - 0.1 * i,
            "es": None,
            "kept_ratio": 1 + 0.005 * i,
            "suppressed": suppressed and i == 4,
        }
        for i in range(5)
    ]
    best = next(point for point in points if point["share"] == at_the_floor)
    report["strength"] = {"points": points, "at_the_floor": best}
    return report


REPORTS = {
    "met": example,
    "failed": failed,
    "evaluated": evaluated,
    "demonstration": demonstration,
    "sparse": sparse,
    "hostile": hostile,
    "classifier": classifier,
    "sequence": sequence,
    "sequence alone": lambda: sequence(retrained=False, test=False),
    "tagger": tokens,
    "class removal": class_removal,
    "class removal alone": lambda: class_removal(retrained=False, test=False),
    "retrained anew": exact,
    "classifier evaluated": evaluated_classifier,
    "many classes": many_classes,
    "hostile labels": hostile_labels,
    "three models": three_models,
    "one record": lambda: example(1),
    "searched": searched,
    "with strength": with_strength,
    "many records": lambda: example(500, 3),
}


@cache
def rendered(name: str) -> str:
    """The page of one of the reports."""
    return render(REPORTS[name]())


@cache
def shown(name: str) -> str:
    """The text of that page."""
    return Page(rendered(name)).shown.replace("\xa0", " ")
