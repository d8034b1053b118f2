"""The one file that holds text of forgotten records: for the operator's eyes, on request."""

from collections.abc import Sequence
from pathlib import Path

from unlearner.errors import printable
from unlearner.inference.answers import Answer

HEADING = (
    "PRIVATE: holds the text of records that were to be forgotten, and what the model says of them."
    "\nDo not publish it with the model or the report; delete it when you have looked.\n"
)


def write_texts(path: Path, before: Sequence[Answer], after: Sequence[Answer]) -> None:
    """The true continuation of each record and the model's own, before and after unlearning."""
    parts = [HEADING]
    for target, unlearned in zip(before, after, strict=True):
        parts.append(
            f"\n=== {printable(target.id)}\ntruth:  {target.reference_text!r}"
            f"\nbefore: {target.continuation_text!r}\nafter:  {unlearned.continuation_text!r}\n"
        )
    path.touch(mode=0o600)
    path.write_text("".join(parts), encoding="utf-8")
