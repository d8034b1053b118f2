"""Rows of files, lists and data sets, by the source's own column names: one reader per format.

Reading is exact: texts come out as they stand, and what cannot be read raises a `SourceError` that
says what is wrong and in which line, row or record. What columns mean is decided in `fields.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import TypeGuard

import numpy as np

from unlearner.files import kind_of_file


class SourceError(Exception):
    """What is wrong and where in the source, before role and source are put in front."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: `unit` and `number` (from 1) say where, `values` by the file's names."""

    unit: str  # line, row or record
    number: int
    values: Mapping[str, object]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a column's numbers
    word_lines: bool = False  # each word stands in a line of its own, the first in line `number`

    @property
    def place(self) -> str:
        return f"{self.unit} {self.number}"

    def problem(self, what: str) -> SourceError:
        return SourceError(what, self.place)

    def word_problem(self, noun: str, position: int, what: str) -> SourceError:
        """The token or tag at this position, from 0, is wrong."""
        if self.word_lines:
            return SourceError(f"{noun} {what}", f"{self.unit} {self.number + position}")
        return self.problem(f"{noun} at position {position} {what}")


def is_whole(value: object) -> TypeGuard[int | np.integer]:
    return type(value) is int or isinstance(value, np.integer)


def kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def one_line(text: object, longest: int = 200) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def reason(error: BaseException) -> str:
    return one_line(error) or type(error).__name__


def column_name(name: object) -> str:
    """A column's name for a message; a long one may be a record, in a file without a header."""
    line = one_line(name, 30)
    return line if len(line.split()) < 3 else f"(a name of {len(str(name))} letters)"


def listed(names: Iterable[object]) -> str:
    shown = [column_name(name) for name in names]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "") if shown else "none"


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".npy")
LABELLED_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")  # those with room for labels
TAGGED_SUFFIXES = (*LABELLED_SUFFIXES, ".conll")
SPLITS = ("train", "validation", "test")
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit of 131,072 is too low for texts

# Of the columns that a table has, those to read; the others may be large and are left alone.
Choose = Callable[[Sequence[str]], Collection[str]]


def read_rows(source: object, choose: Choose, suffixes: Sequence[str]) -> Iterable[Row]:
    """Rows of a path, an `hf:` data set id, a list or a data set; `SourceError` says what is wrong.

    A table's columns are cut down to those that `choose` names; other rows come with all they have.
    `suffixes` are those of the files that may be given.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _hub_rows(source.removeprefix("hf:"), choose)
    if isinstance(source, str | Path):
        return _file_rows(Path(source), choose, suffixes)
    if isinstance(source, list | tuple):
        return _list_rows(source)
    return _dataset_rows(source, choose)


def _file_rows(path: Path, choose: Choose, suffixes: Sequence[str]) -> Iterable[Row]:
    _check_path(path, suffixes)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, choose)
    if suffix == ".npy":
        return _npy_rows(path)
    text = _read_text(path)
    if suffix in (".csv", ".tsv"):
        return _delimited_rows(text, "," if suffix == ".csv" else "\t")
    readers = {".jsonl": _json_line_rows, ".json": _json_rows, ".conll": conll_rows}
    return readers.get(suffix, _plain_rows)(text)


def _check_path(path: Path, suffixes: Sequence[str]) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError("no such file; a hub data set is written hf:owner/name") from None
    except (OSError, ValueError) as error:  # a name too long, no permission, a null byte
        raise SourceError(f"cannot be opened ({reason(error)})") from error
    if other := kind_of_file(mode):
        raise SourceError(f"is {other}; give one file ending in {' '.join(suffixes)}")
    if path.suffix.lower() not in suffixes:
        raise SourceError(f"{_misfit(path.suffix)}; allowed are {' '.join(suffixes)}")


def _misfit(suffix: str) -> str:
    if suffix.lower() in SUFFIXES:
        return f"a {suffix} file cannot hold labels"
    if suffix.lower() in TAGGED_SUFFIXES:
        return f"a {suffix} file holds tagged words, which are for a token classifier only"
    return f"unknown kind of file {suffix!r}"


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot be read ({reason(error)})") from error
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start})"
        raise SourceError(f"{what}; save the file as UTF-8", f"line {line}") from error


def _plain_rows(text: str) -> Iterator[Row]:
    # Not splitlines: it also breaks at characters that may stand within a text, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Row("line", number, {"text": line.removesuffix("\r")})


def _json_line_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        value = parse_json(line, number)
        if not isinstance(value, dict):
            what = f'every line must be an object such as {{"text": "..."}}, got {kind(value)}'
            raise SourceError(f"{what}; an array goes into a .json file", f"line {number}")
        yield Row("line", number, value)


def _json_rows(text: str) -> Iterable[Row]:
    if not text.lstrip().startswith("["):
        return _json_line_rows(text)
    values = parse_json(text, 1)
    assert isinstance(values, list)
    rows = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            what = f'the array must hold objects such as {{"text": "..."}}, got {kind(value)}'
            raise SourceError(what, f"record {number}")
        rows.append(Row("record", number, value))
    return rows


def parse_json(text: str, first_line: int) -> object:
    """The value of a JSON text that begins in this line of its file; a key may not stand twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        what = f"broken JSON ({error.msg}, column {error.colno})"
        raise SourceError(what, f"line {first_line + error.lineno - 1}") from error
    except (ValueError, RecursionError) as error:  # a key twice, a number too long, nested too deep
        raise SourceError(f"broken JSON ({reason(error)})", f"line {first_line}") from error


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {column_name(twice)!r} stands twice in one object")
    return values


