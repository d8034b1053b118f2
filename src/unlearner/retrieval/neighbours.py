"""ICU's analogous set: for each forget record the nearest pool record that does not repeat it.

Nearest by the cosine of their vectors, which are a sentence encoder's, or TF-IDF. Shapes: F texts
to search for, P texts to search in, D numbers of a vector.

Reference: Tang et al. (2024), arXiv:2407.20271, section on contrastive learning enhancement.
Differs from the paper, which takes the nearest neighbour as it is: of the authors' own 640 pairs
510 share a 10-gram with the text to be forgotten and 212 contain all of it, so that learning the
pair preserves what is to be forgotten. Here the pair shares no run of `max_overlap` tokens, and is
no near duplicate of any forget record.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, eye, hstack
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching

from unlearner import processes
from unlearner.data.duplicates import find_duplicates
from unlearner.errors import UserError
from unlearner.retrieval.overlap import Ids, longest_shared_runs, shared_runs
from unlearner.retrieval.tf_idf import tf_idf_vectors

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

BLOCK = 8192  # texts; a core embeds as many in about two minutes
MANY = 100_000  # texts to search in from which they are embedded in bfloat16, where that is faster

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vectors:
    """Vectors of length 1, or 0 for a text without words; of both sides dense, or both sparse.

    Attributes:
        queries: (F, D).
        texts: (P, D).
        encoder: What made them: a path or id, or "tf-idf".
        shorter: The encoder computed in bfloat16.
    """

    queries: np.ndarray | csr_matrix
    texts: np.ndarray | csr_matrix
    encoder: str
    shorter: bool = False

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
        return Vectors(*tf_idf_vectors(queries, texts), TF_IDF)
    model = load_encoder(encoder, local_only=automatic)
    shorter = len(texts) >= MANY and multiplies_bfloat16(model.device)
    if shorter:
        model.to(torch.bfloat16)
    ours, theirs = (embed(model, some, shorter=shorter) for some in (queries, texts))
    return Vectors(ours, theirs, encoder, shorter)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16; without them it is slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.6 does not say what a processor can do.
    own = _capabilities(device)
    return bool(own.get("avx512_bf16") or own.get("amx_bf16"))


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether it is known that the device has no such instructions."""
    known = _capabilities(device).get("architecture") == "x86_64"
    return known and not multiplies_bfloat16(device)


def _capabilities(device: torch.device) -> dict[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}


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


