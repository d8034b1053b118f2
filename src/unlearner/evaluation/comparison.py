"""What a comparison of methods found: figures over seeds, and who is better than whom.

Pure functions of the runs' reports; nothing here runs a model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def over_seeds(reports: Sequence[Report]) -> dict[str, dict[str, dict[str, float]]]:
    """Each figure of the unlearned models: the mean over seeds, and from which to which they range.

    Of one seed the interval is its own, over records. A figure that one of them lacks is left out.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    results = [report["results"]["unlearned"] for report in reports]
    for role, figures in results[0].items():
        found[role] = {}
        for name, first in figures.items():
            values = [some.get(role, {}).get(name, {}).get("value") for some in results]
            if any(value is None for value in values):
                continue
            means = {"value": statistics.fmean(values), "low": min(values), "high": max(values)}
            if len(values) == 1:
                means |= {"low": first["low"], "high": first["high"]}
            found[role][name] = means | {"records": first["records"], "seeds": len(values)}
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


def is_met(reports: Iterable[Report]) -> int:
    """For how many seeds the verdict is met."""
    return sum(report["verdict"]["status"] == "met" for report in reports)


def place(method: Report, kept: str, level: float, target: float) -> tuple[float, float]:
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
        and not any(
            other[0] <= mine[0] and other[1] <= mine[1] and other != mine
            for other in places.values()
        )
    }
