"""What is wrong with labelled records, classifiers and their options: status 2, one line, no trace.

The table is like that of `test_bad_input.py`, which has what every command refuses.
"""

import json

import numpy as np
import pytest
from test_bad_input import Wrong, check_refusal

from classifier_commands import (
    BROKEN_CONFIGS,
    EVALUATE,
    FILES,
    FINETUNE,
    FORGET_RUN,
    RUN,
    SETS,
    SHORT,
    TAGGED_RUN,
    only,
    rows,
)
from classifier_world import SEQUENCE, TOKEN
from command_world import RUN as CAUSAL_RUN
from command_world import json_lines, npy
from unlearner.cli.app import MET, NOT_MET

TEXT, TAGGED = (SETS[family]["forget"].records[0] for family in (SEQUENCE, TOKEN))


def records(id, content, *words, name="f.jsonl"):
    """A wrong file of forget records of a sequence classifier."""
    return Wrong(id, f"{FORGET_RUN} --forget {name}", ("forget", name, *words), {name: content})


def tagged(id, content, *words):
    command = TAGGED_RUN.replace("tagged-forget.jsonl", "f.jsonl")
    return Wrong(id, command, ("forget", "f.jsonl", *words), {"f.jsonl": content})


def setting(text, *words):
    return Wrong(f"setting {text}", RUN + text, words)


def model(name, *words):
    return Wrong(f"model {name}", RUN.replace("texts", name) + "--quiet", (name, *words))


def without(option, command=RUN):
    """The command line without an option and its value."""
    before, _, after = command.partition(f"--{option} ")
    return before + after.partition(" ")[2]


RECORDS = [
    records(
        "unknown label",
        only(TEXT, label="planet"),
        "line 1",
        "text of 6 characters",
        "nearest: 'place'",
        "animal, colour, place",
        "id2label",
    ),
    records(
        "label outside the head",
        json_lines({"text": "a cat", "label": 0}, {"text": "a dog", "label": 3}),
        "line 2",
        "label is 3",
        "0 to 2",
        "id2label",
    ),
    records(
        "labels counted from 1",
        json_lines({"text": "a cat", "label": 3}, {"text": "a dog", "label": 1}),
        "line 1",
        "go up to 3 and none is 0",
        "0 to 2",
        "data.first_label=1",
    ),
    records("negative label", json_lines({"text": "a cat", "label": -1}), "-1", "0 to 2"),
    records("label with a fraction", json_lines({"text": "a cat", "label": 1.5}), "float 1.5"),
    records("label of nothing", json_lines({"text": "a cat", "label": None}), "label", "line 1"),
    records("no label", json_lines({"text": "a cat"}), "no column label", "text and label"),
    records(
        "label under another name",
        json_lines({"text": "a cat", "kind": "animal"}),
        "no column label",
        "--map COLUMN=label",
    ),
    records(
        "two columns that may be the label",
        json_lines({"text": "a cat", "class": "animal", "topic": 1, "category": "animal"}),
        "any of category, class",
        "--map",
    ),
    records(
        "columns of a language model",
        json_lines({"prompt": "a", "response": "cat"}),
        "prompt, response",
        "text and label",
        "--map",
    ),
    records("columns of a tagger", FILES["tagged-forget.jsonl"], "tokens, tags", "text and label"),
    records("empty text", json_lines({"text": " ", "label": "animal"}), "line 1", "text is empty"),
    records("file of bare texts", "a cat\n", ".jsonl", name="f.txt"),
    records("file of token ids", npy(np.array([[1, 2]])), ".jsonl", name="f.npy"),
    tagged(
        "unequal tokens and tags",
        only(TAGGED, tags=TAGGED.tags[:-1]),
        "one tag",
        "line 1",
        f"tokens has {len(TAGGED.tokens)}, tags has {len(TAGGED.tags) - 1}",
    ),
    tagged(
        "unknown tag",
        only(TAGGED, tags=("B-plaice", *TAGGED.tags[1:])),
        "line 1",
        "tag",
        "text of 8 characters",
        "nearest: 'B-place'",
        "id2label",
    ),
    tagged("tags without tokens", json_lines({"tags": ["O"]}), "no column tokens"),
    tagged("tags that are text", json_lines({"tokens": ["a"], "tags": "O"}), "tags must be a list"),
    tagged("columns of a text", FILES["forget.jsonl"], "text", "tokens and tags"),
    Wrong(
        "a word without its tag",
        TAGGED_RUN.replace("tagged-forget.jsonl", "f.conll"),
        ("forget f.conll", "line 2", "one column", "write word"),
        {"f.conll": "cat O\ndog\n"},
    ),
    Wrong(
        "retain holds a forget record",
        RUN,
        ("--retain", "1 of its records", "teach them back", f"'{TEXT.id}'", "--drop-duplicates"),
        {"retain.jsonl": FILES["retain.jsonl"] + only(TEXT, id="again")},
    ),
    Wrong(
        "retain holds a forget record under another label",
        RUN,
        ("--retain", "'other'"),
        {"retain.jsonl": FILES["retain.jsonl"] + only(TEXT, id="other", label="animal")},
    ),
    Wrong(
        "retain holds nothing else",
        RUN + "--drop-duplicates",
        ("--retain", "every record is a copy", "others"),
        {"retain.jsonl": FILES["forget.jsonl"]},
    ),
    Wrong(
        "holdout is the forget set",
        RUN + "--holdout forget.jsonl",
        ("--holdout", "8 of its records", "not unseen", "--drop-duplicates"),
    ),
    Wrong("test holds a forget record", RUN + "--test forget.jsonl", ("--test", "not unseen")),
    Wrong("holdout without a file", RUN + "--holdout none.jsonl", ("holdout none.jsonl", "hf:")),
]

