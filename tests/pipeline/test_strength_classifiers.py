"""The path of a classifier: its points, the floor, and the command on a finished run."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from test_search_runs import SCHEMA

from classifier_commands import FORGET_RUN, RUN, TAGGED_RUN
from classifier_world import SEQUENCE, TOKEN, tiny_classifier, tiny_data
from unlearner.cli.app import MET, WRONG_INPUT
from unlearner.methods.deepcut import DeepCUT
from unlearner.pipeline.strength import LabelPoint, largest_keeping, mix, strength_of, utility_floor
from unlearner.training.classifier_loop import Watch

FEW = (
    " --quiet method.max_epochs=1 method.learning_rate=1e-3 method.steps_per_round=2"
    " evaluation.resamples=20 training.device=cpu "
)


def point(share, retained):
    return LabelPoint(share, 0.5, 0.5, 0.5, retained, suppressed=True)


def test_the_furthest_that_keeps_the_score_is_taken():
    """0.9 before and 0.02 may be lost: 0.88 is enough, 0.8 is not, wherever it lies."""
    floor = utility_floor(tiny_data(), point(0.0, 0.9).to_json())
    points = [point(0.25, 0.9), point(0.5, 0.8), point(0.75, 0.88), point(1.0, 0.7)]
    best = largest_keeping(points, floor)
    assert best is not None
    assert best.share == 0.75
    assert largest_keeping(points[1:2], floor) is None
    assert largest_keeping([point(1.0, float("nan"))], floor) is None


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_each_point_is_what_a_round_would_see_of_that_model(family):
    data, model, other = tiny_data(family), tiny_classifier(family), tiny_classifier(family, seed=1)
    before = copy.deepcopy(model.state_dict())
    after = copy.deepcopy(other.state_dict())
    method = DeepCUT(stop="score")
    found = strength_of(method, model, before, after, data, (0.5, 1.0))
    assert all((before[name] == some).all() for name, some in model.state_dict().items())
    for told in found["points"]:
        mix(other, before, after, told["share"])
        watch = Watch("score", data)
        state = watch.examine(other, 0, 0)
        names = ("forget_score", "holdout_score", "mia_loss_auc", "retain_score")
        assert {name: told[name] for name in names} == {n: getattr(state, n) for n in names}
        assert told["suppressed"] == watch.done(state)


def read():
    report = json.loads(Path("out/run/report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


CLASS_RUN = FORGET_RUN + "--forget-class colour "


@pytest.mark.parametrize("line", [RUN, TAGGED_RUN, CLASS_RUN], ids=["texts", "tags", "class"])
def test_a_finished_run_gets_its_path(call_classifier, line):
    call_classifier(line + FEW)
    before = read()
    status, out, err, _ = call_classifier("strength out/run --points 3 --quiet")
    assert (status, err) == (MET, "")
    report = read()
    strength = report.pop("strength")
    assert report == before
    assert [one["share"] for one in strength["points"]] == [0, 0.5, 1]
    score = report["evaluation"]["score"]
    for model, one in (("target", strength["points"][0]), ("unlearned", strength["points"][-1])):
        figures = report["results"][model]["forget"]
        assert one["forget_score"] == pytest.approx(figures[score]["value"])
    floor = strength["points"][0]["retain_score"] - 0.02
    keeping = [one for one in strength["points"] if one["retain_score"] >= floor]
    assert strength["at_the_floor"] == keeping[-1]
    assert "retain score" in out
    assert "floor: score of records to be kept at least" in out
    page = Path("out/run/report.html").read_text("utf-8")
    assert "Scores by share of the change" in page
    assert "records to be kept within its limit" in page


def test_an_ensemble_has_no_path(call_classifier):
    finetune = "finetune $classifiers/encoder --records all.jsonl --output out/target epochs=2"
    call_classifier(finetune + " --quiet training.device=cpu")
    line = RUN.replace("$classifiers/texts", "out/target") + "--force --quiet --method sisa "
    call_classifier(line + "method.num_shards=2 method.num_slices=1 evaluation.resamples=20")
    status, out, err, _ = call_classifier("strength out/run --quiet")
    assert (status, out) == (WRONG_INPUT, "")
    assert err.count("\n") == 1
    assert "is an ensemble of several models" in err
