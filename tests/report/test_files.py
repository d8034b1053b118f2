"""The files of a report: what they hold, how they are written and read again."""

import json
import re

import jsonschema
import pytest

from report_classifier_example import sequence
from report_example import evaluated, example
from report_variants import REPORTS, SCHEMA, hostile, with_strength
from unlearner.errors import UserError
from unlearner.report.files import read_report, rewrite, write_report

# The schema


@pytest.mark.parametrize("name", REPORTS)
def test_every_example_follows_the_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(REPORTS[name](), SCHEMA, cls=jsonschema.Draft202012Validator)


def _broken(report, change):
    change(report)
    return report


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["per_record"][0]["after"].update(loss=4.2),  # no per-record losses
        lambda r: r.update(examples=[{"id": "a", "text": "the record's own text"}]),
        lambda r: r["verdict"].update(status="forgotten"),
        lambda r: r["verdict"]["claims"][0].update(status="passed"),
        lambda r: r["criteria"][0].pop("at_most"),  # no limit at all
        lambda r: r["results"]["unlearned"]["forget"]["ma"].pop("records"),
        lambda r: r["results"]["unlearned"]["forget"]["ma"].update(value="0.3"),
        lambda r: r["results"].update(gold=r["results"]["target"]),
        lambda r: r["results"].pop("target"),
        lambda r: r.pop("rounds"),
        lambda r: r["rounds"][0].pop("active"),  # only a classifier has none
        lambda r: r.pop("criteria_digest"),
        lambda r: r.update(schema="unlearner/report/2"),
        lambda r: r.update(created="yesterday"),
        lambda r: r.update(comment="extra"),
    ],
)
def test_a_broken_report_does_not_follow_the_schema(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_broken(example(3), change), SCHEMA)


def test_an_evaluation_may_lack_rounds_and_target_but_a_forget_run_may_not():
    jsonschema.validate(evaluated(), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**evaluated(), "command": "forget"}, SCHEMA)


def test_a_point_outside_of_the_path_does_not_follow_the_schema():
    report = with_strength(0.75)
    report["strength"]["points"][0]["share"] = 1.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, SCHEMA)


# Written and read


@pytest.mark.parametrize("make", [hostile, evaluated])
def test_a_written_report_is_read_back_as_it_was(make, tmp_path):
    report = make()
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["report.html", "report.json", "report.md"]


def _reversed(value):
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def test_the_same_report_gives_the_same_bytes_in_whatever_order_its_keys_came(tmp_path):
    report = example(3)
    for name, value in (("one", report), ("two", report), ("three", _reversed(report))):
        (tmp_path / name).mkdir()
        write_report(value, tmp_path / name)
    for name in ("report.json", "report.html", "report.md"):
        first = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "two" / name).read_bytes() == first
        assert (tmp_path / "three" / name).read_bytes() == first


def test_the_keys_of_a_report_stand_in_the_order_of_the_contract(tmp_path):
    write_report(_reversed(example(3)), tmp_path)
    report = read_report(tmp_path)
    contract = "schema request model method data criteria results verdict rounds cost environment"
    assert [key for key in report if key in contract.split()] == contract.split()
    assert list(report["results"]["target"]["forget"]["ma"]) == ["value", "low", "high", "records"]
    assert next(iter(report["method"])) == "name"


def test_points_stand_on_one_line_each_in_the_json(tmp_path):
    report = sequence()
    write_report(report, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["projection"] == report["projection"]
    assert len(text.splitlines()) < 3500  # with a number on each: over 7000


def test_html_and_markdown_can_be_made_again_from_json_alone(tmp_path):
    write_report(example(3), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.md").write_text("lost")
    rewrite(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_number_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path):
    report = example(3)
    report["results"]["unlearned"]["forget"]["ma"]["value"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        ("[]", "schema must be 'unlearner/report/1', got None"),
        ('{"schema": "unlearner/report/9"}', "got 'unlearner/report/9'"),
        ('{"schema": "unlearner/report/1"}', "not whole, without command, created"),
    ],
)
def test_a_missing_or_broken_report_is_one_line_with_the_way_out(tmp_path, content, message):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "report.json").write_bytes(data)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        rewrite(tmp_path)
    assert str(tmp_path / "report.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_damaged_deep_inside_is_the_users_error_and_changes_no_file(tmp_path):
    write_report(example(3), tmp_path)
    report = read_report(tmp_path)
    del report["criteria"][0]["metric"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(UserError, match="does not follow"):
        rewrite(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
