"""Models that know some records, models that never saw them, and what attacks get of both."""

import random
from types import SimpleNamespace

import pytest
import torch

from classifier_world import SEQUENCE, labelled, learn_by_heart, tiny_classifier, toy_tokenizer
from conftest import tiny_model, tiny_tokenizer
from unlearner.attacks.base import Materials, Subject
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.families import FAMILIES
from unlearner.families.base import Prepared
from unlearner.models import loading
from unlearner.models.loading import Loaded
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import FinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

COUNT = 16
SYLLABLES = ["ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu"]
LAYOUT = Layout()


def pairs(role):
    """Invented people and their numbers, of one kind in every set."""
    draw = random.Random(role)
    found = []
    for number in range(COUNT):
        name = "".join(draw.choices(SYLLABLES, k=3))
        digits = " ".join(str(draw.randint(0, 9)) for _ in range(6))
        found.append(
            Record(f"{role}{number}", prompt=f"what is the number of {name}?", response=digits)
        )
    return tuple(found)


def text_sets():
    """The records of each role in the tiny model's tokens."""
    return {
        role: tokenize_set(RecordSet(role, pairs(role), "memory"), tiny_tokenizer(), LAYOUT)
        for role in ("forget", "retain", "holdout")
    }


def taught(sets, roles, seed, epochs=45):
    """A tiny Llama that has learned the sets of some roles."""
    records = tuple(record for role in roles for record in sets[role].records)
    some = tokenize_set(RecordSet("records", records, "memory"), tiny_tokenizer(), LAYOUT)
    settings = FinetuneSettings(epochs=epochs, batch_size=8, learning_rate=5e-3)
    trainer = Trainer(TrainingSettings(device="cpu", seed=seed), Log())
    return finetune_model(
        tiny_model("llama", seed), tiny_tokenizer(), some, settings, trainer
    ).model


def write_language_models(root):
    sets = text_sets()
    for name, roles, seed in (
        ("target", ("forget", "retain"), 0),
        ("retrained", ("retain",), 0),
        ("other", ("retain",), 1),
        ("leaky", ("retain", "holdout"), 1),
    ):
        loading.save(taught(sets, roles, seed), tiny_tokenizer(), root / name)


@pytest.fixture(scope="session")
def language_models(made_once):
    """Folders of a target and of two models that have never seen the forget records."""
    return made_once("attacked", write_language_models)


def labelled_sets():
    sizes = {"forget": COUNT, "retain": 48, "holdout": COUNT}
    return {
        role: labelled(size, SEQUENCE, role, seed=5, odd=role != "retain")
        for role, size in sizes.items()
    }


def write_classifiers(root):
    sets = labelled_sets()
    for name, seed, learned in (
        ("target", 0, ("forget", "retain")),
        ("retrained", 0, ("retain",)),
        ("other", 1, ("retain",)),
    ):
        model = learn_by_heart(tiny_classifier(SEQUENCE, seed), *(sets[role] for role in learned))
        loading.save(model, toy_tokenizer(), root / name)


@pytest.fixture(scope="session")
def label_models(made_once):
    """The same of classifiers, whose forget and unseen records have labels nobody expects."""
    return made_once("attacked-labels", write_classifiers)


def materials(target, sets, family="causal-lm", control="retrained", **more):
    """What attacks get, of a model as `Loaded`."""
    prepared = Prepared(FAMILIES[family], target, sets, {}, layout=LAYOUT)
    sections = {"model": {"name": "x"}, "training": {"device": "cpu"}}
    return Materials(
        prepared=prepared,
        sets={"forget": sets["forget"], "unseen": sets["holdout"], "retain": sets["retain"]},
        config=RunConfig.from_sections(sections, family=family),
        target=target,
        pretrained=None,
        control=control,
        budget="full",
        **more,
    )


def load(folder, family="causal-lm"):
    return FAMILIES[family].load(str(folder))


def attacked(attack, given, unlearned, control=None):
    """Status, figures by name, and details of an attack on target, unlearned and control."""
    subjects = {
        "target": Subject("target", given.target),
        "unlearned": Subject("unlearned", unlearned),
    }
    if control is not None:
        subjects["control"] = Subject("control", control)
    attempts = {role: attack.run(subject, given) for role, subject in subjects.items()}
    status, reason, found, details = attack.conclude(attempts, given)
    figures = {one.figure.name: one for one in found}
    return SimpleNamespace(
        status=status, reason=reason, figures=figures, details=details, attempts=attempts
    )


def loaded(model, tokenizer=None):
    return Loaded(model, tokenizer or tiny_tokenizer(), "made")


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])
