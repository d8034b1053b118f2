"""Counts of n-grams in token ids: extraction likelihood, extraction strength, repetition.

Pure numpy. Positions count from 0: the prompt of length t is tokens 0..t-1 and is followed by token
t. A span is a text of T tokens inside a window; of a plain text it is the whole window.
"""

from math import log

import numpy as np

from unlearner.inference.answers import Answer


def extraction_likelihood(
    answer: Answer, n: int, prompt_start: int | float = 1
) -> tuple[float, float]:
    r"""Numerator and weight of EL_n: summed overlaps, and the number of prompts.

    .. math::
        EL_n(x) = \frac{1}{T-n-s+1} \sum_{t=s}^{T-n}
                  OV_n(\mathrm{greedy}(x_{<t}), x_{\ge t})

    OV_n(a, b) is the number of n-grams of a, with multiplicity, that occur in b, divided by the
    number of n-grams of b. A continuation that ends early has fewer n-grams, or none. x is a span:
    a prompt holds its first t tokens behind all that stands before it (the question, say), and
    continuation and rest end where it ends. The spans of a window add up.

    Continuations are shared: between two breaks of the answer they all follow the text, so what is
    decoded at a break m belongs to every prompt t in (previous break, m]. An n-gram that starts at
    j >= t occurs in x_{>=t} if its last start L in x is at or behind t, so it counts for every
    prompt of its break up to min(j, L, m). The counts are integers; the fractions are added in
    float64 with t ascending, so the result is the definition's to the last bit.

    Reference: Jang et al. (2022), arXiv:2210.01504 (s = 1). The code of ICU (arXiv:2407.20271)
    starts at s = 150 of T = 200, here `prompt_start=0.75`.

    Args:
        answer: What the model said, with its continuations from `prompt_start` on.
        n: Length of an n-gram, >= 1.
        prompt_start: Shortest prompt, as in `first_prompt`.

    Returns:
        The sum of OV_n and the number of prompts, both 0 where the text is too short for a prompt.

    Raises:
        ValueError: n is below 1, or the answer lacks a continuation that the definition needs.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    known = answer.prompts(answer.prompt_start)
    total, count, all_breaks = 0.0, 0, answer.breaks
    for (start, stop), (first_known, _) in zip(answer.prompts(prompt_start), known, strict=True):
        prompts = np.arange(start, stop - n + 1)
        if len(prompts) == 0:
            continue
        if start < first_known:
            raise ValueError(
                f"prompts from length {start} on are not answered for record {answer.id!r}: its "
                f"continuations start at prompt_start={answer.prompt_start}"
            )
        # Behind the last break every continuation is the text itself: a break at the span's end.
        inside = (all_breaks >= start) & (all_breaks < stop)
        breaks = np.append(all_breaks[inside], stop)
        matched = np.cumsum(_matches_by_end(answer, n, start, breaks))
        ends = breaks[np.searchsorted(breaks, prompts)]
        overlaps = (matched[ends] - matched[prompts - 1]) / (stop - prompts - n + 1)
        # np.sum adds in pairs, the builtin sum compensates since Python 3.12; cumsum is in order.
        total += float(np.cumsum(overlaps)[-1])
        count += len(prompts)
    return total, float(count)


def _matches_by_end(answer: Answer, n: int, start: int, breaks: np.ndarray) -> np.ndarray:
    """(T+1,) n-grams of the continuations that count for the prompts up to each length.

    Entry e counts the n-grams that serve every prompt of their break from its first up to e. The
    last break is where the span ends.
    """
    stop = int(breaks[-1])
    text = answer.input_ids[:stop]
    firsts = np.append(start, breaks[:-1] + 1)  # shortest prompt of each break
    runs = [
        np.concatenate([text[first:end], _decoded_tokens(answer, end, stop)])
        for first, end in zip(firsts.tolist(), breaks.tolist(), strict=True)
    ]
    lengths = np.array([len(run) for run in runs])
    run = np.repeat(np.arange(len(runs)), lengths)
    offset = np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = np.concatenate(runs)
    last = last_starts(text, flat, n)
    run, offset = run[: len(last)], offset[: len(last)]
    ends = np.minimum(np.minimum(firsts[run] + offset, last), breaks[run])
    within = offset + n <= lengths[run]  # the n-gram does not run into the next break's tokens
    counted = ends[within & (ends >= firsts[run])]
    return np.bincount(counted, minlength=len(text) + 1)


def _decoded_tokens(answer: Answer, prompt_length: int, stop: int) -> np.ndarray:
    """What the model decoded after a break; nothing at the end of the span."""
    if prompt_length == stop:
        return answer.input_ids[:0]
    if prompt_length not in answer.decoded:
        raise ValueError(
            f"the continuation of the first {prompt_length} tokens of record {answer.id!r} was "
            "not asked for; ask the model with continuations"
        )
    return np.asarray(answer.decoded[prompt_length])


def last_starts(text: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Last position in `text` at which each n-gram of `ids` starts, -1 where it does not occur.

    N-grams are numbered by doubling: the number of a long one is that of the pair of its two
    halves, which may overlap. There is no hashing, so two n-grams never share a number.

    Returns:
        (len(ids) - n + 1,) positions, empty where `ids` or `text` is shorter than n.
    """
    if min(len(ids), len(text)) < n:
        return np.full(max(len(ids) - n + 1, 0), -1)
    known, own = np.unique(text, return_inverse=True)
    other = _number(known, np.asarray(ids))
    width = 1
    while width < n:
        step = min(width, n - width)
        size = len(known)
        known, own = np.unique(own[:-step] * size + own[step:], return_inverse=True)
        left, right = other[:-step], other[step:]
        other = _number(known, np.where((left < 0) | (right < 0), -1, left * size + right))
        width += step
    last = np.full(len(known) + 1, -1)  # the final entry answers for the number -1
    np.maximum.at(last, own, np.arange(len(own)))
    return last[other]


def _number(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Index of each key among the sorted known ones, -1 where it is not one of them."""
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, index, -1)


def extractable_tail(hits: np.ndarray) -> int:
    """How many labels follow the last that is missed: all of them where none is.

    Extraction strength is their share of the text's tokens (`metrics/es.py`).

    Args:
        hits: (N,) bool, whether each label of a text is the most probable token.
    """
    misses = np.flatnonzero(~np.asarray(hits, dtype=bool))
    return len(hits) - 1 - int(misses[-1]) if len(misses) else len(hits)


def distinct_ngrams(ids: np.ndarray, n: int) -> float:
    """Share of the n-grams that are different ones, in (0, 1]; lower is more repetitive.

    NaN where there are fewer than n tokens. Reference: Li et al. (2016), arXiv:1510.03055.
    """
    if len(ids) < n:
        return float("nan")
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), n)
    return len(np.unique(windows, axis=0)) / len(windows)


def token_evenness(ids: np.ndarray) -> float:
    """Entropy of the token histogram over its maximum log(len), in [0, 1]; lower: fewer tokens.

    NaN where there are fewer than two tokens.
    """
    if len(ids) < 2:
        return float("nan")
    shares = np.unique(np.asarray(ids), return_counts=True)[1] / len(ids)
    return float(-(shares * np.log(shares)).sum() / log(len(ids)))
