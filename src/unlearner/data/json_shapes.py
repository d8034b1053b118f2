"""The records that JSON holds which is not an array of objects: wrapped, by columns, or nested."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from unlearner.data.problems import SourceError, kind, shown_names

Values = Mapping[str, object]
Fits = Callable[[Sequence[str]], bool]

# A list of these is one record's; of any other column it is one value for each record.
LISTS = {"tokens", "tags", "input_ids", "messages", "conversations", "conversation", "tools"}


def records_of(value: object, fits: Fits) -> Iterator[Values]:
    """The records of one JSON value.

    Args:
        fits: Whether some columns are those of a record.

    Raises:
        SourceError: The value holds no records in a known shape.
    """
    if isinstance(value, list):
        return _of_array(value)
    if not isinstance(value, dict):
        raise SourceError(f'must hold objects such as {{"text": "..."}}, got {kind(value)}')
    for shape in (_split, _columns, _index):
        found = shape(value, fits)
        if found is not None:
            return iter(found)
    if fits(list(value)):
        return iter([value])
    return _wrapped(value)


def _of_array(values: Sequence[object]) -> Iterator[Values]:
    if values and all(isinstance(value, str) for value in values):
        return iter([{"text": value} for value in values])
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            what = f'the array must hold objects such as {{"text": "..."}}, got {kind(value)}'
            raise SourceError(what, f"record {number}")
    if values and all("paragraphs" in value for value in values):  # type: ignore[operator]
        return chain.from_iterable(_paragraphs(value) for value in values)  # type: ignore[arg-type]
    return iter(values)  # type: ignore[arg-type]


def _paragraphs(article: Values) -> Iterator[Values]:
    """SQuAD's: contexts with questions and answers each, under the title of an article."""
    for paragraph in _objects(article["paragraphs"]):
        for question in _objects(paragraph.get("qas", [])):
            yield {"context": paragraph.get("context"), **question}


def _objects(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise SourceError("paragraphs and qas must be arrays of objects, as in SQuAD's files")
    return value


def _split(value: Values, _fits: Fits) -> list[Values] | None:
    """Pandas' `split`: columns, index and data, a list for each row."""
    columns, data = value.get("columns"), value.get("data")
    if not (isinstance(columns, list) and isinstance(data, list)):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        raise SourceError("`data` must hold a list for each row, as long as `columns`")
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]


def _columns(value: Values, fits: Fits) -> list[Values] | None:
    """A list of values, or an object from row to value, for each column."""
    columns = list(value.values())
    if not columns or not fits(list(value)):
        return None
    if all(isinstance(one, dict) for one in columns):
        rows = list(columns[0])  # type: ignore[call-overload]
        if any(list(one) != rows for one in columns):  # type: ignore[call-overload]
            raise SourceError("its columns do not have the same rows; write one object a record")
        return [{name: one[row] for name, one in value.items()} for row in rows]  # type: ignore
    if not all(isinstance(one, list) for one in columns):
        return None
    if not all(_is_column(name, one) for name, one in value.items()):  # type: ignore[arg-type]
        return None
    lengths = {len(one) for one in columns}  # type: ignore[arg-type]
    if len(lengths) > 1:
        found = ", ".join(map(str, sorted(lengths)))
        raise SourceError(f"its columns are lists of unequal length ({found}); correct them")
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]  # type: ignore


def _is_column(name: str, values: Sequence[object]) -> bool:
    """Whether a list holds a value for each record, and is not the value of one."""
    if name.lower() in LISTS:
        return all(isinstance(value, list) for value in values)
    turns = [value for value in values if isinstance(value, dict) and {"role", "from"} & {*value}]
    return not turns  # of one conversation


def _index(value: Values, fits: Fits) -> list[Values] | None:
    """An object for each row, under its name: the id, unless rows are only numbered."""
    rows = list(value.values())
    if not rows or not all(isinstance(row, dict) and fits(list(row)) for row in rows):
        return None
    numbered = list(value) == [str(place) for place in range(len(value))]
    return [({} if numbered else {"id": name}) | dict(row) for name, row in value.items()]  # type: ignore[arg-type]


def _wrapped(value: Values) -> Iterator[Values]:
    """The one array of objects that an object holds, whatever stands beside it."""
    arrays = [
        name
        for name, one in value.items()
        if isinstance(one, list) and one and all(isinstance(item, dict) for item in one)
    ]
    if len(arrays) > 1:
        raise SourceError(
            f"holds {len(arrays)} arrays of objects ({shown_names(arrays)}); give the one that "
            "is meant as a file of its own"
        )
    if arrays:
        return _of_array(value[arrays[0]])  # type: ignore[arg-type]
    return iter([value])  # which columns are needed is said where they are chosen
