"""A test set, a retrained model and copies of forget records, in commands on a language model."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from command_world import FORGET, HOLDOUT, RETAIN, RUN, SHORT, texts
from page_reader import Page
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
TEST = [f"the old bridge at {town} was built of oak" for town in ("york", "bath", "leeds")]
TEST_FILE = {"test.jsonl": texts(TEST)}
NONE_GIVEN = "Comparison with a model retrained without the records: none was given"
COPIES = {
    "retain.jsonl": texts([RETAIN[0], FORGET[1], *RETAIN[1:]]),
    "pool.jsonl": texts([*RETAIN, FORGET[2].upper()]),
    "holdout.jsonl": texts([*HOLDOUT, FORGET[3].upper()]),
    "test.jsonl": texts([FORGET[0], *TEST]),
}


def report_of(folder):
    report = json.loads(Path(folder, "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


def page_of(folder):
    return Page(Path(folder, "report.html").read_text("utf-8")).shown


def retrained_of(folder):
    """The retrained model that the run file names."""
    return yaml.safe_load(Path(folder, "run.yaml").read_text("utf-8"))["model"]["retrained"]


def records(report):
    return {role: some["records"] for role, some in report["data"].items()}


@pytest.fixture
def plain(call):
    """The report of the run without any of the options."""
    status, _, err, _ = call(RUN.replace("out/run", "out/plain") + SHORT, TEST_FILE)
    assert (status, err) == (NOT_MET, "")
    return report_of("out/plain")


def test_a_test_set_is_measured_and_shown_and_nothing_rests_on_it(call, plain):
    """The same model, criteria and figures as without it; and its own, before and after."""
    status, _, err, _ = call(RUN + "--test test.jsonl" + SHORT)
    assert (status, err) == (NOT_MET, "")
    report = report_of("out/run")
    assert report["data"].pop("test")["records"] == 3
    tested = {model: sets.pop("test") for model, sets in report["results"].items()}
    for name in ("results", "criteria", "criteria_digest", "verdict", "data"):
        assert report[name] == plain[name], name
    assert report["model"]["digest_unlearned"] == plain["model"]["digest_unlearned"]
    assert tested["target"]["ma"]["records"] == 3
    assert tested["unlearned"]["kl_to_target"]["value"] > 0
    assert tested["target"]["ma"] != report["results"]["target"]["holdout"]["ma"]
    assert not any(name.startswith("mia") for name in tested["unlearned"])
    assert "Test text, never seen" in page_of("out/run")
    assert "Test text, never seen" not in page_of("out/plain")


def test_a_test_set_of_a_model_that_exists_is_measured_by_evaluate(call):
    line = RUN.replace("forget $models/good", "evaluate $models/blank --target $models/good")
    status, _, err, _ = call(line + "--test test.jsonl --quiet evaluation.resamples=20", TEST_FILE)
    assert (status, err) == (NOT_MET, "")
    report = report_of("out/run")
    assert {model: set(sets) for model, sets in report["results"].items()} == {
        model: {"forget", "retain", "holdout", "test"} for model in ("target", "unlearned")
    }


def test_a_run_shows_the_retrained_model_beside_the_others(call, plain):
    """It changes neither the model nor the figures; its training's seconds are `finetune`'s.

    Of the criteria it changes those alone that compare with what was never learned.
    """
    trained = "finetune $models/blank --records retain.jsonl --output retrained --quiet epochs=2"
    assert call(trained)[0] == MET
    status, _, err, _ = call(RUN + "--retrained retrained" + SHORT)
    assert (status, err) == (NOT_MET, "")
    report = report_of("out/run")
    retrained = report["results"].pop("retrained")
    assert set(retrained) == {"forget", "retain", "holdout"}
    assert retrained["retain"]["kl_to_target"]["value"] > 0
    assert retrained["forget"]["ma"]["value"] < report["results"]["target"]["forget"]["ma"]["value"]
    assert report["model"]["digest_unlearned"] == plain["model"]["digest_unlearned"]
    assert report["results"] == plain["results"]
    beside, alone = (
        [
            one
            for one in some["criteria"]
            if one["claim"] != "membership" and one["set"] != "holdout"
        ]
        for some in (report, plain)
    )
    assert beside == alone
    attacks = [one["metric"] for one in report["criteria"] if one["claim"] == "membership"]
    assert attacks == ["mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc"]
    recipe = json.loads(Path("retrained/provenance.json").read_text("utf-8"))
    assert report["cost"]["seconds_retraining"] == recipe["seconds"]
    assert "seconds_retraining" not in plain["cost"]
    assert retrained_of("out/run") == "retrained"
    assert "A model trained without the records: " in page_of("out/run")
    assert "Retraining, to compare" in page_of("out/run")
    said = [" ".join(each["verdict"]["not_measured"]) for each in (plain, report)]
    assert [NONE_GIVEN in text for text in said] == [True, False]


def test_a_retrained_model_of_a_run_file_is_that_of_evaluate(call):
    """Its figures are those that `forget` has measured, and the new run file names it too.

    It has no recipe of `finetune` beside it, so that its training's time is not known.
    """
    call(RUN + "--retrained $models/blank" + SHORT)
    line = "evaluate out/run/model --target $models/good --config out/run/run.yaml --quiet"
    status, _, err, _ = call(f"{line} --output out/again")
    assert (status, err) == (NOT_MET, "")
    first, again = report_of("out/run"), report_of("out/again")
    assert first["cost"]["seconds_retraining"] is None
    assert "Retraining, to compare" not in page_of("out/run")
    # Only a run of the method has the text that it learned meanwhile.
    for sets in first["results"].values():
        sets.pop("analogous", None)
    assert again["results"] == first["results"]
    assert retrained_of("out/again") == retrained_of("out/run") != ""


@pytest.mark.parametrize("role", ["holdout", "test"])
def test_copies_in_unseen_sets_are_refused_and_the_way_out_is_named(call, role):
    place, source = {"holdout": ("7", "4"), "test": ("1", "1")}[role]
    line = f"{RUN} --{role} copies.jsonl {SHORT}"
    status, _, err, left = call(line, {"copies.jsonl": COPIES[f"{role}.jsonl"]})
    assert (status, left) == (WRONG_INPUT, [])
    assert err == (
        f"unlearner: --{role}: 1 of its records are records to forget and are not unseen, first "
        f"'{place}' as '{source}'; leave them out, or let --drop-duplicates do it\n"
    )


def test_copies_are_left_out_of_every_set_where_that_is_asked_for(call):
    """One in each: of 6 + 1 retain, 6 + 1 holdout and 3 + 1 test records the others stay."""
    line = f"{RUN} --pool pool.jsonl --test test.jsonl {SHORT}"
    status, _, err, _ = call(f"{line} --drop-duplicates", COPIES)
    assert (status, err) == (NOT_MET, "")
    dropped = report_of("out/run")
    assert records(dropped) == {
        "forget": 6,
        "retain": 6,
        "holdout": 6,
        "test": 3,
        "analogous": dropped["data"]["analogous"]["records"],
    }
    copies = {role: some["overlap_with_forget"] for role, some in dropped["data"].items()}
    assert copies == {"forget": 6, "retain": 0, "holdout": 0, "test": 0, "analogous": 0}
    status, _, err, _ = call(f"{line.replace('out/run', 'out/clean')} --drop-duplicates")
    assert (status, err) == (NOT_MET, "")
    clean = report_of("out/clean")  # the same sets without a copy in them
    assert clean["results"] == dropped["results"]


def test_copies_in_the_retain_set_stay_where_nothing_is_asked_for(call):
    """What is watched keeps them, and the report counts them; nothing is learned of them."""
    call(RUN + SHORT, {"retain.jsonl": COPIES["retain.jsonl"]})
    report = report_of("out/run")
    assert records(report)["retain"] == 7
    assert report["data"]["retain"]["overlap_with_forget"] == 1


def test_a_check_measures_the_test_set_and_counts_no_copy_that_was_left_out(call):
    line = (
        "check $models/good --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
        "--test test.jsonl evaluation.resamples=20"
    )
    status, out, err, left = call(f"{line} --drop-duplicates", COPIES)
    assert (status, err, left) == (MET, "", [])
    assert "test" in out
    assert out.count("0 exact, 0 near") == 3
    status, out, err, _ = call(line)
    assert status == WRONG_INPUT
    assert "or let --drop-duplicates do it" in err


@pytest.mark.parametrize(
    ("retrained", "words"),
    [
        ("$models/other-words", ("--retrained", "other-words", "tokenizer differs")),
        ("$models/encoder", ("encoder", "BertModel")),
        ("none", ("none", "give a local folder")),
    ],
)
def test_a_retrained_model_that_cannot_be_compared_is_refused(call, retrained, words):
    status, _, err, left = call(RUN + f"--retrained {retrained}" + SHORT)
    assert (status, err.count("\n"), left) == (WRONG_INPUT, 1, [])
    for word in words:
        assert word in err
