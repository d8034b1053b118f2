"""The promise on real data: a real model forgets people, each of whom stands in several records.

In a file of its own, far from the other long test, so that two workers share them.
"""

import json
import re

import pytest

from promise import check_promise, leaks, make_target, unlearn, write

pytestmark = pytest.mark.slow


def test_lume_forgets_ten_of_fifty_people(shared_data, tmp_path):
    def people(name):
        lines = (shared_data / "lume" / name).read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["task"] == "Task2"]
        by_person: dict[str, list[dict]] = {}
        for row in rows:
            by_person.setdefault(re.sub(r"(sc|qa)\d+$", "", row["id"]), []).append(row)
        return [[row | {"subject": person} for row in some] for person, some in by_person.items()]

    trained, unseen = people("forget.jsonl")[:50], people("retain.jsonl")[:25]
    records = write(tmp_path / "records.jsonl", [row for one in trained for row in one])
    forget = [row for one in trained[:10] for row in one]
    write(tmp_path / "forget.jsonl", forget)
    write(tmp_path / "retain.jsonl", [row for one in trained[10:] for row in one])
    write(tmp_path / "holdout.jsonl", [row for one in unseen for row in one])
    columns, target = "input=prompt,output=response", tmp_path / "target"
    make_target(shared_data / "models" / "stories260k", records, target, columns)
    report = unlearn(target, tmp_path, columns)
    check_promise(report)
    assert report["request"]["subjects"] == 10
    assert leaks(tmp_path / "out", [row["input"] + " " + row["output"] for row in forget]) == []
