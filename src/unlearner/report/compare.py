"""A comparison's files: `compare.json`, `.html`, `.md` and `.csv`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlearner.report import compare_plots
from unlearner.report.compare_table import HEADINGS, NOTHING, as_csv, markdown, table_rows
from unlearner.report.page import FOLDER
from unlearner.report.writing import duration, show, significant, visible, when


def write_comparison(comparison: Mapping[str, Any], folder: Path) -> None:
    """Write all four into an existing folder. The same comparison gives the same bytes.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    lines = in_words(comparison)
    files = {
        "compare.json": json.dumps(comparison, indent=1, allow_nan=False) + "\n",
        "compare.html": render(comparison, lines),
        "compare.md": markdown(comparison, [*lines, *not_run(comparison)]),
        "compare.csv": as_csv(comparison),
    }
    for name, content in files.items():
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)


def render(comparison: Mapping[str, Any], lines: list[str]) -> str:
    """The page as HTML, which needs nothing but itself; every text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(
        (FOLDER / name).read_text(encoding="utf-8")
        for name in ("style.css", "classifier.css", "compare.css")
    )
    page = environment.get_template("compare.html.j2")
    return (
        page.render(
            style=Markup(style),
            model=visible(comparison["model"]["name"]),
            created=when(comparison["created"]),
            request_id=visible(comparison["request"]["id"]),
            lines=lines,
            headings=HEADINGS,
            rows=table_rows(comparison),
            pareto=compare_plots.pareto(comparison),
            near=compare_plots.pareto_near(comparison),
            strengths=compare_plots.strengths(comparison),
            at_the_floor=_at_the_floor(comparison),
            settings=_settings(comparison),
            trials=_trials(comparison),
            not_run=not_run(comparison),
        )
        + "\n"
    )


def not_run(comparison: Mapping[str, Any]) -> list[str]:
    """A line for each method, and each seed of one, of which there is no model."""
    lines = [f"{name} was not run: {visible(why)}" for name, why in comparison["not_run"].items()]
    for name, entry in comparison["methods"].items():
        lines += [
            f"{name} gave no model with seed {one['seed']}, and the figures are those of the "
            f"others: {visible(one['reason'])}"
            for one in entry["diverged"]
        ]
    return lines


def in_words(comparison: Mapping[str, Any]) -> list[str]:
    """What was compared, how, and who is on the front, a paragraph each."""
    seeds, methods = comparison["seeds"], comparison["methods"]
    searched = any(entry["search"] for entry in methods.values())
    best = [name for name, entry in methods.items() if entry["on_front"]]
    met = [name for name, entry in methods.items() if entry["met"] == len(seeds)]
    interval = "the range over the seeds" if len(seeds) > 1 else "a 95 % interval over records"
    limits = "; ".join(
        f"{one['metric']} of {one['set']} at most {significant(one['at_most'])}"
        for one in comparison["criteria"]
    )
    settings = (
        "Each method has the settings that a search found for it with the first seed: the least "
        "damaging ones that reached the criteria, or else those that came nearest."
        if searched
        else "Each method has the settings that were given, or its defaults."
    )
    return [
        f"{len(methods)} methods were to make the same model forget the same "
        f"{comparison['request']['records']} records, by the same criteria, fixed before any of "
        f"them ran: {limits}. Below each mean stands {interval} "
        f"({len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}).",
        settings,
        f"Every criterion met with every seed: {', '.join(met) if met else 'by no method'}.",
        f"On the front (*), where no other method leaves less and damages less: "
        f"{', '.join(best) or 'none'}. Below the level of unseen text less MA does not count as "
        "better, nor does a perplexity of kept text below the target's.",
        "Times are by the clock, without the search, of runs that may have shared the machine."
        + (" The first seed is the one that the search saw." if searched else ""),
        "These are figures of this model and these records. Met means suppressed on the tests "
        "run; it is no proof that a model forgot.",
    ]


def _at_the_floor(comparison: Mapping[str, Any]) -> list[list[str]]:
    """What each method has to offer at the same utility: the furthest point under the floor."""
    rows = []
    for name, entry in comparison["methods"].items():
        point = entry["strength"]["at_the_floor"]
        if point is None:
            rows.append([name, NOTHING, NOTHING, NOTHING])
            continue
        rows.append(
            [
                name,
                f"{point['share']:.3g}",
                show("ma", point["ma"]),
                significant(point["kept_ratio"]),
            ]
        )
    return rows


def _settings(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            name,
            ", ".join(
                f"{key} {_setting(value)}"
                for key, value in entry["settings"].items()
                if key != "name" and value not in (None, "")
            ),
        )
        for name, entry in comparison["methods"].items()
    ]


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else visible(str(value))


def _trials(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Every trial of every search."""
    rows = []
    for name, entry in comparison["methods"].items():
        search = entry["search"]
        for trial in search["trials"] if search else ():
            chosen = " (taken)" if trial["number"] == search["chosen"] else ""
            settings = ", ".join(
                f"{key} {_setting(value)}" for key, value in trial["settings"].items()
            )
            ratio = trial["kept_ratio"]
            rows.append(
                [
                    name,
                    f"{trial['number']}{chosen}",
                    settings,
                    trial["status"],
                    NOTHING if trial["ma"] is None else show("ma", trial["ma"]),
                    NOTHING if ratio is None else significant(ratio),
                    str(trial["rounds"]),
                    duration(trial["seconds"]),
                ]
            )
    return rows