def _delimited_rows(text: str, delimiter: str) -> list[Row]:
    """Rows under the header; quotes as in CSV for both; the line of a row is where it begins."""
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            if not header:
                header = _header(fields, line)
            elif fields:  # none: a blank line
                rows.append(Row("line", line, _fields(header, fields, line)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"broken quoting ({reason(error)})", f"line {line}") from error
    finally:
        csv.field_size_limit(before)
    return rows


def _header(names: list[str], line: int) -> list[str]:
    for name in names:
        if name and names.count(name) > 1:
            raise SourceError(
                f"the header has the column {column_name(name)!r} twice", f"line {line}"
            )
    return names


def _fields(header: list[str], fields: list[str], line: int) -> dict[str, object]:
    if len(fields) != len(header):
        what = f"{len(fields)} fields where the header has {len(header)}"
        raise SourceError(f"{what}; put a text that holds the separator in quotes", f"line {line}")
    return dict(zip(header, fields, strict=True))


def _parquet_rows(path: Path, choose: Choose) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = list(choose(file.schema_arrow.names))
            rows = file.read(columns=names).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"not a readable parquet file ({reason(error)})") from error
    return [Row("row", number, values) for number, values in enumerate(rows, 1)]


def _npy_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise SourceError("not a .npy file; write it with numpy.save")
            file.seek(0)
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        what = f"is broken ({reason(error)})"
        if "allow_pickle" in str(error):
            what = "holds pickled objects (rows of unequal length?)"
        raise SourceError(f"{what}; save a 2-D array of integers, or use .jsonl") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        got = f"{array.ndim}-D {array.dtype}"
        raise SourceError(
            f"must be a 2-D array of integers, one row of token ids a record, got {got}"
        )
    return (Row("row", number, {"input_ids": ids}) for number, ids in enumerate(array, 1))


def _list_rows(items: Sequence[object]) -> Iterator[Row]:
    for number, item in enumerate(items, 1):
        if isinstance(item, Mapping):
            yield Row("record", number, item)
        elif isinstance(item, str):
            yield Row("record", number, {"text": item})
        else:
            what = f"must be a text or a dict of columns, got {kind(item)}"
            raise SourceError(what, f"record {number}")


def _hub_rows(address: str, choose: Choose) -> list[Row]:
    from datasets.exceptions import DatasetsError

    import datasets

    path, config, split = (*address.split(":", 2), "", "")[:3]
    if config in SPLITS and not split:
        config, split = "", config
    try:
        data = datasets.load_dataset(path, config or None, split=split or "train")
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        what = f"cannot be loaded ({reason(error)})"
        raise SourceError(f"{what}; write hf:owner/name[:config][:split] or give a file") from error
    return _dataset_rows(data, choose)


def _dataset_rows(data: object, choose: Choose) -> list[Row]:
    import datasets

    if isinstance(data, datasets.DatasetDict):
        raise SourceError(f"is a set of splits; give one of {listed(data)}")
    if not isinstance(data, datasets.Dataset):
        allowed = "a path, 'hf:owner/name', a list of texts or of dicts, or a datasets.Dataset"
        raise SourceError(f"must be {allowed}, got {type(data).__name__}")
    names = list(choose(data.column_names))
    chosen = data.with_format(None).select_columns(names)
    class_names = {column: _names_of(chosen.features[column]) for column in names}
    return [Row("row", number, row, class_names) for number, row in enumerate(chosen.to_list(), 1)]


def _names_of(feature: object) -> list[str]:
    """The names that a `ClassLabel`, or a list of them, gives to its numbers; of others none."""
    import datasets

    each = getattr(feature, "feature", feature)  # List, LargeList, before datasets 4 Sequence
    return list(each.names) if isinstance(each, datasets.ClassLabel) else []


DOCUMENT = "-DOCSTART-"  # CoNLL-2003's line between documents; it is no word


def conll_rows(text: str) -> Iterator[Row]:
    """One row of `tokens` and `tags` a sentence; its number is the line of its first word.

    Columns are apart by tabs, in a line without one by spaces: the first is the word, the last its
    tag. Every line has as many columns as the first.
    """
    words: list[list[str]] = []
    num_columns = 0
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip() and line.split()[0] != DOCUMENT:
            words.append(_word_columns(line, number, num_columns))
            num_columns = len(words[-1])
        elif words:
            values = {"tokens": [w[0] for w in words], "tags": [w[-1].strip() for w in words]}
            yield Row("line", number - len(words), values, word_lines=True)
            words = []


def _word_columns(line: str, number: int, expected: int) -> list[str]:
    """The columns of a word's line; as many as `expected`, unless that is 0."""
    line = line.removesuffix("\r")
    fields = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
    place = f"line {number}"
    if len(fields) < 2:
        what = f"no tag after {one_line(line, 30)!r}; write word, tab or space, and tag"
        raise SourceError(what, place)
    if expected and len(fields) != expected:
        what = f"{len(fields)} columns where the first word has {expected}"
        raise SourceError(f"{what}; write every line alike, the tag last", place)
    return fields
