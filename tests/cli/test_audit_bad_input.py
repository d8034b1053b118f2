"""Wrong input of `unlearner audit`: one line, status 2, and no trace."""

import json

import pytest
from test_bad_input import Wrong, check_refusal

from command_world import SETS, json_lines
from unlearner.report.audit import AUDIT_SCHEMA

FILES = "--forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
MODELS = "audit --model $models/good --target $models/good --output out/run --quiet "
BASE = MODELS + FILES
HELD = {"out/run/x": ""}
REPORT = {
    "schema": "unlearner/report/1",
    "command": "forget",
    "created": "2025-01-01T00:00:00Z",
    "request": {},
    "model": {"family": "causal-lm", "digest_target": "x", "digest_unlearned": "x"},
    "data": {},
    "criteria": [],
    "criteria_digest": "",
    "results": {},
    "verdict": {},
    "cost": {},
    "environment": {},
}
RUN = {"run/report.json": json.dumps(REPORT), "run/run.yaml": "model: {}\n"}
OF_PYTHON = RUN | {"run/model/config.json": "{}"}
EVALUATED = {"run/report.json": json.dumps(REPORT | {"command": "evaluate"})}
GONE = OF_PYTHON | {"run/run.yaml": "model: {name: lost}\ndata: {forget: lost.jsonl}\n"}
WORDS = json_lines({"id": "1", "prompt": "who?"})


def wordings(id, content, *words):
    command = BASE + "--attacks paraphrase --wordings w.jsonl"
    return Wrong(id, command, ("--wordings w.jsonl", *words), {"w.jsonl": content})


WRONG = [
    Wrong("nothing", "audit", ("--model", "none given", "--target")),
    Wrong("no target", BASE.replace("--target $models/good", ""), ("--target", "none given")),
    Wrong("no model", BASE.replace("--model $models/good", ""), ("--model", "none given")),
    Wrong("no output", BASE.replace("--output out/run", ""), ("--output", "none given")),
    Wrong("no forget set", MODELS + "--holdout holdout.jsonl", ("--forget", "none given")),
    Wrong("no unseen records", MODELS + "--forget forget.jsonl", ("--holdout",)),
    Wrong("an unknown attack", BASE + "--attacks membershp", ("membershp", "did you mean")),
    Wrong("attacks of commas", BASE + "--attacks ,", ("--attacks", "names none", "list attacks")),
    Wrong("an attack for classifiers", BASE + "--attacks probe", ("probe", "causal language")),
    Wrong("an unknown budget", BASE + "--budget fast", ("budget", "fast", "quick")),
    Wrong(
        "a budget of forget", "forget $models/good --output out/run --audit slow", ("slow", "quick")
    ),
    Wrong(
        "a model that is not there", BASE.replace("--model $models/good", "--model none"), ("none",)
    ),
    Wrong(
        "a target that is not there",
        BASE.replace("--target $models/good", "--target none"),
        ("none",),
    ),
    Wrong(
        "a model of other tokens",
        BASE.replace("--model $models/good", "--model $models/other-words"),
        ("--model", "tokenizer"),
    ),
    Wrong(
        "a retrained model of other tokens",
        BASE + "--retrained $models/other-words",
        ("--retrained",),
    ),
    Wrong("a proxy that is none", BASE + "--proxy $models/encoder", ("encoder",)),
    Wrong("a pretrained model that is none", BASE + "--pretrained none", ("none",)),
    Wrong(
        "a proxy without retained records",
        BASE.replace("--retain retain.jsonl", "") + "--pretrained $models/blank",
        ("--retain", "none given", "--proxy"),
    ),
    Wrong("resume of nothing", BASE + "--resume", ("--resume", "out/run", "no unfinished audit")),
    Wrong("output not empty", BASE, ("--output out/run", "not empty"), HELD),
    Wrong(
        "output is a file", BASE.replace("out/run", "retain.jsonl"), ("retain.jsonl", "is a file")
    ),
    Wrong("an audit begun there", BASE, ("--resume",), {"out/run/audit.partial.json": "{}"}),
    Wrong(
        "what was kept is broken",
        BASE + "--resume",
        ("audit.partial.json", "cannot be read", "remove it"),
        {"out/run/audit.partial.json": "{"},
    ),
    Wrong(
        "what was kept is another's",
        BASE + "--resume",
        ("--resume", "other models"),
        {"out/run/audit.partial.json": '{"identity": {}, "attacks": []}'},
    ),
    wordings("wordings that are not there", b"", "holds no wording"),
    wordings("wordings that are not JSON", "who?\n", "line 1", "JSON"),
    wordings("wordings without a prompt", '{"id": "1"}\n', "line 1", "needs id and prompt"),
    wordings("wordings of a number", '{"id": "1", "prompt": 3}\n', "line 1", "a text"),
    wordings("an empty wording", '{"id": "1", "prompt": " "}\n', "line 1", "empty"),
    wordings(
        "wordings of nobody", '{"id": "99", "prompt": "who?"}\n', "line 1", "'99'", "no record"
    ),
    Wrong("unrelated text that is not there", BASE + "--unrelated none.txt", ("unrelated none",)),
    Wrong(
        "unrelated text without text",
        BASE + "--unrelated empty.jsonl",
        ("unrelated empty.jsonl", "no records"),
        {"empty.jsonl": ""},
    ),
    Wrong("wordings that are no file", BASE + "--wordings none.jsonl", ("--wordings none.jsonl",)),
    Wrong("a run that is not there", "audit nowhere", ("nowhere", "no such folder")),
    Wrong("a folder without a report", "audit run", ("report.json", "no such file"), {"run/x": ""}),
    Wrong("a run of evaluate", "audit run", ("evaluate", "--model and --target"), EVALUATED),
    Wrong("a run without its model", "audit run", ("run/model", "no such folder"), RUN),
    Wrong("a run of models from Python", "audit run", ("from Python", "audit"), OF_PYTHON),
    Wrong("a run whose records are gone", "audit run", ("lost", "no longer there"), GONE),
    Wrong("a run and records", "audit run --forget forget.jsonl", ("--forget", "run.yaml"), RUN),
    Wrong("a run and a model", "audit run --model $models/good", ("--model", "run.yaml"), RUN),
    Wrong("a run and settings", "audit run training.seed=1", ("training.seed=1", "run.yaml"), RUN),
    Wrong("a run and a run file", "audit run --config run/run.yaml", ("--config",), RUN),
    Wrong("an unknown setting", BASE + "data.chatt=true", ("chatt",)),
    Wrong(
        "a record to forget among the unseen",
        BASE,
        ("--holdout", "are not unseen", "--drop-duplicates"),
        {"holdout.jsonl": SETS["forget.jsonl"]},
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id.replace(" ", "-"))
def test_wrong_input_ends_with_one_line(call, wrong):
    check_refusal(wrong, call)


def test_there_are_more_than_twenty_five_kinds():
    assert len(WRONG) > 25


def test_an_audit_of_another_schema_is_refused_by_the_page(tmp_path):
    from unlearner.errors import UserError
    from unlearner.report.audit import read_audit

    assert read_audit(tmp_path) is None
    for content in ("{", '{"schema": "unlearner/audit/0"}', json.dumps({"schema": AUDIT_SCHEMA})):
        (tmp_path / "audit.json").write_text(content)
        with pytest.raises(UserError, match=r"audit\.json"):
            read_audit(tmp_path)
