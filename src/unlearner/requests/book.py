"""What the entries of a ledger come to: requests with their states, runs, models."""

import calendar
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from unlearner.errors import UserError, quoted
from unlearner.requests.store import ANSWERED, Entry

TREATED = ("unlearn", "retrain")  # decisions that a run carries out
DECISIONS = (*TREATED, "suppress", "refuse")
FIRST_STATE = {"suppress": "suppressed", "refuse": "refused"}  # else open


@dataclass
class Request:
    """A deletion request, as its entries tell it.

    Attributes:
        received: The day it came, and `due` the day by which it has to be answered.
        records: How many records it asks for.
        history: Moment, state and entry of every change.
        shredded: Its working files are gone.
    """

    id: str
    entry: Entry
    received: str
    due: str
    article: str
    decision: str
    reason: str
    records: int
    record_digests: tuple[str, ...]
    subject_digests: tuple[str, ...]
    history: list[tuple[str, str, int]] = field(default_factory=list)
    shredded: bool = False

    @property
    def state(self) -> str:
        """The one that it is in."""
        return self.history[-1][1]

    @property
    def is_answered(self) -> bool:
        """Whether a run has ended on it whose model was taken."""
        return self.state in ANSWERED


@dataclass
class Run:
    """One attempt to carry out requests.

    Attributes:
        number: From 1, and `requests` the ids of those that it is for.
        begun: What was given: model, original, output, sections.
        finished: What came of it; empty while it is under way, or where it failed.
        entry: Of its end, or of its beginning.
    """

    number: int
    requests: tuple[str, ...]
    begun: dict[str, Any]
    entry: Entry
    finished: dict[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it was cut off."""
        return not self.finished and not self.failed

    @property
    def output(self) -> Path:
        """The folder of its results."""
        return Path(self.begun["output"])

    @property
    def is_taken(self) -> bool:
        """Whether its model is the one that requests after it begin with."""
        return bool(self.finished.get("taken"))


@dataclass(frozen=True)
class Model:
    """A model that the ledger knows, and where it was last.

    Attributes:
        weights: The digest of its weight files.
        kind: What it is: "original", "unlearned", or as it was registered.
        base: The path of the model that it was made of; empty where that is not known.
        entry: By which it came in.
    """

    path: str
    weights: str
    kind: str
    base: str
    entry: int


@dataclass
class Book:
    """A ledger, read."""

    entries: Sequence[Entry]
    requests: dict[str, Request] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    current: Model | None = None
    measured: list[tuple[Entry, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Book":
        """What the entries say, one after another."""
        book = cls(entries)
        for entry in entries:
            book._take(entry, entry.values)
        return book

    def _take(self, entry: Entry, values: dict[str, Any]) -> None:
        match entry.kind:
            case "request":
                self.requests[entry.request] = _request(entry, values)
            case "run begun" | "run finished" | "run failed":
                self._take_run(entry, values)
            case "model":
                base, current = values["base"], values["current"]
                self._know(entry, values, values["kind"], base, current=current)
            case "measured":
                self.measured.append((entry, values))
            case "shred":
                self.requests[entry.request].shredded = True
        for name, state in values.get("states", {}).items():
            self.requests[name].history.append((entry.time, state, entry.number))

    def _take_run(self, entry: Entry, values: dict[str, Any]) -> None:
        if entry.kind == "run begun":
            number = len(self.runs) + 1
            self.runs.append(Run(number, tuple(values["requests"]), values, entry))
            if number == 1:
                self._know(entry, values["model"], "original", current=self.current is None)
            return
        run = self.runs[values["run"] - 1]
        if entry.kind == "run failed":
            run.failed = values["reason"]
            return
        run.finished, run.entry = values, entry
        if values["taken"] and values["weights"]:
            model = {"path": values["model"], "weights": values["weights"]}
            self._know(entry, model, "unlearned", run.begun["model"]["path"])

    def _know(
        self,
        entry: Entry,
        values: dict[str, Any],
        kind: str,
        base: str = "",
        *,
        current: bool = True,
    ) -> None:
        model = Model(values["path"], values["weights"], kind, base, entry.number)
        self.models.append(model)
        if current:
            self.current = model

    # Questions

    @property
    def head(self) -> Entry:
        """The last entry."""
        return self.entries[-1]

    @property
    def original(self) -> dict[str, str] | None:
        """Path and weights of the model before the first request; None before any run."""
        return self.runs[0].begun["model"] if self.runs else None

    def request(self, name: str) -> Request:
        """The request of this id.

        Raises:
            UserError: There is none.
        """
        if name not in self.requests:
            raise UserError(f"{quoted(name)}: no such request; see `requests list`")
        return self.requests[name]

    def answered(self) -> list[Request]:
        """Requests whose records the current model is to have forgotten."""
        return [request for request in self.requests.values() if request.is_answered]

    def run_of(self, request: str) -> Run | None:
        """The last finished run for a request; None where there is none."""
        for run in reversed(self.runs):
            if run.finished and request in run.requests:
                return run
        return None

    def last_finished(self) -> Run | None:
        """The run that the current model is of."""
        taken = [run for run in self.runs if run.is_taken]
        return taken[-1] if taken else None

    def lost(self) -> list[str]:
        """Answered requests that the current model was measured to hold no more, by id."""
        if not self.measured or self.measured[-1][1]["weights"] != self.current_weights:
            return []
        held = self.measured[-1][1]["held"]
        names = [name for one in held if one["status"] == "lost" for name in one["requests"]]
        return [name for name in names if self.requests[name].is_answered]

    def states(self) -> dict[str, str]:
        """The state of every request, by id."""
        return {name: request.state for name, request in self.requests.items()}

    def since(self, weights: str) -> list[str] | None:
        """Requests that were answered after a model of these weights, by id; None if unknown."""
        for place, run in enumerate(self.runs):
            if run.begun["model"]["weights"] == weights and self.current_weights != weights:
                later = [name for one in self.runs[place:] if one.is_taken for name in one.requests]
                return [name for name in dict.fromkeys(later) if self.requests[name].is_answered]
        return [] if weights == self.current_weights else None

    @property
    def current_weights(self) -> str:
        """The digest of the current model's weights; empty where there is none."""
        return self.current.weights if self.current else ""


def _request(entry: Entry, values: dict[str, Any]) -> Request:
    return Request(
        entry.request,
        entry,
        values["received"],
        values["due"],
        values["article"],
        values["decision"],
        values["reason"],
        values["records"],
        tuple(values["record_digests"]),
        tuple(values["subject_digests"]),
    )


def one_month_after(day: date) -> date:
    """The same day of the next month, or that month's last: the time that Art. 12(3) GDPR gives."""
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def by_deadline(requests: Iterable[Request]) -> list[Request]:
    """The requests, those that are due first before the others."""
    return sorted(requests, key=lambda request: (request.due, request.entry.number))
