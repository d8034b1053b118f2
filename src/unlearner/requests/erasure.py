"""What a ledger says to people and other programs: record of erasure, left-overs, export.

A record of erasure tells what was asked, decided, done and measured, by ids, digests and figures.
Left-overs are what still holds the records once a model without them is there: the models before
it, checkpoints, adapters, working files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from unlearner.models.lineage import digest_weights, remaining_in
from unlearner.output import CHECKPOINTS
from unlearner.report.writing import html_page
from unlearner.requests.book import TREATED, Book, Model, Request, Run, by_deadline
from unlearner.requests.records import WorkingFiles
from unlearner.requests.store import SCHEMA

OPEN_STATES = ("open", "running", "not met")
SHEETS = ("style.css", "erasure.css")


@dataclass(frozen=True)
class LeftOver:
    """Something that holds records which are to be forgotten, or would bring them back.

    Attributes:
        path: Where it is, or was.
        what: What it is, in words.
        digest: Of its weights; empty where it has none.
        is_gone: Whether nothing is there any more.
        requests: The ids of the requests whose records it holds.
    """

    path: str
    what: str
    digest: str
    is_gone: bool
    requests: tuple[str, ...]


def left_overs(book: Book, files: WorkingFiles, only: str = "") -> list[LeftOver]:
    """What is to be deleted for the answered requests, and whether it is gone.

    Args:
        only: The id of a request; empty for all.
    """
    wanted = [one for one in book.answered() if not only or one.id == only]
    names = {request.id for request in wanted}
    current = Path(book.current.path if book.current else "")
    found: dict[Path, LeftOver] = {}
    for path, what, digest, requests in _models_holding(book, files, wanted):
        meant = tuple(name for name in requests if name in names)
        if meant and path != current and path not in found:
            found[path] = LeftOver(str(path), what, digest, not path.exists(), meant)
    return list(found.values())


Holder = tuple[Path, str, str, Sequence[str]]  # where, what, digest of its weights, whose records


def _models_holding(book: Book, files: WorkingFiles, wanted: Sequence[Request]) -> Iterator[Holder]:
    """Everything that is known to hold records of requests, or to lead back to them."""
    for run in book.runs:
        if run.is_taken:
            yield from _of_run(run)
        elif run.finished.get("files") or run.failed:
            yield run.output, "a run that did not count", "", run.requests
    for model in book.models:
        if model.kind in ("original", "unlearned") or model.weights == book.current_weights:
            continue
        held = _held_by(book, model, wanted)
        yield Path(model.path), f"a model ({model.kind})", model.weights, held
    for request in wanted:
        if not request.shredded:
            yield files.folder(request.id), "working files, with text", "", (request.id,)


def _of_run(run: Run) -> Iterator[Holder]:
    """The model that a run began with, and what it has left beside the one that it made."""
    before = run.begun["model"]
    yield Path(before["path"]), "the model before", before["weights"], run.requests
    yield run.output / CHECKPOINTS, "checkpoints and optimiser states", "", run.requests
    yield run.output / "adapter", "the adapter, which can undo the unlearning", "", run.requests


def _held_by(book: Book, model: Model, requests: Sequence[Request]) -> list[str]:
    """The requests of whose records a model, or the last of its bases that says so, learned some.

    Records that were forgotten since with a verdict that was met do not count. Where nothing says
    what was learned it may have been any.
    """
    place, seen = model, {model.path}
    while (left := remaining_in(Path(place.path))) is None:
        base = next((one for one in book.models if one.path == place.base), None)
        if base is None or base.path in seen:
            return [request.id for request in requests]
        place = base
        seen.add(base.path)
    return [one.id for one in requests if left.intersection(one.record_digests)]


def models_known(book: Book) -> list[dict[str, Any]]:
    """A row for each model of the ledger: what it is, whether it is there, what is still in it."""
    wanted = [one for one in book.requests.values() if one.decision in TREATED]
    rows = {}
    for model in book.models:
        there = digest_weights(Path(model.path)) == model.weights
        rows[model.weights] = {
            "path": model.path,
            "kind": model.kind,
            "base": model.base,
            "weights": model.weights,
            "is_current": model.weights == book.current_weights,
            "is_there": there,
            "requests": _held_by(book, model, wanted) if there else [],
        }
    return list(rows.values())


def days_left(request: Request, today: date) -> int | None:
    """Until the deadline, negative behind it; None for a request that needs no answer any more."""
    if request.state not in OPEN_STATES:
        return None
    return (date.fromisoformat(request.due) - today).days


def request_rows(book: Book, today: date) -> list[dict[str, Any]]:
    """A row for each request, by deadline, with what a list shows."""
    return [
        {
            "id": request.id,
            "state": request.state,
            "decision": request.decision,
            "received": request.received,
            "due": request.due,
            "days_left": days_left(request, today),
            "records": request.records,
            "article": request.article,
        }
        for request in by_deadline(book.requests.values())
    ]


def described(book: Book, files: WorkingFiles, request: Request) -> dict[str, Any]:
    """Everything that the ledger holds of a request, as plain values."""
    run = book.run_of(request.id)
    return {
        "id": request.id,
        "state": request.state,
        "received": request.received,
        "due": request.due,
        "article": request.article,
        "decision": request.decision,
        "reason": request.reason,
        "records": request.records,
        "record_digests": list(request.record_digests),
        "subject_digests": list(request.subject_digests),
        "entry": request.entry.number,
        "entry_digest": request.entry.digest,
        "history": [
            {"time": time, "state": state, "entry": entry} for time, state, entry in request.history
        ],
        "shredded": request.shredded,
        "run": _run(run) if run else None,
        "held": _held(book, request.id),
        "left_overs": [asdict(one) for one in left_overs(book, files, request.id)],
    }


def _run(run: Run) -> dict[str, Any]:
    done = run.finished
    method = run.begun["sections"].get("method", {}).get("name", "")
    return {
        "number": run.number,
        "requests": list(run.requests),
        "method": method,
        "verdict": done["verdict"],
        "sentence": done["sentence"],
        "claims": done["claims"],
        "criteria": done["criteria"],
        "utility": done["utility"],
        "before": run.begun["model"],
        "after": {"path": done["model"], "weights": done["weights"]},
        "taken": done["taken"],
        "report": done["report"],
        "output": str(run.output),
        "entry": run.entry.number,
        "time": run.entry.time,
    }


def _held(book: Book, name: str) -> list[dict[str, Any]]:
    """What later measurings said of a request, oldest first."""
    return [
        {"time": entry.time, "run": values["run"], "entry": entry.number}
        | {key: one[key] for key in ("status", "figures", "reason")}
        for entry, values in book.measured
        for one in values["held"]
        if name in one["requests"]
    ]


def exported(book: Book, files: WorkingFiles) -> dict[str, Any]:
    """The whole ledger for another register: its entries as they are chained, and the requests."""
    return {
        "schema": SCHEMA,
        "head": {"number": book.head.number, "digest": book.head.digest},
        "requests": [described(book, files, one) for one in book.requests.values()],
        "models": [asdict(model) for model in book.models],
        "entries": [asdict(entry) for entry in book.entries],
    }


def in_period(book: Book, since: str, until: str) -> list[Request]:
    """The requests received from one day to another, both included; empty for no bound."""
    return [
        request
        for request in by_deadline(book.requests.values())
        if (not since or request.received >= since) and (not until or request.received <= until)
    ]


def erasure_page(
    book: Book, files: WorkingFiles, requests: Sequence[Request], *, title: str, made: str
) -> str:
    """The record of erasure as one page that needs nothing but itself and can be printed.

    Args:
        made: The moment that the page names.
    """
    return html_page(
        "erasure.html.j2",
        SHEETS,
        title=title,
        made=made,
        head=book.head,
        requests=[described(book, files, one) for one in requests],
        limits=limits_of(book),
        words=WORDS,
    )


# States and statuses as a sentence begins with them.
WORDS: Mapping[str, str] = {
    "open": "Open",
    "running": "Under way",
    "met": "Carried out; suppressed on the tests run",
    "not met": "Carried out; not suppressed on the tests run",
    "not measured": "Carried out; the tests cannot tell",
    "not memorised": "The model had not memorised the records",
    "refused": "Refused",
    "suppressed": "Answered by suppressing outputs, outside of this program",
    "holds": "still holds",
    "lost": "does not hold any more",
}


def limits_of(book: Book) -> list[str]:
    """What the page says that it does not show."""
    found = [
        "Unlearning is approximate. The record says what was asked, done and measured; no test "
        "proves that a model forgot.",
        "The chain of entries shows that no entry was changed, left out, put in or moved since "
        "whoever keeps the anchor last looked. Whoever has the key and the file can make another "
        "chain; a copy of its head elsewhere shows that it is another.",
        "What lies outside of the folders named here, such as copies of models, of data and of "
        "back-ups, is not known to this program.",
    ]
    if any(not run.is_taken and run.finished for run in book.runs):
        found.append("Runs that did not reach their criteria are in the ledger, and not taken.")
    return found
