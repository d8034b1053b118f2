"""The report of a classifier in everyday words, in the order of what weighs most.

What the stop rule trains for comes last: that the score on the records falls to that of unseen
ones is how a run ends, whether or not anything else went right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unlearner.report import names, words
from unlearner.report.measures import measure
from unlearner.report.writing import count, duration, show, show_interval, significant, visible

EXACT = ("retrain", "sisa")

ATTACKS = {
    "mia_loss_auc": "the model’s loss",
    "mia_entropy_auc": "how sure the model is",
    "mia_modified_entropy_auc": "how sure the model is of their own labels",
}

TREATED = 0.45  # an AUC below this is no longer guessing

BY_CONSTRUCTION = (
    "Training stops once this is down to the aim, so that it got there proves nothing by itself."
)


def score_metric(report: dict[str, Any]) -> str:
    """The one score to tell first: the one the run names, or what its labels are usually told by.

    Entities where words have tags, otherwise accuracy; only what was measured.
    """
    named = report.get("evaluation", {}).get("score")
    tags = report["model"]["family"] == "token-classification"
    wanted = [named, "f1_entity" if tags else None, "accuracy", "f1_micro", "f1_macro"]
    measured = {m for scores in report["results"]["unlearned"].values() for m in scores}
    return next((metric for metric in wanted if metric in measured), "accuracy")


def forget_metric(report: dict[str, Any]) -> str:
    """The score of the forget set, which of one class is its recall."""
    return "accuracy" if names.removes_class(report) else score_metric(report)


def unseen_set(report: dict[str, Any]) -> str:
    """The set that shows how records score which were never trained on."""
    return "holdout_class" if names.removes_class(report) else "holdout"


def is_exact(report: dict[str, Any]) -> bool:
    """Whether the method trains without the records instead of working on a model that had them."""
    return report.get("method", {}).get("name") in EXACT


def requested(report: dict[str, Any]) -> str:
    """What someone asked for."""
    request, tokens = report["request"], report["data"]["forget"].get("tokens")
    length = f" ({count(tokens, 'token')} of text)" if tokens else ""
    records = count(request["records"], "record")
    asked = (
        f"Request “{visible(request['id'])}”: that the classifier "
        f"“{visible(report['model']['name'])}” no longer "
    )
    if names.removes_class(report):
        name = visible(request["forget_class"])
        return f"{asked}recognises the class “{name}”, to which {records} belong{length}."
    subjects = request.get("subjects")
    about = f" about {count(subjects, 'subject')}" if subjects else ""
    return f"{asked}shows that it was trained on {records}{about}{length}."


def done(report: dict[str, Any]) -> str:
    """What was done about it."""
    name = report.get("method", {}).get("name")
    if name not in EXACT or report["command"] == "evaluate":
        return words.done(report)
    how = {
        "retrain": "A new model was trained without the records",
        "sisa": "The parts of the model that had seen a record were trained again without it",
    }
    return (
        f"{how[name]}{words.effort(report)}. The same tests were run on the model before and on "
        "the new one."
    )


def findings(report: dict[str, Any]) -> list[str]:
    """What the tests say, one sentence each: use first, the score that was aimed at last."""
    tested = "test" if "test" in report["results"]["unlearned"] else "holdout"
    return [
        *_score(report, score_metric(report), tested),
        *_score(report, score_metric(report), "retain"),
        *_distance(report),
        *_membership(report),
        *_time(report),
        *_forget(report),
        *words.by_record(report),
    ]


def _score(report: dict[str, Any], metric: str, set_name: str) -> Iterator[str]:
    after = words.value(report, "unlearned", set_name, metric)
    if after is None:
        return
    what = {
        "test": "On test records",
        "retain": "On records to be kept",
        "holdout": "No test set was given; on unseen records",
        "forget": "On the records to be forgotten",
    }[set_name]
    yield f"{what}, the model {_scores(metric, after)}{_compared(report, set_name, metric)}."


def _scores(metric: str, value: float) -> str:
    if metric == "accuracy":
        return f"labels {show(metric, value)} right"
    return f"reaches {measure(metric).label} {show(metric, value)}"


def _compared(report: dict[str, Any], set_name: str, metric: str) -> str:
    """The same figure before, and of the retrained model."""
    before = words.value(report, "target", set_name, metric)
    retrained = words.value(report, "retrained", set_name, metric)
    others = [f"before {show(metric, before)}"] if before is not None else []
    others += [f"retrained {show(metric, retrained)}"] if retrained is not None else []
    return f"; {', '.join(others)}" if others else ""


def _distance(report: dict[str, Any]) -> Iterator[str]:
    distances = report.get("distance_to_retrained")
    if not distances:
        if not is_exact(report):
            yield (
                "How close the model comes to one retrained without the records is not known: "
                "none was given."
            )
        return
    before, after = (distances.get(m, {}).get("tug_of_war") for m in ("target", "unlearned"))
    if after is not None:
        was = f"; before {significant(before)}" if before is not None else ""
        yield (
            "Closeness to the model retrained without the records: "
            f"{significant(after)} of 1 (tug-of-war score{was})."
        )
    yield from _divergence(report)


def _divergence(report: dict[str, Any]) -> Iterator[str]:
    after = words.value(report, "unlearned", "forget", "js_to_retrained")
    if after is None:
        return
    before = words.value(report, "target", "forget", "js_to_retrained")
    was = f"; before {significant(before)}" if before is not None else ""
    yield (
        f"Its answers on the records differ from the retrained model’s by {significant(after)} "
        f"(Jensen-Shannon; 0 is no difference){was}."
    )


def _membership(report: dict[str, Any]) -> Iterator[str]:
    values = {m: words.value(report, "unlearned", "forget", m) for m in ATTACKS}
    known = {metric: value for metric, value in values.items() if value is not None}
    if not known:
        return
    metric = next(iter(known))
    entry = report["results"]["unlearned"]["forget"][metric]
    interval = show_interval(metric, entry["low"], entry["high"])
    between = f"{interval}; " if interval else ""
    yield (
        f"Telling the records from unseen ones by {ATTACKS[metric]} succeeds with AUC "
        f"{show(metric, known[metric])} ({between}0.5 is guessing)"
        f"{_compared(report, 'forget', metric)}."
        f"{' Below 0.5 they stand out as treated.' if known[metric] < TREATED else ''}"
        f"{f' {BY_CONSTRUCTION}' if stopped_by(report, 'auc') else ''}"
    )
    worst = max(known, key=lambda m: abs(known[m] - 0.5))
    if abs(known[worst] - 0.5) > abs(known[metric] - 0.5) + 0.02:
        yield f"By {ATTACKS[worst]} it succeeds with AUC {show(worst, known[worst])}."


def _time(report: dict[str, Any]) -> Iterator[str]:
    spent = report["cost"].get("seconds_unlearning")
    if spent is None:
        return
    if is_exact(report):
        yield f"Retraining took {duration(spent)}."
        return
    whole = report["cost"].get("seconds_retraining")
    if whole is None:
        yield f"Unlearning took {duration(spent)}; how long retraining takes is not known."
        return
    yield f"Unlearning took {duration(spent)}, retraining {duration(whole)}{_times(spent, whole)}."


def _times(spent: float, whole: float) -> str:
    if not spent or not whole:
        return ""
    faster = whole >= spent
    factor = significant(whole / spent if faster else spent / whole, 2)
    return f": {factor} times as {'long' if faster else 'fast'}"


def _forget(report: dict[str, Any]) -> Iterator[str]:
    metric, unseen = forget_metric(report), unseen_set(report)
    after = words.value(report, "unlearned", "forget", metric)
    if after is None:
        return
    if names.removes_class(report):
        name = visible(report["request"]["forget_class"])
        text = f"Recall of the class “{name}” is {show(metric, after)} on the records"
    else:
        text = f"On the records to be forgotten, the model {_scores(metric, after)}"
    text += _compared(report, "forget", metric)
    level = words.value(report, "unlearned", unseen, metric)
    text += f"; on unseen records {show(metric, level)}." if level is not None else "."
    yield f"{text} {BY_CONSTRUCTION}" if stopped_by(report, "score") else text


def stopped_by(report: dict[str, Any], figure: str) -> bool:
    """Whether the run stopped by the forget set's "score", "loss" or membership "auc"."""
    rule = report.get("method", {}).get("stop", "never")
    if rule == "auto":
        rule = "score" if report["model"]["family"] == "token-classification" else "auc"
    if rule == "never" or len(report.get("rounds", [])) < 2:
        return False
    return figure == ("score" if names.removes_class(report) else rule)


def limits(report: dict[str, Any]) -> str:
    """What a verdict of this kind can and cannot mean."""
    name = report.get("method", {}).get("name")
    text = (
        "“Met” means suppressed on the tests run. It is evidence, not proof: it does not show "
        "that nothing of the records is left, or that no other test could find it."
    )
    if name in EXACT:
        seen = {
            "retrain": "they were trained without any of the records",
            "sisa": "whatever had been trained on a record was trained again without it",
        }
        return (
            f"{text} The weights are exact by construction: {seen[name]}. That holds for the "
            "records as they were given; copies elsewhere in the training data, and what the "
            "pretrained encoder had read before, are another matter."
        )
    if name:
        text += (
            " The method is approximate: it works on a model that was trained on the records, "
            "where retraining would leave them out."
        )
    if "retrained" not in report["results"]:
        text += (
            " There was no model retrained without the records to compare with, so records that "
            "the model has never seen are the yardstick where they were given."
        )
    return text
