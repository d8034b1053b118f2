"""Results appear whole: they are made beside the output folder and moved there at the end."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

from unlearner import processes
from unlearner.errors import DiskError, UserError, quoted
from unlearner.files import saving

Json = dict[str, Any]  # what is written to or read from JSON

# Inside the output folder, while a run is not finished.
CHECKPOINTS = "checkpoints"

PARTIAL = ".partial"

LONGEST = 60  # bytes of the folder's name in the names of the files beside it


def check_output(folder: Path, *, resume: bool = False) -> None:
    """Refuse an output folder that could lose something or cannot be made.

    Args:
        resume: Checkpoints in it are what is wanted.

    Raises:
        UserError: It is a file, holds anything else, lies in a model's folder, another run is
            working there, or its parent cannot be written to.
    """
    target = check_free(folder)
    _check_contents(folder, target, resume=resume)
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written, {parent} is not a writable folder")


def check_free(folder: Path) -> Path:
    """The folder as the system knows it, which nobody works on.

    Raises:
        UserError: It cannot be a folder, or another run is working there.
    """
    name = quoted(str(folder))
    if not str(folder).isprintable():
        raise UserError(f"--output {name}: holds an invisible character; leave it out")
    try:
        target = folder.resolve()
        target.exists()  # a name too long
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            descriptor = os.open(_lock_path(target), os.O_RDWR)
            try:
                _take_lock(descriptor, folder)
            finally:
                os.close(descriptor)
    except (OSError, RuntimeError) as error:  # also links in a circle
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--output {name}: cannot be a folder ({reason}); give another") from None
    return target


def _check_contents(folder: Path, target: Path, *, resume: bool) -> None:
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {folder}: is a file; give a folder that does not exist yet")
    held = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if held == {CHECKPOINTS} and not resume:
        raise UserError(
            f"--output {folder}: holds an unfinished run; go on with --resume, give another folder "
            "or remove it"
        )
    if held - {CHECKPOINTS}:
        raise UserError(f"--output {folder}: is not empty; give another folder or remove it")
    if target.is_mount():
        raise UserError(f"--output {folder}: is where a disk is mounted; give a folder inside it")
    for above in target.parents:
        if (above / "config.json").exists() and any(above.glob("*.safetensors")):
            raise UserError(
                f"--output {folder}: lies inside the model {above}; give a folder outside it"
            )


def _beside(target: Path) -> str:
    """How the names of the files beside the target begin: of no other target's files they do."""
    name = os.fsencode(target.name)
    return f".{name[:LONGEST].decode(errors='ignore')}.{sha256(name).hexdigest()[:8]}."


def _lock_path(target: Path) -> Path:
    return target.with_name(f"{_beside(target)}lock")


def _take_lock(descriptor: int, folder: Path) -> None:
    """Lock an open file until it is closed, which the system does for a process that has died."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UserError(
                f"--output {folder}: another run is working there; wait for it, or give another "
                "folder"
            ) from None
        # Some network disks have no locks: two runs are then not noticed.


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block runs, every other run is refused the folder, whose parent must be there.

    Raises:
        UserError: Another run is working there.
        OSError: Its parent cannot be written to.
    """
    path = _lock_path(folder.resolve())
    while (descriptor := _locked(path, folder)) is None:
        continue
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, folder: Path) -> int | None:
    """The lock, open and taken; None where another run, ending, removed the file meanwhile."""
    with ExitStack() as behind:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        behind.callback(os.close, descriptor)
        _take_lock(descriptor, folder)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                behind.pop_all()
                return descriptor
    return None


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
        with ExitStack() as behind:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                behind.enter_context(alone_in(folder))
                work = behind.enter_context(_working_folder(target))
            except OSError as error:
                raise UserError(
                    f"--output {folder}: cannot be made ({error}); give another folder"
                ) from None
            behind.enter_context(saving("the results", folder))
            try:
                yield work
            except DiskError as error:  # the working folder is not one that the user knows
                raise DiskError(str(error).replace(str(work), str(folder))) from error
            work.chmod(0o755)
            _take_the_place(work, target)
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: the results are in it, or another run's
                parent.rmdir()


@contextmanager
def _working_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target, removed behind the block; so are those of runs that were killed.

    The caller is alone in the target's folder, so that none of them is still in use.
    """
    prefix = _beside(target)
    for left in target.parent.glob(f"{escape(prefix)}????????{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=target.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _take_the_place(work: Path, target: Path) -> None:
    """Rename the working folder; checkpoints have served their purpose."""
    old = work / f".{CHECKPOINTS}"
    if (target / CHECKPOINTS).exists():
        (target / CHECKPOINTS).rename(old)
    if target == Path.cwd():  # stays the folder that the user's shell is in
        for path in sorted(work.iterdir()):
            path.rename(target / path.name)
    else:
        if target.exists():
            target.rmdir()
        work.rename(target)
    shutil.rmtree(target / old.name, ignore_errors=True)