CLASSES = [
    Wrong(
        "class that does not exist",
        FORGET_RUN + "--forget-class anmal",
        ("--forget-class 'anmal'", "no such class", "did you mean 'animal'", "colour"),
    ),
    Wrong(
        "class by a number outside",
        FORGET_RUN + "--forget-class 3",
        ("--forget-class '3'", "it has 3: animal, colour, place"),
    ),
    Wrong(
        "class of a tagger",
        without("forget", TAGGED_RUN) + "--forget-class B-place",
        ("--forget-class B-place", "sequence classifiers", "--forget"),
    ),
    Wrong(
        "class and records",
        RUN + "--forget-class animal",
        ("--forget and --forget-class", "one of them"),
    ),
    Wrong(
        "class without the training data",
        without("retain", FORGET_RUN) + "--forget-class animal",
        ("--forget-class", "--retain", "whole training data"),
    ),
    Wrong(
        "class of no record",
        FORGET_RUN + "--forget-class animal",
        ("--forget-class animal", "retain.jsonl", "no records of this class"),
        {
            "retain.jsonl": json_lines(
                *(r for r in rows(SEQUENCE, "retain") if r["label"] != "animal")
            )
        },
    ),
    Wrong(
        "class of every record",
        FORGET_RUN + "--forget-class animal",
        ("--forget-class animal", "only records of this class"),
        {
            "retain.jsonl": json_lines(
                *(r for r in rows(SEQUENCE, "retain") if r["label"] == "animal")
            )
        },
    ),
    Wrong(
        "class of every unseen record",
        FORGET_RUN + "--forget-class animal",
        ("--holdout", "animal only", "others are needed"),
        {
            "holdout.jsonl": json_lines(
                *(r for r in rows(SEQUENCE, "test") if r["label"] == "animal")
            )
        },
    ),
]

