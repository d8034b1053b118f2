"""The promise on real data: a real model forgets questions and answers about fictitious authors.

The model has a quarter of a million parameters, so this takes a minute or two.
"""

import json

import pytest

from promise import check_promise, leaks, make_target, unlearn, write

pytestmark = pytest.mark.slow


def test_tofu_forgets_forty_of_two_hundred_rows(shared_data, tmp_path):
    lines = (shared_data / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    records = write(tmp_path / "records.jsonl", rows[-200:])
    write(tmp_path / "forget.jsonl", rows[-40:])
    write(tmp_path / "retain.jsonl", rows[-200:-40])
    write(tmp_path / "holdout.jsonl", rows[:100])
    columns, target = "question=prompt,answer=response", tmp_path / "target"
    make_target(shared_data / "models" / "stories260k", records, target, columns)
    check_promise(unlearn(target, tmp_path, columns))
    texts = [row[name] for row in rows[-40:] for name in ("question", "answer")]
    assert leaks(tmp_path / "out", texts) == []
