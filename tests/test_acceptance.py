"""The promise, on real data through the commands: a real model forgets and keeps the rest.

The models here have a quarter of a million parameters, so each test takes a minute or two.
"""

import json
import re
from pathlib import Path

import pytest

from unlearner.cli import run

pytestmark = pytest.mark.slow


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def leaks(folder: Path, texts: list[str], words: int = 5) -> list[str]:
    """Runs of `words` consecutive words of the texts that stand in any file of the folder."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = " ".join(path.read_bytes().decode("utf-8", "replace").split())
            for text in texts:
                split = text.split()
                runs = (" ".join(split[i : i + words]) for i in range(len(split) - words + 1))
                found += [f"{path.name}: {one}" for one in runs if one in content]
    return found


def make_target(model: Path, records: Path, target: Path, columns: str) -> None:
    status = run(
        ["finetune", str(model), "--records", str(records), "--output", str(target),
         "--map", columns, "--quiet"]
    )  # fmt: skip
    assert status == 0


def unlearn(target: Path, folder: Path, columns: str) -> dict:
    """`forget` at the command's own defaults; the report of a run whose verdict is met."""
    status = run(
        ["forget", str(target), "--forget", str(folder / "forget.jsonl"),
         "--retain", str(folder / "retain.jsonl"), "--holdout", str(folder / "holdout.jsonl"),
         "--output", str(folder / "out"), "--map", columns, "--quiet"]
    )  # fmt: skip
    assert status == 0
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def check_promise(report: dict) -> None:
    """EL_10 and MA of the forgotten at or below unseen text, kept perplexity at most 1.10 times."""
    before, after = report["results"]["target"], report["results"]["unlearned"]
    for metric in ("ma", "el_10"):
        # Questions about people begin with names that nobody can guess, so 1 is out of reach.
        assert before["forget"][metric]["value"] > 0.8 > before["holdout"][metric]["value"]
        assert after["forget"][metric]["value"] <= before["holdout"][metric]["value"]
    ratio = after["retain"]["perplexity"]["value"] / before["retain"]["perplexity"]["value"]
    assert ratio <= 1.10
    assert report["verdict"]["status"] == "met"
    assert {record["status"] for record in report["verdict"]["records"]} == {"met"}


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
