"""Results in the terminal, and as the status that a command ends with."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from types import ModuleType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from unlearner import processes, registry
from unlearner.errors import printable
from unlearner.evaluation.intervals import Value
from unlearner.families.base import CheckResult
from unlearner.methods.base import Method, load_method
from unlearner.output import Json
from unlearner.report.tasks import task_headings, task_rows
from unlearner.report.writing import NO_VALUE, SPACE, show, significant, size
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.memory import WHEN, ResourcePlan

MET, NOT_MET = 0, 3

COLOURS = {"met": "green", "not met": "red"}  # any other status is yellow

SHOWN = {
    "causal-lm": ("ma", "el_10", "es", "perplexity"),
    "sequence-classification": ("accuracy", "f1_macro", "loss", "mia_loss_auc"),
    "token-classification": ("accuracy", "f1_entity", "loss", "mia_loss_auc"),
}

MANY = 10


def print_check(result: CheckResult, reading: Iterable[str] = ()) -> None:
    """What was read, what the model knows of it, where copies are, what a run would take."""
    console = results_console()
    for line in reading:
        console.print(_inert(line))
    measured = {name for values in result.values.values() for name in values}
    shown = [name for name in SHOWN[result.family] if name in measured]
    table = Table("set", "records", *shown)
    for role, values in result.values.items():
        cells = [_cell(values.get(name)) for name in shown]
        first = values.get(shown[0]) or values["loss"]  # of neutral text there is little
        table.add_row(role, str(first.records), *cells)
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
    for line in (*result.notes, result.sentence):
        console.print(_inert(line))


def _print_plan(console: Console, plan: ResourcePlan) -> None:
    """The parts of a run's memory, those of its peak marked, and what comes to it in all."""
    peak = plan.peak
    table = Table("memory of a run", "at most", "at its peak")
    for name, number in plan.parts.items():
        if number:
            table.add_row(name, size(number), "yes" if name in peak else "")
    table.add_row("expected peak", size(sum(peak.values())), f"when {WHEN[plan.moment]}")
    console.print(table, soft_wrap=False)
    console.print(plan.sentence())


def print_verdict(report: Json, output: Path) -> None:
    """The verdict with its reasons, and where the report is."""
    console = results_console()
    verdict = report["verdict"]
    colour = COLOURS.get(verdict["status"], "yellow")
    limits = "(suppressed or not on the tests run; no test proves that a model forgot)"
    console.print(f"verdict: [bold {colour}]{verdict['status']}[/] {limits}")
    if "check" in report:  # the run was forced
        console.print("  before the run: " + _inert(report["check"]["sentence"]))
    for claim in verdict["claims"]:
        colour = COLOURS.get(claim["status"], "yellow")
        status = f"{claim['claim']}: [{colour}]{claim['status']}[/]"
        console.print(f"  {status}. {_inert(claim['reason'])}")
    for note in verdict["notes"]:
        console.print("  " + _inert(note))
    if report.get("tasks"):
        _print_tasks(console, report)
    console.print(f"report: {_inert(str(output / 'report.html'))}")


def _print_tasks(console: Console, report: Json) -> None:
    """A row for each metric of each other task."""
    rows = task_rows(report)
    cells, changes = task_headings(report)
    table = Table("task", "metric", *cells, *changes)
    for row in rows:
        changed = (f"{value} ({ends})" if ends else value for value, ends in row.changes)
        values = (value for value, _, _ in row.cells)
        table.add_row(*map(_inert, (row.task, row.metric, *values, *changed)))
    console.print(table, soft_wrap=False)


