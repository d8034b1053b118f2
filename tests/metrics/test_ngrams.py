"""Extraction likelihood equals its definition; extraction strength and repetition by hand."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from unlearner.inference.answers import Answer, first_prompt
from unlearner.metrics._ngrams import (
    distinct_ngrams,
    extractable_tail,
    extraction_likelihood,
    last_starts,
    token_evenness,
)

EOS = 0


def next_token(prefix, text, seed, faithful, vocab):
    """A model: a fixed token for every prefix, often the text's own where `faithful` is high."""
    draw = random.Random(f"{seed} {prefix}")
    return text[len(prefix)] if draw.random() < faithful else draw.randrange(vocab)


def greedy(prefix, model):
    """What the model says after the prefix, up to the text's length or its end-of-text token."""
    text, grown, said = model[0], list(prefix), []
    while len(grown) < len(text):
        said.append(next_token(grown, *model))
        grown.append(said[-1])
        if said[-1] == EOS:
            break
    return said


def definition(model, n, start):
    """EL_n by the letter: one continuation for each prompt, prompts ascending."""
    text, total, prompts = model[0], 0.0, 0
    for t in range(start, len(text) - n + 1):
        said, rest = greedy(text[:t], model), text[t:]
        occurring = [rest[i : i + n] for i in range(len(rest) - n + 1)]
        matches = sum(said[i : i + n] in occurring for i in range(len(said) - n + 1))
        total += matches / len(occurring)
        prompts += 1
    return total, prompts


def answer_of(model, prompt_start=1):
    """The answer that a model gives about its text, with decoded continuations at its breaks."""
    text = model[0]
    argmax = [next_token(text[:t], *model) for t in range(1, len(text))]
    bare = answer(text, argmax)
    decoded = {m: greedy(text[:m], model) for m in bare.breaks.tolist() if m >= prompt_start}
    return answer(text, argmax, decoded, prompt_start)


def answer(text, argmax, decoded=None, prompt_start=1):
    return Answer(
        record=0,
        id="r",
        input_ids=np.array(text),
        scored=np.ones(len(text) - 1, dtype=bool),
        log_probs=np.zeros(len(text) - 1, dtype=np.float32),
        argmax=np.array(argmax),
        eos_ids=frozenset({EOS}),
        decoded={m: np.array(said) for m, said in (decoded or {}).items()},
        prompt_start=prompt_start,
    )


@pytest.mark.parametrize("faithful", [0.0, 0.5, 0.9, 1.0], ids="faithful={}".format)
@pytest.mark.parametrize("vocab", [2, 4, 50], ids="vocab={}".format)
def test_extraction_likelihood_equals_its_definition_to_the_last_bit(faithful, vocab):
    """Breaks everywhere (faithful 0) to none (1); token 0 ends a text and also occurs inside it."""
    for seed in range(6):
        draw = random.Random(seed)
        length = draw.choice([2, 5, 17, 40])
        text = [draw.randrange(vocab) for _ in range(length)]
        model = (text, seed, faithful, vocab)
        for n in (1, 2, 3, 10):
            for start in (1, 7):
                expected = definition(model, n, start)
                assert extraction_likelihood(answer_of(model, start), n, start) == expected


def test_definition_without_an_end_of_text_token_has_full_continuations():
    """No 0 in the vocabulary: every continuation reaches T and breaks lie at every position."""
    draw = random.Random(3)
    text = [draw.randrange(1, 4) for _ in range(30)]
    argmax = [token % 3 + 1 for token in text[1:]]  # never the text's own
    decoded = {m: [argmax[m - 1], *text[: 29 - m]] for m in range(1, 30)}
    given = answer(text, argmax, decoded)
    assert given.breaks.tolist() == list(range(1, 30))
    total = 0.0
    for t in range(1, 29):
        said, rest = decoded[t], text[t:]
        bigrams = [rest[i : i + 2] for i in range(len(rest) - 1)]
        total += sum(said[i : i + 2] in bigrams for i in range(len(said) - 1)) / len(bigrams)
    assert extraction_likelihood(given, 2) == (total, 28)


def test_extraction_likelihood_by_hand():
    """Text 1 2 1 2 3, bigrams. After 1 2 the model says 2 1 2, after 1 2 1 2 it says 1.

    t=1: 2 2 1 2 holds 22 21 12; of 2 1 2 3 (21 12 23) two occur: 2/3.
    t=2:   2 1 2 holds 21 12;    of   1 2 3 (12 23)    one occurs: 1/2.
    t=3:     2 1 holds 21;       of     2 3 (23)       none:       0.
    """
    given = answer([1, 2, 1, 2, 3], [2, 2, 2, 1], {2: [2, 1, 2], 4: [1]})
    assert extraction_likelihood(given, 2) == (2 / 3 + 1 / 2, 3)


def test_a_text_known_by_heart_has_overlap_one_at_every_prompt():
    """T=30, n=10: prompts 1..20, each with OV = 1, and no continuation needs decoding."""
    given = answer(list(range(1, 31)), list(range(2, 31)))
    assert extraction_likelihood(given, 10) == (20, 20)


def test_a_continuation_shorter_than_n_overlaps_nothing():
    """Text 1 1 1 1; after 1 the model ends at once, after 1 1 it says 1 1.

    t=1: one token, no bigram: 0 of 3. t=2: 1 1 holds 11, as 1 1 does: 1 of 1.
    """
    given = answer([1, 1, 1, 1], [EOS, 1, 1], {1: [EOS]})
    assert extraction_likelihood(given, 2) == (1, 2)


