"""What messages about a source may say: its place, kinds, lengths and names of columns.

Never a text of a record: logs keep what is said, and the records are to be forgotten. The names of
columns are shown where they look like names; the header of a table without one is a record.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np


class SourceError(Exception):
    """What is wrong and where in the source, before role and source are put in front."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place


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


def listed(names: Iterable[object]) -> str:
    shown = [one_line(name, 30) for name in names]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "") if shown else "none"


# A word, with at most two others behind it that are joined to it, and few digits.
NAME = re.compile(r"\w+([.\-/]\w+){0,2}")
LONGEST_NAME, MOST_DIGITS = 30, 4

# Words of which names of columns are made; a name of several words is shown where all are of them.
COMMON_WORDS = """
    a answer answers assistant author body category class comment completion content context
    conversation conversations date description document email entity example file id index input
    instruction instructions item key kind label labels language line message messages model name
    ner no note number of output outputs page passage person prompt prompts query question
    questions reference reply response responses role row score sentence source speaker split
    subject summary system tag tags target task text texts the time title token tokens topic
    translation type url user value word words year frage antwort kategorie datum titel pregunta
    respuesta texto etiqueta domanda risposta testo pergunta resposta réponse texte étiquette
    vraag antwoord tekst
    """
COMMON = frozenset(COMMON_WORDS.split())


def _is_common(name: object) -> bool:
    words = str(name).replace("_", " ").replace("-", " ").lower().split()
    return 0 < len(words) <= 3 and all(word in COMMON for word in words)


def _looks_like_a_name(name: object) -> bool:
    text = str(name)
    is_word = bool(NAME.fullmatch(text)) and sum(map(str.isdigit, text)) <= MOST_DIGITS
    return len(text) <= LONGEST_NAME and (is_word or _is_common(text))


def are_names(names: Sequence[object]) -> bool:
    """Whether all of a header may be shown: one field that is no name makes a record of it."""
    return all(_looks_like_a_name(name) for name in names if str(name).strip())


def is_header(names: Sequence[object]) -> bool:
    """Whether a table's first line is likely to name columns: one name at least is a usual one."""
    return are_names(names) and any(map(_is_common, names))


def shown_names(names: Sequence[object]) -> str:
    """The names of columns in a message; their number and lengths where they may be a record."""
    if are_names(names):
        return listed(names)
    return f"{lengths_of(names)}, not shown as they may be text of a record"


def lengths_of(names: Sequence[object]) -> str:
    """The number of some names and their lengths."""
    lengths = ", ".join(str(len(str(name))) for name in names[:12])
    more = ", ..." if len(names) > 12 else ""
    return f"{len(names)} name{'s' * (len(names) != 1)} of {lengths}{more} characters"


def shown_name(name: object, number: int) -> str:
    """One column in a message, from its name or else its number, from 1."""
    return repr(str(name)) if _looks_like_a_name(name) else f"number {number}"


def shown_value(text: str) -> str:
    """A label or an id in a message; its length where it may be a text, in the wrong column."""
    if len(text.split()) > 2 or len(text) > LONGEST_NAME:
        return f"a text of {len(text)} characters"
    return repr(text)


def shown_column(name: str, ours: str) -> str:
    """A source's column in a message: its name where it looks like one, else what it stands for."""
    return name if _looks_like_a_name(name) else f"a column of {ours}"