def print_audit(audit: Json, page: Path) -> None:
    """A row for each figure of each attack, what follows of them, and where the page is."""
    console = results_console()
    console.print(f"control: {audit['control']['sentence']}")
    table = Table("attack", "figure", "before", "after", "control", "after less control", "result")
    for entry in audit["attacks"]:
        for figure in entry["figures"]:
            cells = [_estimate(figure[role]) for role in ("target", "unlearned", "control")]
            difference = _estimate(figure["difference"], interval=True)
            table.add_row(entry["label"], figure["label"], *cells, difference, figure["status"])
        if not entry["figures"]:
            table.add_row(entry["label"], "", "", "", "", "", entry["status"])
    console.print(table, soft_wrap=False)
    for entry in audit["attacks"]:
        colour = {"holds": "green", "opened": "red"}.get(entry["status"], "yellow")
        reason = _inert(entry["reason"])
        console.print(f"{entry['label']}: [{colour}]{entry['status']}[/] ({reason})")
    for claim in audit["claims"]:
        colour = COLOURS.get(claim["status"], "yellow")
        reason = _inert(claim["reason"])
        console.print(f"  {claim['claim']}: [{colour}]{claim['status']}[/]. {reason}")
    console.print(f"page: {_inert(str(page))}")


def _estimate(estimate: Json, *, interval: bool = False) -> str:
    if estimate["value"] is None:
        return "-"
    if not interval or estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def print_strength(
    strength: Json, data: UnlearningData | ClassifierData, floor: float, run_dir: Path
) -> None:
    """A row for each point of the path, the thresholds, and the largest share within the floor."""
    console, texts = results_console(), isinstance(data, UnlearningData)
    figures, within = PATH_FIGURES[texts], "under the floor" if texts else "above the floor"
    table = Table("share", *figures.values(), "suppressed", within)
    for point in strength["points"]:
        kept = point["kept_ratio" if texts else "retain_score"]
        keeps = kept is not None and (kept <= floor if texts else kept >= floor)
        table.add_row(
            _percent(point["share"]),
            *(_path_figure(name, point[name]) for name in figures),
            "yes" if point["suppressed"] else "no",
            "yes" if keeps else "no",
        )
    console.print(table, soft_wrap=False)
    if isinstance(data, UnlearningData):
        level = data.level
        console.print(
            f"level of unseen text: MA {show('ma', level.ma)}, EL_10 {show('el_10', level.el_10)}; "
            f"floor: perplexity of kept text at most {floor:g} times the target model's"
        )
    else:
        console.print(f"floor: score of records to be kept at least {show('accuracy', floor)}")
    best, words = strength["at_the_floor"], "none of those looked at but the target model itself"
    if best is not None and best["share"] > 0:
        shown = ("MA ", "ma"), ("perplexity times ", "kept_ratio")
        if not texts:
            shown = ("forget score ", "forget_score"), ("retain score ", "retain_score")
        found = ", ".join(f"{label}{_path_figure(name, best[name])}" for label, name in shown)
        suppressed = f"{'' if best['suppressed'] else 'not '}suppressed"
        words = f"{_percent(best['share'])} ({found}, {suppressed})"
    console.print(f"largest share {within}: {words}")
    console.print(f"report: {_inert(str(run_dir / 'report.html'))}")


# Columns of the path, of language models and of classifiers.
PATH_FIGURES = {
    True: {"ma": "MA", "el_10": "EL_10", "es": "ES", "kept_ratio": "perplexity ×"},
    False: {
        "forget_score": "forget score",
        "holdout_score": "unseen",
        "mia_loss_auc": "AUC",
        "retain_score": "retain score",
    },
}


def _path_figure(name: str, value: float | None) -> str:
    if name == "kept_ratio":
        return NO_VALUE if value is None else significant(value)
    return show("accuracy" if name.endswith("score") else name, value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}{SPACE}%"


def results_console() -> Console:
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


class RunProgress:
    """A bar of rounds with the loss terms and the time left; a line per round without a terminal.

    Args:
        quiet: Show nothing.
        num_rounds: Rounds at most; None where that is not known.
    """

    def __init__(self, *, quiet: bool, num_rounds: int | None) -> None:
        quiet = quiet or not processes.is_main()
        self.console = Console(stderr=True, quiet=quiet, highlight=False, emoji=False)
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.num_rounds, self.task = num_rounds, None

    def say(self, text: str) -> None:
        """A line that stays."""
        self._print(printable(text))

    def _print(self, text: str) -> None:
        # Broken for a person's terminal only: a program reads a line whole.
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def quiet_line(self, line: Json) -> None:
        """As `line`, but nothing is left behind where there is no terminal."""
        if self.console.is_terminal:
            self.line(line)

    def line(self, line: Json) -> None:
        """A line of the run's log: a step or a round."""
        if not self.console.is_terminal:
            if "round" in line:
                self._print("  " + _round_words(line))
            return
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("epochs", total=self.num_rounds, state="")
        if "round" in line:
            self.bar.update(self.task, completed=line["round"], state=_round_words(line))
        else:
            terms = "  ".join(f"{name} {value:.3f}" for name, value in line["loss"].items())
            self.bar.update(self.task, description=terms)

    def stop(self) -> None:
        """Remove the bar."""
        if self.task is not None:
            self.bar.stop()
            self.task = None