MODELS = [
    model("regression", "one of several labels", "regression"),
    model("multi-label", "one of several labels", "multi_label_classification"),
    model("one-label", "one of several labels", "1 outputs"),
    model("same-names", "id2label", "alike"),
    model("encoder", "causal", "encoder", "BertModel", "unlearner finetune"),
    model("names-from-1", "id2label", "1 to 3", "number all 3 from 0 to 2"),
    model("names-with-a-gap", "id2label", "0 to 3", "number all 3 from 0 to 2"),
    *(
        model(name, "config.json", next(iter(changes)), "must be", "correct it, or leave it out")
        for name, changes in BROKEN_CONFIGS.items()
        if not name.startswith(("names-from", "names-with"))
    ),
    model("no-head", "missing", "classifier", "again"),
    model("not-a-number", "loss", "nan", "damaged", "again"),
    Wrong(
        "a language model for deepcut",
        CAUSAL_RUN.replace("forget.jsonl", "retain.jsonl") + "--method deepcut",
        (
            "method.name",
            "deepcut is for sequence-classification and token",
            "causal language model",
            "list methods",
        ),
    ),
    Wrong(
        "a classifier for icu",
        RUN + "--method icu",
        ("method.name", "icu is for causal-lm", "MODEL is sequence-classification"),
    ),
    Wrong(
        "retrained with other labels",
        RUN + "--retrained $classifiers/other-labels",
        ("--retrained", "other-labels", "labels differ", "order", "same"),
    ),
    Wrong(
        "retrained with other tokens",
        RUN + "--retrained $classifiers/other-tokens",
        ("--retrained", "other-tokens", "tokenizer differs"),
    ),
    Wrong(
        "retrained of another kind",
        RUN + "--retrained $classifiers/tags",
        ("--retrained", "tags", "differ"),
    ),
    Wrong(
        "retrained that is a language model",
        RUN + "--retrained $models/good",
        ("good", "a classifier is needed", "causal-lm"),
    ),
    Wrong(
        "retrained that does not exist",
        RUN + "--retrained none",
        ("none", "local folder", "network"),
    ),
    Wrong(
        "evaluate against other labels",
        EVALUATE + "--target $classifiers/other-labels",
        ("--target", "other-labels", "labels differ"),
    ),
    Wrong(
        "evaluate against another kind",
        EVALUATE + "--retrained $classifiers/tags",
        ("--retrained", "tags", "differ"),
    ),
    Wrong(
        "retraining by an unknown recipe",
        RUN + "--quiet --method retrain",
        ("method.pretrained", "provenance.json", "name the encoder"),
    ),
]

OPTIONS = [
    Wrong("no --forget", FORGET_RUN, ("--forget", "none given", "--forget-class")),
    Wrong("no --retain", without("retain"), ("--retain", "none given", "goes on learning")),
    Wrong("no --holdout", without("holdout"), ("--holdout", "none given", "never trained on")),
    Wrong("evaluate without --holdout", without("holdout", EVALUATE), ("--holdout", "none given")),
    Wrong("--pool", RUN + "--pool retain.jsonl", ("--pool", "causal", "--retain")),
    Wrong("--show-text", RUN + "--show-text", ("--show-text", "causal", "no text")),
    Wrong(
        "a classifier as the retrained model of a language model",
        CAUSAL_RUN + "--retrained $classifiers/texts",
        ("texts", "causal language model"),
    ),
    Wrong(
        "--forget-class of a language model",
        CAUSAL_RUN + "--forget-class animal",
        ("--forget-class", "for classifiers", "causal language model"),
    ),
]

SETTINGS = [
    setting("method.temperature=0", "method.temperature", "greater than 0", "got 0"),
    setting("method.forget_weight=-1", "method.forget_weight", "equal to 0", "-1"),
    setting("method.num_views=0", "method.num_views", "greater than 0"),
    setting("method.related_share=1.5", "method.related_share", "equal to 1", "1.5"),
    setting("method.remaining_per_forget=0", "method.remaining_per_forget", "greater than 0"),
    setting("method.steps_per_round=round", "method.steps_per_round", "integer", "'epoch'"),
    setting("method.repair_steps=-1", "method.repair_steps", "equal to 0"),
    setting("method.max_views=2", "method.max_views", "equal to 4"),
    setting("method.stop=soon", "method.stop", "'score'", "'auc'", "'soon'"),
    setting("method.vector=last", "method.vector", "'head'", "'last'"),
    setting("method.form=other", "method.form", "'deepcut'", "'other'"),
    setting("method.preset=papers", "method.preset", "'paper'", "'papers'"),
    setting("method.analogous_weight=1", "method", "unknown key 'analogous_weight'"),
    setting("criteria.score_margin=1.5", "criteria.score_margin", "equal to 1", "1.5"),
    setting("criteria.auc_margin=0.6", "criteria.auc_margin", "equal to 0.5", "0.6"),
    setting("criteria.score_drop=-0.1", "criteria.score_drop", "equal to 0", "-0.1"),
]

