"""Vectors of texts whose products are cosines: of a sentence encoder, or TF-IDF.

Shapes: F texts to search for, P texts to search in, D numbers of a vector.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from unlearner import processes
from unlearner.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TF_IDF = "tf-idf"
MINI_LM = "sentence-transformers/all-MiniLM-L6-v2"
MINI_LM_FILES = (
    "modules.json",
    "config.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "model.safetensors",
)

WORDS_AND_MARKS = r"\w+|[^\w\s]"  # scikit-learn's own pattern drops one-letter words
BLOCK = 8192  # texts; a core embeds as many in about a minute

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vectors:
    """Vectors of length 1, or 0 for a text without words; of both sides dense, or both sparse.

    Attributes:
        queries: (F, D).
        texts: (P, D).
        encoder: What made them: a path or id, or "tf-idf".
    """

    queries: np.ndarray | csr_matrix
    texts: np.ndarray | csr_matrix
    encoder: str

    def cosines(self, rows: Sequence[int]) -> np.ndarray:
        """The cosines of these queries with every text, (len(rows), P) float32."""
        queries = self.queries[list(rows)]
        if isinstance(queries, np.ndarray):
            return queries @ self.texts.T
        # A product of sparse by dense runs along the rows; of sparse by sparse it took far longer.
        return np.ascontiguousarray((self.texts @ queries.T.toarray()).T)


def make_vectors(queries: Sequence[str], texts: Sequence[str], encoder: str) -> Vectors:
    """The vectors of F and of P texts, at least one each.

    Args:
        queries: F texts.
        texts: P texts.
        encoder: "auto": all-MiniLM-L6-v2 if the local hub cache has it, else TF-IDF, with no
            download; "tf-idf"; or the path or id of a sentence-transformers model.

    Raises:
        UserError: The encoder cannot be loaded, or TF-IDF finds no word in any text.
    """
    automatic = encoder == "auto"
    if automatic:
        from huggingface_hub import try_to_load_from_cache

        # Not a string: absent, or known to be absent.
        paths = (try_to_load_from_cache(MINI_LM, file) for file in MINI_LM_FILES)
        encoder = MINI_LM if all(isinstance(path, str) for path in paths) else TF_IDF
    if encoder == TF_IDF:
        return _tf_idf(queries, texts)
    model = load_encoder(encoder, local_only=automatic)
    return Vectors(embed(model, queries), embed(model, texts), encoder)


def load_encoder(name: str, *, local_only: bool) -> "SentenceTransformer":
    """The sentence-transformers model of this path or id.

    Raises:
        UserError: It cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            name, local_files_only=local_only, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"encoder {name!r} cannot be loaded ({reason}); give the folder or the id of a "
            "sentence-transformers model with safetensors weights, or tf-idf"
        ) from error


def embed(model: "SentenceTransformer", texts: Sequence[str]) -> np.ndarray:
    """The vectors of the texts, of length 1, (N, D) float32; processes share the work."""
    blocks = [list(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]
    started, vectors = time.perf_counter(), []
    mine = processes.share(blocks)
    for done, block in enumerate(mine, start=1):
        vectors.append(model.encode(block, normalize_embeddings=True, show_progress_bar=False))
        if len(blocks) > 1 and processes.is_main():
            minutes = (time.perf_counter() - started) / done * (len(mine) - done) / 60
            share = f"{done} of {len(mine)} blocks of {BLOCK} texts"
            logger.info("embedded %s, %.0f minutes left", share, minutes)
    shares = processes.gather(vectors)
    ordered = [shares[i % len(shares)][i // len(shares)] for i in range(len(blocks))]
    return np.concatenate(ordered).astype(np.float32, copy=False)


def _tf_idf(queries: Sequence[str], texts: Sequence[str]) -> Vectors:
    """Single words and pairs of them, weighted over both sides."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=WORDS_AND_MARKS)
    try:
        rows = vectorizer.fit_transform([*queries, *texts]).astype(np.float32)
    except ValueError as error:  # what it says of an empty vocabulary
        raise UserError(
            "the texts to compare are all empty; give records with words in them"
        ) from error
    ours, theirs = rows[: len(queries)], rows[len(queries) :]
    columns = np.unique(ours.indices)  # no other term can give a product
    return Vectors(ours[:, columns], theirs[:, columns], TF_IDF)
