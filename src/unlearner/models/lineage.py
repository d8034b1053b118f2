"""Where a model comes from: `provenance.json` in its folder, and what such files say together.

A file names the model that this one was made of, the digests of the weights on both sides, and the
keyed digests of every record that was learned or was to be forgotten: no text. What the ancestors'
files said is copied into it, so that the line is known when their folders are gone.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearner.data.record import Record, digest_content, digest_records, digest_subject
from unlearner.errors import UserError, quoted
from unlearner.files import LARGE, read_json

PROVENANCE_FILE = "provenance.json"
SCHEMA = "unlearner/provenance/1"

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".npz")

Provenance = dict[str, Any]


def fingerprint(key: bytes) -> str:
    """What tells one key from another, and nothing else of it."""
    return hmac.new(key, b"fingerprint\0", hashlib.sha256).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_weights(folder: Path) -> str | None:
    """SHA-256 over the names and digests of the weight files below a folder; None without any."""
    code, found = hashlib.sha256(), False
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix in WEIGHTS and path.is_file():
            name = path.relative_to(folder).as_posix()
            code.update(f"{name} {digest_file(path)}\n".encode())
            found = True
    return f"sha256:{code.hexdigest()}" if found else None


def digests_of(records: Sequence[Record], key: bytes, source: str = "") -> dict[str, Any]:
    """What provenance holds of a set: the digest of each record, and beside it of its subject.

    Args:
        source: Where the set was read from; the bytes of a file have a digest of their own.
    """
    path = Path(source) if source and source != "memory" else None
    with_subjects = any(record.subject for record in records)
    return {
        "records": len(records),
        "digest": digest_records(records, key),
        "file": digest_file(path) if path is not None and path.is_file() else None,
        "record_digests": [digest_content(record, key) for record in records],
        "subject_digests": [
            digest_subject(record.subject, key) if record.subject else ""
            for record in (records if with_subjects else ())
        ],
    }


def describe(
    made_by: str,
    base: str,
    weights: str,
    key: bytes,
    *,
    learned: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> Provenance:
    """The provenance of a model that was made of another one.

    Args:
        made_by: The command.
        base: The model that it was made of, by folder or hub id; empty for one in memory.
        weights: The digest of that one's weights as they were loaded.
        learned: The `digests_of` the sets that it was trained on, by role.
        more: What else is to be said, such as the settings.
    """
    folder = Path(base) if base else None
    before = None if folder is None else read_provenance(folder)
    known = [] if before is None else [*before.pop("ancestors", []), before]
    files = None if folder is None else digest_weights(folder)
    return {
        "schema": SCHEMA,
        "made_by": made_by,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": fingerprint(key),
        "base": {"name": base, "loaded": weights, "weights": files},
        **more,
        "learned": dict(learned),
        "ancestors": known,
    }


def read_provenance(folder: Path) -> Provenance | None:
    """What a folder's file says; None where there is none, as in a model made elsewhere.

    A file of that name which is of other tools counts as none.

    Raises:
        UserError: It is damaged, or of another version.
    """
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path, LARGE)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore the file") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, str) or not schema.startswith(SCHEMA[:-1]):
        return None
    if schema != SCHEMA:
        raise UserError(
            f"{path}: schema must be {SCHEMA!r}, got {quoted(schema)}; use the version of "
            "unlearner that wrote it"
        )
    try:
        for one in (found, *found["ancestors"]):
            _check(one)
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: is not whole; restore the file") from None
    return found


def _check(one: Provenance) -> None:
    """Raise `KeyError` or `TypeError` where something is missing that is read here."""
    for name in ("made_by", "created", "key", "weights"):
        _ = one[name] + ""
    _ = one["base"]["name"] + ""
    for some in [*one["learned"].values(), *([one["request"]] if "request" in one else [])]:
        for name in ("record_digests", "subject_digests"):
            _ = "".join(some[name])
        _ = some["records"] + 0


@dataclass(frozen=True)
class LineageStage:
    """A model on the way to another, and how many of the digests asked for it met.

    Attributes:
        name: By which the model was made of, or the folder asked about.
        made_by: The command, or the kind that was registered by hand.
        learned: Records asked for among those that it was trained on.
        forgotten: Records asked for among those that it was to forget.
        verdict: Of the forgetting; empty otherwise.
    """

    name: str
    made_by: str
    created: str
    weights: str
    learned: int
    forgotten: int
    verdict: str


@dataclass(frozen=True)
class Line:
    """The way of one model, oldest first, and what is left in it of the digests asked for.

    Attributes:
        remaining: Digests of records asked for that were learned on the way, and not forgotten
            behind that with a verdict that was met.
        problems: What does not fit together, in sentences.
    """

    model: str
    stages: tuple[LineageStage, ...]
    remaining: frozenset[str]
    problems: tuple[str, ...]


def trace(model: str, key: bytes, asked: Iterable[str] = ()) -> Line:
    """The line of a model's ancestors, as its provenance tells it.

    Args:
        asked: Digests of records, or of subjects for all of their records.

    Raises:
        UserError: There is no such folder, or its file is damaged.
    """
    folder, asked = Path(model), frozenset(asked)
    if not folder.is_dir():
        raise UserError(f"{quoted(model)}: no such folder; name the folder of a model")
    if not (folder / PROVENANCE_FILE).is_file() and (folder / "model").is_dir():
        folder = folder / "model"  # of a finished run
    own = read_provenance(folder)
    if own is None:
        return Line(model, (), frozenset(), ("no provenance.json: it was made elsewhere",))
    problems = []
    if own["weights"] != digest_weights(folder):
        problems.append("its weights are not those that provenance.json was written for")
    if own["key"] != fingerprint(key):
        problems.append("its digests were made with another key, and cannot be looked for")
    line = (*own["ancestors"], own)
    names = [*(one["base"]["name"] for one in line[1:]), model]
    asked |= {digest for one in line for digest in learned_of(one, asked)}
    stages, left = [], set()
    for one, name in zip(line, names, strict=True):
        learned, forgotten = learned_in(one), forgotten_in(one)
        verdict = one.get("request", {}).get("verdict", "")
        left |= learned & asked
        left -= forgotten if verdict == "met" else set()
        stages.append(
            LineageStage(
                name,
                one["made_by"],
                one["created"],
                one["weights"],
                len(learned & asked),
                len(forgotten & asked),
                verdict,
            )
        )
    return Line(model, tuple(stages), frozenset(left), tuple(problems))


def learned_in(one: Provenance) -> set[str]:
    """The digests of the records that a stage was trained on."""
    return {digest for some in one["learned"].values() for digest in some["record_digests"]}


def forgotten_in(one: Provenance) -> set[str]:
    """The digests of the records that a stage was to forget."""
    return set(one["request"]["record_digests"]) if "request" in one else set()


def learned_of(one: Provenance, subjects: frozenset[str]) -> set[str]:
    """The digests of a stage's records that are about any of these subjects, by their digests."""
    sets = [*one["learned"].values(), *([one["request"]] if "request" in one else [])]
    return {
        record
        for some in sets
        for record, subject in zip(some["record_digests"], some["subject_digests"], strict=False)
        if subject in subjects
    }


def remaining_in(folder: Path) -> set[str] | None:
    """The digests of records that were learned on the way to a model and not forgotten since.

    None where the folder does not say what its model learned.

    Raises:
        UserError: Its file is damaged.
    """
    own = read_provenance(folder)
    if own is None:
        return None
    left: set[str] = set()
    for one in (*own["ancestors"], own):
        left |= learned_in(one)
        if one.get("request", {}).get("verdict") == "met":
            left -= forgotten_in(one)
    return left


def write_provenance(folder: Path, found: Provenance, **late: Any) -> None:
    """Write the file of a model whose weights lie in the folder.

    Args:
        late: What was not known before the model was made.
    """
    ancestors = found["ancestors"]
    rest = {name: value for name, value in found.items() if name != "ancestors"}
    whole = rest | late | {"weights": digest_weights(folder) or "", "ancestors": ancestors}
    text = json.dumps(whole, indent=1) + "\n"
    (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
