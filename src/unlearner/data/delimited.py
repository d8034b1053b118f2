"""Tables as text: which separator and which use of quotes a file has, and its rows."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unlearner.data.problems import SourceError, is_header, lengths_of, reason, shown_name

LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit of 131,072 is too low for texts
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

Fits = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Table:
    """The rows of a table, each with the line in which it begins.

    Attributes:
        header: The names of the columns.
        rows: Line and fields, as many as the header has.
        notes: How it was read, where that is not the plain case.
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]
    notes: tuple[str, ...] = ()


def read_table(text: str, usual: str, fits: Fits) -> Table:
    """The rows under the header of a text.

    The separator is the usual one where the header then `fits`; else the first of the others with
    which it does; else the one that cuts the header into the most columns. A table of one column
    is never cut at another separator.

    Quotes are those of CSV. Of columns apart by tabs they are part of the text where as CSV they
    would be wrong or would swallow the beginnings of rows.

    Raises:
        SourceError: The first line is no header or names a column twice, quotes are broken, or a
            row has too many or too few fields.
    """
    first_line = 1
    if text[:4].lower() == "sep=" and text[4:5] and text[5:6] in ("\r", "\n"):  # Excel's own mark
        usual, text, first_line = text[4], text[5:].lstrip("\r\n"), 2
    separator = _separator(text, usual, fits)
    notes = () if separator == usual else (f"separated by {SEPARATORS[separator]}",)
    if separator == "\t" and '"' in text and _quotes_are_text(text):
        header, rows = _parsed(text, separator, first_line, quoted=False)
        return Table(header, rows, (*notes, "quotes are part of the texts"))
    return Table(*_parsed(text, separator, first_line, quoted=True), notes)


def _separator(text: str, usual: str, fits: Fits) -> str:
    headers = {}
    for separator in dict.fromkeys([usual, *SEPARATORS]):
        headers[separator] = _first_row(text, separator)
        if headers[separator] and fits(headers[separator]):
            return separator
    best = max(headers, key=lambda separator: len(headers[separator]))
    if headers[best] and not is_header(headers[best]):
        raise SourceError(
            f"no header that names columns, but {lengths_of(headers[best])}, not shown as they may "
            "be text of a record; put a line of names above the first record, or name the columns "
            "with --map",
            "line 1",
        )
    return best


def _first_row(text: str, separator: str) -> list[str]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        return next((row for row in reader if row), [])
    except csv.Error:
        return []
    finally:
        csv.field_size_limit(before)


def _quotes_are_text(text: str) -> bool:
    """Whether columns apart by tabs hold quotes that are not those of CSV."""
    try:
        _, plain = _parsed(text, "\t", 1, quoted=False)
    except SourceError:
        return False
    try:
        header, quoted = _parsed(text, "\t", 1, quoted=True)
    except SourceError:
        return True
    return len(header) > 1 and len(quoted) < len(plain)


def _parsed(
    text: str, separator: str, first_line: int, *, quoted: bool
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, quoting=quoting
    )
    rows: list[tuple[int, list[str]]] = []
    header: list[str] = []
    line = first_line
    try:
        for fields in reader:
            if not header:
                header = _header(fields, line)
            elif fields:  # none: a blank line
                rows.append((line, _complete(header, fields, line)))
            line = reader.line_num + first_line
    except csv.Error as error:
        what = f"broken quoting ({reason(error)})"
        raise SourceError(f"{what}; double a quote within a quoted field", f"line {line}") from (
            error
        )
    finally:
        csv.field_size_limit(before)
    return header, rows


def _header(names: list[str], line: int) -> list[str]:
    for place, name in enumerate(names):
        if name and name in names[:place]:
            what = f"the header has the column {shown_name(name, place + 1)} twice"
            raise SourceError(what, f"line {line}")
    return names


def _complete(header: list[str], fields: list[str], line: int) -> list[str]:
    if len(fields) != len(header):
        what = f"{len(fields)} fields where the header has {len(header)}"
        raise SourceError(f"{what}; put a text that holds the separator in quotes", f"line {line}")
    return fields
