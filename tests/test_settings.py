"""The resolved configuration of a run: whole, checked, and repeatable from its own file."""

import re

import pytest
import yaml

from unlearner.config import RunConfig, method_values
from unlearner.errors import UserError
from unlearner.methods.icu import ICU


def again(config):
    return RunConfig.from_sections(yaml.safe_load(config.to_yaml()))


def test_without_sections_everything_has_its_default_and_the_method_is_icu():
    config = RunConfig.from_sections({})
    assert config.method == ICU()
    assert (config.training.seed, config.data.template) == (0, "{prompt} {response}")


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"method": {"name": "icu", "learning_rate": 5e-6, "preset": "paper", "num_beams": 3}},
        {
            "data": {
                "columns": {"question": "prompt"},
                "template": "Q: {prompt}\n#A: {response}\n",
                "forget": "ünïcode.jsonl",
                "request_id": "007",
            }
        },
        {"criteria": {"ma": 0.3, "el_10": 0.0}, "training": {"max_gradient_norm": 1.0}},
        {"evaluation": {"prompt_start": 1}, "model": {"name": "owner/name", "revision": "1e5"}},
    ],
)
def test_reading_a_run_file_gives_the_configuration_that_wrote_it(sections):
    """Also text that YAML would take for a number or a comment."""
    config = RunConfig.from_sections(sections)
    assert again(config) == config
    assert again(config).to_yaml() == config.to_yaml()


def test_a_run_file_holds_every_key_of_every_section():
    found = yaml.safe_load(RunConfig.from_sections({}).to_yaml())
    assert list(found) == [
        "model",
        "data",
        "method",
        "training",
        "evaluation",
        "criteria",
        "search",
    ]
    assert found["method"]["name"] == "icu"
    assert set(found["method"]) == {"name", *ICU.model_fields}


def test_the_paper_s_preset_is_what_is_not_given():
    method = RunConfig.from_sections({"method": {"preset": "paper", "num_beams": 1}}).method
    assert isinstance(method, ICU)
    assert (method.learning_rate, method.num_beams, method.recover) == (5e-6, 1, False)


def test_values_come_with_the_method_s_name():
    assert method_values(ICU(batch_size=3)) == {"name": "icu", **ICU(batch_size=3).model_dump()}


def test_the_sections_given_stay_as_they_are():
    """The method's name is taken out of a copy."""
    sections = {"method": {"name": "icu", "batch_size": 2}}
    RunConfig.from_sections(sections)
    assert sections == {"method": {"name": "icu", "batch_size": 2}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"metod": {}}, "unknown section 'metod'; did you mean 'method'"),
        ({"method": {"name": "icy"}}, "there is no 'icy' among the methods: did you mean 'icu'"),
        ({"method": {"beta": 1}}, "method: unknown key 'beta'"),
        ({"method": {"batch_size": 0}}, r"method\.batch_size: .*greater than 0, got 0"),
        ({"training": {"device": "tpu"}}, r"training\.device: "),
    ],
)
def test_what_is_not_allowed_is_refused_by_its_place(sections, message):
    with pytest.raises(UserError, match=message):
        RunConfig.from_sections(sections)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("maybe", "input should be true or false, or input should be 'auto', got 'maybe'"),
        (2.5, "input should be true or false, or input should be 'auto', got 2.5"),
    ],
)
def test_what_is_true_or_false_is_said_so(value, allowed):
    with pytest.raises(UserError, match=f"^model.offload: {re.escape(allowed)}$"):
        RunConfig.from_sections({"model": {"offload": value}})