FINETUNING = [
    Wrong(
        "--labels-of for a classifier",
        FINETUNE.replace("encoder", "texts") + "--labels-of $classifiers/texts",
        ("--labels-of", "labels of its own", "leave"),
    ),
    Wrong(
        "--labels-of for a language model",
        FINETUNE.replace("$classifiers/encoder", "$models/good") + "--labels-of $classifiers/texts",
        ("--labels-of", "for classifiers"),
    ),
    Wrong(
        "--labels-of an encoder",
        FINETUNE + "--labels-of $classifiers/encoder",
        ("encoder", "a classifier is needed"),
    ),
    Wrong(
        "--labels-of a tagger for texts",
        FINETUNE + "--labels-of $classifiers/tags",
        ("records all.jsonl", "tokens and tags"),
    ),
    Wrong(
        "a label the head does not have",
        FINETUNE.replace("encoder", "texts"),
        ("records all.jsonl", "text of 6 characters", "nearest: 'place'"),
        {"all.jsonl": only(TEXT, label="planet")},
    ),
    Wrong(
        "a new head for one label",
        FINETUNE,
        ("records all.jsonl", "is the same", "at least 2"),
        {"all.jsonl": only(TEXT, label="place")},
    ),
    Wrong(
        "labels that are far numbers",
        FINETUNE,
        ("all.jsonl", "up to a number of 5 digits", "from 0"),
        {"all.jsonl": json_lines({"text": "a", "label": 0}, {"text": "b", "label": 99999})},
    ),
    Wrong(
        "records without labels",
        FINETUNE,
        ("records all.jsonl", "no column label"),
        {"all.jsonl": json_lines({"text": "a cat"})},
    ),
    Wrong(
        "--until accuracy of a language model",
        FINETUNE.replace("$classifiers/encoder", "$models/good") + "--until accuracy>=0.9",
        ("--until", "accuracy", "causal-lm"),
    ),
    Wrong(
        "--until ma of a classifier",
        FINETUNE + "--until ma>=0.9",
        ("--until", "ma", "sequence-classification"),
    ),
    Wrong(
        "--until entities of texts",
        FINETUNE + "--until f1_entity>=0.9",
        ("--until", "f1_entity", "sequence-classification"),
    ),
    Wrong(
        "finetune of a regression head",
        FINETUNE.replace("encoder", "regression"),
        ("regression", "one of several labels"),
    ),
]

WRONG = [*RECORDS, *CLASSES, *MODELS, *OPTIONS, *SETTINGS, *FINETUNING]


@pytest.mark.parametrize("case", WRONG, ids=[case.id.replace(" ", "-") for case in WRONG])
def test_wrong_input_ends_with_one_line_and_no_trace(case, call_classifier):
    check_refusal(case, call_classifier)


def test_no_case_stands_twice():
    assert len({case.id for case in WRONG}) == len(WRONG) >= 80


def test_copies_are_left_out_where_that_is_asked_for(call_classifier, tmp_path):
    """One copy in the retain set and one in the holdout set: 25 - 1 and 13 - 1 records stay."""
    files = {
        f"{role}.jsonl": FILES[f"{role}.jsonl"] + only(TEXT, id="again", text=text)
        for role, text in (("retain", TEXT.text), ("holdout", TEXT.text.upper()))
    }
    status, _, err, _ = call_classifier(f"{RUN} --drop-duplicates {SHORT}", files)
    assert err == ""
    assert status in (MET, NOT_MET)
    data = json.loads((tmp_path / "out/run/report.json").read_text("utf-8"))["data"]
    assert {role: some["records"] for role, some in data.items()} == {
        "forget": 8,
        "retain": 24,
        "holdout": 12,
    }
