r"""Leftovers: does the model's folder hold what undoes the forgetting?

An adapter that hides the records can be taken off; an optimiser's state, a checkpoint or a cache of
hidden states was made while the records were there. Files are known by their names, and the tensors
of adapters by theirs, in the headers of the weights. Nothing is loaded.

Reference: none; files are there or not, and no control is needed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from unlearner.attacks.base import ALL_FAMILIES, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import Comparison
from unlearner.output import Json

# What a file or folder is that does not belong to a finished model.
KINDS = {
    "an adapter": re.compile(r"^adapter_(config\.json|model\.(safetensors|bin))$"),
    "an optimiser's state": re.compile(
        r"^(optimi[sz]er|scheduler|scaler|rng_state).*\.(pt|pth|bin|pkl)$"
    ),
    "a trainer's state": re.compile(r"^(trainer_state\.json|training_args\.bin)$"),
    "a checkpoint": re.compile(r"^(checkpoint-\d+|checkpoints|global_step\d+)$"),
    "a cache": re.compile(r"^(\.?cache|__pycache__|.*\.(arrow|npy|npz|memmap))$"),
    "pickled weights": re.compile(r"^.*\.(ckpt|pth)$"),
}

ADAPTER_TENSOR = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB]|base_layer)(\.|$)")

LARGEST_HEADER = 64 * 2**20  # bytes


class Leftovers(Attack):
    """Does the model's folder hold what undoes the forgetting?"""

    label = "leftovers in the folder"
    families = ALL_FAMILIES
    shows = "Whether what is passed on holds an adapter, a checkpoint or a state to go back by."
    cannot_show = "What lies elsewhere: copies of the model before, backups, logs."

    def skipped(self, materials: Materials) -> str:
        return "" if materials.folder is not None else "the model has no folder of its own"

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        del subject, materials
        return Attempt({})

    def conclude(
        self, attempts: Mapping[str, Attempt], materials: Materials
    ) -> tuple[str, str, list[Comparison], Json]:
        del attempts
        assert materials.folder is not None
        found = list(leftovers(materials.folder))
        if not found:
            return "holds", "nothing but the model", [], {}
        return "opened", f"{len(found)} do not belong to a finished model", [], {"lines": found}


def leftovers(folder: Path) -> Iterator[str]:
    """A line for each file, folder or group of tensors that does not belong to a finished model."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        kind = next((kind for kind, known in KINDS.items() if known.match(path.name)), "")
        if kind:
            yield f"{name}: {kind}"
        elif path.suffix == ".safetensors":
            adapters = [tensor for tensor in tensor_names(path) if ADAPTER_TENSOR.search(tensor)]
            if adapters:
                yield f"{name}: {len(adapters)} tensors of an adapter, {adapters[0]} first"


def tensor_names(path: Path) -> list[str]:
    """The names in the header of a safetensors file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LARGEST_HEADER else {}
    except (OSError, ValueError):
        return []
    return [name for name in header if name != "__metadata__"]


attack = Leftovers()
