"""Duplicates: the similarity is the true Jaccard index, and none at the threshold is missed."""

import random
from collections import Counter
from itertools import product

import pytest

from unlearner.data.duplicates import Duplicate, find_duplicates, jaccard

WORDS = [f"w{i}" for i in range(40)]


def text(*words):
    return " ".join(words)


def test_case_and_white_space_do_not_make_a_text_another():
    found = find_duplicates(["The  Cat\nsat."], ["a dog", " the cat sat. ", "THE CAT SAT."])
    assert found == [Duplicate(0, 1, 1.0, exact=True), Duplicate(0, 2, 1.0, exact=True)]


def test_word_jaccard_by_hand():
    """12 and 11 words have the shingles w0-w2 .. w9-w11 (10) and w0-w2 .. w8-w10 (9): 9 / 10."""
    assert jaccard(text(*WORDS[:12]), text(*WORDS[:11])) == 9 / 10
    found = find_duplicates([text(*WORDS[:12])], [text(*WORDS[:11])])
    assert found == [Duplicate(0, 0, 9 / 10, exact=False)]


def test_a_changed_word_in_the_middle_costs_three_shingles_on_both_sides():
    """32 words have 30 shingles, of which 27 are shared: 27 / 33, which is above 0.8."""
    changed = [*WORDS[:15], "other", *WORDS[16:32]]
    found = find_duplicates([text(*WORDS[:32])], [text(*changed)])
    assert found == [Duplicate(0, 0, 27 / 33, exact=False)]


def test_the_threshold_itself_is_a_duplicate_and_below_it_is_none():
    """7 words have 5 shingles and 6 of them 4, all shared: 4 / 5 = 0.8; 5 words have 3: 0.6."""
    forget = [text(*WORDS[:7])]
    assert [d.similarity for d in find_duplicates(forget, [text(*WORDS[:6])])] == [0.8]
    assert find_duplicates(forget, [text(*WORDS[:5])]) == []
    assert [d.similarity for d in find_duplicates(forget, [text(*WORDS[:5])], threshold=0.6)] == [
        0.6
    ]


def test_texts_of_few_words_are_compared_by_characters():
    """`abcdefghi` has the 5-shingles abcde .. efghi (5), `abcdefgh` 4 of them: 4 / 5."""
    assert find_duplicates(["abcdefghi"], ["abcdefgh"]) == [Duplicate(0, 0, 0.8, exact=False)]
    assert find_duplicates(["yes"], ["no", "yes!"]) == []


@pytest.mark.parametrize("swap", [False, True])
def test_a_short_text_is_found_in_one_just_long_enough_for_word_shingles(swap):
    """4 words, 20 characters: 16 shingles; with ` b` added 22: 18, of which 16 are shared."""
    four, five = "aaaa bbbbb cccc dddd", "aaaa bbbbb cccc dddd b"
    a, b = (five, four) if swap else (four, five)
    assert find_duplicates([a], [b]) == [Duplicate(0, 0, 16 / 18, exact=False)]


def test_texts_without_spaces_between_words_are_compared():
    """20 and 19 characters: 16 and 15 shingles: 15 / 16."""
    sentence = "".join(chr(0x4E00 + i) for i in range(20))
    assert [d.similarity for d in find_duplicates([sentence], [sentence[:-1]])] == [15 / 16]


