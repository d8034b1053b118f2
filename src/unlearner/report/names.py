"""What the parts of a report are called: sets, models, methods, claims, statuses."""

from unlearner.report.facts import Report, is_classifier, is_one_class, method_facts, removes_class
from unlearner.report.measures import measure
from unlearner.report.writing import visible

SETS = {
    "forget": "Records to be forgotten",
    "retain": "Text to be kept",
    "analogous": "Similar text, kept",
    "holdout": "Text never seen",
    "test": "Test text, never seen",
}

CLASSIFIER_SETS = {
    "test": "Test records",
    "retain": "Records to be kept",
    "forget": "Records to be forgotten",
    "holdout": "Unseen records (holdout)",
}

CLASS_REMOVAL_SETS = {
    "test": "Test records, other classes",
    "retain": "Kept records, other classes",
    "forget": "The class to be forgotten",
    "holdout_class": "Unseen records of the class",
    "holdout": "Unseen records, other classes",
}

CLAIMS = {  # a title, and what is claimed
    "verbatim": (
        "Word-for-word recall",
        "asked to continue them, the model does no better on the records than the limit allows.",
    ),
    "forgetting": (
        "Labels of the records",
        "asked for the labels of the records, the model does no better than the limit allows.",
    ),
    "membership": (
        "Traces of membership",
        "the records can no longer be told from text that the model has never seen.",
    ),
    "utility": (
        "Quality on everything else",
        "the model works about as well as before on text that is not to be forgotten.",
    ),
    "robustness": (
        "Resistance to attacks",
        "attempts to bring the records back do not succeed.",
    ),
}

RECALL_OF_CLASS = "Recall of the class"

STATUS_WORDS = {
    "met": "Met",
    "not met": "Not met",
    "not measured": "Not measured",
    "not informative": "Not informative",
}


def set_names(report: Report) -> dict[str, str]:
    """What each set is called, in the order in which sets are shown."""
    if not is_classifier(report):
        return SETS
    return CLASS_REMOVAL_SETS if removes_class(report) else CLASSIFIER_SETS


def metric_label(report: Report, metric: str, set_name: str) -> str:
    """The metric's name on this set: accuracy on records of one class is the recall of it."""
    if metric == "accuracy" and is_one_class(report, set_name):
        return RECALL_OF_CLASS
    return measure(metric).label


def claim(report: Report, name: str) -> tuple[str, str]:
    """Title of a claim, and what is claimed."""
    if name == "forgetting" and removes_class(report):
        return RECALL_OF_CLASS, "the model names the class no more often than the limit allows."
    return CLAIMS[name]


def model_labels(report: Report) -> dict[str, str]:
    """What each measured model is called on the page."""
    after = "after" if "target" in report["results"] else "tested model"
    return {"target": "before", "unlearned": after, "retrained": "retrained"}


def method_name(report: Report) -> str:
    """The method as people write it, or as the run names it; empty where none was run."""
    known = method_facts(report)
    if known is not None and known.label:
        return known.label
    return visible(report.get("method", {}).get("name", ""))


def criterion_words(report: Report, criterion: Report) -> str:
    """What is required, such as `EL₁₀ of records to be forgotten`."""
    metric, set_name = criterion["metric"], criterion["set"]
    label = metric_label(report, metric, set_name)
    named = {**SETS, **set_names(report)}[set_name].lower()
    if label == RECALL_OF_CLASS:
        return label if set_name == "forget" else f"{label} on unseen records"
    return f"{label} of {named}"
