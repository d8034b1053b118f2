"""A sentence encoder: texts to vectors, and a digest of all that decides which vectors they get."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unlearner import processes
from unlearner.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINI_LM = "sentence-transformers/all-MiniLM-L6-v2"

MINI_LM_FILES = (
    "modules.json",
    "config.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "model.safetensors",
)

PACKAGES = ("sentence-transformers", "torch", "transformers", "tokenizers")


def is_cached(name: str) -> bool:
    """Whether the local hub cache holds this encoder, one made of the files of all-MiniLM-L6-v2."""
    from huggingface_hub import try_to_load_from_cache

    # Not a string: absent, or known to be absent.
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in MINI_LM_FILES)


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model."""

    model: SentenceTransformer

    @classmethod
    def load(cls, name: str, *, local_only: bool) -> Encoder:
        """The encoder of this path or id.

        Raises:
            UserError: It cannot be loaded.
        """
        from sentence_transformers import SentenceTransformer

        try:
            return cls(
                SentenceTransformer(
                    name, local_files_only=local_only, model_kwargs={"use_safetensors": True}
                )
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"encoder {name!r} cannot be loaded ({reason}); give the folder or the id of a "
                "sentence-transformers model with safetensors weights, or tf-idf"
            ) from error

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of the texts, of length 1, as float32."""
        vectors = self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def digest(self) -> str:
        """SHA-256 over weights, modules, tokenizer, prompts, versions and kind of device."""
        from unlearner.provenance import digest_model

        versions = [importlib.metadata.version(package) for package in PACKAGES]
        parts = [
            digest_model(self.model),
            str(self.model),
            self.model.max_seq_length,
            _tokenizer(self.model.tokenizer),
            self.model.prompts,
            self.model.default_prompt_name,
            versions,
            self.model.device.type,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tokenizer(tokenizer: Any) -> str:
    """All that decides which tokens a text has."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python
        return json.dumps([repr(tokenizer), sorted(tokenizer.get_vocab().items())])
    settings = json.loads(backend.to_str())
    # Each call sets these two anew, by its own texts.
    return json.dumps(settings | {"padding": None, "truncation": None})


logger = logging.getLogger(__name__)

BLOCK = 4096  # texts; 6 MB of vectors of 384 numbers

CACHED_FROM = 10_000  # texts: fewer are embedded in less time than it takes to think of the cache

PLAIN = np.dtype("<f4")


class Embeds(Protocol):
    """What makes vectors of texts."""

    def digest(self) -> str:
        """Stands for all that decides which vector a text gets."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One row for each text, float32 of length 1."""
        ...


def embedded(
    encoder: Embeds, texts: Sequence[str], excluded: Collection[int] = ()
) -> Sequence[np.ndarray]:
    """The vectors of texts, `BLOCK` at a time; of 10,000 texts and more they are on disk.

    Args:
        excluded: Indices of texts that are not to be embedded, as records to be forgotten; 0 stands
            in their place.

    Raises:
        UserError: The cache cannot be written.
    """
    blocks = (_kept(texts, start, excluded) for start in range(0, len(texts), BLOCK))
    if len(texts) < CACHED_FROM:
        return [_vectors(encoder, block) for block in blocks]
    folder, progress = cache_folder(), _Progress(len(texts))
    try:
        with processes.main_first():  # the others find what it has made
            cache = _Cache(folder, encoder)
            files = [cache.file(block, progress) for block in blocks]
        if processes.is_main():
            cache.remove_others(files)
    except _KeepingError as error:
        raise UserError(
            f"{folder}: the vectors of a large pool cannot be kept there ({error}); make room or "
            "set UNLEARNER_CACHE to another folder"
        ) from error
    return _Blocks(files, cache)


def cache_folder() -> Path:
    """The folder of the vectors: in UNLEARNER_CACHE, or in the user's cache."""
    given = os.environ.get("UNLEARNER_CACHE")
    if given:
        return Path(given) / "embeddings"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home folder, as some containers have
        raise UserError(
            "UNLEARNER_CACHE: not set and there is no home folder for the vectors of a large pool; "
            "set it to a folder"
        ) from None
    return base / "unlearner" / "embeddings"


