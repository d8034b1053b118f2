"""Which columns of a source are read: one form of record that the kind of model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.data.labels import LabelReader
from unlearner.data.readers import (
    LABELLED_SUFFIXES,
    SUFFIXES,
    TAGGED_SUFFIXES,
    Row,
    SourceError,
    column_name,
    is_whole,
    kind,
    listed,
    parse_json,
)

CSV_LIST = '; in a CSV field write it as "[""one"", ""two""]"'


def read_text(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise row.problem(f"{column} must be text, got {kind(value)}")
    if not value.strip():
        raise row.problem(f"{column} is empty; fill it in or remove the record")
    _check_unicode(row, column, value)
    return value


def read_name(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str) and not is_whole(value):
        raise row.problem(f"{column} must be text or a whole number, got {kind(value)}")
    _check_unicode(row, column, str(value))
    return str(value)


def _check_unicode(row: Row, column: str, value: str) -> None:
    # JSON's \ud83d alone is read without complaint and fails much later, in the tokenizer.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{column} has half a surrogate pair at character {error.start + 1}"
        raise row.problem(f"{what}, which is not text; correct the escape") from None


def read_label(row: Row, column: str, reader: LabelReader) -> str:
    class_names = reader.class_names(row.class_names.get(column, ()))
    try:
        label = reader.name(row.values[column], class_names)
    except SourceError as error:
        raise row.problem(f"label {error}") from None
    _check_unicode(row, "label", label)
    return label


def read_tokens(row: Row, value: object) -> tuple[str, ...]:
    given = _list(row, "tokens", value, 'such as ["New", "York"]', CSV_LIST)
    if not given:
        raise row.problem("tokens is empty; fill it in or remove the record")
    tokens: list[str] = []
    for position, token in enumerate(given):
        if not isinstance(token, str):
            raise row.word_problem("token", position, f"must be text, got {kind(token)}")
        if not token.strip():
            raise row.word_problem("token", position, "is empty; remove it together with its tag")
        _check_unicode(row, f"the token at position {position}", token)
        tokens.append(token)
    return tuple(tokens)


def read_tags(row: Row, column: str, num_tokens: int, reader: LabelReader) -> tuple[str, ...]:
    given = _list(row, "tags", row.values[column], 'such as ["B-place", "I-place"]', CSV_LIST)
    if len(given) != num_tokens:
        what = f"tokens has {num_tokens}, tags has {len(given)}"
        raise row.problem(f"{what}; give every token one tag")
    class_names = reader.class_names(row.class_names.get(column, ()))
    tags: list[str] = []
    for position, tag in enumerate(given):
        try:
            tags.append(reader.name(tag, class_names))
        except SourceError as error:
            raise row.word_problem("tag", position, str(error)) from None
        _check_unicode(row, f"the tag at position {position}", tags[-1])
    return tuple(tags)


def _list(
    row: Row, column: str, value: object, example: str, way_out: str = ""
) -> Sequence[object]:
    """The items of a list, an array or a CSV field such as [464, 3290]."""
    items = value
    if isinstance(value, str) and value.lstrip().startswith("["):
        items = parse_json(value, row.number)
    if isinstance(value, np.ndarray):
        items = value.tolist()
    if not isinstance(items, list | tuple):
        raise row.problem(f"{column} must be a list {example}, got {kind(value)}{way_out}")
    return items


def read_token_ids(row: Row, value: object) -> tuple[int, ...]:
    given = _list(row, "input_ids", value, "of token ids")
    if not given:
        raise row.problem("input_ids is empty; fill it in or remove the record")
    ids: list[int] = []
    for position, token in enumerate(given):
        if not is_whole(token) or token < 0:
            got = token if is_whole(token) else kind(token)
            what = f"input_ids must be whole numbers >= 0, got {got} at position {position}"
            raise row.problem(f"{what}; leave padding out")
        ids.append(int(token))
    return tuple(ids)


@dataclass(frozen=True)
class RecordKind:
    """What the records for one family of models are made of."""

    forms: tuple[tuple[str, ...], ...]  # a record has exactly one of these
    optional: tuple[str, ...]
    suffixes: tuple[str, ...]  # of the files that can hold such records
    needed: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(column for form in self.forms for column in form), *self.optional)


RECORD_KINDS = {
    "causal-lm": RecordKind(
        forms=(("text",), ("prompt", "response"), ("input_ids",)),
        optional=("id", "subject"),
        suffixes=SUFFIXES,
        needed="a causal LM needs text, or prompt and response, or input_ids",
    ),
    "sequence-classification": RecordKind(
        forms=(("text", "label"),),
        optional=("text_pair", "id", "subject"),
        suffixes=LABELLED_SUFFIXES,
        needed="a sequence classifier needs text and label",
    ),
    "token-classification": RecordKind(
        forms=(("tokens", "tags"),),
        optional=("id", "subject"),
        suffixes=TAGGED_SUFFIXES,
        needed="a token classifier needs tokens and tags",
    ),
}


def check_map(columns: Mapping[str, str], record_kind: RecordKind) -> None:
    """Raise `SourceError` where a column is to get a name we do not know, or one given already."""
    for theirs, ours in columns.items():
        if ours not in record_kind.columns:
            allowed = ", ".join(record_kind.columns)
            raise SourceError(f"--map {theirs}={ours}: allowed names are {allowed}")
        if list(columns.values()).count(ours) > 1:
            raise SourceError(f"--map gives the name {ours} to two columns; give it to one")


def choose(
    names: Sequence[str], columns: Mapping[str, str], record_kind: RecordKind
) -> dict[str, str]:
    """Our column names to the source's, for one form of record and the optional columns.

    Args:
        names: The columns that the source has.
        columns: Renames, the source's name to ours.
        record_kind: What the records are made of.

    Raises:
        SourceError: For a form that is missing, cut short or not the only one.
    """
    for theirs in columns:
        if theirs not in names:
            raise SourceError(f"--map names the column {theirs!r}; present are {listed(names)}")
    ours = {name: name for name in names if name in record_kind.columns and name not in columns}
    ours |= {mine: theirs for theirs, mine in columns.items()}
    form = _form(names, ours, columns, record_kind)
    missing = [column for column in form if column not in ours]
    if missing:
        spare = [name for name in names if name not in ours.values() and str(name).strip()]
        hint = f"; map with --map {column_name(spare[0])}={missing[0]}" if spare else ""
        raise SourceError(
            f"no column {missing[0]}; found {listed(names)}; {record_kind.needed}"
            f"{hint if len(record_kind.forms) == 1 else ''}"
        )
    return {column: ours[column] for column in (*form, *record_kind.optional) if column in ours}


def _form(
    names: Sequence[str],
    ours: Mapping[str, str],
    columns: Mapping[str, str],
    record_kind: RecordKind,
) -> tuple[str, ...]:
    mapped = [form for form in record_kind.forms if not set(form).isdisjoint(columns.values())]
    forms = [form for form in mapped or record_kind.forms if not ours.keys().isdisjoint(form)]
    if not forms:
        hint = _map_hint(names, record_kind)
        raise SourceError(f"no usable column; found {listed(names)}; {record_kind.needed}; {hint}")
    if len(forms) > 1:
        both = " and ".join("/".join(form) for form in forms)
        maps = " or ".join(",".join(f"{column}={column}" for column in form) for form in forms)
        raise SourceError(f"ambiguous: has {both}; keep one, or choose it with --map {maps}")
    return forms[0]


def _map_hint(names: Sequence[str], record_kind: RecordKind) -> str:
    if len(record_kind.forms) == 1:  # which of theirs is the label cannot be guessed from the order
        return "rename with --map " + ",".join(
            f"COLUMN={column}" for column in record_kind.forms[0]
        )
    shown = [column_name(name) for name in names if str(name).strip()]
    if len(shown) > 1:
        return f"rename with --map {shown[0]}=prompt,{shown[1]}=response"
    return f"rename with --map {shown[0]}=text" if shown else "name the columns"
