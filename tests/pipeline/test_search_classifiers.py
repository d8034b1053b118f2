"""A classifier's search: how trials are judged, by hand, and `forget --search` as a whole."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file
from test_classifier_loop import STATE
from test_search_runs import SCHEMA, counted, without_times

from classifier_commands import RUN, TAGGED_RUN
from classifier_world import SEQUENCE, TOKEN, tiny_classifier, tiny_data
from unlearner.cli.app import INTERRUPTED, MET, NOT_MET
from unlearner.methods.deepcut import DeepCUT
from unlearner.methods.scrub import SCRUB
from unlearner.pipeline.search import FAILED, LabelJudge, space_of
from unlearner.settings import SearchSettings

pytestmark = pytest.mark.slow

FEW = (
    " --quiet --search search.trials=2 method.learning_rate=1e-3 method.max_epochs=1"
    " method.steps_per_round=2 evaluation.resamples=20 training.device=cpu "
)


def looked(auc, retained):
    return asdict(replace(STATE, mia_loss_auc=auc, retain_score=retained))


@pytest.mark.parametrize(
    ("auc", "retained", "score", "reached"),
    [
        (0.5, 0.9, 1.0, True),
        (0.4, 0.95, 1.0, True),  # better than the target is no less damage than none
        (0.5, 0.89, 1.01, True),
        (0.5, 0.8, 100.08, False),  # 0.1 lost, of which 0.02 may be
        (0.6, 0.9, 100.25, False),  # 0.1 of the first 0.4 left
        (0.7, 0.85, 100.53, False),
        (math.nan, 0.9, FAILED, False),
    ],
)
def test_a_round_is_judged_by_what_is_left_and_what_was_lost(auc, retained, score, reached):
    """The target: AUC 0.9, so 0.4 too much, and 0.9 of the retained records right."""
    judge, first = LabelJudge(DeepCUT(stop="auc"), tiny_data()), looked(0.9, 0.9)
    look = looked(auc, retained)
    assert judge.score(look, first) == pytest.approx(score)
    assert judge.reached(look, first) is reached


def test_of_those_that_reached_it_one_that_went_too_far_is_worse():
    """Of 6 and 6 records 1.96 sqrt(13 / 432) = 0.34 is chance; 0.1 more counts ten times."""
    judge, first = LabelJudge(DeepCUT(stop="auc"), tiny_data()), looked(0.9, 0.9)
    chance = 1.96 * math.sqrt(13 / 432)
    assert judge.score(looked(0.4 - chance, 0.9), first) == pytest.approx(2.0)
    assert judge.score(looked(0.5 - chance, 0.9), first) == pytest.approx(1.0)
    removed = LabelJudge(DeepCUT(), tiny_data(forget_class=0))
    assert removed.score(looked(0.0, 0.9) | {"forget_score": 0.0}, first) == pytest.approx(1.0)


def test_what_may_be_lost_is_a_setting():
    judge = LabelJudge(DeepCUT(stop="auc"), replace(tiny_data(), score_drop=0.2))
    assert judge.reached(looked(0.5, 0.75), looked(0.9, 0.9))


@pytest.mark.parametrize(("family", "weight"), [(SEQUENCE, 2.0), (TOKEN, 0.3)])
def test_a_search_goes_out_from_what_auto_stands_for(family, weight):
    """0.0384 / 32 units, and gamma of the family; both to their ranges."""
    space = space_of(DeepCUT(), tiny_classifier(family), SearchSettings(rate_factor=2.0), family)
    assert space["learning_rate"] == pytest.approx((0.0006, 0.0012, 0.0024))
    assert space["forget_weight"] == (0.1, weight, 8.0)
    assert {*space_of(SCRUB(), tiny_classifier(family), SearchSettings(), family)} == (
        {"learning_rate", *SCRUB.searched}
    )


def report_of(folder="out/run"):
    report = json.loads(Path(folder, "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


@pytest.mark.parametrize("line", [RUN, TAGGED_RUN], ids=["texts", "tags"])
def test_the_run_is_that_of_the_settings_found_and_the_pages_have_the_trials(call_classifier, line):
    status, _, err, _ = call_classifier(line + FEW)
    report = report_of()
    assert (err, status) == ("", MET if report["verdict"]["status"] == "met" else NOT_MET)
    found = report["search"]
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert {*found["trials"][0]} == {
        *("number", "settings", "status", "score", "rounds", "seconds"),
        *LabelJudge.names,
    }
    best = found["trials"][found["chosen"]]
    assert best["score"] == min(trial["score"] for trial in found["trials"])
    assert {name: report["method"][name] for name in best["settings"]} == best["settings"]
    if best["status"] != "hopeless":
        last = report["rounds"][-1]
        assert {name: last[name] for name in LabelJudge.names} == (
            {name: best[name] for name in LabelJudge.names}
        )
    for page in ("report.html", "report.md"):
        text = Path("out/run", page).read_text("utf-8")
        assert "Score of records kept" in text
        assert "MA of the records" not in text
    chosen = " ".join(f"method.{name}={value!r}" for name, value in best["settings"].items())
    plain = (line + FEW).replace("--search search.trials=2", "").replace("out/run", "out/plain")
    call_classifier(plain + chosen)
    one, two = (load_file(f"out/{name}/model/model.safetensors") for name in ("run", "plain"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_search_that_was_cut_off_goes_on_behind_its_finished_trials(call_classifier, monkeypatch):
    whole, *_ = call_classifier(RUN + FEW)
    expected = report_of()
    with monkeypatch.context() as patch:
        numbers = counted(patch, stop_at=1)
        status, *_ = call_classifier((RUN + FEW).replace("out/run", "out/cut"))
    assert (status, numbers) == (INTERRUPTED, [0])
    numbers = counted(monkeypatch)
    status, *_ = call_classifier("forget --output out/cut --resume --quiet")
    assert (status, numbers) == (whole, [1])
    report = report_of("out/cut")
    assert without_times(report["search"]["trials"]) == without_times(expected["search"]["trials"])
    assert report["results"] == expected["results"]


def test_where_nothing_reaches_it_the_report_says_so(call_classifier):
    """A rate that changes nothing leaves all to forget: 101 less the little that was gained."""
    call_classifier(RUN + FEW + "method.learning_rate=1e-9 search.rate_factor=1 search.trials=1")
    report = report_of()
    (trial,) = report["search"]["trials"]
    assert trial["status"] == "not reached"
    assert trial["score"] == pytest.approx(101, abs=0.05)
    assert any(
        "with the score of records to be kept within its limit; these came nearest" in note
        for note in report["verdict"]["notes"]
    )
