"""A sentence encoder: texts to vectors, and a digest of all that decides which vectors they get."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
