"""The working files of requests: the one place beside the models where the records' text stands.

A run, and every later measuring, needs the text. It lies in a folder beside the ledger that only
its owner can read, until `shred` overwrites and removes it. How far overwriting reaches is up to
the disk: one that writes elsewhere, or keeps snapshots, keeps the old blocks.
"""

import json
import os
import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearner.data.loading import read_records
from unlearner.data.record import Record, RecordSet, digest_content
from unlearner.data.spelling import normalised
from unlearner.errors import UserError, quoted
from unlearner.files import LARGE, read_small, write_whole

if TYPE_CHECKING:
    from unlearner.data.loading import Source

TEXT, LABELLED, TAGGED = "causal-lm", "sequence-classification", "token-classification"

BLOCK = 1 << 20


def read_any(source: "Source", name: str, columns: Mapping[str, str]) -> RecordSet:
    """Records for whichever family of models their columns are; a label of a text is kept.

    Raises:
        UserError: They are for none; the message is that for text.
    """
    found: dict[str, RecordSet] = {}
    refused: dict[str, UserError] = {}
    for family in (TEXT, TAGGED, LABELLED):
        try:
            found[family] = read_records(source, name=name, columns=columns, family=family)
        except UserError as error:
            refused[family] = error
    if TEXT in found and LABELLED in found:
        both = zip(found[TEXT].records, found[LABELLED].records, strict=True)
        return replace(found[TEXT], records=tuple(_with_label(*pair) for pair in both))
    for family in (TAGGED, LABELLED, TEXT):
        if family in found:
            return found[family]
    raise refused[TEXT]


def _with_label(text: Record, labelled: Record) -> Record:
    """A record as text, with the label that a classifier reads of the same row."""
    if text.text != labelled.text:
        return text
    return replace(text, label=labelled.label, text_pair=labelled.text_pair)


def about(records: RecordSet, subject: str) -> RecordSet:
    """The records whose subject is this one, in whichever spelling.

    Raises:
        UserError: There is none.
    """
    wanted = normalised(subject)
    chosen = tuple(one for one in records if one.subject and normalised(one.subject) == wanted)
    if not chosen:
        raise UserError(
            f"{records.name} {records.source}: no record has that subject; see `requests find`, "
            "which also looks into the texts"
        )
    return replace(records, records=chosen)


def confirmed(records: RecordSet, listed: Path) -> RecordSet:
    """The records of a list: an id at the beginning of each line, what follows a tab is not read.

    Raises:
        UserError: The list cannot be read, or names a record that is not there.
    """
    try:
        lines = read_small(listed, LARGE).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--confirm {listed}: cannot be read ({error}); give the list of `requests find`"
        ) from None
    known = {record.id: record for record in records}
    chosen: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        name = line.partition("\t")[0].rstrip("\r")
        if not name.strip() or name.startswith("#"):
            continue
        if name not in known:
            raise UserError(
                f"--confirm {listed}, line {number}: {quoted(name)} is the id of no record of "
                f"{records.source}; leave the line out, or give the corpus that it is of"
            )
        chosen[name] = known[name]
    if not chosen:
        raise UserError(f"--confirm {listed}: names no record; leave the ids of those meant in it")
    return replace(records, records=tuple(chosen.values()))


class WorkingFiles:
    """The folder of the records of all requests.

    Args:
        ledger: The path of the ledger, beside which it lies.
    """

    def __init__(self, ledger: Path) -> None:
        self.root = ledger.with_name(f"{ledger.name}.work")

    def folder(self, request: str) -> Path:
        """Of one request."""
        return self.root / request

    def path(self, request: str) -> Path:
        """The file of its records."""
        return self.folder(request) / "records.jsonl"

    def write(self, request: str, records: Iterable[Record]) -> None:
        """Write the records of a request.

        Raises:
            UserError: They cannot be written.
        """
        try:
            self.root.mkdir(mode=0o700, exist_ok=True)
            self.folder(request).mkdir(mode=0o700, exist_ok=True)
            write_whole(self.path(request), "".join(map(_record_line, records)), mode=0o600)
        except OSError as error:
            raise UserError(
                f"{self.root}: cannot be written ({error}); make room, or move the ledger"
            ) from None

    def discard_others(self, requests: Container[str]) -> None:
        """Remove what was written for requests that did not come to be."""
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if folder.name not in requests:
                self.shred(folder.name)

    def read(self, request: str) -> RecordSet:
        """The records of a request.

        Raises:
            UserError: They were shredded, or cannot be read.
        """
        path = self.path(request)
        if not path.is_file():
            raise UserError(
                f"request {request}: its records are not in {self.root} any more; give them by "
                f"--records {request}=FILE"
            )
        return read_any(str(path), "forget", {})

    def shred(self, request: str) -> int:
        """Overwrite and remove the files of a request; their number."""
        folder, count = self.folder(request), 0
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file() and not path.is_symlink():
                _overwrite(path)
                count += 1
        shutil.rmtree(folder, ignore_errors=True)
        return count


def check_digests(records: RecordSet, digests: Sequence[str], key: bytes, place: str) -> None:
    """Refuse records that are not those of a request.

    Raises:
        UserError: They are not.
    """
    if sorted(digest_content(one, key) for one in records) != sorted(digests):
        raise UserError(
            f"{place}: are not the records that the request was entered with, by their digests; "
            "give those"
        )


def as_row(record: Record) -> dict[str, Any]:
    """A record as a row of a file, of which every family of models reads its own columns."""
    values = {name: value for name, value in asdict(record).items() if value}
    values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    if record.messages:
        values["messages"] = [json.loads(message) for message in record.messages]
    if record.tools:
        values["tools"] = json.loads(record.tools)
    return values


def _record_line(record: Record) -> str:
    return json.dumps(as_row(record)) + "\n"


def _overwrite(path: Path) -> None:
    """Other bytes in the place of a file's, and then nothing."""
    with path.open("r+b") as file:
        left = path.stat().st_size
        while left > 0:
            left -= file.write(os.urandom(min(left, BLOCK)))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(0)
    path.unlink()
