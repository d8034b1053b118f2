"""Rows of files, lists and data sets, by the source's own column names: one reader per format.

Reading is exact: texts come out as they stand, and what cannot be read raises a `SourceError` that
says what is wrong and in which line, row or record. What columns mean is decided in `fields.py`.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from unlearner.data.delimited import read_table
from unlearner.data.files import DataFile, data_files, folder_and_split
from unlearner.data.json_shapes import records_of
from unlearner.data.problems import (
    SourceError,
    kind,
    listed,
    one_line,
    reason,
    shown_name,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: `unit` and `number` (from 1) say where, `values` by the file's names."""

    unit: str  # line, row or record
    number: int
    values: Mapping[str, object]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a column's numbers
    word_lines: bool = False  # each word stands in a line of its own, the first in line `number`
    file: str = ""  # of a folder
    notes: tuple[str, ...] = ()  # how its file is read, where that is not the plain case

    @property
    def place(self) -> str:
        within = f"{self.unit} {self.number}"
        return f"{self.file}, {within}" if self.file else within

    @property
    def name(self) -> str:
        """What stands for an id where the record has none."""
        return f"{self.file}:{self.number}" if self.file else str(self.number)

    def problem(self, what: str) -> SourceError:
        return SourceError(what, self.place)

    def word_problem(self, noun: str, position: int, what: str) -> SourceError:
        """The token or tag at this position, from 0, is wrong."""
        if self.word_lines:
            return replace(self, number=self.number + position).problem(f"{noun} {what}")
        return self.problem(f"{noun} at position {position} {what}")


SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".npy", ".md")
LABELLED_SUFFIXES = SUFFIXES[:6]  # those with room for labels
TAGGED_SUFFIXES = (*LABELLED_SUFFIXES, ".conll")
SPLITS = ("train", "validation", "test")

# Of the columns that a table has, those to read; the others may be large and are left alone. Raises
# a `SourceError` where they are not those of a record.
Choose = Callable[[Sequence[str]], Collection[str]]


def read_rows(
    source: object, choose: Choose, suffixes: Sequence[str], *, document: bool = False
) -> Iterable[Row]:
    """Rows of a path, an `hf:` data set id, a list or a data set; `SourceError` says what is wrong.

    A table's columns are cut down to those that `choose` names; other rows come with all they have.

    Args:
        suffixes: Of the files that may be given.
        document: A text file is one record, not one a line.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _hub_rows(source.removeprefix("hf:"), choose)
    if isinstance(source, str | Path):
        saved = _saved_data_set(Path(source), choose)
        if saved is not None:
            return saved
        files = data_files(Path(source), suffixes)
        return _rows_of_files(files, choose, document=document)
    if isinstance(source, list | tuple):
        return _list_rows(source)
    return _dataset_rows(source, choose)


def _rows_of_files(files: Sequence[DataFile], choose: Choose, *, document: bool) -> Iterator[Row]:
    for file in files:
        try:
            for row in _file_rows(file, choose, document=document):
                yield replace(row, file=file.shard) if file.shard else row
        except SourceError as error:
            if not file.shard:
                raise
            place = f"{file.shard}, {error.place}" if error.place else file.shard
            raise SourceError(str(error), place) from error


def _file_rows(file: DataFile, choose: Choose, *, document: bool) -> Iterable[Row]:
    if file.suffix == ".parquet":
        return _parquet_rows(file, choose)
    if file.suffix == ".npy":
        return _npy_rows(file)
    text = file.text()
    if file.suffix in (".csv", ".tsv"):
        return _delimited_rows(text, "," if file.suffix == ".csv" else "\t", choose)
    if file.suffix == ".json":
        return _json_rows(text, choose)
    if file.suffix == ".md" or (file.suffix == ".txt" and document):
        return [Row("document", 1, {"text": text})] if text.strip() else []
    readers = {".jsonl": _json_line_rows, ".ndjson": _json_line_rows, ".conll": conll_rows}
    return readers.get(file.suffix, _plain_rows)(text)


def _fits(choose: Choose) -> Callable[[Sequence[str]], bool]:
    def fits(names: Sequence[str]) -> bool:
        with suppress(SourceError):
            choose(names)
            return True
        return False

    return fits


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


def _json_rows(text: str, choose: Choose) -> Iterable[Row]:
    """Rows of one JSON value, or of JSON lines."""
    if not text.strip():
        return []
    first = text.lstrip()[0]
    if first not in "[{" or (first == "{" and _goes_on(text)):
        return _json_line_rows(text)
    records = records_of(parse_json(text, 1), _fits(choose))
    return [Row("record", number, values) for number, values in enumerate(records, 1)]


def _goes_on(text: str) -> bool:
    """Whether something stands behind the first JSON value, as in JSON lines."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):  # said where the whole is read
        lines = text.strip().split("\n", 2)
        return len(lines) > 1 and lines[0].rstrip().endswith("}")
    return bool(text[end:].strip())


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
        place = next(place for place, key in enumerate(names) if key in names[:place])
        raise ValueError(
            f"the key {shown_name(names[place], place + 1)} stands twice in one object"
        )
    return values


