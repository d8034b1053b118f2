"""Records from files, data sets and lists: read exactly, or refused with the place that is wrong.

`readers.py` turns a source into rows, `fields.py` chooses the columns to use and checks what is in
them; here rows become records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unlearner.data.fields import (
    RECORD_KINDS,
    RecordKind,
    check_map,
    choose,
    read_label,
    read_name,
    read_pair,
    read_tags,
    read_text,
    read_token_ids,
    read_tokens,
)
from unlearner.data.labels import LabelReader
from unlearner.data.readers import Row, SourceError, listed, one_line, read_rows
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError

if TYPE_CHECKING:
    import datasets

    Source = str | Path | Sequence[str] | Sequence[Mapping[str, object]] | datasets.Dataset

TEXTS = ("text", "prompt", "response")


def read_records(
    source: Source,
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    family: str = "causal-lm",
    labels: Sequence[str] | None = None,
    first_label: int = 0,
) -> RecordSet:
    """Records from a file, a hub data set, a list or a `datasets.Dataset`.

    Texts are kept as they are: nothing is stripped or normalised. A byte order mark, blank lines of
    a text file and the line's own end are no part of a text. Records without an id get their line
    number (row or position, where a source has no lines), counted from 1.

    A label or tag is a name, a whole number, or its digits where no name is written so; it becomes
    the name. Numbers whose names a data set declares (`ClassLabel`) become those names.

    Args:
        source: A path ending in .jsonl .json .csv .tsv .parquet .txt .npy;
            `hf:owner/name[:config][:split]` (split `train` unless given; a lone `train`,
            `validation` or `test` is a split, and `hf:owner/name::split` names any other split
            without a configuration); a list of texts or of dicts; a data set. Labels cannot be in
            .txt and .npy; tokens and tags can also be in .conll.
        name: The role that messages name: forget, retain, pool, holdout, records.
        columns: The file's column names to ours, `{"question": "prompt"}`. A mapped column goes
            before one that has the name already, and mapping a content column settles which of
            text, prompt and response, or input_ids is read where a file has several.
        family: What the model does, and so what a record is made of: `causal-lm` (text, or prompt
            and response, or input_ids), `sequence-classification` (text, perhaps text_pair, and
            label) or `token-classification` (tokens and tags).
        labels: The names of a classifier's outputs in their order. None: the records are for a new
            head, and every name is one (`labels.label_names` puts them in order).
        first_label: The number of the first output in the source, 0 or 1.

    Raises:
        UserError: One line with file and line, for anything that cannot be read as it stands.
    """
    in_memory = not isinstance(source, str | Path)
    columns, record_kind = dict(columns or {}), RECORD_KINDS[family]
    reader = LabelReader(labels, first_label)
    try:
        check_map(columns, record_kind)
        rows = read_rows(
            source,
            lambda names: [*choose(names, columns, record_kind).values()],
            record_kind.suffixes,
        )
        records = _to_records(rows, columns, record_kind, reader)
        reader.check_numbers()
    except SourceError as error:
        label = "in memory" if in_memory else one_line(source)
        where = f"{label}, {error.place}" if error.place else label
        raise UserError(f"{name} {where}: {error}") from error
    where = "memory" if in_memory else str(source)
    return RecordSet(name, tuple(records), where, frozenset(reader.numbers))


def check_ids_in_vocabulary(record_set: RecordSet, vocabulary_size: int) -> None:
    """Raise `UserError` where a record given as token ids holds one the model does not have."""
    for record in record_set:
        for position, token in enumerate(record.input_ids):
            if token >= vocabulary_size:
                raise UserError(
                    f"{record_set.name} {one_line(record_set.source)}, record {record.id!r}: token "
                    f"id {token} at position {position} is outside the vocabulary (0 to "
                    f"{vocabulary_size - 1}); use ids made with this model's tokenizer"
                )


def _to_records(
    rows: Iterable[Row], columns: Mapping[str, str], record_kind: RecordKind, reader: LabelReader
) -> list[Record]:
    records: list[Record] = []
    places: dict[str, str] = {}
    chosen: dict[str, str] = {}
    names: tuple[str, ...] | None = None
    for row in rows:
        if tuple(row.values) != names:
            names = tuple(row.values)
            chosen = _same_columns(row, chosen, columns, record_kind)
        record = _record(row, chosen, reader)
        if record.id in places:
            first = places[record.id]
            raise row.problem(f"the id {record.id!r} is that of {first} too; give each its own")
        places[record.id] = row.place
        records.append(record)
    if not records:
        raise SourceError("holds no records; give at least one")
    return records


def _same_columns(
    row: Row, first: dict[str, str], columns: Mapping[str, str], record_kind: RecordKind
) -> dict[str, str]:
    """The columns to read from this row; `first` are those of the first row, empty at the first."""
    try:
        chosen = choose(tuple(row.values), columns, record_kind)
    except SourceError as error:
        raise row.problem(str(error)) from None
    # A text may be one of a pair in some records only.
    if first and {**chosen, "text_pair": ""} != {**first, "text_pair": ""}:
        raise row.problem(
            f"mixed columns: has {listed(chosen.values())} where the first record has "
            f"{listed(first.values())}; give every record the same"
        )
    return chosen


def _record(row: Row, chosen: Mapping[str, str], reader: LabelReader) -> Record:
    values = {ours: row.values[theirs] for ours, theirs in chosen.items()}
    identifier = read_name(row, "id", values["id"]) if "id" in values else str(row.number)
    if not identifier.strip():
        raise row.problem("id is empty; give every record an id, or leave the column out")
    subject = values.get("subject")
    tokens = read_tokens(row, values["tokens"]) if "tokens" in values else ()
    return Record(
        id=identifier,
        input_ids=read_token_ids(row, values["input_ids"]) if "input_ids" in values else (),
        subject="" if subject is None else read_name(row, "subject", subject),
        label=read_label(row, chosen["label"], reader) if "label" in values else "",
        tokens=tokens,
        tags=read_tags(row, chosen["tags"], len(tokens), reader) if "tags" in values else (),
        text_pair=read_pair(row, values["text_pair"]) if "text_pair" in values else "",
        **{column: read_text(row, column, values[column]) for column in TEXTS if column in values},
    )


def classifier_family(source: Source, columns: Mapping[str, str]) -> str:
    """The family of classifier that a source's columns are for: tags of words, or else labels.

    A source that cannot be read counts as labels; `read_records` says what is wrong with it.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".conll":
        return "token-classification"
    kind = RECORD_KINDS["token-classification"]
    try:
        first = next(iter(read_rows(source, list, kind.suffixes)), None)
    except SourceError:
        first = None
    names = {*columns.values(), *(str(name).casefold() for name in (first.values if first else ()))}
    tagged = {"tags", *kind.known_as["tokens"]} & names
    return "token-classification" if tagged else "sequence-classification"
