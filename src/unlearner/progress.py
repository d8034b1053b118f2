"""What a person at the terminal sees while a command works."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unlearner import processes
from unlearner.errors import printable


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

    def quiet_line(self, line: dict[str, Any]) -> None:
        """As `line`, but nothing is left behind where there is no terminal."""
        if self.console.is_terminal:
            self.line(line)

    def line(self, line: dict[str, Any]) -> None:
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


def _round_words(line: dict[str, Any]) -> str:
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
    return f"epoch {line['round']}: {line['active']} active, {el_10}MA {line['ma']:.3f}{tail}"
