"""The benchmark of large pools on small ones; no test asserts a time."""

import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import tiny_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import pools
from pools_records import LEAST_WORDS, MOST_WORDS, texts, write_files
from pools_table import growth, render
from unlearner.data.duplicates import jaccard
from unlearner.data.loading import read_records


def test_records_follow_the_seed_and_have_as_many_words_as_they_should():
    some = list(texts(300, seed=1))
    assert some == list(texts(300, seed=1)) != list(texts(300, seed=2))
    assert {LEAST_WORDS, MOST_WORDS} <= {text.count(" ") + 1 for text in some}
    assert len(set(some)) == 300


def test_the_pool_holds_ten_copies_and_ten_near_copies_of_forget_records(tmp_path):
    """The near ones differ in the last of 26 words or more: 23 of 25 shingles shared, or more."""
    write_files(tmp_path, 400)
    forget, pool = (
        [r.text for r in read_records(tmp_path / f"{name}.jsonl", name=name)]
        for name in ("forget", "pool")
    )
    assert len(pool) == 400
    best = [max(jaccard(text, other) for other in forget) for text in pool[::20]]
    assert best[:10] == [1.0] * 10
    assert all(23 / 25 <= value < 1 for value in best[10:])


@pytest.mark.parametrize(("small", "large", "expected"), [(2, 20, 1), (2, 200, 2), (5, 5, 0)])
def test_growth_is_the_power_of_the_number_of_records(small, large, expected):
    """Ten times the records: ten times the seconds is 1, a hundred times is 2."""
    assert growth(small, large, 10) == pytest.approx(expected)


def test_the_command_measures_each_size_and_writes_the_page_and_the_figures(tmp_path, monkeypatch):
    """Here in one process, which has loaded the libraries already."""

    def in_process(size, *_):
        work = tmp_path / str(size)
        work.mkdir()
        write_files(work, size)
        tiny_tokenizer().save_pretrained(work)
        return pools.measure(size, work, None)

    monkeypatch.setattr(pools, "_run", in_process)
    output = tmp_path / "out" / "pools.md"
    pools.main(["--sizes", "60", "120", "--output", str(output)])
    results = json.loads(output.with_suffix(".json").read_text())
    assert [size["records"] for size in results["sizes"]] == [60, 120]
    names = [stage["name"] for stage in results["sizes"][0]["stages"]]
    assert names == ["read", "tokenize", "duplicates", "tf-idf", "search"]
    page = output.read_text()
    assert page == render(results)
    assert "| seconds of processor time | 60 | 120 | growth to 120 |" in page
    assert "The encoder did not run." in page


def test_the_rates_of_the_encoder_are_extrapolated_and_said_to_be():
    """100 texts in 4 and in 2 seconds: 25 and 50 a second; 900,000 take 10 and 5 hours."""
    stage = {"wall": 9.0, "peak_bytes": 10**9}
    embedded = [
        {"name": "embed", "process": 4.0, **stage},
        {"name": "embed-bfloat16", "process": 2.0, **stage},
    ]
    sizes = [
        {"records": 500, "stages": embedded, "embedded": 100, "same_nearest": 0.987},
        {"records": 900_000, "stages": [{"name": "read", "process": 4.0, **stage}]},
    ]
    common = {"forget": 1, "tokens": 1, "base_bytes": 1}
    page = render(
        {
            "sizes": [size | common for size in sizes],
            "seconds": 60.0,
            "load": [1.0, 2.0],
            "hardware": {"device": "a processor", "processors": 2},
            "versions": {"python": "3"},
        }
    )
    page = " ".join(page.split())
    assert "given 100 texts: 25 a second of processor time in float32, 50 in bfloat16" in page
    assert "2.7 times as long" in page  # 9 + 9 + 9 seconds by the wall, 4 + 2 + 4 processor
    assert "900,000 texts would take 10.0 and 5.0 processor hours (extrapolated" in page
    assert "98.7% are the same in both" in page


def test_the_encoder_is_given_some_texts_in_both_precisions():
    """An encoder of letters' counts: in bfloat16 the nearest of its rough vectors differ."""

    class Letters:
        dtype = torch.float32

        def to(self, dtype):
            self.dtype = dtype

        def encode(self, texts, **_):
            counts = torch.tensor([[float(text.count(c)) for c in "abcdef"] for text in texts])
            counts = counts / counts.norm(dim=1, keepdim=True)
            return counts.to(self.dtype).float().numpy()

    stages = pools.Stages()
    some = [f"{'a' * (1 + i % 7)}{'b' * (i % 11)}cdef" for i in range(90)]
    found = pools._embed(stages, Letters(), some[:3], some)
    assert [row["name"] for row in stages.rows] == ["embed", "embed-bfloat16"]
    assert found["embedded"] == 90
    assert 0.8 < found["same_nearest"] <= 1
