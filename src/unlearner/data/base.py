"""What a record is, and the sets that a run works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One record as the user gave it: a text, a prompt with its response, or token ids.

    Exactly one of the three forms is filled: `text`; `prompt` and `response`; `input_ids`.
    """

    id: str
    text: str = ""
    prompt: str = ""
    response: str = ""
    input_ids: tuple[int, ...] = ()
    subject: str = ""  # the person or source that the record is about; empty: unknown

    @property
    def group(self) -> str:
        """The subject, or the record itself where no subject is given: the unit of resampling."""
        return self.subject or self.id

    @property
    def content(self) -> str:
        """The record's text as one string; empty for a record given as token ids."""
        return self.text or f"{self.prompt} {self.response}".strip()


@dataclass(frozen=True)
class RecordSet:
    """Records of one role (forget, retain, pool, holdout) and where they came from."""

    name: str
    records: tuple[Record, ...]
    source: str  # a path, a data set id, or "memory"

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)
