"""One SQLite file of entries, each chained to the one before by its digest; nothing is changed.

An entry's digest is SHA-256 over its number, time, kind, request, body and the digest before it, a
line each, so that an entry that is changed, left out, put in or moved breaks the chain behind it.
Other tables repeat parts of the entries for SQLite to hold rules on them: a request is there once
and in one state, and a state follows only where it may.

A chain without a key can be computed anew by whoever may write the file, and a byte that no entry
holds can be changed without it. The seal beside the file (`seal.py`) is of every byte, by the key.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.models.lineage import fingerprint
from unlearner.requests.seal import Head, Seal, alone, read_seal, write_seal

SCHEMA = "unlearner/requests/1"
START = "0" * 64  # what the first entry is chained to
LEAST_SQLITE = (3, 37, 0)  # STRICT tables
WAIT_SECONDS = 10.0

# Every state that a request can be in, and those that may follow.
FOLLOWS: dict[str, tuple[str, ...]] = {
    "": ("open", "refused", "suppressed"),
    "open": ("running",),
    "running": ("open", "met", "not met", "not measured", "not memorised"),
    "met": ("open",),
    "not met": ("open", "running"),
    "not measured": ("open",),
    "not memorised": ("open",),
    "refused": (),
    "suppressed": (),
}
ANSWERED = ("met", "not measured", "not memorised")

TABLES = """
CREATE TABLE entries (
  number INTEGER PRIMARY KEY,
  time TEXT NOT NULL,
  kind TEXT NOT NULL,
  request TEXT NOT NULL,
  body TEXT NOT NULL,
  previous TEXT NOT NULL,
  digest TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE requests (
  id TEXT PRIMARY KEY,
  entry INTEGER NOT NULL UNIQUE REFERENCES entries (number)
) STRICT, WITHOUT ROWID;
CREATE TABLE records (
  request TEXT NOT NULL REFERENCES requests (id),
  place INTEGER NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (request, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE follows (
  before TEXT NOT NULL,
  after TEXT NOT NULL,
  PRIMARY KEY (before, after)
) STRICT, WITHOUT ROWID;
CREATE TABLE states (
  number INTEGER PRIMARY KEY,
  entry INTEGER NOT NULL REFERENCES entries (number),
  request TEXT NOT NULL REFERENCES requests (id),
  state TEXT NOT NULL
) STRICT;
CREATE INDEX states_of_requests ON states (request, number);
CREATE TRIGGER entries_in_order BEFORE INSERT ON entries
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM entries)
  OR NEW.previous <> coalesce(
    (SELECT digest FROM entries ORDER BY number DESC LIMIT 1), '{start}')
BEGIN SELECT raise(ABORT, 'the entry is not chained to the last one'); END;
CREATE TRIGGER states_in_order BEFORE INSERT ON states
WHEN NOT EXISTS (
  SELECT 1 FROM follows WHERE after = NEW.state AND before = coalesce(
    (SELECT state FROM states WHERE request = NEW.request ORDER BY number DESC LIMIT 1), ''))
BEGIN SELECT raise(ABORT, 'no such change of state'); END;
"""

GUARD = """
CREATE TRIGGER {table}_stay_{verb} BEFORE {verb} ON {table}
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;
"""

GUARDED = ("entries", "requests", "records", "states", "follows")


@dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes:
        number: From 1.
        time: In UTC, to the second.
        request: The id of the request that it is about; empty for the ledger itself.
        body: What the kind holds, as JSON.
        previous: The digest of the entry before.
    """

    number: int
    time: str
    kind: str
    request: str
    body: str
    previous: str
    digest: str

    @property
    def values(self) -> dict[str, Any]:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Event:
    """What is to be entered.

    Attributes:
        states: The requests that change their state, and to which.
    """

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    request: str = ""
    states: dict[str, str] = field(default_factory=dict)


def digest_entry(number: int, time: str, kind: str, request: str, body: str, previous: str) -> str:
    """The digest of an entry, as 64 hexadecimal digits."""
    text = "\n".join((str(number), time, kind, request, body, previous))
    return hashlib.sha256(text.encode()).hexdigest()


def as_text(body: dict[str, Any]) -> str:
    """A body as one line, the same for the same values."""
    return json.dumps(body, sort_keys=True, ensure_ascii=True, allow_nan=False)


def now() -> str:
    """This moment in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Damaged(Exception):  # noqa: N818 - a finding, where it is looked for
    """The file is not what was written: one sentence saying what shows it."""


class Store:
    """The file, its seal and its lock.

    Args:
        path: Of the SQLite file.
        key: Of the digests and of the seal.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key

    # Writing

    def create(self) -> None:
        """Make the file with its first entry.

        Raises:
            UserError: SQLite is too old, or the file cannot be made.
        """
        if sqlite3.sqlite_version_info < LEAST_SQLITE:
            raise UserError(
                f"SQLite {sqlite3.sqlite_version}: 3.37 or newer is needed for the ledger; use a "
                "newer Python"
            )
        work = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            work.unlink(missing_ok=True)
            work.touch(mode=0o600)
            with closing(_connect(work)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                _make_tables(connection)
                body = {"schema": SCHEMA, "key": fingerprint(self.key)}
                entry = _entered(connection, Event("ledger", body))
                connection.execute("COMMIT")
                _fold(connection)
            # The seal first: a file without one counts as damaged, a seal without a file as none.
            write_seal(self._seal_path, Seal.of(work, Head(1, entry.digest), self.key), self.key)
            work.rename(self.path)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"--ledger {self.path}: cannot be made ({error}); give another file"
            ) from None

    def append(self, *events: Event) -> list[Entry]:
        """Enter all of the events or none; the caller holds the lock.

        Raises:
            UserError: The file cannot be written, or a state may not follow.
        """
        with self._opened() as connection:
            try:
                entries = [_entered(connection, event) for event in events]
            except sqlite3.IntegrityError as error:
                raise UserError(f"--ledger {self.path}: {error}; see `requests list`") from None
            last = entries[-1]
            seal = read_seal(self._seal_path, self.key)
            pending = seal.announcing(Head(last.number, last.digest))
            write_seal(self._seal_path, pending, self.key)
            connection.execute("COMMIT")
            self._close(connection, last)
        return entries

    @contextmanager
    def locked(self, what: str, *, settle: bool = True) -> Iterator[None]:
        """While the block runs, every other process is refused, and told who works here.

        The file is made where there is none, and what a killed process left is put right.

        Args:
            what: The command, in words.
            settle: Refuse a damaged file; else it is left to the caller to look at it.

        Raises:
            UserError: Another process works here, or the file is damaged.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--ledger {self.path}: cannot be made ({error}); give another file"
            ) from None
        with alone(self.path, what):
            if self.path.exists():
                with suppress(*(() if settle else (UserError,))):
                    self.settle()
            else:
                self.create()
            yield

    def settle(self) -> None:
        """Seal what a killed process has entered and not sealed; the caller holds the lock.

        Raises:
            UserError: The file is damaged.
        """
        try:
            seal = read_seal(self._seal_path, self.key)
            if seal.announced is None:
                self.check_bytes(seal)
                return
            with closing(_connect(self.path)) as connection:
                _fold(connection)
                last = _check_chain(connection)[-1]
            if Head(last.number, last.digest) not in (seal.head, seal.announced):
                raise Damaged("its last entry is not the one that was announced")
            new = Seal.of(self.path, Head(last.number, last.digest), self.key)
            if new.head == seal.head and new.code != seal.code:
                raise Damaged("its bytes are not those that were sealed")
            write_seal(self._seal_path, new, self.key)
        except (Damaged, sqlite3.Error, ValueError, OSError) as error:
            raise UserError(
                f"--ledger {self.path}: is damaged ({error}); `requests verify` says more: restore "
                "it together with its seal"
            ) from None

    def check_bytes(self, seal: Seal) -> None:
        """Raise `Damaged` where the file is not, byte for byte, the one that was sealed."""
        wal = self.path.with_name(f"{self.path.name}-wal")
        if wal.exists() and wal.stat().st_size:
            raise Damaged("something was written beside it that was not announced")
        if Seal.of(self.path, seal.head, self.key) != seal:
            raise Damaged("its bytes are not those that were sealed")

    # Reading

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            UserError: There is no such file, it is no ledger, or one made with another key.
        """
        if not self.path.is_file():
            raise UserError(f"--ledger {self.path}: no such file; `requests add` makes a ledger")
        try:
            with closing(_connect(self.path)) as connection:
                found = _read_entries(connection)
            first = found[0].values
        except (sqlite3.Error, IndexError, ValueError) as error:
            raise UserError(
                f"--ledger {self.path}: is no ledger, or damaged ({error}); give another file, or "
                "see what `requests verify` says"
            ) from None
        if first.get("schema") != SCHEMA:
            raise UserError(
                f"--ledger {self.path}: is of another version; use the unlearner that made it"
            )
        if first.get("key") != fingerprint(self.key):
            raise UserError(
                f"--ledger {self.path}: was made with another key; set UNLEARNER_KEY_FILE to that "
                "one's file"
            )
        return found

    def checked(self) -> list[Entry]:
        """All entries, after every check of the file itself; the caller holds the lock.

        Raises:
            Damaged: A check found something.
        """
        try:
            self.check_bytes(read_seal(self._seal_path, self.key))
            with closing(_connect(self.path)) as connection:
                return _check_chain(connection)
        except (sqlite3.Error, ValueError, OSError) as error:
            raise Damaged(f"it cannot be read ({error})") from None

    # Inside

    @property
    def _seal_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.seal")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_connect(self.path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            raise UserError(
                f"--ledger {self.path}: cannot be written ({error}); make room, or wait for "
                "whoever reads it"
            ) from None

    def _close(self, connection: sqlite3.Connection, last: Entry) -> None:
        """Bring the entries into the file itself, and seal that.

        Where somebody reads the file for long, the next process does it: the entries are written,
        and announced.
        """
        try:
            _fold(connection)
        except sqlite3.OperationalError:
            return
        head = Head(last.number, last.digest)
        write_seal(self._seal_path, Seal.of(self.path, head, self.key), self.key)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    guards = (GUARD.format(table=table, verb=v) for table in GUARDED for v in ("UPDATE", "DELETE"))
    for statement in _statements(TABLES.format(start=START) + "".join(guards)):
        connection.execute(statement)
    pairs = [(before, after) for before, some in FOLLOWS.items() for after in some]
    connection.executemany("INSERT INTO follows VALUES (?, ?)", pairs)


def _statements(script: str) -> Iterator[str]:
    """Its statements one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _fold(connection: sqlite3.Connection) -> None:
    """Bring what SQLite has written beside the file into it."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise sqlite3.OperationalError("another program is reading it")


def _entered(connection: sqlite3.Connection, event: Event) -> Entry:
    """Write an event, in the transaction that is open."""
    last = connection.execute(
        "SELECT number, digest FROM entries ORDER BY number DESC LIMIT 1"
    ).fetchone()
    number, previous = (1, START) if last is None else (last[0] + 1, last[1])
    body = event.body | ({"states": event.states} if event.states else {})
    content = (number, now(), event.kind, event.request, as_text(body), previous)
    entry = Entry(*content, digest_entry(*content))
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", _entry_row(entry))
    for table, rows in _repeated(entry).items():
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
    return entry


def _entry_row(entry: Entry) -> tuple[int | str, ...]:
    return (
        entry.number,
        entry.time,
        entry.kind,
        entry.request,
        entry.body,
        entry.previous,
        entry.digest,
    )


def _repeated(entry: Entry) -> dict[str, list[tuple[int | str | None, ...]]]:
    """The rows of other tables that an entry stands for; None is the next number."""
    values = entry.values
    rows: dict[str, list[tuple[int | str | None, ...]]] = {"requests": [], "records": []}
    if entry.kind == "request":
        rows["requests"] = [(entry.request, entry.number)]
        digests = values["record_digests"]
        rows["records"] = [(entry.request, i, digest) for i, digest in enumerate(digests, 1)]
    rows["states"] = [
        (None, entry.number, request, state) for request, state in values.get("states", {}).items()
    ]
    return rows


def _read_entries(connection: sqlite3.Connection) -> list[Entry]:
    rows = connection.execute(
        "SELECT number, time, kind, request, body, previous, digest FROM entries ORDER BY number"
    )
    return [Entry(*row) for row in rows]


def check_entries(entries: Sequence[Entry]) -> None:
    """Raise `Damaged`, naming the first entry that is not chained to the one before it."""
    previous = START
    for place, entry in enumerate(entries, start=1):
        content = _entry_row(entry)[:-1]
        if entry.number != place:
            raise Damaged(f"entry {place} is missing")
        if entry.previous != previous or digest_entry(*content) != entry.digest:  # type: ignore[arg-type]
            raise Damaged(f"entry {place} is not chained to the one before it, or was changed")
        previous = entry.digest
    if not entries:
        raise Damaged("it holds no entries")


def _check_chain(connection: sqlite3.Connection) -> list[Entry]:
    """The entries, whole and in order, with the tables that repeat them."""
    problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if problems != ["ok"]:
        raise Damaged(f"SQLite finds it damaged: {problems[0]}")
    entries = _read_entries(connection)
    check_entries(entries)
    expected: dict[str, list[tuple[int | str | None, ...]]] = {}
    for entry in entries:
        for table, rows in _repeated(entry).items():
            expected.setdefault(table, []).extend(rows)
    columns = {"states": "entry, request, state"}
    for table, rows in expected.items():
        own = connection.execute(f"SELECT {columns.get(table, '*')} FROM {table}")
        wanted = [row[1:] for row in rows] if table == "states" else rows
        if sorted(own.fetchall()) != sorted(wanted):  # type: ignore[type-var]
            raise Damaged(f"its table of {table} is not what the entries say")
    return entries