def test_repeats_count_as_often_as_the_continuation_says_them():
    """Text 1 2 2 3, n=1, t=1: 2 2 2 of 2 2 3 are three of three; the text holds 2 only twice.

    t=2: 2 2 of 2 3 are two of two. t=3: 2 of 3 is none of one.
    """
    given = answer([1, 2, 2, 3], [2, 2, 2], {3: [2]})
    assert extraction_likelihood(given, 1) == (2, 3)


def test_the_code_of_icu_has_41_prompts():
    """T=200, n=10, s=0.75 T=150: prompts 150..190."""
    given = answer([1] * 200, [1] * 199)
    assert extraction_likelihood(given, 10, 0.75) == (41, 41)


def test_a_text_without_a_prompt_has_no_weight():
    """T=10, n=10 has no prompt with ten tokens behind it; nor has s=8 of T=10 with n=3."""
    given = answer([1] * 10, [1] * 9)
    assert extraction_likelihood(given, 10) == (0, 0)
    assert extraction_likelihood(given, 3, 8) == (0, 0)


def test_a_missing_continuation_is_an_error_and_not_a_zero():
    with pytest.raises(ValueError, match="first 1 tokens of record 'r' was not asked for"):
        extraction_likelihood(answer([1, 2, 3], [3, 3]), 1)
    with pytest.raises(ValueError, match="continuations start at prompt_start=2"):
        extraction_likelihood(answer([1, 2, 3], [3, 3], {2: [3]}, 2), 1)
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        extraction_likelihood(answer([1, 2], [2]), 0)


def test_first_prompt_takes_a_length_or_a_fraction():
    assert first_prompt(1, 200) == 1
    assert first_prompt(150, 200) == 150
    assert first_prompt(0.75, 200) == 150
    assert first_prompt(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996 in binary
    assert first_prompt(0.75, 40) == 10  # the last 30 tokens are left, more than a quarter
    assert first_prompt(0.01, 20) == 1
    for wrong in (0, -1, 1.5, 0.0, math.nan):
        with pytest.raises(ValueError, match="prompt_start must be"):
            first_prompt(wrong, 200)


def test_last_starts_are_the_last_occurrences():
    """12 starts at 0 and 2 of 1 2 1 2 3, 21 at 1, 23 at 3; 13 nowhere."""
    found = last_starts(np.array([1, 2, 1, 2, 3]), np.array([1, 2, 1, 3, 2, 3]), 2)
    assert found.tolist() == [2, 1, -1, -1, 3]


def extraction_strength(hits):
    """ES = 1 - k*/T."""
    return extractable_tail(hits) / (len(hits) + 1)


def test_extraction_strength_by_hand():
    """T=5. Only token 2 missed: 1 2 3 must be given, k*=3, 1-3/5. All hit: k*=1. Last missed: 0."""
    assert extraction_strength(np.array([True, False, True, True])) == 1 - 3 / 5
    assert extraction_strength(np.array([True] * 4)) == 1 - 1 / 5
    assert extraction_strength(np.array([True, True, True, False])) == 0


def test_extraction_strength_equals_its_definition():
    """k* is the first k from which on nothing is missed, T when there is none."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        hits = draw.random(12) < 0.8
        shortest = next((k for k in range(1, 13) if hits[k - 1 :].all()), 13)
        assert extraction_strength(hits) == pytest.approx(1 - shortest / 13, abs=1e-15)


def test_each_span_is_a_text_of_its_own():
    """Tokens 7 | 1 2 1 2 3 | 9 | 4 5 | 9: prompt and response between pieces of template.

    The first is the text 1 2 1 2 3 of the test by hand, behind one token more: 2/3, 1/2
    and 0 of 3 prompts by bigrams. 4 5 has one prompt, and no bigram behind it: it does not count.
    """
    text = [7, 1, 2, 1, 2, 3, 9, 4, 5, 9]
    argmax = [1, 2, 2, 2, 1, 0, 0, 6, 0]
    decoded = {3: [2, 1, 2], 5: [1], 8: [6]}
    given = replace(
        answer(text, argmax, decoded),
        scored=np.array([1, 1, 1, 1, 1, 0, 1, 1, 0], dtype=bool),
        first_counts=False,
    )
    assert given.spans == [(1, 6), (7, 9)]
    assert given.continuation(2).tolist() == [2, 2, 1, 2]
    assert given.continuation(8).tolist() == [6]
    total, prompts = extraction_likelihood(given, 2)
    assert (total, prompts) == (pytest.approx(2 / 3 + 1 / 2), 3)


def test_repetition_by_hand():
    """1 2 1 2 1 2 holds 12 21 12 21 12: two of five bigrams. Four 1s and four 2s: log 2 / log 8."""
    assert distinct_ngrams(np.array([1, 2, 1, 2, 1, 2]), 2) == 2 / 5
    assert math.isnan(distinct_ngrams(np.array([1]), 2))
    assert token_evenness(np.array([1, 2] * 4)) == pytest.approx(1 / 3)
    assert token_evenness(np.array([7, 7, 7])) == 0
    assert token_evenness(np.arange(9)) == pytest.approx(1)
