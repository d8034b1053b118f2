"""A second request on an unlearned classifier is held to the scores of the first one."""

import json
from types import SimpleNamespace

import pytest

from classifier_commands import RUN, SHORT, TAGGED_RUN
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT

pytestmark = pytest.mark.slow

KINDS = {
    "texts": SimpleNamespace(run=RUN, files="", score="f1_macro", other="tags"),
    "tags": SimpleNamespace(run=TAGGED_RUN, files="tagged-", score="f1_entity", other="texts"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return SimpleNamespace(**vars(KINDS[request.param]), name=request.param)


@pytest.fixture
def second(call_classifier, tmp_path, kind):
    """Run a command on an unlearned model; its streams, and its report."""
    call_classifier(kind.run.replace("out/run", "first") + SHORT)

    def again(command, arguments):
        sets = " ".join(
            f"--{role} {kind.files}{role}.jsonl" for role in ("forget", "retain", "holdout")
        )
        status, out, err, _ = call_classifier(f"{command} first/model {sets} {arguments}")
        path = tmp_path / "out" / "report.json"
        report = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return status, out, err, report

    return again


def floors(report):
    return {one["set"]: one for one in report["criteria"] if one["claim"] == "utility"}


def test_the_floors_are_measured_against_the_original(second, kind):
    original = f"--original $classifiers/{kind.name}"
    status, out, err, report = second(
        "forget", f"{original} --force --output out{SHORT.replace(' --quiet', '')}"
    )
    assert status in (MET, NOT_MET)
    assert "was unlearned before" not in err
    assert {*report["results"]} == {"original", "target", "unlearned"}
    for role, floor in floors(report).items():
        value = report["results"]["original"][role][kind.score]["value"]
        assert floor["at_least"] == pytest.approx(value - 0.02)
        assert floor["source"] == "the original model's less 0.02"
    assert any("under the original model" in note for note in report["verdict"]["notes"])
    assert "the floor is measured against the original model" in out


def test_check_and_evaluate_say_how_it_stands_beside_the_original(second, kind):
    original = f"--original $classifiers/{kind.name}"
    status, out, _, _ = second("check", f"{original} evaluation.resamples=20")
    assert status == MET
    assert "under the original model" in " ".join(out.split())
    _, _, _, report = second("evaluate", f"{original} --output out evaluation.resamples=20")
    assert {*floors(report)} == {"retain", "holdout"}
    assert "target" not in report["results"]


def test_a_comparison_is_held_to_the_original_and_shows_it(second, kind, tmp_path):
    status, _, err, _ = second(
        "compare",
        f"--original $classifiers/{kind.name} --methods random_labels --no-search --quiet "
        "method.max_epochs=1 evaluation.resamples=20 --output cmp",
    )
    assert (status, err) == (MET, "")
    found = json.loads((tmp_path / "cmp" / "compare.json").read_text("utf-8"))
    assert list(found["results"]) == ["original", "target"]
    assert floors(found)["retain"]["source"] == "the original model's less 0.02"


def test_an_original_that_gives_other_labels_is_refused(second, kind):
    status, _, err, _ = second(
        "evaluate", f"--original $classifiers/{kind.other} --quiet --output out"
    )
    assert (status, err.count("\n")) == (WRONG_INPUT, 1)
    assert f"classifiers/{kind.other}" in err
