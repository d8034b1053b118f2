"""Files that a user names are read with a bound, and files that others rely on are written whole.

What can be wrong with a file is raised as `OSError` or `ValueError`, in words for a message: who
reads it says which file it is and what to do.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unlearner.errors import DiskError

SMALL = 16 * 2**20  # bytes of a configuration, a run file, a recipe
LARGE = 2**30  # of a tokenizer, a state, a report of very many records

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def kind_of_file(mode: int) -> str:
    """What a path is that is no regular file, in words; empty for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((words for is_kind, words in KINDS if is_kind(mode)), "no regular file")


def read_small(path: Path, most: int = SMALL) -> str:
    """The text of a regular file of at most so many bytes, in UTF-8.

    Raises:
        OSError: There is none, it is a pipe or a device (which might never end), or too large.
        UnicodeDecodeError: It is not UTF-8.
    """
    # Without O_NONBLOCK opening a pipe waits for somebody to write into it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if kind := kind_of_file(status.st_mode):
            raise OSError(f"is {kind}, not a file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"has {max(status.st_size, len(content)):,} bytes, at most {most:,} are read")
    return content.decode()


def read_json(path: Path, most: int = SMALL) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: See `read_small`.
        ValueError: It is not UTF-8 or not JSON.
    """
    try:
        return json.loads(read_small(path, most))
    except RecursionError:
        raise ValueError("nested too deep") from None


def write_whole(path: Path, text: str, *, mode: int = 0o644, new: bool = False) -> None:
    """Write a file that is there with all of its text or not at all, also when the machine stops.

    Args:
        new: Leave one that somebody else has made meanwhile.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    work = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not new:
            work.replace(path)
            return
        try:
            path.hardlink_to(work)
        except FileExistsError:
            pass
        except OSError:  # a disk without hard links
            work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What may still be written on the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_disk_error(error: BaseException) -> bool:
    """Whether there was no room or no right to write; safetensors' errors say so in text only."""
    if isinstance(error, OSError):
        return error.errno in UNWRITABLE
    return isinstance(error, SafetensorError) and "while serializing" in str(error)


@contextmanager
def saving(what: str, folder: Path, needed: int = 0) -> Iterator[None]:
    """Where the block cannot write, one line says what, where, and what room there is.

    Args:
        folder: Where; it need not be there any more.
        needed: Bytes that the block writes, as far as that is known.

    Raises:
        DiskError: It could not write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_disk_error(error):
            raise
        takes = f"it takes {megabytes(needed)}, " if needed else ""
        raise DiskError(
            f"{folder}: {what} could not be saved ({' '.join(str(error).split())}); {takes}"
            f"{megabytes(free_bytes(folder))} are free there: make room or lift the limit, or give "
            "another --output"
        ) from error


def megabytes(number: float) -> str:
    """Bytes as `1,234 MB`."""
    return f"{max(number, 1e5) / 1e6:,.{0 if number > 1e7 else 1}f} MB"
