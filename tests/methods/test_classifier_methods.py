"""Every method for classifiers, run on tiny models that know their records by heart."""

import copy
import math
from functools import partial

import pytest
import torch

from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    learn_by_heart,
    mean_loss,
    recipe_from,
    save_encoder,
    tiny_classifier,
    tiny_data,
    tiny_trainer,
    toy_tokenizer,
)
from unlearner import registry
from unlearner.errors import UserError
from unlearner.methods.bad_teacher import BadTeacher, random_model
from unlearner.methods.base import Method, load_method
from unlearner.methods.calibrated_distillation import CalibratedDistillation
from unlearner.methods.contrastive_unlearning import ContrastiveUnlearning
from unlearner.methods.finetune import FineTune
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.methods.gradient_difference import GradientDifference
from unlearner.methods.l1_sparse import L1Sparse
from unlearner.methods.random_labels import RandomLabels
from unlearner.methods.retrain import Retrain
from unlearner.methods.salun import SalUn
from unlearner.methods.scrub import SCRUB
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.heads import Classifier
from unlearner.training import losses
from unlearner.training.classifier_loop import forget_and_remaining, loss_steps
from unlearner.training.losses import encode_parts

torch.set_num_threads(1)

FAST = {"learning_rate": 1e-3, "stop": "never"}
# 6 forget records in batches of 3 or 2, 24 remaining ones in batches of 6 or all at once.
FORGETTING = [
    GradientAscent(**FAST, batch_size=3, max_epochs=4),
    GradientDifference(**FAST, batch_size=3, retain_batch_size=6, max_epochs=8, forget_weight=2.0),
    RandomLabels(**FAST, batch_size=3, retain_batch_size=6, max_epochs=6),
    BadTeacher(**FAST, batch_size=4, max_epochs=6),
    SCRUB(**FAST, batch_size=2, retain_batch_size=24, max_epochs=5, num_forget_epochs=5),
    ContrastiveUnlearning(**FAST, batch_size=3, retain_batch_size=6, max_epochs=3),
    SalUn(**FAST, batch_size=3, retain_batch_size=6, max_epochs=8),
    CalibratedDistillation(**FAST, batch_size=3, retain_batch_size=6, max_epochs=6),
]
APPROXIMATE = [
    *FORGETTING,
    FineTune(**FAST, batch_size=6, max_epochs=2),
    L1Sparse(**FAST, batch_size=6, max_epochs=2),
]
# Numbers of optimiser steps by the sizes above: passes x batches, and so on.
STEPS = {
    "gradient_ascent": 4 * 2,
    "gradient_difference": 8 * 2,
    "random_labels": 6 * 2,
    "bad_teacher": 6 * math.ceil((6 + 0.3 * 24) / 4),
    "scrub": 5 * (3 + 1),
    "contrastive_unlearning": 3 * 2 * 4,
    "salun": 8 * 2,
    "calibrated_distillation": 6 * 2,
    "finetune": 2 * 4,
}
ROUND = {
    "round",
    "steps",
    "forget_score",
    "holdout_score",
    "forget_loss",
    "holdout_loss",
    "mia_loss_auc",
    "retain_score",
    "loss",
    "seconds",
}


def by_name(method):
    return method.name


