"""A second request on an unlearned model is held to the quality of the first one."""

import json

import pytest

from command_world import RUN, SHORT
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT

pytestmark = pytest.mark.slow

AGAIN = RUN.replace("$models/good", "first/model") + "--force" + SHORT.replace(" --quiet", "")


@pytest.fixture
def second(call, tmp_path):
    """Run a second request with these arguments; its streams and its report."""
    call(RUN.replace("out/run", "first") + SHORT)

    def again(arguments, command=AGAIN):
        status, out, err, _ = call(f"{command} {arguments}")
        path = tmp_path / "out" / "run" / "report.json"
        report = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return status, out, err, report

    return again


def utility(report):
    return next(one for one in report["criteria"] if one["metric"] == "perplexity")


def test_without_the_original_one_line_says_that_damage_adds_up(second):
    status, _, err, report = second("")
    assert status in (MET, NOT_MET)
    assert err.count("was unlearned before") == 1
    assert "--original" in err
    assert "original" not in report["results"]


def test_the_floor_is_measured_against_the_original(second):
    _, out, err, report = second("--original $models/good")
    values = {
        model: report["results"][model]["retain"]["perplexity"]["value"]
        for model in ("original", "target", "unlearned")
    }
    assert "was unlearned before" not in err
    assert values["original"] != values["target"]
    assert utility(report)["at_most"] == pytest.approx(1.1 * values["original"])
    assert utility(report)["source"] == "1.1 times the original model's"
    both = [f"{values['unlearned'] / values[one]:.4g} times" for one in ("target", "original")]
    notes = report["verdict"]["notes"]
    assert any(all(ratio in note for ratio in both) for note in notes)
    assert "the floor is measured against the original model" in out


def test_check_and_evaluate_say_how_it_stands_beside_the_original(second):
    _, out, _, _ = second(
        "--original $models/good",
        "check first/model --forget forget.jsonl --retain retain.jsonl evaluation.resamples=20",
    )
    assert "under the original model" in " ".join(out.split())
    _, _, _, report = second(
        "--original $models/good",
        "evaluate first/model --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
        "--output out/run evaluation.resamples=20",
    )
    assert utility(report)["source"] == "1.1 times the original model's"


def test_an_original_without_records_to_compare_on_is_refused(second):
    status, _, err, _ = second(
        "--original $models/good --quiet",
        "evaluate first/model --forget forget.jsonl --holdout holdout.jsonl --output out/run",
    )
    assert status == WRONG_INPUT
    assert "--original: --retain is needed" in err


COMPARE = (
    "compare first/model --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl "
    "--methods gradient_ascent --no-search --output cmp method.max_epochs=1 "
    "evaluation.resamples=20 "
)


def test_a_comparison_is_held_to_the_original_and_shows_it(second, tmp_path):
    status, _, err, _ = second("--original $models/good", COMPARE)
    assert (status, err.count("was unlearned before")) == (MET, 0)
    found = json.loads((tmp_path / "cmp" / "compare.json").read_text("utf-8"))
    assert list(found["results"]) == ["original", "target"]
    value = found["results"]["original"]["retain"]["perplexity"]["value"]
    assert utility(found)["at_most"] == pytest.approx(1.1 * value)
    assert "| original model |" in (tmp_path / "cmp" / "compare.md").read_text("utf-8")
    assert "original,,retain,perplexity" in (tmp_path / "cmp" / "compare.csv").read_text("utf-8")


def test_a_comparison_goes_on_with_the_same_original_alone(second):
    assert second("--original $models/good", COMPARE)[0] == MET
    status, _, err, _ = second("--original $models/blank --resume --quiet", COMPARE)
    assert status == WRONG_INPUT
    assert err.count("\n") == 1
