"""What a comparison of methods found: figures over seeds, and who is better than whom.

Functions of the runs' reports alone; nothing here runs a model.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unlearner.evaluation.retrained_gap import tug_of_war
from unlearner.output import Json

SCHEMA = "unlearner/compare/1"

Report = Mapping[str, Any]  # as `report.json` holds it, or an entry of a comparison

# The figures of the table: set, metric, and whether less is better, where one can say so.
COLUMNS = (
    ("forget", "ma"),
    ("forget", "el_10"),
    ("forget", "es"),
    ("forget", "mia_loss_auc"),
    ("retain", "perplexity"),
    ("retain", "kl_to_target"),
    ("retain", "degenerate"),
    ("holdout", "perplexity"),
)


def label_columns(comparison: Report) -> tuple[tuple[str, str], ...]:
    """Likewise of classifiers, the test set's where there is one."""
    picture = comparison["picture"]
    score, kept = picture["score"], picture["kept_score"]
    test = (("test", kept),) if "test" in comparison["results"]["target"] else ()
    return (
        ("forget", score),
        ("forget", "mia_loss_auc"),
        ("holdout", score),
        *test,
        ("retain", kept),
    )


def over_seeds(reports: Sequence[Report]) -> dict[str, dict[str, Json]]:
    """Each figure of the unlearned models: the mean over seeds, and from which to which they range.

    Of one seed the interval is its own, over records. A figure that one of them lacks is left out.
    """
    return figures_over_seeds([report["results"]["unlearned"] for report in reports])


def figures_over_seeds(results: Sequence[Report]) -> dict[str, dict[str, dict[str, Any]]]:
    """The same of figures in two levels, such as sets and metrics, or tasks and metrics."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for role, figures in results[0].items():
        found[role] = {}
        for name, first in figures.items():
            values = [some.get(role, {}).get(name, {}).get("value") for some in results]
            if any(value is None for value in values):
                continue
            means = {"value": statistics.fmean(values), "low": min(values), "high": max(values)}
            if len(values) == 1:
                means |= {"low": first["low"], "high": first["high"]}
            same = {key: first[key] for key in ("records",) if key in first}
            found[role][name] = means | same | {"seeds": len(values)}
    return found


def ratios_to_target(reports: Sequence[Report]) -> dict[str, float]:
    """Perplexity of retained and unseen text as a multiple of the target's, the mean over seeds.

    Each run's own target: some methods set unseen records aside, which none of its figures has.
    """
    found = {}
    for role in ("retain", "holdout"):
        after, before = (
            [_value(report["results"].get(model, {}), role, "perplexity") for report in reports]
            for model in ("unlearned", "target")
        )
        known = [
            own / target
            for own, target in zip(after, before, strict=True)
            if own is not None and target
        ]
        if known and len(known) == len(reports):
            found[role] = statistics.fmean(known)
    return found


def cost_over_seeds(reports: Sequence[Report]) -> dict[str, float]:
    """The mean time, steps and rounds of the runs, and the most memory of any."""
    costs = [report["cost"] for report in reports]
    means = ("seconds_unlearning", "steps", "tokens")
    return {
        **{name: statistics.fmean(cost[name] for cost in costs) for name in means},
        "rounds": statistics.fmean(max(0, len(report["rounds"]) - 1) for report in reports),
        "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs),
    }


def last_relearnt(found: Sequence[Report]) -> Json | None:
    """What is known of the forget set after the last step of relearning: "steps" and "figures".

    The figures are means over runs, by metric; None where it was not measured in all of them.
    """
    if not found or any("figures" not in one for one in found):
        return None
    figures = [one["figures"] for one in found]
    means = {name: statistics.fmean(some[name][-1] for some in figures) for name in figures[0]}
    return {"steps": found[0]["steps"][-1], "figures": means}


def mean_mark(aucs: Sequence[float | None]) -> dict[str, float] | None:
    """The mean over seeds of a mark classifier's AUC, and from which to which it ranges.

    None where one of them is not known.
    """
    known = [auc for auc in aucs if auc is not None]
    if not known or len(known) < len(aucs):
        return None
    return {"value": statistics.fmean(known), "low": min(known), "high": max(known)}


def is_met(reports: Iterable[Report]) -> int:
    """For how many seeds the verdict is met."""
    return sum(report["verdict"]["status"] == "met" for report in reports)


def text_picture(comparison: Report) -> Json:
    """What the places of language models are seen against: the level, and the target's damage."""
    limits = {(one["metric"], one["set"]): one["at_most"] for one in comparison["criteria"]}
    kept = next(role for name, role in limits if name == "perplexity")
    return {
        "set": kept,
        "level": limits["ma", "forget"],
        "target": comparison["results"]["target"][kept]["perplexity"]["value"],
        "floor": limits["perplexity", kept],
    }


