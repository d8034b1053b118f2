"""What report.json says, looked up, and what its parts are called: sets, models, claims."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

from unlearner import registry
from unlearner.report.measures import measure
from unlearner.report.writing import visible
from unlearner.settings import further_kind

SCHEMA = "unlearner/report/1"

Report = Mapping[str, Any]  # report.json as it is read; docs/report.schema.json says what it holds

MODELS = ("target", "unlearned", "retrained")  # in the order of their columns

# Membership attacks, on a classifier and on a language model.
ATTACKS = {
    True: ("mia_loss_auc", "mia_entropy_auc", "mia_modified_entropy_auc"),
    False: ("mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc", "mia_min_k_plus_plus_auc"),
}


def is_classifier(report: Report) -> bool:
    """Whether the model gives labels and not text."""
    return report["model"]["family"] != "causal-lm"


def attacks_on(report: Report) -> tuple[str, ...]:
    """The membership attacks that are made on models of this kind, the first by loss."""
    return ATTACKS[is_classifier(report)]


def removes_class(report: Report) -> bool:
    """Whether a whole class is to be forgotten and not only some of its records."""
    return "forget_class" in report["request"]


def is_one_class(report: Report, set_name: str) -> bool:
    """Whether the set holds the records of one class only."""
    return removes_class(report) and set_name in ("forget", "holdout_class")


class MethodFacts(Protocol):
    """What the class of a method says of itself; see `methods.base.Method`."""

    label: str
    exact: tuple[str, str] | None
    skips_forgotten: bool


def method_facts(report: Report) -> MethodFacts | None:
    """The class of the run's method; None where none was run, or one that is not known here.

    Its module brings torch, which writing a page again could do without: some seconds, for what
    would else be lists of methods in this room.
    """
    name = report.get("method", {}).get("name")
    if name not in registry.names("methods"):
        return None
    module = registry.load("methods", name)
    classes = (one for one in vars(module).values() if isinstance(one, type))
    own = (one for one in classes if one.__module__ == module.__name__ and hasattr(one, "label"))
    return cast("MethodFacts", next(own))


def exactness(report: Report) -> tuple[str, str] | None:
    """What was done, and why nothing of the records can be left in a classifier's weights.

    None for methods that work on a model after it had the records.
    """
    known = method_facts(report) if is_classifier(report) else None
    return None if known is None else known.exact


def models_of(report: Report) -> list[str]:
    """The measured models, in the order of their columns."""
    return [model for model in MODELS if model in report["results"]]


def figure_of(report: Report, model: str, set_name: str, metric: str) -> Report:
    """One figure of the results with its interval; empty where it was not measured."""
    return report["results"].get(model, {}).get(set_name, {}).get(metric, {})


def value_of(report: Report, model: str, set_name: str, metric: str) -> float | None:
    """One value of the results; None where it was not measured or is not finite."""
    entry = figure_of(report, model, set_name, metric)
    return entry["value"] if entry else None


def values_of(report: Report, set_name: str, metric: str) -> list[float | None]:
    """The value before, after and of the retrained model; None where one is not known."""
    return [value_of(report, model, set_name, metric) for model in MODELS]


def limit_of(report: Report, metric: str) -> float | None:
    """The highest value of the forget set that the criteria allow; None where they set none."""
    criterion = limiting(report, metric)
    return criterion["at_most"] if criterion else None


def limiting(report: Report, metric: str) -> Report | None:
    """The first criterion that bounds the metric of the forget set from above."""
    wanted = (metric, "forget")
    return next(
        (c for c in report["criteria"] if (c["metric"], c["set"]) == wanted and "at_most" in c),
        None,
    )


def perplexity_limit(report: Report) -> float | None:
    """Perplexity of retained text at most, times that before; None where none is set."""
    for one in report["criteria"]:
        before = value_of(report, "target", one["set"], "perplexity")
        if one["metric"] == "perplexity" and before and one["set"] != "forget":
            return one["at_most"] / before
    return None


def values_by_round(report: Report, key: str) -> list[float | None]:
    """A quantity after every round; None where it was not measured."""
    return [entry.get(key) for entry in report.get("rounds", [])]


# Classifiers


def score_metric(report: Report) -> str:
    """The score to lead with: the one that the run names, or what is usual for its labels.

    Entities where words have tags, otherwise accuracy; only what was measured.
    """
    named = report.get("evaluation", {}).get("score")
    tags = report["model"]["family"] == "token-classification"
    wanted = [named, "f1_entity" if tags else None, "accuracy", "f1_micro", "f1_macro"]
    measured = {m for scores in report["results"]["unlearned"].values() for m in scores}
    return next((metric for metric in wanted if metric in measured), "accuracy")


def forget_metric(report: Report) -> str:
    """The score of the forget set, which of one class is its recall."""
    return "accuracy" if removes_class(report) else score_metric(report)


def unseen_set(report: Report) -> str:
    """The set that shows how records score which were never trained on."""
    return "holdout_class" if removes_class(report) else "holdout"


def utility_set(report: Report) -> str:
    """The set that shows whether the model still works: unseen records where there is no test."""
    return "test" if "test" in report["results"]["unlearned"] else "holdout"


def stopped_by(report: Report, figure: str) -> bool:
    """Whether the run stopped by the forget set's "score", "loss" or membership "auc"."""
    rule = report.get("method", {}).get("stop", "never")
    if rule == "auto":
        rule = "score" if report["model"]["family"] == "token-classification" else "auc"
    if rule == "never" or len(report.get("rounds", [])) < 2:
        return False
    return figure == ("score" if removes_class(report) else rule)


def to_retrained(report: Report, model: str) -> Report:
    """A model's distances to the retrained one; empty where none is known."""
    return report.get("distance_to_retrained", {}).get(model, {})


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
    "unseen forms": (
        "Other wordings",
        "asked in other words than the records’ own, the model knows no more of them.",
    ),
}

RECALL_OF_CLASS = "Recall of the class"

STATUS_WORDS = {
    "met": "Met",
    "not met": "Not met",
    "not measured": "Not measured",
    "not informative": "Not informative",
}


# What a language model's further sets are called, before the name that the user gave.
FURTHER = {"neutral": "Neutral text", "dialogue": "Dialogues"}


def further_sets(report: Report) -> dict[str, str]:
    """What the sets are called that a language model was measured on beside those of the request.

    Any report has its own, by role.
    """
    roles = dict.fromkeys(role for model in report["results"].values() for role in model)
    kinds = ((role, *role.split(":", 1)) for role in roles if further_kind(role))
    return {role: f"{FURTHER[kind]}: {name}" for role, kind, name in kinds}


def set_names(report: Report) -> dict[str, str]:
    """What each set is called, in the order in which sets are shown."""
    if not is_classifier(report):
        return SETS | further_sets(report)
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
    named = {**SETS, **set_names(report)}[set_name]
    named = named[0].lower() + named[1:]
    if label == RECALL_OF_CLASS:
        return label if set_name == "forget" else f"{label} on unseen records"
    return f"{label} of {named}"
