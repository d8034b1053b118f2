"""Errors that the user can fix, the interruption of a run, and text that is safe to print."""

from reprlib import Repr

LONGEST_LINE = 2000  # letters of a message


class UserError(Exception):
    """Input that cannot be used: one line saying what, where, what is allowed and the way out.

    The command line prints it and exits with status 2; nothing has been written by then.
    """


class DiskError(Exception):
    """What had to be written could not be: one line saying what, where, the room and the way out.

    The command line prints it and exits with status 1: the input was right.
    """


class TrainingError(RuntimeError):
    """Training went wrong in a way that no further step can repair, other settings perhaps can."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was stopped by the user, has saved a checkpoint and can go on from there."""


def printable(text: str) -> str:
    """The text as one line for a terminal: what would move the cursor or colour it is escaped."""
    line = " ".join(text.split())
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in line
    )


def one_message(text: str) -> str:
    """The text as one line of bounded length, for a terminal or a log."""
    line = printable(text[: 2 * LONGEST_LINE])
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


_QUOTES = Repr()
_QUOTES.maxstring = _QUOTES.maxother = 200
_QUOTES.maxlong = 40
_QUOTES.maxlevel = 3


def quoted(value: object) -> str:
    """A value of the user's as a message shows it, cut where it is long or nested."""
    text = _QUOTES.repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
