"""The search in blocks against sorting everything, and TF-IDF against scikit-learn's."""

import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from unlearner.errors import UserError
from unlearner.retrieval import tfidf
from unlearner.retrieval.neighbours import Search, make_search

# Search


def search_of(cosines_FP, block, excluded=()):
    """A search whose similarities are given."""

    def cosines(rows):
        for start in range(0, cosines_FP.shape[1], block):
            yield cosines_FP[rows, start : start + block].copy()

    return Search(cosines, "none", np.array(sorted(excluded), dtype=np.int64))


def by_sorting(values, counts, k):
    """Of one row: the best k that count, the lower index first among equals."""
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda p: (-values[p], p))[:k]
    return order + [-1] * (k - len(order))


@pytest.mark.parametrize("block", [1, 3, 7, 50])
@pytest.mark.parametrize("k", [1, 4, 20])
@pytest.mark.parametrize("excluded", [(), (0, 6, 7, 19)])
def test_blocks_give_what_sorting_gives_with_ties_to_the_lower_index(block, k, excluded):
    """Few different values, so that most are tied; a third of the pairs does not count."""
    rng = np.random.default_rng(k)
    values = rng.integers(-2, 3, size=(6, 20)).astype(np.float32)
    barred = rng.random((6, 20)) < 1 / 3
    search = search_of(values, block, excluded)
    rows = [4, 0, 5]
    scores, indices = search(rows, k, lambda some, part: barred[some, part].nonzero())
    free = ~np.isin(np.arange(20), excluded)
    for place, row in enumerate(rows):
        expected = by_sorting(values[row], free & ~barred[row], k)
        assert indices[place].tolist() == expected
        assert scores[place].tolist() == [values[row, p] if p >= 0 else -np.inf for p in expected]


def test_without_bars_every_text_counts():
    scores, indices = search_of(np.array([[0.1, 0.9, 0.5]], dtype=np.float32), 2)([0], 3)
    assert indices.tolist() == [[1, 2, 0]]
    assert np.allclose(scores, [[0.9, 0.5, 0.1]])


# TF-IDF


def random_texts(rng, count):
    words = ["a", "The", "cat", "cat-fish", "don't", "été", "naïve", "12", "x.y", "狐", "red", "!"]
    return [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(count)]


def by_scikit_learn(queries, texts):
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    vectors = vectorizer.fit_transform([*queries, *texts]).toarray()
    return vectors[: len(queries)] @ vectors[len(queries) :].T


@pytest.mark.parametrize("block", [1, 5, 100])
def test_tf_idf_equals_scikit_learn_s(monkeypatch, block):
    monkeypatch.setattr(tfidf, "BLOCK", block)
    rng = random.Random(block)
    queries, texts = random_texts(rng, 9), random_texts(rng, 40)
    found = np.concatenate(list(tfidf.tf_idf(queries, texts).cosines(np.arange(9))), axis=1)
    assert np.allclose(found, by_scikit_learn(queries, texts), atol=1e-6)
    assert found.max() > 0.5


def test_excluded_texts_count_for_no_frequency_and_are_like_none(monkeypatch):
    """As if they were not there at all."""
    monkeypatch.setattr(tfidf, "BLOCK", 6)
    rng = random.Random(2)
    queries, texts, excluded = random_texts(rng, 5), random_texts(rng, 20), {0, 7, 8, 19}
    cosines = tfidf.tf_idf(queries, texts, excluded).cosines(np.arange(5))
    found = np.concatenate(list(cosines), axis=1)
    kept = [place for place in range(20) if place not in excluded]
    expected = by_scikit_learn(queries, [texts[place] for place in kept])
    assert np.allclose(found[:, kept], expected, atol=1e-6)
    assert not found[:, sorted(excluded)].any()


def test_equal_texts_are_tied_and_the_first_is_found():
    texts = ["rain", "the red fox", "a fox", "the red fox", "the red fox"]
    scores, indices = make_search(["the red fox runs"], texts, "tf-idf")([0], 4)
    assert indices.tolist() == [[1, 3, 4, 2]]
    assert scores[0][0] == scores[0][1] == scores[0][2] > scores[0][3]


def test_queries_without_words_are_like_nothing():
    found = list(tfidf.tf_idf(["", "cat"], ["a cat", "dog"]).cosines(np.arange(2)))
    assert found[0][0].tolist() == [0, 0]
    assert found[0][1, 0] > 0
    (found,) = tfidf.tf_idf([""], ["a cat"]).cosines(np.arange(1))
    assert not found.any()


def test_texts_without_a_single_word_are_refused():
    with pytest.raises(UserError, match="all empty"):
        tfidf.tf_idf([" "], ["", "\n"])
