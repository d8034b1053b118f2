"""Exact nearest neighbours of texts by cosine, with a sentence encoder or with TF-IDF.

Shapes: F texts to search for, P texts to search in, k neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unlearner.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

TF_IDF = "tf-idf"
MINI_LM = "sentence-transformers/all-MiniLM-L6-v2"
MINI_LM_FILES = (
    "modules.json",
    "config.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "model.safetensors",
)
WORDS_AND_MARKS = r"\w+|[^\w\s]"  # scikit-learn's own pattern drops words of one letter
ROWS_AT_ONCE = 64  # bounds the dense block of TF-IDF similarities

# For rows of the F texts and k <= P: cosines and indices of the k nearest, (rows, k), best first.
Search = Callable[[Sequence[int], int], tuple[np.ndarray, np.ndarray]]


def make_search(queries: Sequence[str], texts: Sequence[str], encoder: str) -> tuple[Search, str]:
    """A search for the nearest `texts` of each of `queries`, and the encoder that it uses.

    Ties go to the lower index. TF-IDF counts single words and pairs, weighted over both sides.

    Args:
        queries: F texts.
        texts: P texts, at least one.
        encoder: "auto": all-MiniLM-L6-v2 if the local hub cache has it, else TF-IDF, with no
            download; "tf-idf"; or the path or id of a sentence-transformers model.

    Raises:
        UserError: The encoder cannot be loaded, or TF-IDF finds no word in any text.
    """
    automatic = encoder == "auto"
    if automatic:
        encoder = MINI_LM if _is_cached(MINI_LM) else TF_IDF
        logger.info("nearest neighbours by %s", encoder)
    if encoder == TF_IDF:
        return _tf_idf_search(queries, texts), encoder
    model = _load_encoder(encoder, local_only=automatic)
    return _dense_search(_embed(model, queries), _embed(model, texts)), encoder


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    # Not a string: absent, or known to be absent.
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in MINI_LM_FILES)


def _load_encoder(name: str, *, local_only: bool) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            name, local_files_only=local_only, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"encoder {name!r} cannot be loaded ({reason}); give the folder or the id of a "
            f"sentence-transformers model with safetensors weights, or {TF_IDF}"
        ) from error


def _embed(model: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _dense_search(queries_FD: np.ndarray, texts_PD: np.ndarray) -> Search:
    import faiss

    index = faiss.IndexFlatIP(texts_PD.shape[1])
    index.add(texts_PD)  # pyright: ignore[reportCallIssue]

    def search(rows: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, indices = index.search(queries_FD[list(rows)], k)  # pyright: ignore[reportCallIssue]
        order = np.lexsort((indices, -scores))
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)

    return search


def _tf_idf_search(queries: Sequence[str], texts: Sequence[str]) -> Search:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(text.strip() for text in (*queries, *texts)):
        raise UserError("the texts to compare are all empty; give records with words in them")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=WORDS_AND_MARKS)
    vectors = vectorizer.fit_transform([*queries, *texts]).tocsr()
    queries_FV, texts_VP = vectors[: len(queries)], vectors[len(queries) :].T.tocsc()

    def search(rows: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, indices = np.empty((len(rows), k)), np.empty((len(rows), k), dtype=np.int64)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            cosine = (queries_FV[list(rows[block])] @ texts_VP).toarray()
            indices[block] = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
            scores[block] = np.take_along_axis(cosine, indices[block], 1)
        return scores, indices

    return search
