"""Vectors of texts: in blocks and by several processes as at once, and TF-IDF by its formula."""

import logging
import math
import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import BertModel

from classifier_world import SEQUENCE, tiny_config, toy_tokenizer
from in_processes import in_processes
from unlearner.errors import UserError
from unlearner.retrieval import neighbours, tf_idf
from unlearner.retrieval.neighbours import Texts, embed, make_vectors, retrieve

TEXTS = [f"text number {number}" for number in range(14)]  # blocks of 4, 4, 4 and 2


class Toy:
    """Draws a vector of 5 numbers for a text by its letters; remembers what it was given."""

    def __init__(self):
        self.given = []

    def encode(self, texts, **_):
        self.given += texts
        seeds = [sum(map(ord, text)) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).standard_normal(5) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def _blocks_of_four(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 4)


# A sentence encoder


@pytest.mark.parametrize("num_texts", [1, 4, 5, 14])
def test_blocks_of_texts_give_the_vectors_of_all_at_once(num_texts):
    some = TEXTS[:num_texts]
    found = embed(Toy(), some)
    assert found.dtype == np.float32
    assert found.tobytes() == Toy().encode(some).tobytes()


@pytest.mark.parametrize("num_texts", [3, 14])
def test_processes_share_the_blocks_and_all_have_every_vector(num_texts):
    """Of 4 blocks the first of three processes embeds the first and the last, 4 + 2 texts."""

    def run():
        model = Toy()
        return embed(model, TEXTS[:num_texts]).tobytes(), len(model.given)

    vectors, numbers = zip(*in_processes(3, run), strict=True)
    assert {*vectors} == {Toy().encode(TEXTS[:num_texts]).tobytes()}
    assert numbers == ((3, 0, 0) if num_texts == 3 else (6, 4, 4))


def test_a_real_encoder_gives_vectors_of_length_one(tmp_path):
    """An untrained BERT of the toy vocabulary; sentence-transformers adds mean pooling."""
    BertModel(tiny_config(SEQUENCE)).save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    rng = random.Random(0)
    words = ["cat", "dog", "red", "blue", "oslo", "paris", "the", "is", "near"]
    some = [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(9)]
    found = make_vectors(some[:2], some, str(tmp_path))
    assert (found.queries.shape[0], found.texts.shape[0]) == (2, 9)
    assert np.allclose(np.linalg.norm(found.texts, axis=1), 1)
    expected = SentenceTransformer(str(tmp_path)).encode(some).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(found.cosines([1, 0]), expected[[1, 0]] @ expected.T, atol=1e-6)


def test_copies_of_what_is_to_be_forgotten_are_not_embedded(monkeypatch):
    """The pool's text 6 is a copy of the first forget text, in capitals."""
    model = Toy()
    monkeypatch.setattr(neighbours, "load_encoder", lambda *_, **__: model)
    forget, pool = ["secret of the first person", "secret of another one"], list(TEXTS)
    pool[6] = forget[0].upper()
    ids = [[number, number + 1] for number in range(100, 120)]
    found = retrieve(
        Texts(forget, forget, ids[-2:]), Texts(pool, pool, ids[: len(pool)]), encoder="toy"
    )
    assert found.excluded == (6,)
    assert model.given == forget + pool[:6] + pool[7:]


def test_the_time_left_is_logged_where_there_is_more_than_one_block(caplog):
    with caplog.at_level(logging.INFO, "unlearner"):
        embed(Toy(), TEXTS[:4])
        assert not caplog.records
        embed(Toy(), TEXTS)
    lines = [record.message for record in caplog.records]
    assert [line.split(",")[0] for line in lines] == [
        f"embedded {done} of 4 blocks of 4 texts" for done in (1, 2, 3, 4)
    ]
    assert lines[-1].endswith("0 minutes left")


class Half(Toy):
    """As a model in bfloat16: vectors of no length, to three digits."""

    device = torch.device("cpu")

    def to(self, dtype):
        self.dtype = dtype

    def encode(self, texts, *, normalize_embeddings, **options):
        assert normalize_embeddings is (not hasattr(self, "dtype"))
        found = torch.from_numpy(super().encode(texts, **options))
        return (3 * found).bfloat16().float().numpy() if hasattr(self, "dtype") else found.numpy()