def test_empty_texts_are_no_duplicates():
    assert find_duplicates(["", " ", "a b"], ["", "\n", "c d"]) == []
    assert find_duplicates([], ["a"]) == []
    assert find_duplicates(["a"], []) == []


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, float("nan")])
def test_the_threshold_must_be_a_similarity(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0"):
        find_duplicates(["a"], ["a"], threshold=threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_nothing_that_comparing_all_pairs_finds_is_missed(threshold):
    """Random edits of random texts, against the Jaccard index of every pair."""
    rng = random.Random(3)
    forget = [text(*rng.choices(WORDS, k=rng.randint(2, 60))) for _ in range(30)]
    others = []
    for original in forget * 3:
        words = original.split()
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        others.append(text(*words[rng.randint(0, 1) :]))
    expected = {
        (i, j): jaccard(forget[i], others[j])
        for i, j in product(range(len(forget)), range(len(others)))
        if others[j] and jaccard(forget[i], others[j]) >= threshold
    }
    found = find_duplicates(forget, others, threshold=threshold)
    assert {(d.forget, d.other): d.similarity for d in found} == expected
    assert len(found) > 10
    assert found == sorted(found, key=lambda d: (d.forget, d.other))
    assert all(d.exact == (forget[d.forget] == others[d.other]) for d in found)


def by_comparing_all_pairs(forget, others, threshold):
    pairs = product(range(len(forget)), range(len(others)))
    similar = {(i, j): jaccard(forget[i], others[j]) for i, j in pairs if others[j].strip()}
    return {pair: value for pair, value in similar.items() if value >= threshold}


def alike(rng, letters):
    """A text of few and short words, so that shingles repeat and are shared; some are long."""
    word = "".join(rng.choices(letters, k=rng.randint(1, 6)))
    words = [
        word if rng.random() < 0.7 else "".join(rng.choices(letters, k=3))
        for _ in range(rng.randint(1, 9))
    ]
    return text(*words * rng.choice([1, 1, 1, 4]))


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.6, 0.8, 1])
@pytest.mark.parametrize("letters", ["ab", "abcdefgh"])
def test_short_and_long_and_repetitive_texts_give_what_all_pairs_give(threshold, letters):
    """Texts on both sides of five words, of the same word over and over, with many shared shingles.

    "ha ha ha ha" and forty times "ha" have the same character shingles, whatever their lengths.
    """
    rng = random.Random(letters)
    forget = [alike(rng, letters) for _ in range(40)] + ["ha ha ha ha"]
    others = [alike(rng, letters) for _ in range(80)] + [text(*["ha"] * 40), " ", *forget[:5]]
    expected = by_comparing_all_pairs(forget, others, threshold)
    found = find_duplicates(forget, others, threshold=threshold)
    assert {(d.forget, d.other): d.similarity for d in found} == expected
    assert (40, 80) in expected
    swapped = find_duplicates(others, forget, threshold=threshold)
    assert {(d.other, d.forget): d.similarity for d in swapped} == expected


def test_texts_that_share_a_template_give_what_all_pairs_give():
    """Every shingle but the names' own is in all texts: the rare ones have to find the pairs."""
    rng = random.Random(5)
    names = ["anna", "bert", "carl", "dora", "emil", "fred"]

    def filled():
        return f"the person whose name is {rng.choice(names)} lives in the town of " + text(
            *rng.choices(names, k=2), "and works there as a clerk"
        )

    forget, others = [filled() for _ in range(30)], [filled() for _ in range(200)]
    for threshold in (0.45, 0.7):  # another first name: 14 shared of 20 shingles
        expected = by_comparing_all_pairs(forget, others, threshold)
        found = find_duplicates(forget, others, threshold=threshold)
        assert {(d.forget, d.other): d.similarity for d in found} == expected
        assert 0 < len(expected) < 30 * 200


def test_the_other_texts_are_read_once_and_need_not_be_in_memory():
    lines = (line for line in ["a b", "The cat sat down", "c d"])
    assert find_duplicates(["the cat sat down"], lines) == [Duplicate(0, 1, 1.0, exact=True)]


def test_every_repeated_message_of_the_sms_collection_is_found(shared_data):
    """403 of its 5574 messages repeat an earlier one letter by letter."""
    lines = (shared_data / "sms_spam" / "SMSSpamCollection").read_text().split("\n")[1:]
    messages = [line.split("\t", 1)[1] for line in lines if line]
    assert len(messages) == 5574
    seen, repeated = set(), []
    for index, message in enumerate(messages):
        if message in seen:
            repeated.append(index)
        seen.add(message)
    assert len(repeated) == 403
    first = [message for message, count in Counter(messages).items() if count > 1]
    found = find_duplicates(first, messages)
    exact = {d.other for d in found if d.exact}
    assert exact >= set(repeated)
    near = [d for d in found if not d.exact]
    assert near
    assert all(jaccard(first[d.forget], messages[d.other]) == d.similarity >= 0.8 for d in near)
