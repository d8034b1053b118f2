"""Wrong input of `unlearner compare`: one line, status 2, and no trace."""

import pytest
from test_bad_input import Wrong, check_refusal

from unlearner.cli.app import WRONG_INPUT
from unlearner.pipeline.compare_plan import make_plan

BASE = (
    "compare $models/good --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
    "--output out/run --quiet "
)
NPO = BASE + "--methods npo "
HELD = {"out/run/x": ""}

WRONG = [
    Wrong("no methods", BASE, ("--methods", "none given", "icu,npo", "all")),
    Wrong("methods of commas", BASE + "--methods ,", ("--methods", "none given")),
    Wrong("unknown method", BASE + "--methods npo,nppo", ("nppo", "did you mean 'npo'")),
    Wrong(
        "a method for classifiers",
        BASE + "--methods npo,deepcut",
        ("deepcut", "not for causal language models"),
    ),
    Wrong("a method twice", BASE + "--methods npo,icu,npo", ("--methods: npo", "twice")),
    Wrong("all and one more", BASE + "--methods all,npo", ("'all'",)),
    Wrong("a field that none has", NPO + "method.betta=1", ("method.betta", "no method")),
    Wrong(
        "a field that only another has", NPO + "method.pairs=fresh", ("method.pairs", "no method")
    ),
    Wrong(
        "a field of one that it has not", NPO + "npo.betta=1", ("'betta'", "did you mean 'beta'")
    ),
    Wrong("a value of one that is wrong", NPO + "npo.beta=-1", ("beta", "greater than 0", "-1")),
    Wrong("fields of a method that is not there", NPO + "simnpo.beta=1", ("simnpo", "npo")),
    Wrong("an unknown section", NPO + "trainning.seed=1", ("trainning", "section", "npo")),
    Wrong("a method by section", NPO + "method.name=icu", ("method.name", "no method")),
    Wrong("no seeds", NPO + "--seeds 0", ("--seeds", "at least 1", "got 0")),
    Wrong("seeds that are no number", NPO + "--seeds two", ("--seeds", "integer")),
    Wrong("no jobs", NPO + "--jobs 0", ("--jobs",)),
    Wrong("a seed that is no number", NPO + "training.seed=one", ("training.seed", "'one'")),
    Wrong("a seed below 0", NPO + "training.seed=-1", ("training.seed", "-1")),
    Wrong("a wrong search", NPO + "search.trials=-1", ("search.trials", "-1")),
    Wrong("resume of nothing", NPO + "--resume", ("--resume", "out/run", "holds no comparison")),
    Wrong("resume of something else", NPO + "--resume", ("--resume", "no comparison"), HELD),
    Wrong("output not empty", NPO, ("--output out/run", "not an empty folder"), HELD),
    Wrong("output is a file", NPO.replace("out/run", "retain.jsonl"), ("--output retain.jsonl",)),
    Wrong(
        "output below a file",
        NPO.replace("out/run", "retain.jsonl/run"),
        ("--output retain.jsonl/run",),
    ),
    Wrong(
        "output of another comparison",
        NPO,
        ("--output out/run", "--resume"),
        {"out/run/compare.yaml": "methods: []"},
    ),
    Wrong("no output", NPO.replace("--output out/run", ""), ("--output",)),
    Wrong("no model", NPO.replace("$models/good", ""), ("MODEL", "none given")),
    Wrong(
        "a model that is no language model",
        NPO.replace("$models/good", "$models/encoder"),
        ("encoder", "causal"),
    ),
    Wrong("no forget set", NPO.replace("--forget forget.jsonl", ""), ("--forget", "none given")),
    Wrong("no holdout", NPO.replace("--holdout holdout.jsonl", ""), ("--holdout", "criteria.ma")),
    Wrong(
        "nothing to keep",
        NPO.replace("--retain retain.jsonl", "--pool retain.jsonl"),
        ("--retain", "same text for all methods"),
    ),
    Wrong("no text to learn", NPO.replace("--retain retain.jsonl", ""), ("--retain", "--pool")),
    Wrong(
        "a retrained model that is not there",
        NPO + "--retrained none",
        ("none", "local folder", "network"),
    ),
    Wrong("retraining from nothing", BASE + "--methods retrain", ("method.pretrained",)),
    Wrong(
        "all that could not be run",
        BASE + "--methods idk,dpo",
        ("--methods: none could be run", "idk needs a prompt", "dpo needs a prompt"),
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=[case.id.replace(" ", "-") for case in WRONG])
def test_wrong_input_ends_with_one_line_and_no_trace(case, call):
    check_refusal(case, call)


def test_processes_that_share_a_run_are_refused(call, monkeypatch):
    monkeypatch.setattr("unlearner.processes.count", lambda: 2)
    status, _, err, left = call(NPO)
    assert (status, err.count("\n"), left) == (WRONG_INPUT, 1, [])
    assert "leave `accelerate launch` out and give --jobs" in err


def test_a_classifier_cannot_be_compared_here(call, request):
    folders = request.getfixturevalue("classifier_folders")
    line = NPO.replace("$models/good", str(folders / "sequence"))
    status, _, err, left = call(line)
    assert (status, err.count("\n"), left) == (WRONG_INPUT, 1, [])


def test_all_are_the_language_models_methods_that_need_no_other_model():
    names = make_plan({}, "all", 1, retrained="", keep_models=False).methods
    assert {"icu", "npo", "idk", "gradient_ascent", "task_arithmetic"} <= set(names)
    assert not {"deepcut", "sisa", "scrub", "retrain"} & set(names)


@pytest.mark.parametrize(("option", "measured"), [("", "of-a-file"), ("given", "given")])
def test_a_retrained_model_of_a_run_file_is_that_of_the_option(option, measured):
    """It is measured once, and not beside the run of every method and seed."""
    sections = {"model": {"name": "target", "retrained": "of-a-file"}}
    plan = make_plan(sections, "npo", 1, retrained=option, keep_models=False)
    assert plan.retrained == measured
    assert plan.config("npo").model.name == "target"
    assert plan.config("npo").model.retrained == ""
    assert sections["model"]["retrained"] == "of-a-file"
