"""The benchmark of large pools on small ones; no test asserts a time."""

import json
import sys
from pathlib import Path

import pytest

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


def test_the_rate_of_the_encoder_is_extrapolated_and_said_to_be():
    """100 texts in 4 seconds: 25 a second, at which 900,000 take 36,000 seconds, 10 hours."""
    stage = {"wall": 9.0, "peak_bytes": 10**9}
    sizes = [
        {"records": 100, "stages": [{"name": "embed", "process": 4.0, **stage}]},
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
    assert "25 texts a second" in page
    assert "2.2 times as long" in page  # 9 + 9 seconds by the wall, 4 + 4 of the processor
    assert "900,000 would take 10.0 hours (not measured)" in page