@pytest.fixture(autouse=True)
def same_dropout():
    """Dropout draws from the global generator, which the pipeline seeds."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=[SEQUENCE, TOKEN])
def world(request):
    """A family, its sets, and a model that knows the forget and the remaining records by heart."""
    data = tiny_data(request.param)
    model = learn_by_heart(tiny_classifier(request.param), data.forget, data.retain)
    return data, model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("method", FORGETTING, ids=by_name)
def test_the_forget_set_is_known_less_well_and_the_rounds_say_so(method, world):
    data, target = world
    trainer = tiny_trainer()
    before = mean_loss(target, data.forget)
    model = method.unlearn(copy.deepcopy(target), data, trainer)
    assert before < 0.15
    assert mean_loss(model, data.forget) > before + 0.1
    assert trainer.steps == STEPS[method.name]
    assert trainer.tokens > 0
    assert [line["round"] for line in trainer.rounds] == list(range(len(trainer.rounds)))
    assert all(set(line) == ROUND for line in trainer.rounds)
    assert trainer.rounds[-1]["forget_loss"] > trainer.rounds[0]["forget_loss"] + 0.1
    assert trainer.rounds[0]["loss"] == {}
    assert trainer.rounds[-1]["loss"]


@pytest.mark.parametrize(
    "method", [method for method in FORGETTING if "retain" in method.needs], ids=by_name
)
def test_the_remaining_records_suffer_less_than_the_forget_set(method, world):
    data, target = world
    model = method.unlearn(copy.deepcopy(target), data, tiny_trainer())
    assert mean_loss(model, data.retain) < mean_loss(model, data.forget)


def test_finetuning_learns_the_remaining_records(world):
    """From a model that has only begun to learn them, the loss falls by a third at least."""
    data, _ = world
    begun = learn_by_heart(tiny_classifier(data.family), data.retain, steps=3)
    before = mean_loss(begun, data.retain)
    trainer = tiny_trainer()
    model = FineTune(learning_rate=3e-3, stop="never", batch_size=6).unlearn(begun, data, trainer)
    assert mean_loss(model, data.retain) < 2 / 3 * before
    assert trainer.steps == 5 * 4


@pytest.mark.parametrize("method", APPROXIMATE, ids=by_name)
def test_nothing_is_done_where_the_rule_is_met_from_the_start(method, world):
    """A forget set of records never seen: by the rule "loss" of a set against itself, at once."""
    data, target = world
    unseen = data.__class__(**vars(data) | {"forget": data.holdout})
    model = copy.deepcopy(target)
    trainer = tiny_trainer()
    method.model_copy(update={"stop": "loss"}).unlearn(model, unseen, trainer)
    assert trainer.steps == 0
    assert len(trainer.rounds) == 1
    assert all(map(torch.equal, model.parameters(), target.parameters()))


@pytest.mark.parametrize("method", APPROXIMATE, ids=by_name)
def test_the_same_seed_gives_the_same_model(method, world):
    data, target = world
    made = []
    for _ in range(2):
        torch.manual_seed(0)  # of dropout, as the pipeline does
        made.append(method.unlearn(copy.deepcopy(target), data, tiny_trainer(seed=3)))
    assert all(map(torch.equal, made[0].parameters(), made[1].parameters()))


def test_a_class_is_removed_until_its_recall_is_at_chance():
    """All of class 0 is to go, none of it remains; the rule is recall <= 1/3, not the AUC."""
    data = tiny_data(sizes=(6, 24, 6), forget_class=0)
    rest = [index for index, record in enumerate(data.retain.records) if record.label != "animal"]
    data = data.__class__(
        **vars(data) | {"forget": labelled(6, label="animal"), "retain": data.retain.subset(rest)}
    )
    target = learn_by_heart(tiny_classifier(), data.forget, data.retain)
    for method in (ContrastiveUnlearning, GradientDifference, RandomLabels):
        trainer = tiny_trainer()
        method(learning_rate=1e-3, batch_size=6, retain_batch_size=8).unlearn(
            copy.deepcopy(target), data, trainer
        )
        assert trainer.rounds[0]["forget_score"] == 1.0
        assert trainer.rounds[-1]["forget_score"] <= 1 / 3
        assert all(line["forget_score"] > 1 / 3 for line in trainer.rounds[:-1])


def test_random_labels_does_not_change_the_records_it_is_judged_by(world):
    """The rounds measure the true labels: the forget score falls, the sets are not relabelled."""
    data, target = world
    labels = [example.labels.copy() for example in data.forget.examples]
    trainer = tiny_trainer()
    RandomLabels(**FAST, batch_size=3, max_epochs=12).unlearn(copy.deepcopy(target), data, trainer)
    assert trainer.rounds[-1]["forget_score"] < trainer.rounds[0]["forget_score"]
    for example, before in zip(data.forget.examples, labels, strict=True):
        assert (example.labels == before).all()


def test_scrub_takes_its_turns_and_looks_at_the_rule_behind_both(world):
    """2 epochs of 1 forget and 2 remaining batches, then one of 2 remaining ones: 3 + 3 + 2 steps.

    Looks at the rule come after 3, 6 and 8 steps.
    """
    data, target = world
    seen, trainer = [], tiny_trainer()
    trainer.log.listener = lambda line: (
        seen.append(sorted(line["loss"])) if "step" in line else None
    )
    method = SCRUB(**FAST, batch_size=6, retain_batch_size=12, max_epochs=3, num_forget_epochs=2)
    method.unlearn(copy.deepcopy(target), data, trainer)
    both = [["forget"], ["kl", "retain"], ["kl", "retain"]]
    assert seen == [*both, *both, ["kl", "retain"], ["kl", "retain"]]
    assert [line["steps"] for line in trainer.rounds] == [0, 3, 6, 8]


def test_bad_teacher_shows_the_forget_set_and_its_share_of_the_rest(monkeypatch, world):
    """One pass: every forget record once, round(0.3 x 24) = 7 of the remaining ones once."""
    data, target = world
    seen = {"forget": [], "retain": []}

    def encode(model, parts):
        for role, some in parts.items():
            seen[role] += [example.record for example in some]
        return encode_parts(model, parts)

    monkeypatch.setattr("unlearner.methods.bad_teacher.encode_parts", encode)
    BadTeacher(**FAST, batch_size=4, max_epochs=1).unlearn(
        copy.deepcopy(target), data, tiny_trainer()
    )
    assert sorted(seen["forget"]) == list(range(6))
    assert len(seen["retain"]) == len(set(seen["retain"])) == 7


def test_a_random_teacher_knows_nothing_and_leaves_the_global_generator_alone():
    model = tiny_classifier()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    teacher = random_model(model, torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(3), expected)
    assert type(teacher) is type(model)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    again = random_model(model, torch.Generator().manual_seed(1))
    assert torch.equal(teacher.classifier.weight, again.classifier.weight)
    assert not torch.equal(teacher.classifier.weight, model.classifier.weight)


def test_teachers_stay_as_they_were(monkeypatch, world):
    """The frozen copy still says after unlearning what the target model said before it."""
    data, target = world
    kept = []

    def frozen_copy(model):
        kept.append(losses.frozen_copy(model))
        return kept[-1]

    monkeypatch.setattr("unlearner.methods.scrub.frozen_copy", frozen_copy)
    model = SCRUB(**FAST, batch_size=3, retain_batch_size=6, max_epochs=1).unlearn(
        copy.deepcopy(target), data, tiny_trainer()
    )
    assert not kept[0].training
    assert all(map(torch.equal, kept[0].parameters(), target.parameters()))
    assert not all(map(torch.equal, model.parameters(), target.parameters()))


def test_each_forget_batch_meets_other_remaining_examples():
    """12 remaining examples in batches of 4, 3 for each forget batch: all of them, once."""
    data = tiny_data(sizes=(4, 12, 4))
    batches = forget_and_remaining(data, torch.Generator().manual_seed(0), (2, 4), per_forget=3)
    first = [next(batches) for _ in range(3)]
    assert len({id(parts["forget"]) for parts in first}) == 1
    assert sorted(e.record for parts in first for e in parts["retain"]) == list(range(12))
    assert next(batches)["forget"] != first[0]["forget"]


def test_parts_encoded_together_are_as_if_encoded_apart():
    data, model = tiny_data(TOKEN), tiny_classifier(TOKEN)
    parts = {"forget": data.forget.examples, "retain": data.retain.examples[:5], "none": []}
    together = encode_parts(model, parts)
    assert list(together) == ["forget", "retain"]
    for role, encoded in together.items():
        for one, other in zip(encoded, Classifier(model).encode(parts[role]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_is_the_loss_of_its_batch_and_counts_its_tokens():
    data, model, trainer = tiny_data(TOKEN), tiny_classifier(TOKEN), tiny_trainer()
    parts = {"forget": data.forget.examples, "retain": data.retain.examples[:5]}
    method = GradientDifference()
    (step,) = loss_steps(trainer, [parts], partial(method.loss, model))
    assert step() == method.loss(model, parts)
    assert trainer.tokens == sum(len(example) for some in parts.values() for example in some)


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_retraining_starts_from_the_encoder_and_sees_remaining_records_only(
    family, encoder, monkeypatch
):
    data = tiny_data(family, recipe=recipe_from(encoder, epochs=3))
    seen = []
    real = Classifier.encode

    def encode(self, examples, views=1):
        seen.extend(example.record for example in examples)
        ids = {id(example) for example in data.retain.examples}
        assert all(id(example) in ids for example in examples)
        return real(self, examples, views)

    monkeypatch.setattr(Classifier, "encode", encode)
    target, trainer = tiny_classifier(family), tiny_trainer()
    before = copy.deepcopy(target.state_dict())
    model = Retrain().unlearn(target, data, trainer)
    assert sorted(seen) == sorted([*range(24)] * 3)
    assert trainer.steps == 3 * math.ceil(24 / 8)
    assert model is not target
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert tuple(model.config.id2label.values()) == LABELS[family]
    assert mean_loss(model, data.retain) < 1.2
    assert [line["round"] for line in trainer.rounds] == [0, 1]
    assert all(set(line) == ROUND for line in trainer.rounds)


def test_retraining_takes_the_target_recipe_but_for_what_is_set(encoder):
    """The recipe says 2 epochs of batches of 8; set is one epoch: 24 / 8 = 3 steps."""
    data = tiny_data(recipe=recipe_from(encoder))
    trainer = tiny_trainer()
    Retrain(epochs=1).unlearn(tiny_classifier(), data, trainer)
    assert trainer.steps == 3


def test_retraining_needs_no_recipe_where_the_encoder_is_named(encoder):
    """Without a recipe: 10 epochs of batches of 32 by `ClassifierFinetuneSettings`, here one."""
    trainer = tiny_trainer()
    Retrain(pretrained=encoder, epochs=1).unlearn(tiny_classifier(), tiny_data(), trainer)
    assert trainer.steps == 1


@pytest.mark.parametrize("name", ["retrain", "sisa"])
def test_an_unknown_encoder_is_asked_for_in_one_line(name):
    with pytest.raises(UserError, match=r"^method\.pretrained: how the target was made") as caught:
        load_method(name)().unlearn(tiny_classifier(), tiny_data(), tiny_trainer())
    assert "\n" not in str(caught.value)


def test_an_encoder_that_reads_other_tokens_is_refused(tmp_path):
    folder = save_encoder(tmp_path / "other")
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["tiger"])
    data = tiny_data(recipe=recipe_from(folder))
    data = data.__class__(**vars(data) | {"tokenizer": tokenizer})
    with pytest.raises(UserError, match=r"^method\.pretrained: the tokenizer of .* differs"):
        Retrain().unlearn(tiny_classifier(), data, tiny_trainer())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in registry.names("methods")
        if set(CLASSIFIERS) <= set(load_method(name).families)
    ],
)
def test_every_method_for_classifiers_says_where_it_comes_from(name):
    described = load_method(name).__doc__ or ""
    for part in (".. math::", "Reference:", "Differs", "Args:"):
        assert part in described
    for field in set(load_method(name).model_fields) - set(Method.model_fields):
        assert f"{field}:" in described
