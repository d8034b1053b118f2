"""Errors that the user can fix, the interruption of a run, and text that is safe to print."""


class UserError(Exception):
    """Input that cannot be used: one line saying what, where, what is allowed and the way out.

    The command line prints it and exits with status 2; nothing has been written by then.
    """


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was stopped by the user, has saved a checkpoint and can go on from there."""


def printable(text: str) -> str:
    """The text as one line for a terminal: what would move the cursor or colour it is escaped."""
    line = " ".join(text.split())
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in line
    )
