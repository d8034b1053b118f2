"""Records from files, data sets and lists: read exactly, or refused with the place that is wrong.

`rows.py` turns a source into rows; here the columns to use are chosen and rows become records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unlearner.data.base import Record, RecordSet
from unlearner.data.rows import Row, SourceError, kind, listed, one_line, parse_json, read_rows
from unlearner.errors import UserError

if TYPE_CHECKING:
    import datasets

    Source = str | Path | Sequence[str] | Sequence[Mapping[str, object]] | datasets.Dataset

FORMS = (("text",), ("prompt", "response"), ("input_ids",))  # a record has exactly one of these
OPTIONAL_COLUMNS = ("id", "subject")
COLUMNS = (*(column for form in FORMS for column in form), *OPTIONAL_COLUMNS)
NEEDED = "a causal LM needs text, or prompt and response, or input_ids"


def read_records(
    source: Source, *, name: str, columns: Mapping[str, str] | None = None
) -> RecordSet:
    """Records of a causal LM from a file, a hub data set, a list or a `datasets.Dataset`.

    Texts are kept as they are: nothing is stripped or normalised. A byte order mark, blank lines of
    a text file and the line's own end are no part of a text. Records without an id get their line
    number (row or position, where a source has no lines), counted from 1.

    Args:
        source: A path ending in .jsonl .json .csv .tsv .parquet .txt .npy;
            `hf:owner/name[:config][:split]` (split `train` unless given; a lone `train`,
            `validation` or `test` is a split, and `hf:owner/name::split` names any other split
            without a configuration); a list of texts or of dicts; a data set.
        name: The role that messages name: forget, retain, pool, holdout, records.
        columns: The file's column names to ours, `{"question": "prompt"}`. A mapped column goes
            before one that has the name already, and mapping a content column settles which of
            text, prompt and response, or input_ids is read where a file has several.

    Raises:
        UserError: One line with file and line, for anything that cannot be read as it stands.
    """
    in_memory = not isinstance(source, str | Path)
    columns = dict(columns or {})
    try:
        _check_columns(columns)
        records = _to_records(read_rows(source, partial(_columns_read, columns=columns)), columns)
    except SourceError as error:
        label = "in memory" if in_memory else one_line(source)
        where = f"{label}, {error.place}" if error.place else label
        raise UserError(f"{name} {where}: {error}") from error
    return RecordSet(name, tuple(records), "memory" if in_memory else str(source))


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


def _check_columns(columns: Mapping[str, str]) -> None:
    for theirs, ours in columns.items():
        if ours not in COLUMNS:
            raise SourceError(f"--map {theirs}={ours}: allowed names are {', '.join(COLUMNS)}")
        if list(columns.values()).count(ours) > 1:
            raise SourceError(f"--map gives the name {ours} to two columns; give it to one")


def _to_records(rows: Iterable[Row], columns: Mapping[str, str]) -> list[Record]:
    records: list[Record] = []
    places: dict[str, str] = {}
    chosen: dict[str, str] = {}
    names: tuple[str, ...] | None = None
    for row in rows:
        if tuple(row.values) != names:
            names = tuple(row.values)
            chosen = _same_columns(row, chosen, columns)
        record = _record(row, chosen)
        if record.id in places:
            first = places[record.id]
            raise row.problem(f"the id {record.id!r} is that of {first} too; give each its own")
        places[record.id] = row.place
        records.append(record)
    if not records:
        raise SourceError("holds no records; give at least one")
    return records


def _same_columns(row: Row, first: dict[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """The columns to read from this row; `first` are those of the first row, empty at the first."""
    try:
        chosen = _choose(tuple(row.values), columns)
    except SourceError as error:
        raise row.problem(str(error)) from None
    if first and chosen != first:
        raise row.problem(
            f"mixed columns: has {listed(chosen.values())} where the first record has "
            f"{listed(first.values())}; give every record the same"
        )
    return chosen


def _columns_read(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    return list(_choose(names, columns).values())


def _choose(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our column names to the file's, for one of `FORMS` and the optional columns."""
    for theirs in columns:
        if theirs not in names:
            raise SourceError(f"--map names the column {theirs!r}; present are {listed(names)}")
    ours = {name: name for name in names if name in COLUMNS and name not in columns}
    ours |= {mine: theirs for theirs, mine in columns.items()}
    mapped = [form for form in FORMS if not set(form).isdisjoint(columns.values())]
    forms = [form for form in mapped or FORMS if not ours.keys().isdisjoint(form)]
    if not forms:
        raise SourceError(f"no usable column; found {listed(names)}; {NEEDED}; {_map_hint(names)}")
    if len(forms) > 1:
        both = " and ".join("/".join(form) for form in forms)
        raise SourceError(
            f"ambiguous: has {both}; keep one, or choose it with --map {_choice(forms)}"
        )
    for column in forms[0]:
        if column not in ours:
            raise SourceError(f"no column {column}; found {listed(names)}; {NEEDED}")
    return {column: ours[column] for column in (*forms[0], *OPTIONAL_COLUMNS) if column in ours}


def _record(row: Row, chosen: Mapping[str, str]) -> Record:
    values = {ours: row.values[theirs] for ours, theirs in chosen.items()}
    identifier = _label(row, "id", values["id"]) if "id" in values else str(row.number)
    if not identifier.strip():
        raise row.problem("id is empty; give every record an id, or leave the column out")
    subject = values.get("subject")
    return Record(
        id=identifier,
        input_ids=_token_ids(row, values["input_ids"]) if "input_ids" in values else (),
        subject="" if subject is None else _label(row, "subject", subject),
        **{c: _text(row, c, values[c]) for c in ("text", "prompt", "response") if c in values},
    )


def _text(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise row.problem(f"{column} must be text, got {kind(value)}")
    if not value.strip():
        raise row.problem(f"{column} is empty; fill it in or remove the record")
    _check_unicode(row, column, value)
    return value


def _label(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str) and not _is_whole(value):
        raise row.problem(f"{column} must be text or a whole number, got {kind(value)}")
    _check_unicode(row, column, str(value))
    return str(value)


def _check_unicode(row: Row, column: str, value: str) -> None:
    # JSON's \ud83d alone is read without complaint and fails much later, in the tokenizer.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{column} has half a surrogate pair at character {error.start + 1}"
        raise row.problem(f"{what}, which is not text; mend the escape") from None


def _token_ids(row: Row, value: object) -> tuple[int, ...]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a CSV field: [464, 3290]
        value = parse_json(value, row.number)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise row.problem(f"input_ids must be a list of token ids, got {kind(value)}")
    if not value:
        raise row.problem("input_ids is empty; fill it in or remove the record")
    for position, token in enumerate(value):
        if not _is_whole(token) or token < 0:
            got = token if _is_whole(token) else kind(token)
            what = f"input_ids must be whole numbers >= 0, got {got} at position {position}"
            raise row.problem(f"{what}; leave padding out")
    return tuple(int(token) for token in value)


def _is_whole(value: object) -> bool:
    return type(value) is int or isinstance(value, np.integer)


def _choice(forms: Sequence[Sequence[str]]) -> str:
    return " or ".join(",".join(f"{column}={column}" for column in form) for form in forms)


def _map_hint(names: Sequence[str]) -> str:
    shown = [one_line(name, 30) for name in names if str(name).strip()]
    if len(shown) > 1:
        return f"rename with --map {shown[0]}=prompt,{shown[1]}=response"
    return f"rename with --map {shown[0]}=text" if shown else "name the columns"
