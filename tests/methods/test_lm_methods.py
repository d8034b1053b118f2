"""What every method for language models keeps to, found by the catalog and run on a tiny model.

ICU, which has sets and a loop of its own, is in `test_icu.py`.
"""

import functools
import json
import re
import tempfile
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from conftest import tiny_model, tiny_tokenizer
from unlearner import registry
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.inference.language_model import Questions
from unlearner.methods.base import Method, load_method
from unlearner.settings import TrainingSettings
from unlearner.training.data import HoldoutBaseline, Recipe, UnlearningData
from unlearner.training.language_loop import Drawing
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

OWN_TESTS = ("icu", "retrain")
CLASSES = {
    name: load_method(name)
    for name in registry.names("methods")
    if name not in OWN_TESTS and "causal-lm" in load_method(name).families
}
# Below every model, so that no record ever counts as forgotten.
LOW = HoldoutBaseline(
    ma=-1.0, el_10=0.0, es=0.0, loss=3.0, worst_ma=-1.0, worst_el_10=0.0, source="test"
)
# Prompts and answers are longer than a window together: records of one, two and three windows.
LAYOUT = Layout(scope="sequence", max_length=32)
QUESTIONS = (
    ("where is ann?", "in the town"),
    ("who has the phone of the person?", "ben has it, he is at the mill"),
    ("what is the number?", "the number of the person in the town is 4 7 1, of the mill 2 2"),
)
POOL = (
    ("what is a mill?", "it makes bread of corn"),
    ("who is ben?", "he is a man of the town"),
    ("is it late?", "no, it is early"),
    ("where is the sea?", "far from the town"),
)
OTHER = (
    ("how far is the moon?", "very far"),
    ("why?", "nobody knows that"),
    ("is the sea deep?", "yes, in the middle"),
    ("when do birds sing?", "in the morning and in spring"),
)


def tokenized(name, pairs, scope=LAYOUT.scope):
    records = [Record(str(i), prompt=one, response=two) for i, (one, two) in enumerate(pairs)]
    layout = replace(LAYOUT, scope=scope)
    return tokenize_set(RecordSet(name, tuple(records), "memory"), tiny_tokenizer(), layout)


class NotToBeRead:
    def __getattr__(self, name):
        raise AssertionError(f"the method asked for {name!r} of a set that it does not need")


