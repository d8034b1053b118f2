"""Labels as sources write them, and the names of a classifier's outputs that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from unlearner.data.problems import (
    SourceError,
    is_whole,
    kind,
    listed,
    one_line,
    shown_value,
)
from unlearner.data.record import RecordSet
from unlearner.errors import UserError

PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")
LISTED_UP_TO = 12  # names; a message about a model with more gives their number and the nearest
MOST_UNUSED = 1000  # outputs of a new head that no record has; more, and the labels are no numbers


class LabelReader:
    """Turns the labels of one source into names of the model's outputs.

    Args:
        labels: The names in the order of the outputs; None for a new head, where names are read as
            they stand and numbers become their digits.
    """

    def __init__(self, labels: Sequence[str] | None) -> None:
        self._is_new = labels is None
        self._labels = tuple(labels or ())
        self._outputs = {str(number): name for number, name in enumerate(self._labels)}

    def class_names(self, declared: Sequence[str]) -> tuple[str, ...]:
        """The names that a source's own numbers stand for; none where they are output numbers.

        Names that a data set declares, but for upper and lower case, are the model's wherever one
        of them is: then their order counts and not the model's. Otherwise the model (with names
        such as LABEL_0) knows the classes by number only.
        """
        if self._is_new:
            return tuple(declared)
        folded = {name.casefold(): name for name in self._labels}
        if not any(name.casefold() in folded for name in declared):
            return ()
        return tuple(n if n in self._labels else folded.get(n.casefold(), n) for n in declared)

    def name(self, value: object, class_names: Sequence[str] = ()) -> str:
        """The name of a label; `SourceError` without a place says what is wrong with it."""
        if class_names and is_whole(value):
            number = int(value)
            if not 0 <= number < len(class_names):
                what = f"is {number}, but the data set names 0 to {len(class_names) - 1}"
                raise SourceError(f"{what}; remove records that have no label")
            value = class_names[number]
        text, is_name = _as_text(value), isinstance(value, str)
        if self._is_new:
            # A head made from -1, 0 and 1 would have output 1 for the name "0".
            if not is_name and text.startswith("-"):
                raise SourceError(f"is {text}; number the classes from 0, or give them names")
            return text
        if is_name and text in self._labels:
            return text
        if text not in self._outputs:
            raise self._unknown(text, is_number=not is_name or bool(PLAIN_NUMBER.fullmatch(text)))
        name = self._outputs[text]
        if not is_name and text in self._labels and text != name:
            what = f"is {text}, which may be the name {text!r} or the output {text} ({name})"
            raise SourceError(f"{what}; write the name as text")
        return name

    def _unknown(self, text: str, *, is_number: bool) -> SourceError:
        what = f"is {shown_value(text)}, which the model does not have"
        what += _nearest_names(text, self._labels)
        if is_number:
            what = f"is {one_line(text, 30)}, which is no output of the model"
        last = len(self._labels) - 1
        names = f"{last + 1} names, numbered 0 to {last}"
        if last < LISTED_UP_TO:
            names = f"{listed(self._labels)} (0 to {last})"
        return SourceError(f"{what}; it has {names}; use a name or number of the model's id2label")


def label_names(records: RecordSet, family: str) -> tuple[str, ...]:
    """The names of a new head's outputs, in order, from the records it is to learn.

    Where every label is a number, the names are the digits of 0 up to the highest, so that a number
    and its output agree; numbers between that no record has are outputs all the same. Otherwise the
    names are sorted, for tags with "O" (no entity) first.

    Raises:
        UserError: For fewer than 2 different labels, or numbers too far apart to be outputs.
    """
    words = family == "token-classification"
    names = {name for r in records for name in (r.tags if words else (r.label,))}
    where = f"{records.name} {one_line(records.source)}"
    what = "tag" if words else "label"
    if len(names) < 2:
        raise UserError(
            f"{where}: every {what} is {shown_value(next(iter(names)))}; a classifier needs at "
            "least 2 that differ; give records of every class"
        )
    if all(PLAIN_NUMBER.fullmatch(name) for name in names):
        return _numbers(names, f"{where}: {what}s")
    outside = ("O",) if words and "O" in names else ()
    return (*outside, *sorted(names - {*outside}))


def _numbers(names: set[str], where: str) -> tuple[str, ...]:
    longest = max(names, key=lambda digits: (len(digits), digits))
    # Digits are compared, since `int` refuses very long ones.
    if len(longest) > 9 or int(longest) + 1 - len(names) > MOST_UNUSED:
        raise UserError(
            f"{where} are numbers up to {one_line(longest, 30)}, but only {len(names)} differ; "
            "number the classes from 0, or give them names"
        )
    return tuple(str(number) for number in range(int(longest) + 1))


def _as_text(value: object) -> str:
    if isinstance(value, float | np.floating):
        raise SourceError(f"must be a name or a whole number, got the float {value}")
    if not isinstance(value, str) and not is_whole(value):
        raise SourceError(f"must be a name or a whole number, got {kind(value)}")
    text = str(value)
    if not text.strip():
        raise SourceError("is empty; fill it in or remove the record")
    return text


def _nearest_names(text: str, labels: Iterable[str]) -> str:
    by_folded = {label.casefold(): label for label in labels}
    close = get_close_matches(text.casefold(), by_folded, n=3)
    shown = ", ".join(repr(one_line(by_folded[folded], 60)) for folded in close)
    return f"; nearest: {shown}" if shown else ""