def embed(
    model: "SentenceTransformer", texts: Sequence[str], *, shorter: bool = False
) -> np.ndarray:
    """The vectors of the texts, of length 1, (N, D) float32; processes share the work.

    Within a block texts of similar length are embedded together, so that little is padding.

    Args:
        shorter: The model is in bfloat16.
    """
    blocks = [list(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]
    started, vectors = time.perf_counter(), []
    mine = processes.share(blocks)
    for done, block in enumerate(mine, start=1):
        # A length taken in bfloat16 would be wrong by some thousandths.
        found = model.encode(block, normalize_embeddings=not shorter, show_progress_bar=False)
        vectors.append(_scaled(found) if shorter else found)
        if len(blocks) > 1 and processes.is_main():
            minutes = (time.perf_counter() - started) / done * (len(mine) - done) / 60
            share = f"{done} of {len(mine)} blocks of {BLOCK} texts"
            logger.info("embedded %s, %.0f minutes left", share, minutes)
    shares = processes.gather(vectors)
    ordered = [shares[i % len(shares)][i // len(shares)] for i in range(len(blocks))]
    return np.concatenate(ordered).astype(np.float32, copy=False)


def _scaled(vectors: np.ndarray) -> np.ndarray:
    """To length 1, in float32; 0 stays 0."""
    wide = np.asarray(vectors, dtype=np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


NEAR_DUPLICATE = 0.8  # Jaccard index from which a pool record is a near duplicate
ROWS_AT_ONCE = 64  # forget records; bounds the dense block of similarities
FALLBACK_CANDIDATES = 200  # nearest ones among which the least overlapping are sought
DEEPER = 4  # factor by which a search that left a record without a pair of its own goes deeper

Found = tuple[tuple[int, ...], tuple[float, ...]]  # indices and scores, of equal length


@dataclass(frozen=True)
class Texts:
    """A record set as retrieval needs it: three sequences with an entry for each record.

    Attributes:
        tails: What is embedded, for example the text of each record's last 100 tokens.
        contents: The whole text of each record, for the search of near duplicates.
        ids: All token ids (>= 0) of each record, for the overlap.
    """

    tails: Sequence[str]
    contents: Sequence[str]
    ids: Sequence[Ids]


@dataclass(frozen=True)
class Retrieved:
    """The pool records that go with each forget record.

    Attributes:
        neighbours: For each forget record the pool records that may be its pair, nearest first:
            `num_neighbours` of them, fewer where no more pass, more where a pair of its own for
            every record asks for it. Where none passes, the least overlapping, least first.
        scores: Their cosines, of the same shape.
        encoder: What embedded the texts: a path or id, or "tf-idf".
        excluded: Pool records that are near duplicates of a forget record, used for none.
        overlapping: Number of forget records for which no pool record passes.
        shorter: The encoder computed in bfloat16.
    """

    neighbours: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    encoder: str
    excluded: tuple[int, ...]
    overlapping: int
    shorter: bool = False


def retrieve(
    forget: Texts,
    pool: Texts,
    *,
    num_neighbours: int = 1,
    encoder: str = "auto",
    max_overlap: int = 10,
) -> Retrieved:
    """The nearest pool records of each forget record, by cosine, that do not repeat it.

    A pool record passes for a forget record if the two share no run of `max_overlap` tokens, nor
    all of a forget record that is shorter than that, and it is excluded for all if it is a near
    duplicate of any. Where no pool record passes, the least overlapping are taken, and counted, of
    the nearest `FALLBACK_CANDIDATES` (or as many as there are forget records, if that is more).
    Of equal cosines the lower index comes first.

    Args:
        forget: The records to forget.
        pool: Records that may be learned in their place.
        num_neighbours: How many to find for each forget record, >= 1.
        encoder: "auto": all-MiniLM-L6-v2 if the local hub cache has it, else TF-IDF, with no
            download; "tf-idf"; or the path or id of a sentence-transformers model.
        max_overlap: Length in tokens of the shortest run that must not be shared, >= 1.

    Raises:
        UserError: No pool record is left to use, or the encoder cannot be loaded.
    """
    copies = find_duplicates(forget.contents, pool.contents, threshold=NEAR_DUPLICATE)
    excluded = {copy.other for copy in copies}
    usable = [index for index in range(len(pool.ids)) if index not in excluded]
    if not usable:
        raise UserError(
            f"pool: none of its {len(excluded)} records is usable, {len(excluded)} are near "
            f"duplicates of records to forget (similarity >= {NEAR_DUPLICATE}); give a pool of "
            "other texts"
        )
    vectors = make_vectors(forget.tails, [pool.tails[i] for i in usable], encoder)
    search = CandidateSearch(vectors, forget.ids, [pool.ids[i] for i in usable], max_overlap)
    found, overlapping = search.candidates(num_neighbours)
    return Retrieved(
        neighbours=tuple(tuple(usable[place] for place in places) for places, _ in found),
        scores=tuple(scores for _, scores in found),
        encoder=vectors.encoder,
        excluded=tuple(sorted(excluded)),
        overlapping=overlapping,
        shorter=vectors.shorter,
    )


class CandidateSearch:
    """A search for the pool records that may be the pairs of F forget records."""

    def __init__(
        self, vectors: Vectors, forget_ids: Sequence[Ids], pool_ids: Sequence[Ids], max_overlap: int
    ) -> None:
        self.vectors, self.forget_ids, self.pool_ids = vectors, forget_ids, pool_ids
        self.ours, self.theirs = shared_runs(forget_ids, pool_ids, max_overlap)

    def candidates(self, depth: int) -> tuple[list[Found], int]:
        """`depth` candidates of each forget record, and the number of those for which none passes.

        The search goes deeper until each has a pair of its own, or cannot have one: with as many
        candidates as there are forget records one is always free.
        """
        enough = min(len(self.forget_ids), len(self.pool_ids))
        passing = self.nearest(range(len(self.forget_ids)), depth)
        overlapping = self._least_overlapping([row for row in passing if not passing[row][0]])
        while True:
            cut = {row: (found[:depth], s[:depth]) for row, (found, s) in overlapping.items()}
            found = [*(passing | cut).values()]
            partners = maximum_bipartite_matching(_costs(found)[0], perm_type="column")
            if depth >= enough or (partners >= 0).all():
                return found, len(overlapping)
            depth = min(DEEPER * depth, enough)
            passing |= self.nearest([row for row in passing if row not in overlapping], depth)

    def nearest(self, rows: Sequence[int], depth: int, *, every: bool = False) -> dict[int, Found]:
        """The nearest of each of these forget records, without those that share a run with it."""
        found: dict[int, Found] = {}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = list(rows[start : start + ROWS_AT_ONCE])
            cosines = self.vectors.cosines(some)
            if not every:
                cosines[(self.ours[some] @ self.theirs.T).nonzero()] = -np.inf
            found |= {
                row: _highest(values, depth) for row, values in zip(some, cosines, strict=True)
            }
        return found

    def _least_overlapping(self, rows: Sequence[int]) -> dict[int, Found]:
        """Of the nearest records of each of these rows those first that share the shortest runs."""
        depth = max(FALLBACK_CANDIDATES, len(self.forget_ids))
        found = self.nearest(rows, depth, every=True)
        for row, (indices, scores) in found.items():
            others = [self.pool_ids[index] for index in indices]
            order = np.argsort(longest_shared_runs(self.forget_ids[row], others), kind="stable")
            found[row] = tuple(indices[i] for i in order), tuple(scores[i] for i in order)
        return found


def _highest(cosines: np.ndarray, count: int) -> Found:
    """The highest that are not -inf, best first, ties to the lower index."""
    least = np.partition(cosines, -count)[-count] if count < len(cosines) else -np.inf
    places = np.flatnonzero((cosines >= least) & (cosines > -np.inf))
    places = places[np.argsort(-cosines[places], kind="stable")[:count]]
    return tuple(places.tolist()), tuple(cosines[places].tolist())


def assign_pairs(retrieved: Retrieved) -> tuple[int, ...]:
    """One pool index for each forget record, each used once where the pool has enough.

    As many as possible get a neighbour of their own, with the largest sum of cosines. Records that
    are left over are paired in the same way among themselves, so that pool records are used again
    only where there is no other way, and evenly.
    """
    found = [*zip(retrieved.neighbours, retrieved.scores, strict=True)]
    pairs: dict[int, int] = {}
    while left := [row for row in range(len(found)) if row not in pairs]:
        pairs |= {left[i]: index for i, index in _one_to_one([found[row] for row in left]).items()}
    return tuple(pairs[row] for row in range(len(found)))


def _one_to_one(found: Sequence[Found]) -> dict[int, int]:
    """A neighbour of its own for as many rows as can have one, with the largest sum of scores."""
    costs, columns = _costs(found)
    # A full matching has to exist: a row may stay alone, for more than all others can save by that.
    alone = eye(len(found)) * (3 * len(found) + 1)
    rows, places = min_weight_full_bipartite_matching(hstack((costs, alone), format="csr"))
    pairs = zip(rows.tolist(), places.tolist(), strict=True)
    return {row: int(columns[place]) for row, place in pairs if place < len(columns)}


def _costs(found: Sequence[Found]) -> tuple[csr_matrix, np.ndarray]:
    """The rows' costs of their neighbours, 2 - score, in [1, 3]; and whose columns those are."""
    indices = np.array([index for indices, _ in found for index in indices])
    scores = np.array([score for _, scores in found for score in scores])
    columns, places = np.unique(indices, return_inverse=True)
    rows = np.repeat(np.arange(len(found)), [len(indices) for indices, _ in found])
    return csr_matrix((2 - scores, (rows, places))), columns
