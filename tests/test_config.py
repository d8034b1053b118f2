"""Defaults, then the file, then settings; what is wrong is refused by its place."""

import pytest
from pydantic import ValidationError

from unlearner.config import (
    CriteriaSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    apply_settings,
    build,
    check_names,
    parse_value,
    read_yaml,
)
from unlearner.errors import UserError

# Settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", ""),
        ("icu", "icu"),
        ("'5'", "5"),
        ("[1, 2]", [1, 2]),
        ("{question: prompt}", {"question": "prompt"}),
    ],
)
def test_a_value_is_read_as_yaml(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{prompt}",
        "{prompt} {response}",
        "Q: {prompt} A: {response}",
        "a #2.jsonl",
        "#2.jsonl",
        "2024-05-01",
        "a: b: c",
        "[",
        "hf:owner/name:config:split",
        "\ttabbed",
    ],
)
def test_text_that_yaml_would_change_stays_as_it_is(text):
    assert parse_value(text) == text


def test_a_number_without_a_dot_is_one_where_a_number_belongs():
    """YAML reads 5e-6 as text; a field of numbers takes it, and a field of text keeps it."""
    found = build(CriteriaSettings, {"degenerate_increase": parse_value("5e-3")}, where="criteria")
    assert found.degenerate_increase == 0.005
    assert build(ModelSettings, {"revision": parse_value("1e5")}, where="model").revision == "1e5"


def test_later_settings_go_before_earlier_ones_and_the_file():
    sections = {"data": {"scope": "response", "chat": True}}
    merged = apply_settings(sections, ["data.scope=sequence", "training.seed=1", "training.seed=2"])
    assert merged == {"data": {"scope": "sequence", "chat": True}, "training": {"seed": 2}}
    assert sections == {"data": {"scope": "response", "chat": True}}  # nothing is changed in place


def test_a_value_may_hold_an_equals_sign():
    assert apply_settings({}, ["data.template=a={prompt}={response}"]) == {
        "data": {"template": "a={prompt}={response}"}
    }


@pytest.mark.parametrize("setting", ["seed=1", "training.seed", ".seed=1", "training.=1", "=", ""])
def test_what_is_no_setting_is_refused_with_an_example(setting):
    with pytest.raises(UserError, match=r"is not a setting; write section\.key=value"):
        apply_settings({}, [setting])


# Names and values


def test_the_nearest_allowed_name_is_offered():
    with pytest.raises(UserError, match="unknown key 'max_lenght'; did you mean 'max_length'"):
        build(DataSettings, {"max_lenght": 3}, where="data")
    with pytest.raises(UserError, match="unknown thing 'zzz'; allowed: a, b"):
        check_names(["a", "zzz"], ["a", "b"], what="thing", where="here")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataSettings, {"max_length": 1}, "here.max_length: .*greater than or equal to 2, got 1"),
        (DataSettings, {"scope": "answer"}, "here.scope: .*'sequence' or 'response', got 'answer'"),
        (DataSettings, {"columns": {"q": 5}}, "here.columns.q: .*valid string, got 5"),
        (EvaluationSettings, {"prompt_start": 0}, "here.prompt_start: .*greater than 0, got 0"),
        (EvaluationSettings, {"prompt_start": 1.5}, "share below 1 or a whole number of tokens"),
        (EvaluationSettings, {"prompt_start": float("inf")}, "finite"),
        (EvaluationSettings, {"max_records": True}, "must not be true or false"),
        (CriteriaSettings, {"perplexity_ratio": 0.99}, "greater than or equal to 1, got 0.99"),
        (CriteriaSettings, {"perplexity_ratio": float("nan")}, "finite"),
        (CriteriaSettings, {"ma": 1.01}, "less than or equal to 1, got 1.01"),
    ],
)
def test_a_value_out_of_range_is_refused_by_section_and_key(kind, values, message):
    with pytest.raises(UserError, match=message):
        build(kind, values, where="here")


@pytest.mark.parametrize(
    ("template", "allowed"),
    [
        ("{prompt} {response}", True),
        ("Q\n{prompt}\nA\n{response}\n", True),
        ("{prompt}{response}", True),
        ("{response} {prompt}", False),
        ("{prompt}", False),
        ("{prompt} {response} {prompt}", False),
        ("{prompt} {response} {}", False),
        ("{{prompt}} {response}", False),
    ],
)
def test_a_template_holds_prompt_then_response_and_no_other_braces(template, allowed):
    if allowed:
        assert DataSettings(template=template).template == template
    else:
        with pytest.raises(ValidationError, match="and no other braces"):
            DataSettings(template=template)


def test_settings_never_change():
    with pytest.raises(ValidationError, match="frozen"):
        DataSettings().chat = True


@pytest.mark.parametrize(
    ("given", "by_hand"),
    [({}, False), ({"ma": 0.3}, False), ({"el_10": 0}, False), ({"ma": 0, "el_10": 0}, True)],
)
def test_a_level_is_by_hand_when_both_figures_are_given_0_included(given, by_hand):
    assert CriteriaSettings(**given).by_hand is by_hand


# Files


def test_a_run_file_is_sections(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("method: {name: icu, learning_rate: 5e-6}\ndata:\n  chat: true\n")
    assert read_yaml(path) == {
        "method": {"name": "icu", "learning_rate": "5e-6"},
        "data": {"chat": True},
    }
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "sections of keys"),
        ("seed: 1", "sections of keys"),
        ("data:", "sections of keys"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_what_is_no_run_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"run\.yaml: .*{message}"):
        read_yaml(path)


def test_a_missing_run_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such run file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
