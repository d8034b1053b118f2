"""Seeds, versions, hardware and digests: what a figure needs in order to be believed later.

What the environment says of the machine is read here.
"""

import hashlib
import importlib.metadata
import logging
import os
import platform
import resource
import secrets
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import transformers
from torch import nn

from unlearner import processes
from unlearner._version import __version__
from unlearner.errors import UserError
from unlearner.files import read_small, write_whole

logger = logging.getLogger(__name__)

KEY_BYTES = 4096

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "sentence-transformers",
    "peft",
    "scikit-learn",
    "sacrebleu",
    "seqeval",
    "numpy",
)


def key_path() -> Path:
    """Where the key of the record digests lies: UNLEARNER_KEY_FILE, or the user's configuration."""
    given = os.environ.get("UNLEARNER_KEY_FILE")
    if given:
        return Path(given)
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:  # a user without a home folder, as some containers have
        raise UserError(
            "UNLEARNER_KEY_FILE: not set and there is no home folder for the key of the record "
            "digests; set it to a file"
        ) from None
    return Path(base) / "unlearner" / "key"


def read_key() -> bytes:
    """The key, made at the first use and readable by its owner only.

    A digest of a record without a key could be found by trying likely texts.

    Raises:
        UserError: The file cannot be read or made.
    """
    path = key_path()
    try:
        processes.together(lambda: _ensure_key(path))
        key = read_small(path, KEY_BYTES).strip().encode("ascii")
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{path}: the key of the record digests cannot be read or made ({error}); "
            "set UNLEARNER_KEY_FILE to a file that can"
        ) from None
    if len(key) < 32:
        raise UserError(f"{path}: a key has at least 32 characters; remove the file for a new one")
    if processes.is_main():
        _warn_of_readers(path)
    return key


@cache
def _warn_of_readers(path: Path) -> None:
    """Say, once, where others can read the key."""
    if path.stat().st_mode & 0o077:
        logger.warning(
            "%s: the key of the record digests is readable by others, who can then find records "
            "by their digests; chmod 600 it",
            path,
        )


def _ensure_key(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, secrets.token_hex(32) + "\n", mode=0o600, new=True)


def digest_model(model: nn.Module) -> str:
    """SHA-256 of names, shapes and bytes of a model's weights, those of 16 bits as float32."""
    code = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        # The same numbers are the same model, whatever a layer is held in.
        tensor = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
        code.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        code.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return "sha256:" + code.hexdigest()


# The environment variable that holds the key of the judge's endpoint.
JUDGE_KEY = "UNLEARNER_JUDGE_KEY"


def judge_key() -> str:
    """The key of the judge's endpoint; empty where none is set. It is never written or shown."""
    return os.environ.get(JUDGE_KEY, "").strip()


def environment(device: torch.device, seed: int) -> dict[str, object]:
    """Versions, hardware, number of processes and seed."""
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
        "processes": processes.count(),
        "seed": seed,
    }


def _versions() -> dict[str, str]:
    versions = {"unlearner": __version__}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that the process, or the accelerator where there is one, has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory_bytes` begin anew, for one of several runs in a process.

    Where the system cannot, as macOS, the figure stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def set_seeds(seed: int) -> None:
    """Seed the global generators, which libraries draw from."""
    transformers.set_seed(seed)
