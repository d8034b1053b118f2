"""Results appear whole: they are made beside the output folder and moved there at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from unlearner import processes
from unlearner.errors import UserError

Json = dict[str, Any]  # what is written to or read from JSON

# Inside the output folder, while a run is not finished.
CHECKPOINTS = "checkpoints"

PARTIAL = ".partial"


def check_output(folder: Path, *, resume: bool = False) -> None:
    """Refuse an output folder that could lose something or cannot be made.

    Args:
        resume: Checkpoints in it are what is wanted.

    Raises:
        UserError: It is a file, holds anything else, or its parent cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; give a folder that does not exist yet")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held == {CHECKPOINTS} and not resume:
        raise UserError(
            f"--output {folder}: holds an unfinished run; go on with --resume, give another folder "
            "or remove it"
        )
    if held - {CHECKPOINTS}:
        raise UserError(f"--output {folder}: is not empty; give another folder or remove it")
    if folder.is_mount():
        raise UserError(f"--output {folder}: is where a disk is mounted; give a folder inside it")
    parent = folder.resolve().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written, {parent} is not a writable folder")


@contextmanager
def staged(folder: Path, *, resume: bool = False) -> Iterator[Path]:
    """A working folder that becomes `folder` when the block ends well, and is removed otherwise.

    Checkpoints, which the block may leave in `folder`, stay where it ends badly.

    Args:
        resume: There may be checkpoints already.

    Raises:
        UserError: See `check_output`.
    """
    processes.together(lambda: check_output(folder, resume=resume))
    if processes.is_main():
        with _staged(folder) as work:
            processes.from_main(str(work))
            yield work
            processes.wait()  # until nobody reads from it
    else:
        yield Path(processes.from_main(""))
        processes.wait()


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    target = folder.resolve()
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(target)
        prefix = f".{target.name}.{os.getpid()}."
        work = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=target.parent))
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be made ({error}); give another folder"
        ) from None
    try:
        yield work
        work.chmod(0o755)
        _take_the_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not empty: the results are in it, or another run's
                parent.rmdir()


def _take_the_place(work: Path, target: Path) -> None:
    """Rename the working folder; checkpoints have served their purpose."""
    old = work / f".{CHECKPOINTS}"
    if (target / CHECKPOINTS).exists():
        (target / CHECKPOINTS).rename(old)
    if target.exists():
        target.rmdir()
    work.rename(target)
    shutil.rmtree(target / old.name, ignore_errors=True)


def _remove_left(target: Path) -> None:
    """Remove the working folders of runs that were killed, which could not do it themselves."""
    for left in target.parent.glob(f".{target.name}.*.*{PARTIAL}"):
        process = left.name.removeprefix(f".{target.name}.").partition(".")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
