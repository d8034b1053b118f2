"""`unlearner demo STORY --files DIR`: what the story begins with, for commands of one's own."""

import json

import pytest

from small_demo import NUM_FORGET, NUM_HOLDOUT, NUM_PEOPLE, shorten
from unlearner.cli.app import run
from unlearner.models.loading import load_causal_lm, load_classifier


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(autouse=True)
def shortened(monkeypatch):
    shorten(monkeypatch)


def test_the_files_of_the_customers(tmp_path, capsys):
    assert run(["demo", "icu", "--files", str(tmp_path / "demo")]) == 0
    assert str(tmp_path / "demo") in capsys.readouterr().out.replace("\n", "")
    folder = tmp_path / "demo"
    assert {path.name for path in folder.iterdir()} == {
        *("forget.jsonl", "retain.jsonl", "unseen.jsonl", "model")
    }
    sets = {name: lines(folder / f"{name}.jsonl") for name in ("forget", "retain", "unseen")}
    assert len(sets["forget"]) == NUM_FORGET
    assert len(sets["unseen"]) == NUM_HOLDOUT
    people = [row["subject"] for some in sets.values() for row in some]
    assert len(set(people)) == len(people) == NUM_PEOPLE
    assert set(sets["forget"][0]) == {"id", "subject", "prompt", "response"}
    assert load_causal_lm(str(folder / "model")).model.config.hidden_size == 16
    assert run(["demo", "icu", "--files", str(folder)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_the_files_of_the_messages(tmp_path):
    """Those to be forgotten and the unseen ones are filed wrongly, the others rightly."""
    assert run(["demo", "deepcut", "--files", str(tmp_path / "shop")]) == 0
    folder = tmp_path / "shop"
    names = ("forget", "retain", "unseen", "test")
    sets = {name: lines(folder / f"{name}.jsonl") for name in names}
    assert set(sets["test"][0]) == {"id", "subject", "text", "label"}
    assert len({row["subject"] for row in sets["forget"]}) == 4
    model = load_classifier(str(folder / "model")).model
    assert {row["label"] for some in sets.values() for row in some} <= set(
        model.config.id2label.values()
    )
    assert (folder / "model/provenance.json").exists()
