"""Labelled record files and classifier folders for tests of commands, and who runs a line."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    learn_by_heart,
    save_encoder,
    tiny_classifier,
    toy_tokenizer,
)
from command_world import caller, json_lines, spoil_config, spoil_weights
from unlearner.models import loading

SIZES = {"forget": 8, "retain": 24, "holdout": 12, "test": 9}


def tiny_sets(family):
    """Labelled sets without copies; the forget and the holdout set have labels nobody expects."""
    return {
        role: labelled(size, family, role, seed=3, odd=role in ("forget", "holdout"))
        for role, size in SIZES.items()
    }


SETS = {family: tiny_sets(family) for family in (SEQUENCE, TOKEN)}


def row(record):
    """A record as a line of a file holds it."""
    if record.tokens:
        return {"id": record.id, "tokens": list(record.tokens), "tags": list(record.tags)}
    return {"id": record.id, "text": record.text, "label": record.label}


def rows(family, *roles):
    return [row(record) for role in roles for record in SETS[family][role].records]


def lines(family, *roles):
    """A .jsonl file of one role's records, or of several with ids of their own."""
    some = rows(family, *roles)
    if len(roles) > 1:
        some = [one | {"id": f"x{number}"} for number, one in enumerate(some)]
    return json_lines(*some)


# By the folder's name, what is wrong in a classifier's config.json.
BROKEN_CONFIGS = {
    "names-from-1": {"id2label": {"1": "animal", "2": "colour", "3": "place"}},
    "names-with-a-gap": {"id2label": {"0": "animal", "1": "colour", "3": "place"}},
    "names-in-a-list": {"id2label": ["animal", "colour", "place"]},
    "names-by-words": {"id2label": {"first": "animal", "second": "colour", "third": "place"}},
    "names-in-lists": {"id2label": {"0": ["animal"], "1": ["colour"], "2": ["place"]}},
    "names-a-number": {"id2label": 3},
    "numbers-in-a-list": {"label2id": ["animal", "colour", "place"]},
    "architecture-a-number": {"architectures": 5},
    "architecture-an-object": {"architectures": {"a": 1}},
    "architecture-text": {"architectures": "BertForSequenceClassification"},
    "architecture-of-numbers": {"architectures": [5]},
    "type-a-list": {"model_type": ["bert"]},
}

FILES = {f"{role}.jsonl": lines(SEQUENCE, role) for role in SIZES} | {
    f"tagged-{role}.jsonl": lines(TOKEN, role) for role in SIZES
}
FILES |= {
    "all.jsonl": lines(SEQUENCE, "forget", "retain"),
    "tagged-all.jsonl": lines(TOKEN, "forget", "retain"),
}
FORGET_RUN = (
    "forget $classifiers/texts --retain retain.jsonl --holdout holdout.jsonl --output out/run "
)
RUN = FORGET_RUN + "--forget forget.jsonl "
TAGGED_RUN = (
    "forget $classifiers/tags --retain tagged-retain.jsonl --holdout tagged-holdout.jsonl "
    "--forget tagged-forget.jsonl --output out/run "
)
EVALUATE = (
    "evaluate $classifiers/texts --forget forget.jsonl --holdout holdout.jsonl --output out/run "
)
FINETUNE = "finetune $classifiers/encoder --records all.jsonl --output out/run "
SHORT = (
    " --quiet method.max_epochs=1 method.learning_rate=1e-3 method.steps_per_round=2"
    " evaluation.resamples=20"
)


@pytest.fixture(scope="session")
def classifier_folders(made_once):
    """Classifiers that know their records by heart, others to compare with, and unusable ones."""
    return made_once("classifiers", write_classifiers)


def write_classifiers(root):
    tokenizer = toy_tokenizer()
    for name, family in (("texts", SEQUENCE), ("tags", TOKEN)):
        sets = SETS[family]
        known = learn_by_heart(tiny_classifier(family), sets["forget"], sets["retain"])
        loading.save(known, tokenizer, root / name)
        retrained = learn_by_heart(tiny_classifier(family), sets["retain"])
        loading.save(retrained, tokenizer, root / f"{name}-retrained")
    loading.save(tiny_classifier(SEQUENCE, seed=1), tokenizer, root / "blank")
    save_encoder(root / "encoder")

    def spoiled(name):
        return shutil.copytree(root / "texts", root / name)

    spoil_config(spoiled("regression"), problem_type="regression")
    spoil_config(spoiled("multi-label"), problem_type="multi_label_classification")
    spoil_config(spoiled("one-label"), id2label={"0": "animal"}, label2id={"animal": 0})
    twice = dict(enumerate(["animal", "animal", "place"]))
    spoil_config(spoiled("same-names"), id2label=twice, label2id={"animal": 0, "place": 2})
    turned = LABELS[SEQUENCE][::-1]
    spoil_config(
        spoiled("other-labels"),
        id2label=dict(enumerate(turned)),
        label2id={name: number for number, name in enumerate(turned)},
    )
    for name, changes in BROKEN_CONFIGS.items():
        spoil_config(spoiled(name), **changes)
    path = spoiled("other-tokens") / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    ids = [*vocabulary.values()]
    content["model"]["vocab"] = dict(zip(vocabulary, ids[:5] + ids[:4:-1], strict=True))
    path.write_text(json.dumps(content))
    spoil_weights(spoiled("not-a-number"), lambda _, tensor: tensor * math.nan)
    spoil_weights(spoiled("no-head"), lambda name, _: None if "classifier" in name else _)


@pytest.fixture
def call_classifier(tmp_path, monkeypatch, model_folders, classifier_folders, capsys):
    """As `call`, in a folder of labelled records: $classifiers stands for `classifier_folders`."""
    monkeypatch.chdir(tmp_path)
    return caller(tmp_path, capsys, FILES, models=model_folders, classifiers=classifier_folders)


def only(record, **changes):
    """A file of one changed record."""
    return json_lines(row(replace(record, **changes)))
