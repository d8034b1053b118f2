"""What a data set is: a file with options, a family of models, and the sets that it gives.

A file `datasets/NAME.py` begins with its summary and defines

- `FAMILY`, what kind of model its records are for;
- `Options`, a class of settings: which split, how many records, which seed;
- `sets(folder, options)`, the record sets by role: forget, retain, holdout, perhaps test.

Nothing heavy is imported here: a wrong option is refused before any model is loaded.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from unlearner import registry
from unlearner.data.loading import read_records
from unlearner.data.problems import SourceError, one_line
from unlearner.data.readers import TAGGED_SUFFIXES, read_rows
from unlearner.data.record import RecordSet
from unlearner.errors import UserError
from unlearner.settings import DataSettings, build

HUB = "hf:"
ENDINGS = (".json", ".jsonl", ".parquet", ".csv", "-00000-of-00001.parquet")
Item = TypeVar("Item")

Row = dict[str, Any]  # a row of a file, by its own column names
Rows = list[Row]


class Options(BaseModel):
    """Settings that every data set has.

    Args:
        seed: Of every draw of records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**32)


def options_of(data: DataSettings) -> Any:
    """The options of the data set that `data.name` names.

    Raises:
        UserError: There is no such data set, no folder is given, or an option is not allowed.
    """
    module = registry.load("datasets", data.name)
    if not data.folder:
        raise UserError(
            f"data.folder: none given; name the folder of {data.name}'s files"
            f"{f', or {module.HUB_ID}' if module.HUB_ID else ''}"
        )
    return build(module.Options, data.options, where="data.options")


def data_settings(values: Mapping[str, object]) -> DataSettings:
    """The section `data` of a run file, the options of a named data set checked with it.

    Raises:
        UserError: A key or a value is not allowed.
    """
    data = build(DataSettings, values, where="data")
    if data.name:
        options_of(data)
    return data


def family_of(name: str) -> str:
    """The family of models that a data set's records are for."""
    return registry.load("datasets", name).FAMILY


def named_sets(
    data: DataSettings, family: str, labels: Sequence[str] | None = None
) -> dict[str, RecordSet]:
    """The sets of the data set that `data.name` names, by role; none where it names none.

    With `data.forget_class` there is no forget set of its own: its records go back to retain.

    Args:
        family: Of the model that is to unlearn.
        labels: The names of a classifier's outputs.

    Raises:
        UserError: The records are for another family, have other labels, or cannot be read.
    """
    if not data.name:
        return {}
    module = registry.load("datasets", data.name)
    if family != module.FAMILY:
        raise UserError(
            f"data.name: {data.name} is for {module.FAMILY}, MODEL is for {family}; "
            "see `unlearner list datasets`"
        )
    found: dict[str, RecordSet] = module.sets(data.folder, options_of(data))
    if data.forget_class:
        forget, retain = found.pop("forget"), found["retain"]
        found["retain"] = replace(retain, records=retain.records + forget.records)
    if labels is not None:
        _check_labels(found.values(), labels)
    return found


def _check_labels(sets: Iterable[RecordSet], labels: Sequence[str]) -> None:
    known = {*labels, ""}
    for some, record in ((each, record) for each in sets for record in each):
        unknown = {record.label, *record.tags} - known
        if unknown:
            raise UserError(
                f"{some.name} {some.source}, record {record.id!r}: the model has no label "
                f"{min(unknown)!r}; train it on this data set (`target:` in a run file)"
            )


def read_part(folder: str, part: str, hub: str, fetch: str) -> Rows:
    """The rows of one part of a data set, as they stand, with all their columns.

    Args:
        folder: A local folder, or `hf:owner/name`.
        part: The file's path below the folder, without its ending; a `-00000-of-00001` behind it,
            as the hub's own files have, is allowed.
        hub: The part's `config:split` on the hub.
        fetch: Where the data come from, for the message when they are not there.

    Raises:
        UserError: There is no such folder or part, or it cannot be read.
    """
    if folder.startswith(HUB):
        source = f"{folder}:{hub}"
    else:
        source = str(find_file(folder, [f"{part}{ending}" for ending in ENDINGS], fetch))
    try:
        return [dict(row.values) for row in read_rows(source, list, TAGGED_SUFFIXES)]
    except SourceError as error:
        where = f"{one_line(source)}, {error.place}" if error.place else one_line(source)
        raise UserError(f"data.folder {where}: {error}") from error


def find_file(folder: str, names: Sequence[str], fetch: str) -> Path:
    """The first of some file names that the folder has.

    Raises:
        UserError: There is no such folder, or it has none of them.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"data.folder: {one_line(folder)}: no such folder; {fetch}")
    found = next((place / name for name in names if (place / name).is_file()), None)
    if found is None:
        raise UserError(f"data.folder: {one_line(folder)} holds no {names[0]}; {fetch}")
    return found


def record_set(role: str, rows: Sequence[Row], family: str, source: str) -> RecordSet:
    """Rows with our own column names as the set of a role; every value is checked.

    Raises:
        UserError: A row cannot be a record, such as one with an empty text.
    """
    return replace(read_records(list(rows), name=role, family=family), source=source)


def shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """The items in an order that the seed decides."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def take(items: Sequence[Item], count: int | None, option: str) -> list[Item]:
    """The first `count` items, all for None.

    Raises:
        UserError: There are fewer.
    """
    if count is not None and count > len(items):
        raise UserError(f"data.options.{option}: at most {len(items)} here, got {count}")
    return list(items[:count])