def _delimited_rows(text: str, usual: str, choose: Choose) -> list[Row]:
    table = read_table(text, usual, _fits(choose))
    return [
        Row("line", line, dict(zip(table.header, fields, strict=True)), notes=table.notes)
        for line, fields in table.rows
    ]


def _parquet_rows(file: DataFile, choose: Choose) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with file.open() as stream, parquet.ParquetFile(stream) as table:
            names = list(choose(table.schema_arrow.names))
            rows = table.read(columns=names).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"not a readable parquet file ({reason(error)})") from error
    return [Row("row", number, values) for number, values in enumerate(rows, 1)]


def _npy_rows(file: DataFile) -> Iterator[Row]:
    with file.open() as stream:
        try:
            _check_npy(stream)
            array = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError) as error:
            what = f"is broken ({reason(error)})"
            raise SourceError(f"{what}; save a 2-D array of integers, or use .jsonl") from error
    return (Row("row", number, {"input_ids": ids}) for number, ids in enumerate(array, 1))


def _check_npy(stream: IO[bytes]) -> None:
    """Refuse, before memory is taken for it, an array that is of another kind or not all there."""
    if stream.read(6) != b"\x93NUMPY":
        raise SourceError("not a .npy file; write it with numpy.save")
    stream.seek(0)
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
    if version[0] == 1:
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[arg-type]
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)  # type: ignore[arg-type]
    if dtype.hasobject:
        what = "holds pickled objects (rows of unequal length?)"
        raise SourceError(f"{what}; save a 2-D array of integers, or use .jsonl")
    if len(shape) != 2 or dtype.kind not in "iu":
        got = f"{len(shape)}-D {dtype}"
        raise SourceError(
            f"must be a 2-D array of integers, one row of token ids a record, got {got}"
        )
    start = stream.tell()
    there = stream.seek(0, 2) - start
    if there < math.prod(shape) * dtype.itemsize:
        rows, columns = shape
        what = f"is broken (its header says {rows} x {columns}, {there} bytes of numbers follow)"
        raise SourceError(f"{what}; save a 2-D array of integers, or use .jsonl")
    stream.seek(0)


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


def _saved_data_set(path: Path, choose: Choose) -> list[Row] | None:
    """The rows of a folder that `save_to_disk` wrote; None for any other."""
    try:
        folder = _saved_folder(path)
    except (OSError, ValueError):  # said where files are looked for
        return None
    if folder is None:
        return None
    from datasets.exceptions import DatasetsError

    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, DatasetsError) as error:
        what = f"is not a readable data set ({reason(error)})"
        raise SourceError(f"{what}; save it again with save_to_disk") from error
    return _dataset_rows(data, choose)


def _saved_folder(path: Path) -> Path | None:
    """The folder of one split that `save_to_disk` wrote at a path."""
    folder, split = folder_and_split(path)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(one.name for one in folder.iterdir() if (one / "state.json").is_file())
        if split not in splits:
            example = one_line(f"{folder}:{splits[0] if splits else 'train'}")
            raise SourceError(
                f"is a set of splits; give one of {listed(splits)}, for example {example}"
            )
        return folder / split
    if not (folder / "state.json").is_file():
        return None
    if split:
        raise SourceError(f"has no splits; leave :{one_line(split, 30)} out")
    return folder


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
        raise SourceError("one column; write word, tab or space, and tag", place)
    if expected and len(fields) != expected:
        what = f"{len(fields)} columns where the first word has {expected}"
        raise SourceError(f"{what}; write every line alike, the tag last", place)
    return fields
