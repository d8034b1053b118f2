"""Runs of tokens that two records share: the longest, and which of many records share one at all.

Shapes: F records to forget, P pool records, G runs of tokens that both sides have.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix

REPEATED_SHARE = 0.8  # of a forget record, in one run, that rules a fresh record out
TOKEN = np.dtype(np.int64)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd and large: of the polynomial that distinguishes runs
AT_ONCE = 16_384  # pool records; bounds the arrays of their hashes

Ids = Sequence[int] | np.ndarray  # the token ids of a record, >= 0
Runs = Mapping[int, set[bytes]]  # by their length in tokens


def longest_shared_run(a: Ids, b: Ids) -> int:
    """Length of the longest run of tokens that stands in both; at most len(a) * len(b) steps."""
    return longest_shared_runs(a, [b])[0]


def longest_shared_runs(ids: Ids, others: Sequence[Ids]) -> list[int]:
    """The longest run that `ids` shares with each of the others, all at once.

    run[j] is the length of the run that ends at token j of the others and at the token of `ids`
    reached; a -1, which no token equals, stands before each of the others and ends every run.
    """
    joined = np.concatenate([np.array([-1, *other], dtype=TOKEN) for other in others])
    starts = np.cumsum([0, *(len(other) + 1 for other in others[:-1])])
    run = np.zeros(len(joined), dtype=np.int32)
    longest = run.copy()
    for token in ids:
        run[1:] = np.where(joined[1:] == token, run[:-1] + 1, 0)
        np.maximum(longest, run, out=longest)
    return np.maximum.reduceat(longest, starts).tolist()


def shared_runs(
    forget_ids: Sequence[Ids], pool_ids: Sequence[Ids], length: int
) -> tuple[csr_matrix, csr_matrix]:
    """Which records hold which of the runs that both sides have: (F, G) and (P, G), 1 or nothing.

    Runs are of `length` tokens, or as long as a forget record that is shorter.
    """
    lengths = [min(length, len(ids)) for ids in forget_ids]
    columns: dict[bytes, int] = {}
    theirs = [
        (row, columns.setdefault(run, len(columns)))
        for row, runs in _holders(pool_ids, _runs_by_length(forget_ids, lengths))
        for run in runs
    ]
    ours = [
        (row, columns[run])
        for row, (ids, n) in enumerate(zip(forget_ids, lengths, strict=True))
        for run in (set(_ngrams(ids, n)) if n else ())
        if run in columns
    ]
    width = len(columns)
    return _ones(ours, (len(forget_ids), width)), _ones(theirs, (len(pool_ids), width))


def repeating(forget_ids: Sequence[Ids], pool_ids: Sequence[Ids], max_overlap: int) -> set[int]:
    """Pool records in which most of a forget record, in one run of tokens, stands.

    A long text around a forget record is no near duplicate of it, and would teach it all the same.
    Most is four fifths: half of a short record can be a question that is asked about everybody.
    Shorter runs than `max_overlap` do not count, but a forget record that is itself shorter does.
    """
    lengths = [
        min(len(ids), max(max_overlap, math.ceil(REPEATED_SHARE * len(ids)))) for ids in forget_ids
    ]
    return {index for index, _ in _holders(pool_ids, _runs_by_length(forget_ids, lengths))}


def _ngrams(ids: Ids, n: int) -> Iterator[bytes]:
    # Slices of one buffer are hashed several times faster than tuples of n numbers.
    buffer, width = np.asarray(ids, dtype=TOKEN).tobytes(), n * TOKEN.itemsize
    for start in range(0, len(buffer) - width + 1, TOKEN.itemsize):
        yield buffer[start : start + width]


def _runs_by_length(records: Sequence[Ids], lengths: Sequence[int]) -> Runs:
    known: dict[int, set[bytes]] = defaultdict(set)
    for ids, n in zip(records, lengths, strict=True):
        if n:
            known[n].update(_ngrams(ids, n))
    return known


def _holders(records: Sequence[Ids], known: Runs) -> Iterator[tuple[int, set[bytes]]]:
    """The records that hold any of these runs, and which: hashes point at them, bytes decide."""
    hashes = {n: np.unique(_hashes(runs, n)) for n, runs in known.items()}
    for start in range(0, len(records), AT_ONCE) if known else ():
        for index in _likely(records[start : start + AT_ONCE], hashes):
            ids = records[start + index]
            held = {run for n, runs in known.items() for run in _ngrams(ids, n) if run in runs}
            if held:
                yield start + index, held


def _hashes(runs: Iterable[bytes], n: int) -> np.ndarray:
    tokens = np.frombuffer(b"".join(runs), dtype=TOKEN).astype(np.uint64).reshape(-1, n)
    values = np.zeros(len(tokens), dtype=np.uint64)
    for column in tokens.T:
        values = values * FACTOR + column
    return values


def _likely(records: Sequence[Ids], hashes: Mapping[int, np.ndarray]) -> list[int]:
    """Indices of the records in which the hash of a run is among these, by length; none is missed.

    values[j] is the hash of the n tokens from j on, grown by one token at a time.
    """
    lengths = np.array([len(ids) for ids in records])
    tokens = np.concatenate([np.asarray(ids, dtype=TOKEN) for ids in records]).astype(np.uint64)
    ends = np.cumsum(lengths)
    found = np.zeros(len(records), dtype=bool)
    values = np.zeros(len(tokens), dtype=np.uint64)
    for n in range(1, min(max(hashes), int(lengths.max())) + 1):
        values = values[: len(tokens) - n + 1] * FACTOR + tokens[n - 1 :]
        if n in hashes:
            places = np.flatnonzero(_among(values, hashes[n]))
            holders = np.searchsorted(ends, places, side="right")
            found[holders[places + n <= ends[holders]]] = True
    return np.flatnonzero(found).tolist()


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which values are among the sorted known ones; a table of their low bits rules most out."""
    bits = np.uint64(2 ** max(16, (8 * len(known)).bit_length()) - 1)
    table = np.zeros(int(bits) + 1, dtype=bool)
    table[known & bits] = True
    among = table[values & bits]
    left = np.flatnonzero(among)
    among[left] = np.isin(values[left], known)
    return among


def _ones(cells: Iterable[tuple[int, int]], shape: tuple[int, int]) -> csr_matrix:
    rows, columns = np.array([*cells, (0, 0)], dtype=np.int64)[:-1].T
    return csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
