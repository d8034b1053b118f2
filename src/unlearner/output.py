"""Results appear whole: they are made beside the output folder and moved there at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unlearner.errors import UserError


def check_output(folder: Path) -> None:
    """Refuse an output folder that could lose something or cannot be made.

    Raises:
        UserError: It is a file, holds anything, or its parent cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; give a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output {folder}: is not empty; give another folder or remove it")
    if folder.is_mount():
        raise UserError(f"--output {folder}: is where a disk is mounted; give a folder inside it")
    parent = folder.resolve().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written, {parent} is not a writable folder")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A working folder that becomes `folder` when the block ends well, and is removed otherwise.

    Raises:
        UserError: See `check_output`.
    """
    check_output(folder)
    target = folder.resolve()
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        )
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be made ({error}); give another folder"
        ) from None
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            target.rmdir()
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not empty: the results are in it, or another run's
                parent.rmdir()
