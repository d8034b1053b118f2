"""Where a model comes from, as the files beside the models tell it."""

import hashlib
import hmac
import json

import pytest

from command_world import FORGET, RETAIN, RUN, SHORT, texts
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT
from unlearner.data.record import Record, digest_content, digest_subject
from unlearner.models.lineage import (
    PROVENANCE_FILE,
    SCHEMA,
    describe,
    digests_of,
    trace,
    write_provenance,
)

KEY = b"k" * 32


def record(identifier, text, subject=""):
    return Record(identifier, text=text, subject=subject)


def made(folder, base="", **more):
    """A folder with weights and provenance."""
    folder.mkdir(exist_ok=True)
    found = describe(more.pop("by", "finetune"), str(base), "sha256:0", KEY, **more)
    (folder / "model.safetensors").write_bytes(folder.name.encode())
    write_provenance(folder, found)
    return folder


def learned(*records):
    return {"records": digests_of(records, KEY)}


def asked_to_forget(*records, verdict="met"):
    return digests_of(records, KEY) | {"id": "r", "verdict": verdict}


def test_the_digest_of_a_record_by_hand():
    """HMAC-SHA256 over what it is of, NUL, and the text without case; its first 32 digits."""
    expected = hmac.new(KEY, b"record\0mara lives in york", hashlib.sha256).hexdigest()[:32]
    assert digest_content(record("1", "Mara lives  in York"), KEY) == expected
    expected = hmac.new(KEY, b"subject\0mara", hashlib.sha256).hexdigest()[:32]
    assert digest_subject("MARA", KEY) == expected
    assert digest_content(record("1", "mara"), KEY) != digest_subject("mara", KEY)


def test_a_record_is_known_again_under_another_id_but_not_with_another_key():
    first, second = record("1", "Mara", "p1"), record("9", "mara ", "p2")
    assert digest_content(first, KEY) == digest_content(second, KEY)
    assert digest_content(first, KEY) != digest_content(first, b"l" * 32)


def test_what_is_left_is_what_was_learned_and_not_forgotten_since(tmp_path):
    """a and b are learned; a is forgotten with a verdict met, b without; then a is learned again.

    After the second stage b is left, after the third b, after the fourth a and b.
    """
    a, b = record("a", "of a", "p1"), record("b", "of b", "p1")
    asked = {digest_subject("P1", KEY)}
    own = {one.id: digest_content(one, KEY) for one in (a, b)}
    first = made(tmp_path / "1", learned=learned(a, b))
    second = made(tmp_path / "2", first, by="forget", learned={}, request=asked_to_forget(a))
    third = made(
        tmp_path / "3",
        second,
        by="forget",
        learned={},
        request=asked_to_forget(b, verdict="not met"),
    )
    fourth = made(tmp_path / "4", third, learned=learned(a))
    left = [trace(str(one), KEY, asked).remaining for one in (first, second, third, fourth)]
    assert left == [{own["a"], own["b"]}, {own["b"]}, {own["b"]}, {own["a"], own["b"]}]
    stages = trace(str(fourth), KEY, asked).stages
    assert [stage.learned for stage in stages] == [2, 0, 0, 1]
    assert [stage.forgotten for stage in stages] == [0, 1, 1, 0]
    assert [stage.name for stage in stages[:-1]] == [str(first), str(second), str(third)]


def test_the_line_is_known_when_the_ancestors_are_gone(tmp_path):
    first = made(tmp_path / "1", learned=learned(record("a", "of a")))
    second = made(tmp_path / "2", first, learned={})
    (first / PROVENANCE_FILE).unlink()
    assert len(trace(str(second), KEY).stages) == 2


def test_changed_weights_and_another_key_are_told(tmp_path):
    folder = made(tmp_path / "1", learned={})
    assert trace(str(folder), KEY).problems == ()
    (folder / "model.safetensors").write_bytes(b"others")
    assert "not those" in trace(str(folder), KEY).problems[0]
    assert "another key" in trace(str(folder), b"l" * 32).problems[1]


def test_a_model_made_elsewhere_and_a_file_of_another_tool(tmp_path):
    assert "made elsewhere" in trace(str(tmp_path), KEY).problems[0]
    (tmp_path / PROVENANCE_FILE).write_text('{"schema": "of another tool"}')
    assert "made elsewhere" in trace(str(tmp_path), KEY).problems[0]


@pytest.mark.parametrize(
    "content",
    ["{", json.dumps({"schema": SCHEMA}), json.dumps({"schema": "unlearner/provenance/9"})],
)
def test_a_damaged_file_is_refused_in_a_line(content, call):
    status, _, err, left = call("lineage m", {f"m/{PROVENANCE_FILE}": content})
    if content == "{":
        content = "cannot be read"
    assert status == WRONG_INPUT
    assert err.count("\n") == 1
    assert PROVENANCE_FILE in err
    assert left == []


def test_finetune_and_forget_write_it_and_lineage_reads_it(call, tmp_path):
    """What the target knows from training elsewhere is not known; what finetune teaches is."""
    more = {"more.jsonl": texts([*FORGET, *RETAIN])}
    assert (
        call("finetune $models/good --records more.jsonl --output tuned --quiet epochs=1", more)[0]
        == MET
    )
    held = (tmp_path / "tuned" / PROVENANCE_FILE).read_text("utf-8")
    assert not any(text in held for text in FORGET)
    status, out, _, _ = call("lineage tuned --records forget.jsonl")
    assert status == NOT_MET
    assert "6 of the records asked for" in out
    line = RUN.replace("$models/good", "tuned") + SHORT + " --force"
    assert call(line)[0] in (MET, NOT_MET)
    own = json.loads((tmp_path / "out/run/model" / PROVENANCE_FILE).read_text("utf-8"))
    report = json.loads((tmp_path / "out/run/report.json").read_text("utf-8"))
    before = json.loads(held)
    assert own["base"]["weights"] == before["weights"]
    assert own["base"]["loaded"] == report["model"]["digest_target"]
    assert own["request"]["digest"] == report["request"]["digest"]
    assert own["request"]["verdict"] == report["verdict"]["status"]
    assert PROVENANCE_FILE not in report["model"]["files"]
    status, out, _, _ = call("lineage out/run --records forget.jsonl")
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET)
    assert "finetune" in out
    status, out, _, _ = call("lineage out/run --records holdout.jsonl")
    assert status == MET
    assert "none of the records asked for is left" in out
