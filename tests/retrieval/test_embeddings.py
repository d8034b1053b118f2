"""Vectors of a large pool: as without the cache, made once, whole or not at all, none forgotten."""

import fcntl
import logging
import random
import stat

import numpy as np
import pytest
import torch
from transformers import BertModel

from classifier_world import SEQUENCE, tiny_config, toy_tokenizer
from unlearner.errors import UserError
from unlearner.retrieval import encoder, neighbours
from unlearner.retrieval.encoder import Encoder, cache_folder, embedded
from unlearner.retrieval.neighbours import Texts, retrieve

torch.set_num_threads(1)

TEXTS = [f"text number {number}" for number in range(14)]  # blocks of 4, 4, 4 and 2


class Toy:
    """Draws a vector of 5 numbers for a text by its letters; remembers what it was asked."""

    def __init__(self, name="toy", fails_at=None):
        self.name, self.fails_at = name, fails_at
        self.asked = []

    def digest(self):
        return self.name

    def embed(self, texts):
        if self.fails_at in texts:
            raise KeyboardInterrupt
        self.asked += texts
        seeds = [sum(map(ord, f"{self.name}{text}")) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).standard_normal(5) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A cache for pools of 10 texts and more, 4 to a block."""
    monkeypatch.setattr(encoder, "BLOCK", 4)
    monkeypatch.setattr(encoder, "CACHED_FROM", 10)
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


def vectors(encoder, texts=TEXTS, excluded=()):
    return np.concatenate(list(embedded(encoder, texts, excluded)))


def files(folder):
    return sorted(path.name for path in folder.glob("*") if path.name != "lock")


def without_cache(monkeypatch, **given):
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "CACHED_FROM", 10**9)
        return vectors(Toy(), **given)


# The same, and once


@pytest.mark.parametrize("excluded", [(), (0, 5, 12, 13)])
def test_vectors_are_those_without_the_cache_to_the_bit_when_made_and_when_found(
    monkeypatch, excluded
):
    plain = without_cache(monkeypatch, excluded=excluded)
    made, found = (vectors(Toy(), excluded=excluded) for _ in range(2))
    assert plain.dtype == made.dtype == np.float32
    assert plain.tobytes() == made.tobytes() == found.tobytes()


def test_what_was_embedded_is_not_embedded_again(folder):
    first, second = Toy(), Toy()
    vectors(first), vectors(second)
    assert (first.asked, second.asked) == (TEXTS, [])
    assert len(files(folder)) == 4


def test_a_changed_or_added_text_costs_its_own_block():
    vectors(Toy())
    encoder = Toy()
    vectors(encoder, [*TEXTS[:5], "another", *TEXTS[6:], "one more"])
    assert encoder.asked == [TEXTS[4], "another", *TEXTS[6:8], *TEXTS[12:], "one more"]


def test_where_one_text_ends_and_the_next_begins_counts():
    vectors(Toy(), ["ab", "c", *TEXTS])
    encoder = Toy()
    vectors(encoder, ["a", "bc", *TEXTS])
    assert encoder.asked == ["a", "bc", *TEXTS[:2]]


def test_another_encoder_s_vectors_are_not_taken():
    vectors(Toy("one"))
    encoder = Toy("two")
    assert not np.allclose(vectors(encoder), vectors(Toy("one")))
    assert encoder.asked == TEXTS


def test_a_small_pool_leaves_nothing_on_disk(folder):
    assert len(vectors(Toy(), TEXTS[:9])) == 9
    assert not folder.exists()


# Whole or not at all


def test_an_interrupted_run_goes_on_at_the_block_it_reached(folder, monkeypatch):
    """Stopped in the third block: two are there, no half of one; then 6 texts are left."""
    with pytest.raises(KeyboardInterrupt):
        embedded(Toy(fails_at=TEXTS[9]), TEXTS)
    assert len(files(folder)) == 2
    encoder = Toy()
    assert vectors(encoder).tobytes() == without_cache(monkeypatch).tobytes()
    assert encoder.asked == TEXTS[8:]


def test_a_write_that_is_interrupted_leaves_no_file(folder, monkeypatch):
    def half(file, *_):
        file.write(b"\x93NUMPY")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", half)
        with pytest.raises(KeyboardInterrupt):
            embedded(Toy(), TEXTS)
    assert files(folder) == []


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_that_was_cut_off_is_made_again(folder, monkeypatch, length, caplog):
    vectors(Toy())
    path = folder / files(folder)[0]
    path.write_bytes(path.read_bytes()[:length])
    encoder = Toy()
    assert vectors(encoder).tobytes() == without_cache(monkeypatch).tobytes()
    assert len(encoder.asked) in (2, 4)
    assert "is damaged" in caplog.text


def test_what_a_killed_run_left_half_written_is_not_read_and_goes(folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / "abc.123.part").write_bytes(b"half")
    assert vectors(Toy()).tobytes() == without_cache(monkeypatch).tobytes()
    assert all(name.endswith(".npy") for name in files(folder))


# Privacy


def test_excluded_texts_are_not_embedded():
    """Those of the first block and all of the last; only their rows are 0."""
    encoder = Toy()
    found = vectors(encoder, excluded={1, 12, 13})
    assert set(encoder.asked) == {*TEXTS} - {TEXTS[1], TEXTS[12], TEXTS[13]} | {""}
    assert np.flatnonzero(~found.any(axis=1)).tolist() == [1, 12, 13]


def test_leaving_a_text_out_costs_its_own_block_and_removes_its_vector(folder):
    vectors(Toy())
    before, encoder = set(files(folder)), Toy()
    vectors(encoder, excluded={5})
    assert encoder.asked == [TEXTS[4], TEXTS[6], TEXTS[7]]
    assert len(before & set(files(folder))) == 3
    (vector,) = Toy().embed([TEXTS[5]])
    assert not any(vector.tobytes() in (folder / name).read_bytes() for name in files(folder))


def test_only_the_last_pool_is_kept(folder):
    vectors(Toy(), [f"other {text}" for text in TEXTS])
    vectors(Toy())
    assert len(files(folder)) == 4


def test_another_run_s_vectors_stay_while_it_uses_them(folder):
    vectors(Toy())
    before = set(files(folder))
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        vectors(Toy("other"))
        assert before < set(files(folder))
    vectors(Toy("other"))
    assert before.isdisjoint(files(folder))


def test_vectors_in_use_hold_the_lock_and_free_it(folder):
    some = embedded(Toy(), TEXTS)
    with (folder / "lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del some
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_folder_and_files_are_for_their_owner_only(folder):
    folder.mkdir(parents=True, mode=0o755)
    vectors(Toy())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in files(folder)} == {0o600}


def test_no_vector_of_a_text_to_forget_is_kept(folder, monkeypatch):
    """The pool holds a copy of the first forget text: it is searched for, and not embedded."""
    encoder = Toy()
    monkeypatch.setattr(Encoder, "load", lambda *_, **__: encoder)
    forget, pool = ["secret of the first person", "secret of another one"], list(TEXTS)
    pool[6] = forget[0].upper()
    ids = [[number, number + 1] for number in range(100, 120)]
    found = retrieve(
        Texts(forget, forget, ids[-2:]), Texts(pool, pool, ids[: len(pool)]), encoder="toy"
    )
    assert found.excluded == (6,)
    assert pool[6] not in encoder.asked
    kept = b"".join((folder / name).read_bytes() for name in files(folder))
    for text in [*forget, pool[6]]:
        assert Toy().embed([text])[0].tobytes() not in kept
    assert Toy().embed([pool[5]])[0].tobytes() in kept


# Folder and log


def test_the_folder_is_the_user_s_cache_unless_another_is_given(monkeypatch, tmp_path):
    monkeypatch.delenv("UNLEARNER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "unlearner" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "unlearner" / "embeddings"


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be kept there .*set UNLEARNER_CACHE") as caught:
        embedded(Toy(), TEXTS)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"\(No space left on device\); make room"):
        embedded(Toy(), TEXTS)
    assert files(folder) == []


def test_progress_is_logged_with_what_was_found(folder, caplog):
    with pytest.raises(KeyboardInterrupt):
        embedded(Toy(fails_at=TEXTS[9]), TEXTS)
    caplog.clear()
    with caplog.at_level(logging.INFO, "unlearner"):
        vectors(Toy())
    lines = [record.message for record in caplog.records]
    assert lines[0] == f"embedding 14 texts of the pool, kept in {folder}"
    assert [line.split(" texts")[0] for line in lines[1:]] == [
        "embedded 12 of 14",
        "embedded 14 of 14",
    ]
    assert "0 minutes left" in lines[-1]


# A real encoder


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    """An untrained BERT of the toy vocabulary; sentence-transformers adds mean pooling."""
    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    BertModel(tiny_config(SEQUENCE)).save_pretrained(path)
    toy_tokenizer().save_pretrained(path)
    return str(path)


def test_the_digest_of_an_encoder_is_that_of_what_decides_its_vectors(tiny_encoder):
    encoder, other, shorter = (Encoder.load(tiny_encoder, local_only=True) for _ in range(3))
    digest = encoder.digest()
    encoder.embed(["the cat", "a red dog is here"])  # leaves its own padding in the tokenizer
    assert digest == encoder.digest() == other.digest()
    shorter.model.max_seq_length = 4
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1e-3
    assert len({digest, other.digest(), shorter.digest()}) == 3


def test_retrieval_is_the_same_with_and_without_the_cache(tiny_encoder, monkeypatch):
    rng = random.Random(0)
    words = ["cat", "dog", "red", "blue", "oslo", "paris", "the", "is", "near"]
    contents = [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(60)]
    ids = [[rng.randrange(20) for _ in range(9)] for _ in contents]
    sides = Texts(contents[:5], contents[:5], ids[:5]), Texts(contents[5:], contents[5:], ids[5:])

    def found():
        return retrieve(*sides, encoder=tiny_encoder, num_neighbours=10, max_overlap=2)

    made, cached = found(), found()
    monkeypatch.setattr(encoder, "CACHED_FROM", 10**9)
    assert made == cached == found()


def test_the_search_reads_no_more_than_some_rows_and_a_block_at_a_time(monkeypatch):
    """No array of similarities is larger than 3 rows by a block of 4."""
    sizes = []
    real = neighbours._merge

    def watched(scores, indices, cosines, start):
        sizes.append(cosines.shape)
        real(scores, indices, cosines, start)

    monkeypatch.setattr(neighbours, "_merge", watched)
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(Encoder, "load", lambda *_, **__: Toy())
    forget = Texts(*[[f"secret {place}" for place in "abcdefg"]] * 2, [[i] for i in range(7)])
    retrieve(forget, Texts(TEXTS, TEXTS, [[50 + i] for i in range(14)]), encoder="toy")
    assert max(rows for rows, _ in sizes) == 3
    assert max(columns for _, columns in sizes) == 4
