"""A report says which columns of each set were read, and which were not."""

import json
from pathlib import Path

import jsonschema

from command_world import FORGET
from unlearner.cli.app import MET, NOT_MET

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))


def test_data_columns_are_in_the_words_of_the_run(call):
    rows = "".join(f"{text};someone\n" for text in FORGET)
    status, _, said, _ = call(
        "evaluate $models/good --forget forget.csv --retain retain.jsonl --holdout holdout.jsonl "
        "--output out --map forget:passage=text --quiet evaluation.resamples=20",
        {"forget.csv": "passage;author\n" + rows, "retain.jsonl": '{"text": "a b c d e f g h"}\n'},
    )
    assert status in (MET, NOT_MET), said
    report = json.loads(Path("out/report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    told = "read: passage as text; not read: author; separated by semicolons"
    assert report["data"]["forget"]["columns"] == told
    assert report["data"]["retain"]["columns"] == "read: text"
    page = Path("out/report.html").read_text("utf-8")
    assert page.count(told) == 1
