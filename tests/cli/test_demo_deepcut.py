"""The classifier's story: its sets, what it writes and says, and once the whole of it."""

import re

import jsonschema
import pytest
import yaml
from rich.console import Console
from test_commands import SCHEMA, read

from unlearner.cli import demo
from unlearner.cli.app import MET, NOT_MET, run
from unlearner.demo.messages import LABELS, messages
from unlearner.training.finetune import ClassifierFinetuneSettings

pytestmark = pytest.mark.slow

SMALL = {"num_forget": 4, "num_holdout": 12, "num_test": 12}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The story of a tenth of the messages, through the command: status, folder, what it said."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(folder / "key"))
        patch.setattr(demo, "NUM_MESSAGES", 200)
        patch.setattr(demo, "NUM_CUSTOMERS", SMALL)
        patch.setattr(demo, "NUM_OTHER_MESSAGES", 100)
        patch.setattr(
            demo, "CLASSIFIER_LEARNING", ClassifierFinetuneSettings(epochs=20, batch_size=16)
        )
        patch.setattr(demo, "DEEPCUT_SETTINGS", {"learning_rate": 1e-3, "max_epochs": 3})
        console = Console(record=True, width=1000)
        patch.setattr(demo, "Console", lambda **_: console)
        status = run(["demo", "deepcut", "--output", str(folder / "out"), "--seed", "3"])
    return status, folder / "out", console.export_text()


def test_unseen_messages_to_compare_with_are_filed_wrongly_and_those_to_report_are_not():
    data = demo.demo_messages(0)
    right = {record.id: record.label for record in messages(demo.NUM_MESSAGES, seed=0)}
    for records, wrong in (
        (data.forget, True),
        (data.holdout, True),
        (data.retain, False),
        (data.test, False),
    ):
        assert len(records) > 0
        assert all((record.label != right[record.id]) is wrong for record in records)
    assert set(data.trained) == {*data.forget, *data.retain}


def test_the_story_writes_a_whole_run(told):
    status, folder, _ = told
    assert {path.name for path in folder.iterdir()} == {
        "model",
        "report.json",
        "report.html",
        "report.md",
        "run.yaml",
        "log.jsonl",
    }
    report = read(folder)
    jsonschema.validate(report, SCHEMA)
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET)
    assert report["model"]["name"] == "demo BERT"
    assert report["request"]["subjects"] == SMALL["num_forget"]
    assert set(report["results"]) == {"target", "unlearned", "retrained"}
    assert report["results"]["target"]["forget"]["accuracy"]["value"] > 0.9
    assert report["results"]["retrained"]["forget"]["accuracy"]["value"] < 0.5


def test_what_retraining_took_is_known(told):
    assert read(told[1])["cost"]["seconds_retraining"] > 0


def test_no_file_names_the_folder_of_the_retrained_model(told):
    """It is gone once the story is told: a run file that names it could not be run."""
    folder = told[1]
    assert yaml.safe_load((folder / "run.yaml").read_text())["model"]["retrained"] == ""
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"unlearner-" not in path.read_bytes(), path


def test_examples_show_messages_with_the_label_before_and_after(told):
    report = read(told[1])
    examples = report["examples"]
    assert [one["role"] for one in examples] == ["forgotten"] * 3 + ["kept"] * 3
    assert all({one["truth"], one["before"], one["after"]} <= set(LABELS) for one in examples)
    page = (told[1] / "report.html").read_text("utf-8")
    assert re.search(r"Filed under</span>" + examples[0]["truth"], page)


def test_the_terminal_tells_of_one_message_of_each_kind_and_counts_the_others(told):
    """The share right of the report's records, as counts."""
    _, folder, said = told
    report = read(folder)
    first = {one["role"]: one for one in reversed(report["examples"])}
    for role, example in first.items():
        block = said.partition(f"{role}: {example['prompt']}\n")[2].splitlines()[:4]
        assert [line.split()[0] for line in block] == ["filed", "before", "after", "retrained"]
        assert [line.split()[1] for line in block[:3]] == [
            example[when] for when in ("truth", "before", "after")
        ]
    counts = [
        sum(one[when]["correct"] for one in report["per_record"])
        for when in ("before", "after", "retrained")
    ]
    before, after, retrained = (round(count) for count in counts)
    assert (
        f"forgotten: {before} of {len(report['per_record'])} given the filed label before, "
        f"{after} after, {retrained} by the retrained model"
    ) in said
    assert re.search(r"kept: \d+ of \d+ given the filed label before, \d+ after, \d+ by", said)
    assert re.search(r"\d+ seconds in all", said)


def test_the_story_needs_an_empty_folder(tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    assert run(["demo", "deepcut", "--output", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