def made(name, **fields):
    """The method with few, large and cheap steps: two passes over three records."""
    batch_size = fields.get("batch_size", 2)
    by_steps = {"min_steps": 1, "steps": 1, "finishing_steps": 0}
    by_steps["steps_per_round"] = -(-3 // batch_size)
    few = {key: value for key, value in by_steps.items() if key in CLASSES[name].model_fields}
    return CLASSES[name](learning_rate=1e-3, max_epochs=2, **{"batch_size": 2, **few, **fields})


@functools.cache
def pretrained():
    """The folder of the model that the target was made of, for methods that begin with it."""
    folder = tempfile.mkdtemp()
    tiny_model("llama", seed=5).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def run(name, *, seed=0, pool=POOL, watched=POOL, log=None, **fields):
    """The trainer and the model of a run."""
    method = made(name, **fields)
    learns = "retain" in method.needs
    data = UnlearningData(
        tiny_tokenizer(),
        tokenized("forget", QUESTIONS),
        tokenized("pool", pool) if learns else NotToBeRead(),
        tokenized("retain", watched),
        NotToBeRead(),
        LOW,
        Questions(prompt_start=0.75),
        1e9,
        layout=LAYOUT,
        partners=tokenized("holdout", OTHER[:2]) if "holdout" in method.needs else NotToBeRead(),
        recipe=Recipe(pretrained(), {}),
    )  # type: ignore[arg-type]
    trainer = Trainer(TrainingSettings(device="cpu", seed=seed), Log(log))
    return trainer, method.unlearn(tiny_model("llama"), data, trainer)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@functools.cache
def plain_run(name):
    return run(name)


@pytest.fixture(params=sorted(CLASSES))
def name(request):
    return request.param


def test_the_catalog_has_the_methods_that_are_compared():
    compared = {"npo", "simnpo", "idk", "dpo", "undial", "kl_minimization"}
    assert compared | {"weighted_gradient_ascent"} <= set(CLASSES)


# A run


def test_a_run_changes_weights_and_leaves_them_finite(name):
    trainer, model = plain_run(name)
    before, after = weights(tiny_model("llama")), weights(model)
    assert not torch.equal(before, after)
    assert after.isfinite().all()
    assert trainer.steps > 0
    assert trainer.tokens > 0
    assert [line["round"] for line in trainer.rounds] == [0, 1, 2]


def test_terms_of_a_round_are_finite_numbers_and_one_is_of_the_forget_records(name):
    trainer, _ = plain_run(name)
    terms = trainer.rounds[1]["loss"]
    assert "forget" in terms
    assert torch.tensor(list(terms.values())).isfinite().all()


@pytest.mark.parametrize("reads_forget", [True, False])
def test_the_tokens_of_a_run_are_those_that_its_loss_was_given(monkeypatch, reads_forget):
    """NPO reads the forget records, IDK their refusals instead."""
    name, given = ("npo", {"forget", "retain"}) if reads_forget else ("idk", {"refusal", "retain"})
    kind, seen = CLASSES[name], []

    def loss(method, model, batch, reference):
        seen.append({key: int(some["attention_mask"].sum()) for key, some in batch.items()})
        return kind_loss(method, model, batch, reference)

    kind_loss = kind.loss
    monkeypatch.setattr(kind, "loss", loss)
    trainer, _ = run(name)
    assert kind.reads_forget is reads_forget
    assert all(set(some) == given for some in seen)
    assert trainer.tokens == sum(count for some in seen for count in some.values())


def test_equal_seeds_give_equal_bytes(name):
    _, model = run(name)
    assert torch.equal(weights(model), weights(plain_run(name)[1]))


def test_every_parameter_is_trainable_again_behind_a_run(name):
    _, model = plain_run(name)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_pool_is_learned_by_those_that_need_kept_text_alone(name):
    """Another pool gives another model where "retain" is in `needs`; elsewhere it is not read."""
    _, model = run(name, pool=OTHER)
    same = torch.equal(weights(model), weights(plain_run(name)[1]))
    assert same == ("retain" not in CLASSES[name].needs)


def test_watched_text_is_not_learned(name):
    _, model = run(name, watched=OTHER)
    assert torch.equal(weights(model), weights(plain_run(name)[1]))


def test_a_kept_window_within_a_prompt_is_not_drawn(name):
    """A step of nothing else would have a mean over no label."""
    method = made(name)
    pool = tokenized("pool", (("it is " * 40, "so"), *POOL), scope="response")
    assert not pool.windows[0].scored.any()
    data = UnlearningData(
        tiny_tokenizer(),
        tokenized("forget", QUESTIONS),
        pool,
        None,
        None,
        LOW,
        Questions(),
        1.0,
        partners=tokenized("holdout", OTHER),
    )
    drawing = Drawing(method, data, {}, torch.Generator().manual_seed(0))
    assert all(window.scored.any() for window in drawing.windows.get("retain", ()))


def test_a_mean_is_over_the_steps_that_told_the_term(monkeypatch):
    """Three records two at a time: the term of the last, which is alone, is not told."""
    forgotten = []
    take_step = Trainer.step

    def step(trainer, *some, **rest):
        found = take_step(trainer, *some, **rest)
        forgotten.append(found.get("forget"))
        return found

    monkeypatch.setattr(Trainer, "step", step)
    trainer, _ = run("npo")
    first, second = forgotten[:2]
    assert second is None
    assert trainer.rounds[1]["loss"]["forget"] == first


def test_the_loss_of_a_lone_forget_record_is_not_written_down(name, tmp_path):
    """With one record a step every value of the term "forget" would be that of a record."""
    trainer, _ = run(name, batch_size=1, log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum("step" in line for line in lines) == trainer.steps > 0
    assert not any("forget" in line["loss"] for line in [*lines, *trainer.rounds])


# The class


def arguments(documented):
    """The names in the Args of a docstring."""
    _, _, below = (documented.__doc__ or "").partition("Args:\n")
    return set(re.findall(r"^ {8}(\w+): ", below, re.MULTILINE))


def test_every_field_is_documented_and_nothing_else(name):
    fields = set(CLASSES[name].model_fields)
    assert fields <= arguments(CLASSES[name]) | arguments(Method)
    assert arguments(CLASSES[name]) <= fields


def test_the_docstring_has_an_equation_a_source_and_what_differs(name):
    text = CLASSES[name].__doc__ or ""
    assert ".. math::" in text
    assert "Reference: " in text
    assert re.search(r"Differs? from the ", text)


def test_what_is_searched_is_a_field_whose_default_lies_in_the_range(name):
    method = CLASSES[name]().for_family("causal-lm")
    for field, (low, high) in method.searched.items():
        assert 0 < low <= getattr(method, field) <= high


def test_fields_are_refused_by_name_and_by_bound(name):
    for wrong in ({"batch_size": 0}, {"learning_rate": -1.0}, {"no_such_field": 1}):
        with pytest.raises(ValidationError):
            CLASSES[name](**wrong)


def test_a_method_is_its_own_configuration(name):
    method = made(name)
    assert CLASSES[name].model_validate(json.loads(method.model_dump_json())) == method
    assert method.name == name
