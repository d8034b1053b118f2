"""What a record is, and the sets that a run works on."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One record as the user gave it.

    Exactly one of the forms is filled. For a causal language model: `text`; `prompt` and
    `response`; or `input_ids`. For a sequence classifier: `text`, perhaps `text_pair`, and `label`.
    For a token classifier: `tokens` and `tags`, of equal length. Labels and tags are names.
    """

    id: str
    text: str = ""
    prompt: str = ""
    response: str = ""
    input_ids: tuple[int, ...] = ()
    subject: str = ""  # the person or source that the record is about; empty: unknown
    text_pair: str = ""
    label: str = ""
    tokens: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The subject, or the record itself where no subject is given: the unit of resampling."""
        return self.subject or self.id

    @property
    def content(self) -> str:
        """The record's text as one string; empty for a record given as token ids."""
        if self.tokens:
            return " ".join(self.tokens)
        if self.text_pair:
            return f"{self.text} {self.text_pair}"
        return self.text or f"{self.prompt} {self.response}".strip()


@dataclass(frozen=True)
class RecordSet:
    """Records of one role (forget, retain, pool, holdout) and where they came from.

    Attributes:
        source: A path, a data set id, or "memory".
        label_numbers: Labels that the source gives as numbers of outputs.
    """

    name: str
    records: tuple[Record, ...]
    source: str
    label_numbers: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def digest_records(records: Iterable[Record], key: bytes) -> str:
    """HMAC-SHA256 of records in their order, over every field, lengths first."""
    code = hmac.new(key, digestmod=hashlib.sha256)
    for record in records:
        fields = (record.id, record.text, record.prompt, record.response, record.subject)
        ids = ",".join(map(str, record.input_ids))
        labelled = (record.text_pair, record.label, *record.tokens, *record.tags)
        for field in (*fields, ids, *(labelled if any(labelled) else ())):
            data = field.encode("utf-8", "surrogatepass")
            code.update(len(data).to_bytes(8, "big") + data)
    return "hmac-sha256:" + code.hexdigest()
