"""Deletion requests from Python, with the verbs of `unlearner requests`.

ledger = Ledger("requests.db")
ledger.add("records.jsonl", id="2026-014")
ledger.run("model", output="runs", sections={"data": {"retain": ..., "holdout": ...}})
assert ledger.verify().holds
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearner.data.record import RecordSet, digest_content, digest_subject
from unlearner.errors import UserError, quoted
from unlearner.files import write_whole
from unlearner.models.lineage import digest_file, digest_weights
from unlearner.pipeline.audit import AuditRequest
from unlearner.provenance import read_key
from unlearner.requests import erasure
from unlearner.requests.book import DECISIONS, FIRST_STATE, Book, Request, one_month_after
from unlearner.requests.erasure import LeftOver
from unlearner.requests.find import KINDS, Match, find
from unlearner.requests.records import WorkingFiles, about, confirmed, read_any
from unlearner.requests.runs import Carrier, Ended, RequestPlan
from unlearner.requests.seal import Anchor, Head, read_anchor, write_anchor
from unlearner.requests.store import Event, Store, now
from unlearner.requests.verification import Measures, Verification, verify
from unlearner.retrieval.neighbours import TF_IDF
from unlearner.settings import check_names

if TYPE_CHECKING:
    from unlearner.data.loading import Source

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_KINDS = (
    "fine-tuned",
    "adapter",
    "merged",
    "quantised",
    "unlearned",
    "pretrained",
    "other",
)
ARTICLE = "Art. 17 GDPR"
LONGEST = 500  # characters of a reason or an article

Say = Callable[[str], None]

# Inside the class `list` is a verb.
Rows = list[dict[str, Any]]
Matches = list[Match]
AllEnded = list[Ended]
LeftOvers = list[LeftOver]


class Ledger:
    """A record of deletion requests, in one file.

    Every verb that writes takes the ledger's lock; the file is made by the first that does.

    Args:
        path: Of the file. Seal, lock and working files lie beside it.
        anchor: A file in a second place that is kept at the head of the chain; none where empty.

    Raises:
        UserError: The path cannot be a file, or there is no key.
    """

    def __init__(self, path: str | Path, anchor: str | Path = "") -> None:
        self.path = Path(path)
        if not str(path) or not str(path).isprintable() or self.path.is_dir():
            raise UserError(f"--ledger {quoted(str(path))}: name a file, such as requests.db")
        self.anchor = Path(anchor) if str(anchor) else None
        if self.anchor is not None and self.anchor.is_dir():
            raise UserError(f"--anchor {quoted(str(anchor))}: is a folder; name a file")
        self.key = read_key()
        self.store, self.files = Store(self.path, self.key), WorkingFiles(self.path)

    @property
    def book(self) -> Book:
        """What the ledger says now.

        Raises:
            UserError: There is none, or it cannot be read.
        """
        return Book.of(self.store.entries())

    # Requests

    def add(  # noqa: PLR0913 - what a request is
        self,
        records: "Source",
        *,
        id: str = "",
        subject: str = "",
        confirm: str | Path = "",
        received: str = "",
        due: str = "",
        article: str = ARTICLE,
        decision: str = "unlearn",
        reason: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> Request:
        """Enter a request.

        Args:
            records: The records that it asks for: a file, or texts, or rows. With `subject` or
                `confirm` the corpus of which they are some.
            id: A name; one is drawn where none is given.
            subject: Only the records of this subject.
            confirm: Only those of a list that `find` has written and a person has looked at.
            received: The day it came; today where none is given.
            due: The day by which it has to be answered; a month later where none is given.
            article: Its basis in law.
            decision: "unlearn", "retrain", "suppress" or "refuse".
            reason: Of the decision; needed for the last two. It stands in the ledger as it is.
            columns: Renames of columns.

        Raises:
            UserError: Something cannot be used; nothing was entered.
        """
        check_names([decision], DECISIONS, what="decision", where="--decision")
        texts = {"--reason": reason, "--article": article}
        for option, text in texts.items():
            _check_text(option, text)
        if decision in FIRST_STATE and not reason.strip():
            raise UserError(f"--decision {decision}: a reason is needed; give it by --reason")
        days = _days(received, due)
        name = id or f"request-{secrets.token_hex(4)}"
        if not NAME.fullmatch(name):
            raise UserError(
                f"--id {quoted(name)}: use letters, digits, '.', '_' and '-', at most 64 of them, "
                "and no name of a person"
            )
        chosen = _chosen(read_any(records, "records", columns or {}), subject, confirm)
        path = Path(records) if isinstance(records, str | Path) else None
        body = {
            "received": days[0],
            "due": days[1],
            "article": article,
            "decision": decision,
            "reason": reason,
            "records": len(chosen),
            "record_digests": [digest_content(one, self.key) for one in chosen],
            "subject_digests": sorted(
                {digest_subject(one.subject, self.key) for one in chosen if one.subject}
            ),
            "source": digest_file(path) if path is not None and path.is_file() else "",
        }
        state = FIRST_STATE.get(decision, "open")
        with self._locked("requests add"):
            if name in self.book.requests:
                raise UserError(f"--id {name}: is in the ledger already; give another")
            # First those of an `add` that was killed before its entry.
            self.files.discard_others(self.book.requests)
            self.files.write(name, chosen)
            try:
                self.store.append(Event("request", body, name, {name: state}))
            finally:
                self.files.discard_others(self.book.requests)
        return self.book.requests[name]

    def list(self, today: date | None = None) -> Rows:
        """A row for each request, those that are due first before the others."""
        return erasure.request_rows(self.book, today or datetime.now(UTC).date())

    def show(self, request: str) -> dict[str, Any]:
        """Everything that the ledger holds of a request."""
        book = self.book
        return erasure.described(book, self.files, book.request(request))

    def reopen(self, request: str, reason: str) -> None:
        """Open an answered request again, as where its records came back.

        Raises:
            UserError: It is not answered.
        """
        _check_text("--reason", reason)
        with self._locked("requests reopen"):
            known = self.book.request(request)
            if known.state == "open":
                raise UserError(
                    f"request {request}: is open already; `requests run` carries it out"
                )
            self.store.append(Event("reopened", {"reason": reason}, request, {request: "open"}))

    # Finding

    def find(
        self,
        queries: Sequence[str],
        corpus: "Source",
        *,
        kinds: Sequence[str] = KINDS,
        encoder: str = TF_IDF,
        similar: float | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> tuple[RecordSet, Matches]:
        """The corpus, and the records of it that the queries may be about.

        The ledger keeps the counts and the keyed digests of the queries.

        Raises:
            UserError: The queries are empty, or the corpus or the encoder cannot be read.
        """
        check_names(kinds, KINDS, what="kind", where="--kinds")
        if not any(query.strip() for query in queries):
            raise UserError("find needs a query: a name, an address, a number or a text")
        if similar is not None and not 0 < similar <= 1:
            raise UserError(f"--similar {similar}: must be above 0 and at most 1")
        some = read_any(corpus, "corpus", columns or {})
        found = find(queries, some, kinds=kinds, encoder=encoder, similar=similar)
        path = Path(corpus) if isinstance(corpus, str | Path) else None
        body = {
            "queries": [digest_subject(query, self.key) for query in queries],
            "corpus": digest_file(path) if path is not None and path.is_file() else "",
            "records": len(some),
            "counts": {kind: sum(one.kind == kind for one in found) for kind in kinds},
        }
        with self._locked("requests find"):
            self.store.append(Event("find", body))
        return some, found

    # Models

    def add_model(
        self,
        model: str | Path,
        *,
        kind: str = "other",
        base: str | Path = "",
        current: bool = False,
    ) -> None:
        """Enter a model that was made elsewhere.

        Args:
            model: Its folder.
            kind: One of `MODEL_KINDS`.
            base: The folder of the model that it was made of.
            current: Later requests begin with it.

        Raises:
            UserError: There are no weights in the folder.
        """
        check_names([kind], MODEL_KINDS, what="kind", where="--kind")
        weights = digest_weights(Path(model))
        if weights is None:
            raise UserError(f"{quoted(str(model))}: holds no weights; give the folder of a model")
        body = {
            "path": str(Path(model).resolve()),
            "weights": weights,
            "kind": kind,
            "base": str(Path(base).resolve()) if str(base) else "",
            "current": current,
        }
        with self._locked("requests models add"):
            self.store.append(Event("model", body))

    def models(self) -> Rows:
        """A row for each model that is known: kind, base, and requests whose records it has."""
        return erasure.models_known(self.book)

    # Carrying out

    def run(
        self,
        model: str | Path = "",
        *,
        output: str | Path,
        requests: Sequence[str] = (),
        together: bool = False,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        force: bool = False,
        again: bool = False,
        say: Say = logger.info,
    ) -> AllEnded:
        """Carry out open requests, and measure every earlier one again on what came of it.

        Args:
            model: The model to begin with, where the ledger knows of none yet.
            output: A folder; each run has one of its own in it.
            requests: Ids; all open ones where none is given.
            together: One run for all of them.
            sections: Of a run file, such as `{"data": {"retain": FILE, "holdout": FILE}}`.
            force: Run though the model has not memorised the records.
            again: Also those that the current model holds no more, each time together with the
                next one and at the end once by themselves.

        Raises:
            UserError: Something cannot be used; the requests are open as before.
            Interrupted: The user wants to stop; the next `run` goes on.
        """
        plan = RequestPlan(
            str(model), Path(output), together, sections or {}, force, again, tuple(requests)
        )
        with self._locked("requests run"):
            carrier = Carrier(self.store, self.files, say, anchored=self._write_anchor)
            return carrier.carry_out(plan)

    # Proof

    def verify(
        self,
        model: str | Path = "",
        *,
        records: Mapping[str, str] | None = None,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        measure: bool = True,
        attacks: AuditRequest | None = None,
        say: Say = logger.info,
    ) -> Verification:
        """Check ledger, anchor and files, and that answered requests hold on a model.

        Args:
            model: Its folder; the ledger's current model where none is given.
            records: Files of records whose working files are gone, by request.
            sections: Laid over those of the last run, for files that were moved.
            measure: Run the model; else only bytes are compared.
            attacks: Also the audit of each answered request's records, as `AuditRequest()`.

        Raises:
            UserError: A file or the model cannot be used, or another process is at work.
        """
        if not self.path.is_file():
            raise UserError(f"--ledger {self.path}: no such file; `requests add` makes a ledger")
        with self.store.locked("requests verify", settle=False):
            return verify(
                self.store,
                self.files,
                model=str(model),
                anchor=self.anchor,
                measures=Measures(records or {}, sections or {}, attacks) if measure else None,
                say=say,
            )

    def report(self, request: str = "", *, since: str = "", until: str = "") -> str:
        """The record of erasure as an HTML page, of a request or of those received in a time."""
        book = self.book
        for day in filter(None, (since, until)):
            _day("--since or --until", day)
        if request:
            chosen, title = [book.request(request)], f"Request {request}"
        else:
            chosen = erasure.in_period(book, since, until)
            title = f"Requests {since or 'from the beginning'} to {until or now()[:10]}"
        return erasure.erasure_page(book, self.files, chosen, title=title, made=now())

    def export(self) -> dict[str, Any]:
        """The whole ledger as plain values, for another register."""
        return erasure.exported(self.book, self.files)

    def left_overs(self, request: str = "") -> LeftOvers:
        """What is to be deleted for answered requests, and whether it is gone."""
        book = self.book
        if request:
            book.request(request)
        return erasure.left_overs(book, self.files, request)

    def shred(self, request: str) -> int:
        """Overwrite and remove the working files of a request; their number.

        Raises:
            UserError: It still has to be run.
        """
        with self._locked("requests shred"):
            known = self.book.request(request)
            if known.state in erasure.OPEN_STATES:
                raise UserError(
                    f"request {request}: is {known.state!r}, and a run needs its records; carry it "
                    "out first"
                )
            count = self.files.shred(request)
            self.store.append(Event("shred", {"files": count}, request))
        return count

    # Inside

    def _locked(self, what: str) -> "_Anchored":
        return _Anchored(self, what)

    def _check_anchor(self) -> None:
        """Refuse to write into a ledger that is older than its anchor."""
        if self.anchor is None or not self.anchor.exists():
            return
        head, entries = read_anchor(self.anchor, self.key).head, self.store.entries()
        if head.number > len(entries) or entries[head.number - 1].digest != head.digest:
            raise UserError(
                f"--anchor {self.anchor}: the ledger is an older copy or another one than was "
                "anchored; `requests verify` lists what is missing, which is entered again under "
                "another --anchor"
            )

    def _write_anchor(self) -> None:
        if self.anchor is not None:
            book = self.book
            head = Head(book.head.number, book.head.digest)
            write_anchor(self.anchor, Anchor(head, book.states(), book.current_weights), self.key)


class _Anchored:
    """The lock of a ledger that is to be written, behind which the anchor follows."""

    def __init__(self, ledger: Ledger, what: str) -> None:
        self.ledger, self.lock = ledger, ledger.store.locked(what)

    def __enter__(self) -> None:
        self.lock.__enter__()
        try:
            self.ledger._check_anchor()
        except BaseException as error:
            self.lock.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.ledger._write_anchor()
        finally:
            self.lock.__exit__(kind, error, trace)


def _chosen(records: RecordSet, subject: str, confirm: str | Path) -> RecordSet:
    if subject and str(confirm):
        raise UserError("--subject and --confirm: give one of them")
    if subject:
        return about(records, subject)
    return confirmed(records, Path(confirm)) if str(confirm) else replace(records)


def _check_text(option: str, text: str) -> None:
    if len(text) > LONGEST or not text.isprintable():
        raise UserError(
            f"{option}: at most {LONGEST} characters of one line, none of them invisible; it "
            "stands in the ledger as it is"
        )


def _days(received: str, due: str) -> tuple[str, str]:
    """Both days; a month between them where the second is not given."""
    first = _day("--received", received) if received else datetime.now(UTC).date()
    second = _day("--due", due) if due else one_month_after(first)
    if second < first:
        raise UserError(f"--due {second}: lies before --received {first}; give a later day")
    return first.isoformat(), second.isoformat()


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {quoted(text)}: must be a day such as 2026-11-26") from None


def write_list(path: Path, corpus: RecordSet, found: Sequence[Match]) -> None:
    """The ids that a search has found, to be looked at: id, kind and score, a line each.

    Raises:
        UserError: It cannot be written.
    """
    lines = ["# id, how it was found, score: leave the lines of those meant"]
    for one in found:
        name = corpus.records[one.place].id
        if "\n" in name or "\t" in name or name.startswith("#"):
            raise UserError(
                "corpus: an id holds a line end or a tab, or begins with '#'; give other ids"
            )
        lines.append(f"{name}\t{one.kind}\t{one.score:.3f}")
    try:
        write_whole(path, "\n".join(lines) + "\n", mode=0o600)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error})") from None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Values as a file that is there whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    try:
        write_whole(path, json.dumps(values, indent=1) + "\n", mode=0o600)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error})") from None
