"""What stands in the columns of a row: texts, names, labels, words and token ids, each checked."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from unlearner.data.labels import LabelReader
from unlearner.data.problems import SourceError, is_whole, kind, shown_column
from unlearner.data.readers import Row, parse_json

# Characters, of which a long book has two million. The tokenizers library takes 150 bytes for each
# (measured), and ends the process where there is no room for them.
LONGEST_TEXT = 20_000_000

CSV_LIST = '; in a CSV field write it as "[""one"", ""two""]"'


def read_text(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise row.problem(f"{column} must be text, got {kind(value)}")
    if not value.strip():
        raise row.problem(f"{column} is empty; fill it in or remove the record")
    if len(value) > LONGEST_TEXT:
        what = f"{column} has {len(value):,} characters, {LONGEST_TEXT:,} are allowed"
        raise row.problem(f"{what}; cut it into several records")
    check_unicode(row, column, value)
    return value


def read_answer(row: Row, column: str, value: object) -> str:
    """A text, or the first of several answers: of a list, or of SQuAD's objects."""
    while not isinstance(value, str):
        if isinstance(value, dict) and "text" in value:
            value = value["text"]
        elif isinstance(value, list | tuple) and value:
            value = value[0]
        else:
            empty = isinstance(value, list | tuple)
            what = "holds no answer" if empty else f"must be text or texts, got {kind(value)}"
            raise row.problem(f"{column} {what}; fill it in or remove the record")
    return read_text(row, column, value)


def num_answers(value: object) -> int:
    """How many answers `read_answer` would find."""
    answers = value.get("text") if isinstance(value, dict) else value
    return len(answers) if isinstance(answers, list | tuple) else 1


def read_joined(row: Row, column: str, parts: Sequence[tuple[str, str]]) -> str:
    """The texts of several columns with what stands before each; empty ones fall out with it."""
    found = [(before, name, row.values.get(name)) for before, name in parts]
    if len(found) == 1:
        return read_text(row, column, found[0][2])
    filled = [
        (before, read_text(row, shown_column(name, column), value))
        for before, name, value in found
        if value is not None and not (isinstance(value, str) and not value.strip())
    ]
    if not filled:
        raise row.problem(f"{column} is empty; fill it in or remove the record")
    return "".join([filled[0][1], *(before + text for before, text in filled[1:])])


def read_name(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str) and not is_whole(value):
        raise row.problem(f"{column} must be text or a whole number, got {kind(value)}")
    check_unicode(row, column, str(value))
    return str(value)


def check_unicode(row: Row, column: str, value: str) -> None:
    # JSON's \ud83d alone is read without complaint and fails much later, in the tokenizer.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{column} has half a surrogate pair at character {error.start + 1}"
        raise row.problem(f"{what}, which is not text; correct the escape") from None


def read_label(row: Row, column: str, reader: LabelReader) -> str:
    class_names = reader.class_names(row.class_names.get(column, ()))
    try:
        label = reader.name(
            row.values[column], class_names, lambda what: row.problem(f"label {what}")
        )
    except SourceError as error:
        raise row.problem(f"label {error}") from None
    check_unicode(row, "label", label)
    return label


def read_pair(row: Row, value: object) -> str:
    """The second of two texts; empty for a record that has one only."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and not value.strip():
        return ""
    return read_text(row, "text_pair", value)


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
        check_unicode(row, f"the token at position {position}", token)
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
            tags.append(reader.name(tag, class_names, partial(row.word_problem, "tag", position)))
        except SourceError as error:
            raise row.word_problem("tag", position, str(error)) from None
        check_unicode(row, f"the tag at position {position}", tags[-1])
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
