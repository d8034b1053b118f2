"""Everything that can be found wrong with a ledger, its models, and what it says of them.

What is found is told; nothing is changed. Each finding is "ok", "wrong" or "not measured", and only
"ok" lets a verification pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.models.lineage import digest_file, digest_weights
from unlearner.pipeline.audit import AuditRequest
from unlearner.requests.attacked import attack_requests
from unlearner.requests.book import Book, Run
from unlearner.requests.holds import StillHeld
from unlearner.requests.records import WorkingFiles
from unlearner.requests.runs import all_asked, ask_again, known_before
from unlearner.requests.seal import read_anchor
from unlearner.requests.store import ANSWERED, Damaged, Store

OK, WRONG, NOT_MEASURED = "ok", "wrong", "not measured"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: "ledger", "anchor", "files", "model" or "request".
        status: "ok", "wrong" or "not measured".
        sentence: What was found.
        requests: Those to be run again, by id.
    """

    what: str
    status: str
    sentence: str
    requests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Whether every finding is ok."""
        return all(finding.status == OK for finding in self.findings)

    @property
    def run_again(self) -> tuple[str, ...]:
        """Requests that have to be run again, or entered again."""
        return tuple(dict.fromkeys(name for one in self.findings for name in one.requests))


@dataclass(frozen=True)
class Measures:
    """How the records of answered requests are measured on a model.

    Attributes:
        given: Files of records whose working files are gone, by request.
        sections: Laid over those of the last run.
        attacks: The audit to be made of the records; None for none.
    """

    given: Mapping[str, str]
    sections: Mapping[str, Any]
    attacks: AuditRequest | None = None


def verify(
    store: Store,
    files: WorkingFiles,
    *,
    model: str,
    anchor: Path | None,
    measures: Measures | None,
    say: Callable[[str], None],
) -> Verification:
    """Look at the ledger itself, the anchor, the files, and the records on a model.

    Args:
        model: The folder to measure; empty for the ledger's current model.
        anchor: A file that `--anchor` has kept; None where there is none.
        measures: None where only bytes are to be compared.

    Raises:
        UserError: A file that was named, or the model, cannot be used.
    """
    if not store.path.is_file():
        raise UserError(f"--ledger {store.path}: no such file; `requests add` makes a ledger")
    try:
        entries = store.checked()
    except Damaged as damage:
        sentence = f"{store.path} is not what was written: {damage}; restore it with its seal"
        return Verification((Finding("ledger", WRONG, sentence),))
    book = Book.of(entries)
    whole = (
        f"{len(entries)} entries, each chained to the one before; the last is {book.head.digest}"
    )
    found = [Finding("ledger", OK, whole)]
    if anchor is not None:
        found.append(_anchored(book, anchor, store.key))
    found += _artefacts(book)
    place = Path(model or (book.current.path if book.current else ""))
    found += _current(book, place) if book.current else []
    if measures and book.answered() and digest_weights(place):
        found += map(_finding, _measured(book, files, store.key, place, measures, say))
    return Verification(tuple(found))


def _anchored(book: Book, path: Path, key: bytes) -> Finding:
    """Whether the ledger still holds what was anchored, or is an older copy."""
    anchor = read_anchor(path, key)
    states, entries = book.states(), book.entries
    number = anchor.head.number
    if number <= len(entries) and entries[number - 1].digest == anchor.head.digest:
        later = len(entries) - number
        words = "at the ledger's head" if not later else f"{later} entries before the ledger's head"
        return Finding("anchor", OK, f"the anchor is {words}")
    again = tuple(
        name
        for name, state in anchor.states.items()
        if (state in ANSWERED and states.get(name) != state) or name not in states
    )
    return Finding(
        "anchor",
        WRONG,
        f"the ledger is an older copy, or another one: it ends at entry {len(entries)}, the anchor "
        f"is of entry {number}; enter and run again what came since",
        again,
    )


def _artefacts(book: Book) -> list[Finding]:
    """Whether the files that runs have left are the ones that were entered."""
    return [_files_of(run) for run in book.runs if run.finished.get("files")]


def _files_of(run: Run) -> Finding:
    folder, expected = run.output, run.finished["files"]
    name = f"run {run.number} ({folder})"
    if not folder.exists():
        return Finding("files", OK, f"{name}: removed; its figures stand in the ledger")
    changed, missing = [], []
    for path, digest in expected.items():
        try:
            if digest_file(folder / path) != digest:
                changed.append(path)
        except OSError:
            missing.append(path)
    added = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in expected
    ]
    # Someone may have removed a model that was superseded; a part of one is another matter.
    gone = bool(missing) and not any(
        path.startswith("model/") for path in expected if path not in missing
    )
    problems = [f"{path} was changed" for path in changed]
    problems += [f"{path} was added" for path in added]
    problems += [] if gone else [f"{path} is missing" for path in missing]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        return Finding("files", WRONG, f"{name}: {'; '.join(problems[:3])}{more}")
    words = "its model was removed, " if gone else ""
    return Finding("files", OK, f"{name}: {words}{len(expected) - len(missing)} files as entered")


def _current(book: Book, place: Path) -> list[Finding]:
    """Whether the model is the one that the last request has left, or an earlier one."""
    assert book.current is not None
    weights = digest_weights(place)
    if weights is None:
        return [Finding("model", WRONG, f"{place}: holds no weights; restore the model")]
    later = book.since(weights)
    if later:
        sentence = (
            f"{place}: is the model from before {', '.join(later)}; these are to be run again"
        )
        return [Finding("model", WRONG, sentence, tuple(later))]
    if later is None:
        sentence = f"{place}: is not of this ledger's making; it is measured as it is"
        registered = [one.kind for one in book.models if one.weights == weights]
        if registered:
            sentence = f"{place}: was entered as {registered[-1]!r}; it is measured as it is"
        return [Finding("model", OK, sentence)]
    return [Finding("model", OK, f"{place}: is the ledger's current model")]


def _measured(
    book: Book,
    files: WorkingFiles,
    key: bytes,
    place: Path,
    measures: Measures,
    say: Callable[[str], None],
) -> list[StillHeld]:
    given, sections = measures.given, measures.sections
    held = ask_again(book, files, key, str(place), given, say, sections)
    held = known_before(book, digest_weights(place) or "", held)
    if measures.attacks is None:
        return held
    runs = all_asked(book, files, key, given)
    return held + attack_requests(runs, str(place), sections, measures.attacks, say)


def _finding(held: StillHeld) -> Finding:
    status = {"holds": OK, "lost": WRONG}.get(held.status, NOT_MEASURED)
    name = f"request {', '.join(held.requests)}" if held.requests else "quality"
    words = f"{held.status}: {held.reason}" if held.reason else held.status
    again = held.requests if status == WRONG else ()
    return Finding("request", status, f"{name}: {words}", again)
