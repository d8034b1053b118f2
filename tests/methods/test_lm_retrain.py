"""Retraining a language model, and what a report tells of methods with defaults by family."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from test_icu import tokenized
from test_lm_procedure_runs import flat, sets
from test_resume import check_every_cut

from classifier_world import tiny_trainer
from conftest import tiny_model
from test_api import run, target  # noqa: F401 - a fixture
from unlearner.data.record import Record
from unlearner.errors import UserError
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.methods.gradient_difference import GradientDifference
from unlearner.methods.llmu import LLMU
from unlearner.methods.retrain import Retrain, remaining
from unlearner.methods.rmu import RMU
from unlearner.methods.task_arithmetic import TaskArithmetic
from unlearner.training.finetune import PROVENANCE_FILE, FinetuneSettings, finetune_model

torch.set_num_threads(1)


@pytest.fixture
def pretrained(tmp_path, tokenizer):
    folder = tmp_path / "pretrained"
    tiny_model("gpt2", seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_retraining_is_finetuning_the_pretrained_model_on_the_retain_set(pretrained, tokenizer):
    """Bit for bit, and the target stays as it is; the pool, other text, is not learned."""
    data = replace(sets(tokenizer), pool=tokenized("pool", (30, 31), 9))
    settings = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3}
    model, trainer = tiny_model("gpt2"), tiny_trainer()
    before = flat(model).clone()
    found = Retrain(pretrained=pretrained, **settings).unlearn(model, data, trainer)
    expected = finetune_model(
        tiny_model("gpt2", seed=5),
        tokenizer,
        data.retain,
        FinetuneSettings(**settings),
        tiny_trainer(),
    ).model
    assert torch.equal(flat(found), flat(expected))
    assert torch.equal(flat(model), before)
    assert [line["round"] for line in trainer.rounds] == [0, 1]
    assert trainer.steps == 2 * 3


def test_the_recipe_beside_the_target_is_followed_but_for_what_is_given(
    tmp_path, pretrained, tokenizer
):
    """Beside it: 3 epochs of batches of 5, all retain records; batches of 2 are given: 3 * 3."""
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "target")
    recipe = {"model": "x", "finetune": {"epochs": 3, "batch_size": 5, "learning_rate": 1e-3}}
    (tmp_path / "target" / PROVENANCE_FILE).write_text(json.dumps(recipe))
    model = type(model).from_pretrained(tmp_path / "target")
    for given, steps in (({}, 3), ({"batch_size": 2}, 9)):
        trainer = tiny_trainer()
        Retrain(pretrained=pretrained, **given).unlearn(model, sets(tokenizer), trainer)
        assert trainer.steps == steps


def test_retraining_goes_on(tmp_path, pretrained, tokenizer):
    method = Retrain(pretrained=pretrained, epochs=2, batch_size=2)
    check_every_cut(
        tmp_path, lambda some: method.unlearn(tiny_model("gpt2"), sets(tokenizer), some), [2, 5]
    )


def test_copies_of_forget_records_are_not_learned_again(tokenizer):
    data = sets(tokenizer)
    texts = ["the town", "The  person", "a number"]
    records = tuple(Record(str(i), text=text) for i, text in enumerate(texts))
    retain = replace(data.retain.subset([0, 1, 2]), records=records)
    forget = replace(data.forget.subset([0]), records=(Record("f", text="the person"),))
    left = remaining(replace(data, forget=forget, retain=retain))
    assert [record.text for record in left.records] == ["the town", "a number"]
    with pytest.raises(UserError, match="all of its records are records to forget"):
        remaining(replace(data, forget=forget, retain=retain.subset([1])))
    with pytest.raises(UserError, match=r"^--retain: none given"):
        remaining(replace(data, retain=None))


def test_a_pretrained_model_that_reads_other_tokens_is_refused(pretrained, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["tiger"])
    data = replace(sets(tokenizer), tokenizer=other)
    with pytest.raises(UserError, match=r"^method\.pretrained: the tokenizer of .* differs"):
        Retrain(pretrained=pretrained).unlearn(tiny_model("gpt2"), data, tiny_trainer())


# From files to a report


@pytest.mark.parametrize(
    ("chosen", "resolved"),
    [
        (GradientAscent(max_epochs=1), {"stop": "level"}),
        (GradientDifference(max_epochs=1), {"stop": "suppressed", "retain_weight": 1.0}),
        (LLMU(max_epochs=1), {"forget_weight": 0.5}),
        (RMU(max_epochs=1), {"steering_coefficient": 6.5, "layer": None}),
        (TaskArithmetic(max_epochs=1, finetune_epochs=1), {"max_scale": 1.0}),
    ],
    ids=lambda some: getattr(some, "name", ""),
)
def test_a_report_tells_the_settings_in_force(chosen, resolved, target):  # noqa: F811
    report = run(target, method=chosen).report
    assert report["method"]["name"] == chosen.name
    assert report["method"].items() >= resolved.items()
    assert [line["round"] for line in report["rounds"]] == [0, 1]


def test_a_retrained_model_is_measured_as_any_other(target, pretrained):  # noqa: F811
    """4 retain records in batches of 2, twice: 4 steps."""
    method = Retrain(pretrained=pretrained, epochs=2, batch_size=2)
    result = run(target, method=method)
    assert result.report["cost"]["steps"] == 4
    unlearned = result.report["results"]["unlearned"]["forget"]["ma"]["value"]
    assert unlearned < 0.5 < result.report["results"]["target"]["forget"]["ma"]["value"]


def test_what_the_family_does_not_allow_is_refused_in_one_line(target):  # noqa: F811
    for method, start in (
        (GradientAscent(stop="auc"), "method.stop: 'auc' is no rule for causal-lm models"),
        (Retrain(), "method.pretrained: none given"),
        (Retrain(pretrained="x"), "--retain: none given"),
    ):
        with pytest.raises(UserError) as caught:
            run(target, method=method, retain=None, pool=["a text of some length to be kept"])
        assert str(caught.value).startswith(start)
        assert "\n" not in str(caught.value)