def _round_words(line: Json) -> str:
    if "forget_score" in line:
        return (
            f"step {line['steps']}: forget score {line['forget_score']:.3f}, "
            f"unseen {line['holdout_score']:.3f}, AUC {line['mia_loss_auc']:.3f}"
        )
    if "active" not in line:
        value = "" if line.get("value") is None else f", {line['value']:.4f}"
        return f"epoch {line['round']} of {line['epochs']}{value}"
    el_10 = "" if line.get("el_10") is None else f"EL_10 {line['el_10']:.3f}, "
    kept = line.get("retain_perplexity")
    tail = "" if kept is None else f", kept text's perplexity {kept:.3g}"
    when = f"step {line['steps']}" if "steps" in line else f"epoch {line['round']}"
    return f"{when}: {line['active']} active, {el_10}MA {line['ma']:.3f}{tail}"


WIDTH = 100

# Sets of language models as the user gives them.
SETS = {
    "retain": "retain or pool",
    "analogous": "similar records found in retain or pool",
}


def lines(what: str) -> Iterator[str]:
    """The lines of a folder's list: a name with what it is, and what follows indented below.

    Args:
        what: methods, metrics, attacks or datasets.
    """
    names = registry.names(what)
    indent = max(map(len, names), default=0) + 2
    for name in names:
        if what == "methods":
            method = load_method(name)
            texts = [registry.first_line(method), method_words(method)]
        elif what == "attacks":
            module = registry.load(what, name)
            texts = [registry.first_line(module.attack), attack_words(module)]
        else:
            texts = [registry.first_line(registry.load(what, name))]
        width = WIDTH - indent
        broken = [line for text in texts for line in wrap(text, width, break_on_hyphens=False)]
        yield f"{name:{indent}}{''.join(broken[:1])}".rstrip()
        yield from (" " * indent + line for line in broken[1:])
    if not names:
        yield f"no {what} in this version"


def attack_words(module: ModuleType) -> str:
    """Source, families of models, cost, and what the figures of an attack can and cannot show."""
    attack = module.attack
    texts = "causal-lm" in attack.families
    classifiers = any(family != "causal-lm" for family in attack.families)
    kinds = ["language models"] * texts + ["classifiers"] * classifiers
    source = registry.paper(module)
    published = "no paper" if source == "none" else source
    return (
        f"{published}; for {' and '.join(kinds)}; {attack.cost}. Shows: {attack.shows} Cannot "
        f"show: {attack.cannot_show}"
    )


def method_words(method: type[Method]) -> str:
    """Paper, families of models and needs of a method in a line."""
    source = registry.paper(method)
    texts = "causal-lm" in method.families
    classifiers = any(family != "causal-lm" for family in method.families)
    kinds = ["language models"] * texts + ["classifiers"] * classifiers
    # What unseen text scores is a matter of every run; few methods for language models read it.
    reads_unseen = not texts or "unseen_per_step" in method.model_fields
    needs = [name for name in method.needs if name != "holdout" or reads_unseen]
    sets = ", ".join(needs if classifiers else [SETS.get(name, name) for name in needs])
    also = (
        "; for classifiers also holdout" if classifiers and len(needs) < len(method.needs) else ""
    )
    anew = "; begins anew from a pretrained model" if method.begins_anew else ""
    if "proxy" in method.companion_models:
        anew = "; and the pretrained model that the target was made of"
    published = "no paper" if source == "none" else f"paper {source}"
    return f"{published}; for {' and '.join(kinds)}; needs {sets}{also}{anew}"
