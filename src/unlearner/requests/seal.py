"""What is kept beside the ledger, or in a second place: seal, anchor, and who is at work.

The seal is an HMAC of every byte of the file, by the user's key: without the key nobody can make
one. Before entries are written it announces the last of them, so that a process killed between
writing and sealing leaves a file that can be told from one that somebody else has changed.

The anchor is the head of the chain and the states of all requests, in a file that is kept
elsewhere. A ledger that was brought back from a backup is behind it.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearner.errors import UserError, printable
from unlearner.files import LARGE, read_small, write_whole


@dataclass(frozen=True)
class Head:
    """The last entry of a chain."""

    number: int
    digest: str


@dataclass(frozen=True)
class Seal:
    """What the file was when it was last at rest.

    Attributes:
        code: HMAC-SHA256 of its bytes.
        announced: The head that was about to be written; None at rest.
    """

    head: Head
    code: str
    announced: Head | None = None

    @classmethod
    def of(cls, path: Path, head: Head, key: bytes) -> "Seal":
        """The seal of a file as it is."""
        code = hmac.new(key, b"seal\0", hashlib.sha256)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                code.update(block)
        return cls(head, code.hexdigest())

    def announcing(self, head: Head) -> "Seal":
        """The same, before entries up to this one are written."""
        return replace(self, announced=head)


def write_seal(path: Path, seal: Seal, key: bytes) -> None:
    """Write the seal whole.

    Raises:
        OSError: It cannot be written.
    """
    write_whole(path, _signed(_seal_fields(seal), b"seal file\0", key), mode=0o600)


def read_seal(path: Path, key: bytes) -> Seal:
    """The seal.

    Raises:
        ValueError: It is missing, or not as it was written with this key.
    """
    values = _read_signed(path, b"seal file\0", key, "its seal")
    announced = values["announced"]
    return Seal(Head(*values["head"]), values["code"], announced and Head(*announced))


def _seal_fields(seal: Seal) -> dict[str, Any]:
    announced = seal.announced
    return {
        "head": [seal.head.number, seal.head.digest],
        "code": seal.code,
        "announced": announced and [announced.number, announced.digest],
    }


@dataclass(frozen=True)
class Anchor:
    """What a ledger had reached when it was last anchored.

    Attributes:
        states: Of every request, by id.
        model: The digest of the current model's weights; empty where there is none yet.
    """

    head: Head
    states: Mapping[str, str]
    model: str


def write_anchor(path: Path, anchor: Anchor, key: bytes) -> None:
    """Write the anchor whole.

    Raises:
        UserError: It cannot be written.
    """
    head = [anchor.head.number, anchor.head.digest]
    values = {"head": head, "states": dict(anchor.states), "model": anchor.model}
    try:
        write_whole(path, _signed(values, b"anchor\0", key), mode=0o600)
    except OSError as error:
        raise UserError(
            f"--anchor {path}: cannot be written ({error}); give a file that can, best on another "
            "disk"
        ) from None


def read_anchor(path: Path, key: bytes) -> Anchor:
    """The anchor.

    Raises:
        UserError: It cannot be read, or was changed.
    """
    try:
        values = _read_signed(path, b"anchor\0", key, "it")
    except ValueError as error:
        raise UserError(f"--anchor {path}: {error}; give the file that was kept") from None
    return Anchor(Head(*values["head"]), values["states"], values["model"])


def _signed(values: dict[str, Any], what: bytes, key: bytes) -> str:
    text = json.dumps(values, sort_keys=True)
    code = hmac.new(key, what + text.encode(), hashlib.sha256).hexdigest()
    return f"{text}\n{code}\n"


def _read_signed(path: Path, what: bytes, key: bytes, name: str) -> dict[str, Any]:
    """The values of a file that `_signed` has made, to the byte."""
    try:
        text = read_small(path, LARGE)
        values = json.loads(text.partition("\n")[0])
    except FileNotFoundError:
        raise ValueError(f"{name} is missing ({path.name})") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read ({type(error).__name__})") from None
    if not isinstance(values, dict) or not hmac.compare_digest(
        _signed(values, what, key).encode(), text.encode()
    ):
        raise ValueError(f"{name} was changed, or made with another key")
    return values


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """While the block runs, another process that asks for the same is refused.

    Args:
        path: Of the ledger; the lock lies beside it, and is open again when a process dies.
        what: The command, which the other one is told.

    Raises:
        UserError: Another process is at work, which is named.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"--ledger {path}: cannot be written ({error}); give another file"
        ) from None
    try:
        _take(descriptor, path)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        who = f"process {os.getpid()} on {os.uname().nodename}, `{what}`, since {since}"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who.encode(), 0)
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise UserError(
                f"--ledger {path}: lies on a disk without locks ({error}); give a file on another"
            ) from None
        who = printable(os.pread(descriptor, 300, 0).decode("utf-8", "replace"))
        raise UserError(
            f"--ledger {path}: {who or 'another process'} is at work on it; wait for it"
        ) from None
