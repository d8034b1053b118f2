"""Labels as sources write them, and the names of a classifier's outputs that they stand for."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from unlearner.data.problems import (
    SourceError,
    is_whole,
    kind,
    listed,
    one_line,
)
from unlearner.data.record import RecordSet
from unlearner.errors import UserError

PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")
WRITTEN_FLOAT = re.compile(r"(-?[0-9]+)\.0*")  # as pandas writes whole numbers beside missing ones
LISTED_UP_TO = 12  # names; a message about a model with more gives their number and the nearest
MOST_UNUSED = 1000  # outputs of a new head that no record has; more, and the labels are no numbers
QUOTED_DIGITS = 4  # of a number that is no label; a longer one may be somebody's
TRUTHS = ("false", "true")


class LabelReader:
    """Turns the labels of one source into names of the model's outputs.

    Args:
        labels: The names in the order of the outputs; None for a new head, where names are read as
            they stand and numbers become their digits.
        first: The number of the first output in the source, 0 or 1.

    Attributes:
        numbers: The labels read so far that were numbers, as the source has them.
    """

    def __init__(self, labels: Sequence[str] | None, first: int = 0) -> None:
        self._is_new = labels is None
        self._labels = tuple(labels or ())
        self._first = first
        self.numbers: set[int] = set()
        self._one_beyond: SourceError | None = None

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

    def name(
        self,
        value: object,
        class_names: Sequence[str] = (),
        problem: Callable[[str], SourceError] = SourceError,
    ) -> str:
        """The name of a label; `SourceError` without a place says what is wrong with it.

        Args:
            class_names: What the source's own numbers stand for.
            problem: Puts its place to what is wrong, for `check_numbers`.
        """
        if isinstance(value, bool | np.bool_):
            return self._truth(bool(value))
        value = _whole(value)
        if class_names and is_whole(value):
            number = int(value)
            if not 0 <= number < len(class_names):
                what = f"is {_shown(number)}, but the data set names 0 to {len(class_names) - 1}"
                raise SourceError(f"{what}; remove records that have no label")
            value = class_names[number]
        text, is_name = _as_text(value), isinstance(value, str)
        if is_name and text in self._labels:
            return text
        if is_name and not self._is_new and text.casefold() in TRUTHS:
            return self._truth(text.casefold() == TRUTHS[1])
        if is_name and (written := WRITTEN_FLOAT.fullmatch(text)):
            text = str(int(written[1])) if len(text) < 20 else text
        if is_name and not PLAIN_NUMBER.fullmatch(text):
            if self._is_new:
                return text
            raise self._unknown(text)
        return self._numbered(text, problem, is_name=is_name)

    def _truth(self, value: bool) -> str:
        """The name of a label that is true or false: one written so, or of two outputs the second.

        For a new head the name that pandas and Python write.
        """
        if self._is_new:
            return str(value)
        named = [name for name in self._labels if name.casefold() == TRUTHS[value]]
        if not named and len(self._labels) != len(TRUTHS):
            what = f"is true or false, and the model has {len(self._labels)} outputs"
            raise SourceError(f"{what}; use names or numbers of its id2label")
        return named[0] if named else self._labels[value]

    def _numbered(
        self, digits: str, problem: Callable[[str], SourceError], *, is_name: bool
    ) -> str:
        """The name of the output with this number."""
        if len(digits) > 9:  # `int` refuses very long ones, and no model has as many outputs
            if self._is_new:
                return digits
            raise self._unknown(digits, is_number=True)
        number = int(digits)
        output = number - self._first
        self.numbers.add(number)
        if self._is_new:
            # A head made from -1, 0 and 1 would have output 1 for the name "0".
            if output < 0:
                what = f"is {_shown(number)}; number the classes from {self._first}"
                raise SourceError(f"{what}, or give them names")
            return str(output)
        if output == len(self._labels) and not self._first:
            if self._one_beyond is None:
                self._one_beyond = problem(str(self._unknown(digits, is_number=True)))
            return self._labels[-1]  # until `check_numbers` knows why
        if not 0 <= output < len(self._labels):
            raise self._unknown(digits, is_number=True)
        name = self._labels[output]
        if not is_name and digits in self._labels and digits != name:
            what = f"is {digits}, which may be the name {digits!r} or the output {output} ({name})"
            raise SourceError(f"{what}; write the name as text")
        return name

    def check_numbers(self) -> None:
        """Refuse a source whose labels have numbers that the model has not.

        Raises:
            SourceError: There is the number behind the last output's; where none is 0, the labels
                seem to be counted from 1.
        """
        if self._one_beyond is None:
            return
        if 0 in self.numbers:
            raise self._one_beyond
        count = len(self._labels)
        raise SourceError(
            f"the labels go up to {count} and none is 0: they seem to be counted from 1, where the "
            f"model's outputs are 0 to {count - 1}; set data.first_label=1",
            self._one_beyond.place,
        )

    def _unknown(self, text: str, *, is_number: bool = False) -> SourceError:
        # What is no label may be a record's text, which no message may hold.
        what = f"is text of {len(text)} characters that is no name of the model's"
        what += _nearest_names(text, self._labels)
        if is_number:
            what = f"is {_shown(text)}, which is no output of the model"
        last = len(self._labels) - 1
        names = f"{last + 1} names, numbered {self._first} to {last + self._first}"
        if last < LISTED_UP_TO:
            names = f"{listed(self._labels)} ({self._first} to {last + self._first})"
        hint = "use a name or number of the model's id2label"
        if not is_number and all(re.fullmatch(r"LABEL_\d+", name) for name in self._labels):
            hint = "its config.json names no classes: use numbers, or write id2label there"
        return SourceError(f"{what}; it has {names}; {hint}")


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
            f"{where}: every {what} is the same; a classifier needs at least 2 that differ; give "
            "records of every class"
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
            f"{where} are numbers up to {_shown(longest)}, but only {len(names)} differ; number "
            "the classes from 0, or give them names"
        )
    return tuple(str(number) for number in range(int(longest) + 1))


def _whole(value: object) -> object:
    """The whole number that a float is, as pandas makes of labels beside missing ones."""
    if not isinstance(value, float | np.floating):
        return value
    if math.isnan(value):
        raise SourceError("is missing (NaN); fill it in or remove the record")
    if not float(value).is_integer():
        raise SourceError(f"must be a name or a whole number, got the float {value:.4g}")
    return int(value)


def _as_text(value: object) -> str:
    if value is None:
        raise SourceError("is missing (null); fill it in or remove the record")
    if not isinstance(value, str) and not is_whole(value):
        raise SourceError(f"must be a name or a whole number, got {kind(value)}")
    text = str(value)
    if not text.strip():
        raise SourceError("is empty; fill it in or remove the record")
    return text


def _shown(number: int | str) -> str:
    """A short number as it stands, of a longer one the length: it may be of somebody's text."""
    digits = str(number)
    return digits if len(digits) <= QUOTED_DIGITS else f"a number of {len(digits)} digits"


def _nearest_names(text: str, labels: Iterable[str]) -> str:
    by_folded = {label.casefold(): label for label in labels}
    close = get_close_matches(text.casefold(), by_folded, n=3)
    shown = ", ".join(repr(one_line(by_folded[folded], 60)) for folded in close)
    return f"; nearest: {shown}" if shown else ""
