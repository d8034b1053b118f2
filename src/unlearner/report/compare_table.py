"""The table of a comparison: a row for the target model, the retrained one, and each method."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unlearner.comparison import COLUMNS
from unlearner.report.measures import measure
from unlearner.report.names import SETS
from unlearner.report.writing import duration, show, show_interval, size, visible

# Of each column in few words: what of which set.
SHORT = {"forget": "forget", "retain": "kept", "holdout": "unseen"}
HEADINGS = (
    "model",
    "met",
    *(f"{measure(metric).label}, {SHORT[role]}" for role, metric in COLUMNS),
    "time",
    "rounds",
    "memory",
)
# In a terminal: without intervals, which the page has.
SHOWN = (
    ("forget", "ma"),
    ("forget", "el_10"),
    ("forget", "mia_loss_auc"),
    ("retain", "perplexity"),
)
NAMES = {"target": "target model", "retrained": "retrained model"}
NOTHING = "–"


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The cells below `HEADINGS`, as text."""
    rows = [
        [NAMES[name], NOTHING, *_figures(figures), NOTHING, NOTHING, NOTHING]
        for name, figures in comparison["results"].items()
    ]
    total = len(comparison["seeds"])
    for name, entry in comparison["methods"].items():
        cost = entry["cost"]
        rows.append(
            [
                name + (" *" if entry["on_front"] else ""),
                f"{entry['met']} of {total}",
                *_figures(entry["summary"]),
                duration(cost["seconds_unlearning"]),
                f"{cost['rounds']:.3g}",
                size(cost["peak_memory_bytes"]),
            ]
        )
    return rows


def short_headings() -> list[str]:
    """The headings of `short_rows`."""
    names = (f"{measure(metric).label}, {SHORT[role]}" for role, metric in SHOWN)
    return ["model", "met", *names, "time"]


def short_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The cells for a terminal: the figures that decide, without intervals."""
    rows = [
        [NAMES[name], NOTHING, *_means(figures), NOTHING]
        for name, figures in comparison["results"].items()
    ]
    total = len(comparison["seeds"])
    for name, entry in comparison["methods"].items():
        rows.append(
            [
                name + (" *" if entry["on_front"] else ""),
                f"{entry['met']} of {total}",
                *_means(entry["summary"]),
                duration(entry["cost"]["seconds_unlearning"]),
            ]
        )
    return rows


def _means(figures: Mapping[str, Any]) -> Iterator[str]:
    for role, metric in SHOWN:
        value = figures.get(role, {}).get(metric)
        yield NOTHING if value is None else show(metric, value["value"])


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    for role, metric in COLUMNS:
        value = figures.get(role, {}).get(metric)
        if value is None:
            yield NOTHING
            continue
        interval = show_interval(metric, value["low"], value["high"])
        yield show(metric, value["value"]) + (f" ({interval})" if interval else "")


def markdown(comparison: Mapping[str, Any], lines: Sequence[str]) -> str:
    """`compare.md`: the table, and the same words as on the page."""
    cells = [list(HEADINGS), ["---"] * len(HEADINGS), *table_rows(comparison)]
    table = "\n".join("| " + " | ".join(_inert(cell) for cell in row) + " |" for row in cells)
    paragraphs = "\n\n".join(_inert(line) for line in lines)
    name = _inert(visible(comparison["model"]["name"]))
    return f"# Comparison of methods: {name}\n\n{paragraphs}\n\n{table}\n"


def _inert(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def as_csv(comparison: Mapping[str, Any]) -> str:
    """`compare.csv`: a line for each model, set and metric, of every seed and over all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("model", "seed", "set", "metric", "value", "low", "high", "records", "seeds"))
    for name, figures in comparison["results"].items():
        _write(writer, name, "", figures)
    for name, entry in comparison["methods"].items():
        _write(writer, name, "all", entry["summary"])
        for run in entry["seeds"]:
            _write(writer, name, str(run["seed"]), run["results"])
    return buffer.getvalue()


def _write(writer: Any, name: str, seed: str, figures: Mapping[str, Any]) -> None:
    for role in (*SETS, *(role for role in figures if role not in SETS)):
        for metric, value in figures.get(role, {}).items():
            row = (
                value["value"],
                value["low"],
                value["high"],
                value["records"],
                value.get("seeds", ""),
            )
            writer.writerow((name, seed, role, metric, *row))
