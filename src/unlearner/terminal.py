"""Results in the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unlearner.checking import CheckResult
from unlearner.classifiers.checking import CheckResult as ClassifierCheckResult
from unlearner.errors import printable
from unlearner.evaluation import Value
from unlearner.fitting import in_words, size
from unlearner.planning import Plan

COLOURS = {
    "met": "green",
    "not met": "red",
    "not measured": "yellow",
    "not informative": "yellow",
}
SHOWN = {
    "causal-lm": ("ma", "el_10", "es", "perplexity"),
    "sequence-classification": ("accuracy", "f1_macro", "loss", "mia_loss_auc"),
    "token-classification": ("accuracy", "f1_entity", "loss", "mia_loss_auc"),
}
MANY = 10


def quieten() -> None:
    """Keep the libraries' own chatter off the terminal."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns at every fork otherwise
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    handler = logging.StreamHandler()
    # A figure without an interval is printed as such; a line for each of them would drown the rest.
    handler.addFilter(lambda record: record.name != "unlearner.evaluation")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    # Millions of texts take hours, and say how many are done.
    logging.getLogger("unlearner.data.embeddings").setLevel(logging.INFO)


def print_check(result: CheckResult | ClassifierCheckResult) -> None:
    """What the model knows, where copies are, what a run would take."""
    console = _console()
    shown = SHOWN[result.family]
    table = Table("set", "records", *shown)
    for role, values in result.values.items():
        cells = [_cell(values.get(name)) for name in shown]
        table.add_row(role, str(values[shown[0]].records), *cells)
    console.print(table, soft_wrap=False)
    for role, found in result.duplicates.items():
        exact = sum(one.exact for one in found)
        console.print(
            f"copies of forget records in {role}: {exact} exact, {len(found) - exact} near"
        )
        ids = result.ids(role, found)
        shown = ", ".join(f"{ours} ~ {theirs}" for ours, theirs in ids[:MANY])
        if ids:
            console.print("  " + _inert(shown) + (" ..." if len(ids) > MANY else ""))
    _print_plan(console, result.plan)
    console.print(_inert(result.summary()))


def _print_plan(console: Console, plan: Plan) -> None:
    """The parts of a run's memory, those of its peak marked, and what comes to it in all."""
    memory = plan.memory
    table = Table("memory of a run", "at most", "at its peak")
    for name, number in memory.parts.items():
        if number:
            table.add_row(name, size(number), "yes" if name in memory.in_peak else "")
    table.add_row("expected peak", size(memory.peak_bytes), f"when {memory.phase}")
    console.print(table, soft_wrap=False)
    console.print(in_words(plan))


def print_verdict(report: dict[str, Any], output: Path) -> None:
    """The verdict with its reasons, and where the report is."""
    console = _console()
    verdict = report["verdict"]
    colour = COLOURS[verdict["status"]]
    limits = "(suppressed or not on the tests run; no test proves that a model forgot)"
    console.print(f"verdict: [bold {colour}]{verdict['status']}[/] {limits}")
    for claim in verdict["claims"]:
        console.print(
            f"  {claim['claim']}: [{COLOURS[claim['status']]}]{claim['status']}[/]. "
            + _inert(claim["reason"])
        )
    for note in verdict["notes"]:
        console.print("  " + _inert(note))
    console.print(f"report: {_inert(str(output / 'report.html'))}")


def _console() -> Console:
    """Lines are broken for a person's terminal only: a program reads them whole."""
    return Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def _inert(text: str) -> str:
    """Text of the user's as it stands: no colours, no links, no moves of the cursor."""
    return escape(printable(text))


def _cell(value: Value | None) -> str:
    if value is None:
        return "-"
    if value.low != value.low:  # one subject has no interval
        return f"{value.value:.3g}"
    return f"{value.value:.3g} ({value.low:.3g} to {value.high:.3g})"
