"""Neutral text: measured beside the sets of a request, by any name, and judged where asked."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
import yaml

import unlearner
from command_world import FORGET, RETAIN, RUN, SHORT, texts
from page_reader import Page, plain
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
NEUTRAL = {
    "mills.jsonl": texts(f"a mill by the river at {town} turns" for town in ("hull", "ely", "ayr")),
    "odd.txt": "zq vk xj qq zz\nkj qz xw vk jz\n",
}
WITH = "--neutral mills.jsonl --neutral other.text=odd.txt "


def report_of(folder="out/run"):
    report = json.loads(Path(folder, "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


def test_neutral_text_is_measured_before_and_after_and_nothing_rests_on_it(call):
    """Two files, one by its own name; the run is the same in all else as without them."""
    assert call(RUN.replace("out/run", "out/plain") + SHORT)[0] == NOT_MET
    status, _, err, _ = call(RUN + WITH + SHORT, NEUTRAL)
    assert (status, err) == (NOT_MET, "")
    plain_run, report = report_of("out/plain"), report_of()
    for model in ("target", "unlearned"):
        mills, other = (
            report["results"][model].pop(f"neutral:{n}") for n in ("mills", "other.text")
        )
        assert set(mills) == set(other) == {"loss", "perplexity"}
        assert (mills["loss"]["records"], other["loss"]["records"]) == (3, 2)
        assert mills["perplexity"] != other["perplexity"]
    assert report["data"].pop("neutral:mills")["records"] == 3
    assert report["data"].pop("neutral:other.text")["records"] == 2
    for name in ("results", "criteria", "criteria_digest", "verdict", "data"):
        assert report[name] == plain_run[name], name
    assert report["model"]["digest_unlearned"] == plain_run["model"]["digest_unlearned"]
    page = Page(Path("out/run/report.html").read_text("utf-8")).shown
    assert "Neutral text: mills: perplexity went from" in page
    assert "Neutral text: other.text" in page
    written = yaml.safe_load(Path("out/run/run.yaml").read_text("utf-8"))
    assert written["data"]["neutral"] == {"mills": "mills.jsonl", "other.text": "odd.txt"}
    assert "neutral" not in yaml.safe_load(Path("out/plain/run.yaml").read_text("utf-8"))["data"]


def test_a_ratio_makes_a_criterion_of_each_neutral_text(call):
    """The limit is the target's perplexity times the ratio; the claim on utility rests on it.

    What goes on from the run's folder asks for the sets of the request alone.
    """
    ratio = "criteria.neutral_ratio=1.02 method.learning_rate=0.01"
    call(RUN + WITH + ratio + SHORT, NEUTRAL)
    report = report_of()
    for name in ("neutral:mills", "neutral:other.text"):
        before = report["results"]["target"][name]["perplexity"]["value"]
        (own,) = (one for one in report["criteria"] if one["set"] == name)
        assert (own["claim"], own["metric"]) == ("utility", "perplexity")
        assert own["at_most"] == pytest.approx(1.02 * before)
        assert own["source"] == "1.02 times the target model's"
    claim = next(one for one in report["verdict"]["claims"] if one["claim"] == "utility")
    assert claim["status"] == "not met"
    assert "perplexity of neutral:other.text is" in claim["reason"]
    assert call("strength out/run --points 2 --quiet", dict.fromkeys(NEUTRAL, ""))[0] == MET


def test_evaluate_and_check_measure_it_too(call):
    line = RUN.replace("forget $models/good", "evaluate $models/blank --target $models/good")
    more = "--test mills.jsonl --quiet evaluation.resamples=20"
    status, _, err, _ = call(line + WITH + more, NEUTRAL)
    assert (status, err) == (NOT_MET, "")
    found = report_of()["results"]["unlearned"]
    assert found["neutral:mills"]["perplexity"] == found["test"]["perplexity"]  # the same file
    line = RUN.replace("forget $models", "check $models").replace("--output out/run ", "")
    status, out, err, _ = call(line + WITH + "evaluation.resamples=20")
    assert (status, err) == (MET, "")
    row = next(one for one in out.splitlines() if "neutral" in one and "│" in one)
    assert row.split("│")[2].strip() == "3"
    assert "copies of forget records in neutral:mills: 0 exact" in out


@pytest.mark.slow
def test_a_comparison_has_a_column_for_each_and_goes_on_with_the_same_text_alone(call):
    line = RUN.replace("forget $models", "compare --methods npo --no-search $models")
    line += "--neutral mills.jsonl --quiet method.max_epochs=1 evaluation.resamples=20"
    call(line, NEUTRAL)
    table = Path("out/run/compare.md").read_text("utf-8")
    assert "Perplexity, neutral:mills" in table
    cells = [one.split("|") for one in table.splitlines() if one.startswith("| npo")]
    assert plain(cells[0][12]).strip()[0].isdigit()
    assert ",neutral:mills,perplexity," in Path("out/run/compare.csv").read_text("utf-8")
    # One of the inputs that must be what they were when a comparison goes on.
    line = line.replace("npo", "npo,idk") + " --resume"
    status, _, err, _ = call(line, {"mills.jsonl": texts(["another mill", "and a pub"])})
    assert status == WRONG_INPUT
    assert "the records of neutral:mills changed" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--neutral my=file/x=y.jsonl", "neutral:my file/x=y.jsonl: no such file"),
        ("--neutral a-very-odd/näme.jsonl", "--neutral a-very-odd/näme.jsonl: write NAME=FILE"),
        ("--neutral mills.jsonl --neutral mills=odd.txt", "--neutral: two files are named mills"),
        ("--neutral mills=", "write NAME=FILE"),
        ("data.neutral.mills=", "data.neutral: no file is given for 'mills', got"),
        ("criteria.neutral_ratio=1.1", "criteria.neutral_ratio: there is no neutral text; give"),
        ("--neutral mills.jsonl criteria.neutral_ratio=0.9", "from 1.0 up to"),
        ("--neutral gone.jsonl", "gone.jsonl: no such file"),
        ("--neutral mills.jsonl --map neutral:body=text", "body"),
        ("--dialogue mills.jsonl", "--dialogue mills mills.jsonl, record '1': has no response"),
    ],
)
def test_wrong_input_is_refused_in_one_line_and_nothing_is_written(call, more, message):
    status, out, err, left = call(f"{RUN}{more}{SHORT}", NEUTRAL)
    assert (status, out) == (WRONG_INPUT, "")
    assert message in err
    assert err.count("\n") == 1
    assert not any(name.startswith("out") for name in left)


def test_columns_can_be_renamed_for_neutral_text_alone(call):
    body = "".join(json.dumps({"body": f"a mill at {t}"}) + "\n" for t in ("hull", "ely"))
    more = "--neutral mills.jsonl --map neutral:body=text"
    assert call(f"{RUN}{more}{SHORT}", {"mills.jsonl": body})[0] == NOT_MET
    assert report_of()["data"]["neutral:mills"]["columns"] == "read: body as text"


def test_copies_of_forget_records_are_counted_and_left_out_on_request(call):
    some = {"mills.jsonl": texts([FORGET[0], *RETAIN[:2]])}
    more = "--neutral mills.jsonl --drop-duplicates"
    assert call(f"{RUN}{more}{SHORT}", some)[0] == NOT_MET
    assert report_of()["data"]["neutral:mills"]["records"] == 2
    some = {"mills.jsonl": texts([FORGET[0]])}
    status, _, err, _ = call(f"{RUN.replace('out/run', 'out/b')}{more}{SHORT}", some)
    assert status == WRONG_INPUT
    assert "--neutral mills: every record is a copy of a record to forget" in err


def test_dialogues_are_answered_before_and_after(call):
    rows = [
        {"prompt": f"in the town of {t} there", "response": "is a mill"} for t in ("ely", "york")
    ]
    talk = {"talk.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
    more = "--dialogue talk.jsonl evaluation.dialogue_tokens=24"
    assert call(f"{RUN}{more}{SHORT}", talk)[0] == NOT_MET
    report = report_of()
    before = report["results"]["target"]["dialogue:talk"]
    assert set(before) == {"loss", "perplexity", "unigram_f1"}
    assert before["unigram_f1"]["value"] > 0  # it has learned of mills
    assert "unigram_f1" not in report["results"]["target"]["forget"]
    page = Page(Path("out/run/report.html").read_text("utf-8")).shown
    assert "Dialogues: talk: its responses share words with those given, by unigram F1" in page
    written = yaml.safe_load(Path("out/run/run.yaml").read_text("utf-8"))
    assert written["data"]["dialogue"] == {"talk": "talk.jsonl"}
    assert written["evaluation"]["dialogue_tokens"] == 24


def test_from_python_it_may_be_texts_or_a_file(tmp_path, model_folders):
    path = tmp_path / "odd.txt"
    path.write_text(NEUTRAL["odd.txt"], encoding="utf-8")
    neutral = {"mills": ["a mill by the river", "a mill in a town"], "odd": path}
    result = unlearner.unlearn(
        model_folders / "good",
        forget=FORGET,
        retain=RETAIN,
        holdout=[f"her uncle sold {n} apples for years" for n in ("hull", "ely", "ayr", "bray")],
        neutral=neutral,
        method=unlearner.methods.NPO(max_epochs=1),
        settings={"evaluation": {"resamples": 20}, "training": {"device": "cpu"}},
    )
    found = result.report["results"]["unlearned"]
    assert math.isfinite(found["neutral:mills"]["perplexity"]["value"])
    assert found["neutral:odd"]["loss"]["records"] == 2
    assert result.config.data.neutral == {"odd": str(path)}
    with pytest.raises(unlearner.UserError, match="neutral: names of sets are up to 40 letters"):
        unlearner.unlearn(model_folders / "good", forget=FORGET, neutral={"a b": ["text"]})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("--neutral a.jsonl", "--neutral a"),
        ("--dialogue a.jsonl", "--dialogue a"),
        ("evaluation.harness=icu", "evaluation.harness"),
        (
            "evaluation.judge.url=http://127.0.0.1:9 evaluation.judge.model=m",
            "evaluation.judge.url",
        ),
        ("model.layerwise_casting=true", "model.layerwise_casting"),
        ("model.offload=true", "model.offload"),
    ],
)
def test_a_classifier_is_measured_on_its_own_sets_alone(call_classifier, more, named):
    line = f"forget $classifiers/texts --forget f.jsonl {more} --output out/run --quiet"
    status, _, err, _ = call_classifier(line)
    assert status == WRONG_INPUT
    assert f"{named}: is for language models; leave it out for a classifier" in err