@pytest.mark.parametrize("supported", [True, False])
def test_many_texts_are_embedded_in_bfloat16_where_the_device_multiplies_in_it(
    monkeypatch, supported
):
    """From `MANY` texts on, here 6; vectors have length 1 in float32 all the same."""
    monkeypatch.setattr(neighbours, "MANY", 6)
    monkeypatch.setattr(neighbours, "multiplies_bfloat16", lambda _: supported)
    monkeypatch.setattr(neighbours, "load_encoder", lambda *_, **__: Half())
    few, many = (make_vectors(TEXTS[:2], TEXTS[:count], "some") for count in (5, 6))
    assert (few.shorter, many.shorter) == (False, supported)
    assert few.texts.tobytes() == Toy().encode(TEXTS[:5]).tobytes()
    assert np.allclose(np.linalg.norm(many.texts, axis=1), 1, atol=1e-6)
    assert np.allclose(many.texts[:5], few.texts, atol=0.01)
    assert (many.texts[:5] == few.texts).all() == (not supported)


def test_a_processor_says_whether_it_multiplies_in_bfloat16(monkeypatch):
    cpu = torch.device("cpu")
    for found, expected in (({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert neighbours.multiplies_bfloat16(cpu) is expected
        assert not neighbours.emulates_bfloat16(cpu)  # of which kind it is is not known
    ours = {"architecture": "x86_64", "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ours)
    assert neighbours.emulates_bfloat16(cpu)
    assert not neighbours.emulates_bfloat16(torch.device("mps"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not neighbours.multiplies_bfloat16(cpu)
    assert not neighbours.emulates_bfloat16(cpu)


# TF-IDF


def random_texts(rng, count):
    words = ["a", "The", "cat", "cat-fish", "don't", "été", "naïve", "12", "x.y", "狐", "red", "!"]
    return [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(count)]


def tf_idf_cosines(queries, texts):
    """By the formula: counts of words and pairs, each times 1 + ln((1 + n) / (1 + df))."""
    counts = []
    for text in (*queries, *texts):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        counts.append(Counter([*words, *pairwise(words)]))
    df = Counter(term for terms in counts for term in terms)
    weights = [
        {term: k * (1 + math.log((1 + len(counts)) / (1 + df[term]))) for term, k in terms.items()}
        for terms in counts
    ]
    lengths = [math.sqrt(sum(w * w for w in terms.values())) or 1 for terms in weights]

    def cosine(i, j):
        return sum(w * weights[j].get(term, 0) for term, w in weights[i].items()) / (
            lengths[i] * lengths[j]
        )

    return [[cosine(i, len(queries) + j) for j in range(len(texts))] for i in range(len(queries))]


def test_tf_idf_is_that_of_the_formula_over_both_sides():
    rng = random.Random(1)
    queries, texts = random_texts(rng, 9), random_texts(rng, 40)
    found = make_vectors(queries, texts, "tf-idf").cosines(range(9))
    assert found.dtype == np.float32
    assert np.allclose(found, tf_idf_cosines(queries, texts), atol=1e-6)
    assert found.max() > 0.5


def test_tf_idf_of_many_blocks_has_the_numbers_of_scikit_learn(monkeypatch, caplog):
    """Bit for bit, with blocks of 4 texts and counts put in order again and again."""
    monkeypatch.setattr(tf_idf, "BLOCK", 4)
    monkeypatch.setattr(tf_idf, "PENDING", 20)
    caplog.set_level(logging.INFO, logger="unlearner.retrieval.tf_idf")
    rng = random.Random(3)
    queries, texts = random_texts(rng, 5), random_texts(rng, 70)
    pattern = r"\w+|[^\w\s]"
    rows = TfidfVectorizer(ngram_range=(1, 2), token_pattern=pattern).fit_transform(
        [*queries, *texts]
    )
    columns = np.unique(rows[:5].indices)
    expected = rows.astype(np.float32)[:, columns].toarray()
    found = tf_idf.tf_idf_vectors(queries, texts)
    assert np.concatenate([some.toarray() for some in found]).tobytes() == expected.tobytes()
    assert [record.message for record in caplog.records] == [
        "counted the terms of 16 of 18 blocks of 4 texts",
        "weighted 16 of 18 blocks of 4 texts",
    ]


def test_queries_without_words_are_like_nothing():
    found = make_vectors(["", "cat"], ["a cat", "dog"], "tf-idf").cosines([0, 1])
    assert found[0].tolist() == [0, 0]
    assert found[1, 0] > 0
    assert not make_vectors([""], ["a cat"], "tf-idf").cosines([0]).any()


def test_texts_without_a_single_word_are_refused():
    with pytest.raises(UserError, match="all empty"):
        make_vectors([" "], ["", "\n"], "tf-idf")