def label_picture(comparison: Report) -> Json:
    """What the places of classifiers are seen against.

    The level is the score of the retrained model on the forget set, or without one the target's on
    unseen records; of a class to be removed chance, below which less is no better.
    """
    results, criteria = comparison["results"], comparison["criteria"]
    one_class = all(one["claim"] != "membership" for one in criteria)
    score = comparison["evaluation"]["score"]
    floor = next(c for c in criteria if c["claim"] == "utility" and c["set"] == "retain")
    level = _value(results.get("retrained", {}), "forget", score)
    if level is None:
        level = _value(results["target"], "holdout", score)
    if one_class:
        level = next(c["at_most"] for c in criteria if c["set"] == "forget")
    return {
        "set": "retain",
        "score": score,
        "kept_score": floor["metric"],
        "level": level,
        "one_class": one_class,
        "target": _value(results["target"], "retain", floor["metric"]),
        "floor": floor["at_least"],
    }


def label_place(method: Report, picture: Report) -> tuple[float, float]:
    """Where a method stands among classifiers; less is better for both.

    Returns:
        How far the score of the forget set is from the level on either side, of a class to be
        removed above it; and what the score of retained records has lost. Both are means over the
        seeds, so that a seed that went too far does not make up for one that remembers.
    """
    distances, losses = [], []
    for run in method["seeds"]:
        score = _value(run["results"], "forget", picture["score"])
        kept = _value(run["results"], "retain", picture["kept_score"])
        # Sentences without any entity, neither tagged nor found, have none wrong.
        above = (1.0 if score is None else score) - picture["level"]
        distances.append(max(above, 0.0) if picture["one_class"] else abs(above))
        losses.append(math.inf if kept is None else max(picture["target"] - kept, 0.0))
    return statistics.fmean(distances), statistics.fmean(losses)


def retrained_distance(summary: Report, retrained: Report) -> float | None:
    """The tug-of-war score of a method's means; None where it cannot be told."""
    score = "f1_macro" if "f1_macro" in retrained["retain"] else "f1_entity"
    unseen = "test" if "test" in retrained else "holdout"
    pairs = [
        (_value(summary, role, score), _value(retrained, role, score))
        for role in ("forget", "retain", unseen)
    ]
    gaps = [own - other for own, other in pairs if own is not None and other is not None]
    return tug_of_war(*gaps) if len(gaps) == len(pairs) else None


def _value(results: Report, role: str, metric: str) -> float | None:
    return results.get(role, {}).get(metric, {}).get("value")


def place(method: Report, picture: Report) -> tuple[float, float]:
    """Where a method stands: what it left above the level, and the damage; less is better for both.

    Both are means over the seeds, of figures that are cut off where less would not be better: a
    seed that went too far does not make up for one that remembers, and retained text known better
    than the target knows it is no less damage.

    Args:
        method: Its entry of the comparison.
        picture: The set whose perplexity is looked at, the level of unseen text in MA, below which
            less is not better, and the target model's perplexity of the set.

    Returns:
        MA of the forget set, the level at least, and the perplexity as a multiple of the target's,
        infinite where it was too large for a number.
    """
    kept, level, target = (picture[name] for name in ("set", "level", "target"))
    runs = [run["results"] for run in method["seeds"]]
    remembered = statistics.fmean(max(run["forget"]["ma"]["value"], level) for run in runs)
    perplexities = (run[kept].get("perplexity", {}).get("value") for run in runs)
    ratios = (math.inf if some is None else max(some / target, 1.0) for some in perplexities)
    return remembered, statistics.fmean(ratios)


def membership_left(method: Report, criteria: Sequence[Report]) -> float:
    """How far the AUC of membership by loss is outside of the criterion's range, on either side.

    The mean over the seeds; 0 where there is no such criterion.
    """
    wanted = [c for c in criteria if (c["claim"], c["metric"]) == ("membership", "mia_loss_auc")]
    if not wanted:
        return 0.0
    low, high = wanted[0]["at_least"], wanted[0]["at_most"]
    aucs = (_value(run["results"], "forget", "mia_loss_auc") for run in method["seeds"])
    return statistics.fmean(
        math.inf if auc is None else max(low - auc, auc - high, 0.0) for auc in aucs
    )


def front(places: Mapping[str, tuple[float, ...]]) -> set[str]:
    """The names that no other is at least as good as in all numbers, and better in one.

    One whose damage is infinite has no model to offer, and is not among them.
    """
    return {
        name
        for name, mine in places.items()
        if math.isfinite(mine[1])
        and not any(
            other != mine and all(theirs <= own for theirs, own in zip(other, mine, strict=True))
            for other in places.values()
        )
    }


def mark_front(comparison: Json) -> None:
    """Note of each method whether another is at least as good in all that counts.

    That are both numbers of the picture, and what membership by loss still finds. One of which a
    seed gave no model is never on the front: its mean leaves out the worst.
    """
    texts = comparison["model"]["family"] == "causal-lm"
    picture = text_picture(comparison) if texts else label_picture(comparison)
    comparison["picture"] = picture
    where = place if texts else label_place
    places = {
        name: (*where(entry, picture), membership_left(entry, comparison["criteria"]))
        for name, entry in comparison["methods"].items()
        if not entry["diverged"]
    }
    best = front(places)
    for name, entry in comparison["methods"].items():
        entry["on_front"] = name in best
