"""What a comparison of methods found: figures over seeds, and who is better than whom.

Pure functions of the runs' reports; nothing here asks a model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCHEMA = "unlearner/compare/1"

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


def over_seeds(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Each figure of the unlearned models: the mean over seeds, and from which to which they range.

    Of one seed the interval is its own, over records. A figure that one of them lacks is left out.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    results = [report["results"]["unlearned"] for report in reports]
    for role, figures in results[0].items():
        found[role] = {}
        for name, first in figures.items():
            values = [some.get(role, {}).get(name, {}).get("value") for some in results]
            if any(value is None for value in values):
                continue
            low, high = (
                (first["low"], first["high"]) if len(values) == 1 else (min(values), max(values))
            )
            found[role][name] = {
                "value": statistics.fmean(values),
                "low": low,
                "high": high,
                "records": first["records"],
                "seeds": len(values),
            }
    return found


def cost_over_seeds(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean time, steps and rounds of the runs, and the most memory of any."""
    costs = [report["cost"] for report in reports]
    return {
        "seconds_unlearning": statistics.fmean(cost["seconds_unlearning"] for cost in costs),
        "steps": statistics.fmean(cost["steps"] for cost in costs),
        "tokens": statistics.fmean(cost["tokens"] for cost in costs),
        "rounds": statistics.fmean(max(0, len(report["rounds"]) - 1) for report in reports),
        "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs),
    }


def is_met(reports: Iterable[Mapping[str, Any]]) -> int:
    """For how many seeds the verdict is met."""
    return sum(report["verdict"]["status"] == "met" for report in reports)


def place(method: Mapping[str, Any], kept: str, level: float, target: float) -> tuple[float, float]:
    """Where a method stands: what it left above the level, and the damage; less is better for both.

    Both are means over the seeds, of figures that are cut off where less would not be better: a
    seed that went too far does not make up for one that remembers, and kept text known better than
    the target knows it is no less damage.

    Args:
        method: Its entry of the comparison.
        kept: The set whose perplexity is looked at.
        level: MA of unseen text: below it, less is not better.
        target: The target model's perplexity of the kept set.

    Returns:
        MA of the forget set, the level at least, and the perplexity as a multiple of the target's,
        infinite where it was too large for a number.
    """
    runs = [run["results"] for run in method["seeds"]]
    remembered = statistics.fmean(max(run["forget"]["ma"]["value"], level) for run in runs)
    perplexities = (run[kept].get("perplexity", {}).get("value") for run in runs)
    ratios = (math.inf if some is None else max(some / target, 1.0) for some in perplexities)
    return remembered, statistics.fmean(ratios)


def front(places: Mapping[str, tuple[float, float]]) -> set[str]:
    """The names that no other is at least as good as in both numbers, and better in one.

    One whose damage is infinite has no model to offer, and is not among them.
    """
    return {
        name
        for name, mine in places.items()
        if math.isfinite(mine[1])
        and not any(_dominates(other, mine) for key, other in places.items() if key != name)
    }


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other
