"""`unlearner compare` on classifiers: the methods, the table, the files, going on."""

import csv
import json
from pathlib import Path

import pytest

from classifier_commands import FORGET_RUN
from classifier_world import SEQUENCE, TOKEN
from compare_world import counted
from unlearner.cli.app import INTERRUPTED, MET, WRONG_INPUT
from unlearner.methods.base import load_method
from unlearner.pipeline.compare_plan import make_plan

pytestmark = pytest.mark.slow

FEW = (
    " --quiet method.max_epochs=1 method.learning_rate=1e-3 evaluation.resamples=20"
    " training.device=cpu --output out/cmp "
)
SETS = "--forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
TEXTS = "compare $classifiers/texts " + SETS
TAGS = "compare $classifiers/tags " + SETS.replace("--forget ", "--forget tagged-").replace(
    "--retain ", "--retain tagged-"
).replace("--holdout ", "--holdout tagged-")
CLASS = FORGET_RUN.replace("forget $", "compare $").replace("--output out/run", "")


def read():
    return json.loads(Path("out/cmp/compare.json").read_text("utf-8"))


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_all_are_those_of_the_family_that_need_no_other_model(family):
    options = {"retrained": "", "keep_models": False, "family": family}
    names = make_plan({}, "all", 1, **options).methods
    assert {"deepcut", "scrub", "gradient_difference", "finetune"} <= {*names}
    assert not {"retrain", "sisa", "npo", "icu"} & {*names}
    assert all(family in load_method(name).families for name in names)


def test_texts_are_compared_with_a_search_and_a_retrained_model(call_classifier):
    more = "--test test.jsonl --retrained $classifiers/texts-retrained --seeds 2 search.trials=2 "
    line = TEXTS + more + "--methods deepcut,gradient_difference" + FEW
    status, _, err, _ = call_classifier(line)
    assert (status, err) == (MET, "")
    found = read()
    assert {*found["methods"]} == {"deepcut", "gradient_difference"}
    picture = found["picture"]
    retrained = found["results"]["retrained"]["forget"]["accuracy"]["value"]
    assert (picture["level"], picture["score"]) == (retrained, "accuracy")
    for entry in found["methods"].values():
        assert len(entry["search"]["trials"]) == 2
        assert [one["share"] for one in entry["strength"]["points"]] == (
            [0, 0.25, 0.5, 0.75, 0.875, 1]
        )
        assert 0 <= entry["tug_of_war"] <= 1
        assert isinstance(entry["on_front"], bool)
    assert any(entry["on_front"] for entry in found["methods"].values())
    for heading in ("Accuracy", "Tug-of-war"):
        assert heading in Path("out/cmp/compare.md").read_text("utf-8")
    page = Path("out/cmp/compare.html").read_text("utf-8")
    assert "Score of the records to be forgotten" in page
    assert "Score of records kept" in page
    assert "perplexity" not in page.partition("</style>")[2].lower()
    rows = list(csv.DictReader(Path("out/cmp/compare.csv").read_text("utf-8").splitlines()))
    assert {row["model"] for row in rows} == {"target", "retrained", *found["methods"]}


@pytest.mark.parametrize(
    ("line", "methods"),
    [(TAGS, "scrub,finetune"), (CLASS + "--forget-class colour ", "gradient_ascent")],
    ids=["tags", "class"],
)
def test_tags_and_classes_are_compared(call_classifier, line, methods):
    status, _, err, _ = call_classifier(line + f"--no-search --methods {methods}" + FEW)
    assert (status, err) == (MET, "")
    assert ",".join(read()["methods"]) == methods


def test_a_comparison_that_was_cut_off_goes_on(call_classifier, monkeypatch):
    line = TEXTS + "--no-search --methods finetune,gradient_ascent" + FEW
    with monkeypatch.context() as patch:
        done = counted(patch, seed=1)
        assert call_classifier(line)[0] == INTERRUPTED
    assert done["seeds"] == [("finetune", 0)]
    done = counted(monkeypatch)
    assert call_classifier(line + "--resume")[0] == MET
    assert done["seeds"] == [("gradient_ascent", 0)]
    assert {*read()["methods"]} == {"finetune", "gradient_ascent"}


def test_a_method_for_language_models_is_refused(call_classifier):
    status, _, err, left = call_classifier(TEXTS + "--methods npo" + FEW)
    assert (status, left) == (WRONG_INPUT, [])
    assert err == "unlearner: --methods: npo is not for sequence classifiers\n"