Kept = list[str | None]  # the texts of a block, None for one that is left out


def _kept(texts: Sequence[str], start: int, excluded: Collection[int]) -> Kept:
    some = enumerate(texts[start : start + BLOCK], start)
    return [None if index in excluded else text for index, text in some]


def _vectors(encoder: Embeds, texts: Kept) -> np.ndarray:
    """(N, D) vectors of a block, 0 for what is left out."""
    present = [row for row, text in enumerate(texts) if text is not None]
    # At least one, so that the width is known; it is not used where there is none.
    found = encoder.embed([text for text in texts if text is not None] or [""])
    vectors = np.zeros((len(texts), found.shape[1]), dtype=PLAIN)
    vectors[present] = found[: len(present)]
    return vectors


class _KeepingError(Exception):
    """What the file system said, before the folder is put in front."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _KeepingError(error.strerror or str(error)) from error


class _Cache:
    """The folder, readable by its owner only, and a lock that says that it is in use."""

    def __init__(self, folder: Path, encoder: Embeds) -> None:
        self.folder, self.encoder, self.digest = folder, encoder, encoder.digest()
        with _writing():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self.lock = (folder / "lock").open("w")
            fcntl.flock(self.lock, fcntl.LOCK_SH)

    def file(self, texts: Kept, progress: _Progress) -> Path:
        """The file of a block's vectors, which is made if it is missing."""
        path = self.folder / f"{self._name(texts)}.npy"
        if _is_whole(path, len(texts)):
            progress.found(len(texts))
        else:
            progress.start(self.folder)
            self._write(path, _vectors(self.encoder, texts))
            progress.made(len(texts))
        return path

    def remove_others(self, used: Collection[Path]) -> None:
        """Remove all files but these, unless another run is using the cache."""
        with _writing():
            with suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                others = {*self.folder.glob("*.npy"), *self.folder.glob("*.part")} - {*used}
                for path in others:
                    path.unlink()
            fcntl.flock(self.lock, fcntl.LOCK_SH)

    def _name(self, texts: Kept) -> str:
        code = hashlib.sha256(self.digest.encode())
        for text in texts:
            data = b"" if text is None else text.encode("utf-8", "surrogatepass")
            length = -1 if text is None else len(data)
            code.update(length.to_bytes(8, "big", signed=True) + data)
        return code.hexdigest()

    def _write(self, path: Path, vectors: np.ndarray) -> None:
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with _writing():
                part.touch(mode=0o600)
                with part.open("wb") as file:
                    np.save(file, vectors)
                    file.flush()
                    os.fsync(file.fileno())  # the name must not outlive a power cut without bytes
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _is_whole(path: Path, count: int) -> bool:
    if not path.exists():
        return False
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return False


class _Blocks(Sequence[np.ndarray]):
    """Blocks of vectors, opened when they are asked for: a process may not hold many files open."""

    def __init__(self, files: list[Path], cache: _Cache) -> None:
        self.files = files
        self.cache = cache  # whose lock keeps the files from being removed by another run

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        return np.load(self.files[index], mmap_mode="r")


class _Progress:
    """Lines of the log: where the vectors go, how many there are, and the time left."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.embedded = total, 0, 0
        self.started = 0.0

    def found(self, count: int) -> None:
        self.done += count

    def start(self, folder: Path) -> None:
        if not self.started:
            logger.info("embedding %d texts of the pool, kept in %s", self.total, folder)
            self.started = time.perf_counter()

    def made(self, count: int) -> None:
        self.done += count
        self.embedded += count
        rate = self.embedded / max(time.perf_counter() - self.started, 1e-9)
        left = (self.total - self.done) / rate / 60
        logger.info(
            "embedded %d of %d texts, %.0f a second, at most %.0f minutes left",
            self.done,
            self.total,
            rate,
            left,
        )
