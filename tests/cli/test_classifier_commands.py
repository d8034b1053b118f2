"""Whole commands on tiny classifiers of texts and of words: what they write and say."""

import json
import re

import jsonschema
import pytest
import torch
import yaml
from test_commands import SCHEMA, read, without_times
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from classifier_commands import FILES, SETS
from classifier_world import (
    LABELS,
    MAX_LENGTH,
    SEQUENCE,
    TOKEN,
    labelled,
    learn_by_heart,
    save_encoder,
    tiny_classifier,
    toy_tokenizer,
)
from command_world import json_lines
from promise import leaks
from unlearner.cli.app import MET, NOT_MET, run
from unlearner.data.labelled import Labelling, tokenize_labelled
from unlearner.data.loading import read_records
from unlearner.models import loading
from unlearner.models.loading import load_classifier
from unlearner.training.trainer import Trainer

FAST = [
    "--quiet",
    "method.max_epochs=4",
    "method.learning_rate=1e-3",
    "method.steps_per_round=4",
    "evaluation.resamples=50",
    "training.device=cpu",
]
LEARNING = ["epochs=80", "batch_size=8", "learning_rate=5e-3", "--quiet"]
SEQUENCE_METRICS = {
    "accuracy",
    "f1_micro",
    "f1_macro",
    "loss",
    "mia_loss_auc",
    "mia_entropy_auc",
    "mia_modified_entropy_auc",
}
ROLES = ("forget", "retain", "holdout", "test")


@pytest.fixture(scope="module", autouse=True)
def one_key(tmp_path_factory):
    """Digests of two runs are equal only under one key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        yield


@pytest.fixture(autouse=True)
def private_key():
    """In place of one key a test."""


def conll(family_set):
    sentences = (zip(r.tokens, r.tags, strict=True) for r in family_set.records)
    return "\n\n".join("\n".join(f"{w}\t{t}" for w, t in one) for one in sentences) + "\n"


def finetuned(model, records, output, *options):
    line = ["finetune", str(model), "--records", str(records), "--output", str(output)]
    return run([*line, *LEARNING, *options])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Record files, an encoder, and targets and retrained models that `finetune` made of it."""
    root = tmp_path_factory.mktemp("world")
    save_encoder(root / "encoder")
    for name, content in FILES.items():
        (root / name).write_text(content, encoding="utf-8")
    (root / "tagged-all.conll").write_text(
        conll(SETS[TOKEN]["forget"]) + "\n" + conll(SETS[TOKEN]["retain"]), encoding="utf-8"
    )
    encoder, goal = root / "encoder", ("--until", "accuracy>=1")
    assert finetuned(encoder, root / "all.jsonl", root / "target", *goal) == MET
    assert finetuned(encoder, root / "retain.jsonl", root / "retrained", *goal) == MET
    assert finetuned(encoder, root / "tagged-all.conll", root / "tagger", *goal) == MET
    return root


def sets(world, roles=ROLES, prefix=""):
    return [part for role in roles for part in (f"--{role}", str(world / f"{prefix}{role}.jsonl"))]


@pytest.fixture(scope="module")
def forgotten(world):
    """The folder that `unlearner forget` writes, and its exit status."""
    output = world / "run"
    beside = ["--retrained", str(world / "retrained")]
    line = ["forget", str(world / "target"), *sets(world), *beside, "--output", str(output)]
    return output, run([*line, *FAST])


# --- finetune ---------------------------------------------------------------------------------


def test_a_new_head_has_the_labels_of_the_records_in_their_order(world):
    model = AutoModelForSequenceClassification.from_pretrained(world / "target")
    assert model.config.id2label == {0: "animal", 1: "colour", 2: "place"}
    tagger = AutoModelForTokenClassification.from_pretrained(world / "tagger")
    assert tagger.config.id2label == {0: "O", 1: "B-animal", 2: "B-place", 3: "I-animal"}


def test_the_recipe_tells_how_the_model_was_made_and_how_long_it_took(world):
    recipe = read(world / "target", "provenance.json")
    assert recipe["model"] == str(world / "encoder")
    assert recipe["finetune"]["batch_size"] == 8
    assert recipe["seconds"] > 0


def test_a_classifier_learns_on_with_the_labels_it_has(world):
    """Records of one label only, which would be too few for a new head."""
    rows = [json.loads(line) for line in FILES["test.jsonl"].splitlines()]
    some = world / "places.jsonl"
    some.write_text(json_lines(*(row for row in rows if row["label"] == "place")))
    assert finetuned(world / "target", some, world / "further", "epochs=1") == MET
    before, after = (load_classifier(str(world / name)) for name in ("target", "further"))
    assert after.labels == before.labels
    weights = [one.model.classifier.weight for one in (before, after)]
    assert not torch.equal(*weights)


def test_a_new_head_takes_the_labels_of_another_classifier(world):
    """In its order, which is not that of the names; the records lack one of them."""
    other = load_classifier(str(world / "target"))
    names = ["place", "sound", "colour", "animal"]
    other.model.config.id2label = dict(enumerate(names))
    like = AutoModelForSequenceClassification.from_config(other.model.config)
    loading.save(like, other.tokenizer, world / "like")
    like_it = ("--labels-of", str(world / "like"), "epochs=1")
    assert finetuned(world / "encoder", world / "all.jsonl", world / "relabelled", *like_it) == MET
    assert load_classifier(str(world / "relabelled")).labels == tuple(names)


def test_finetune_that_misses_its_goal_says_so(world, capsys):
    missed = ("--until", "accuracy>=1", "epochs=1")
    assert finetuned(world / "encoder", world / "all.jsonl", world / "missed", *missed) == NOT_MET
    assert load_classifier(str(world / "missed")).family == SEQUENCE
    assert capsys.readouterr().err == ""  # --quiet


# --- check ------------------------------------------------------------------------------------


def test_check_tells_what_is_known_and_what_a_run_takes_and_writes_nothing(world, capsys):
    before = sorted(world.rglob("*"))
    assert run(["check", str(world / "target"), *sets(world)]) == MET
    out = " ".join(capsys.readouterr().out.split())
    assert "known: accuracy 1.000, unseen records have 0." in out
    assert "copies of forget records in retain: 0 exact" in out
    assert re.search(r"[\d.]+ s an epoch, at most 20 epochs \(.*\), and up to [\d.]+ MiB", out)
    assert sorted(world.rglob("*")) == before


def test_check_needs_no_more_than_the_records(world, capsys):
    assert run(["check", str(world / "target"), *sets(world, ["forget"])]) == MET
    assert "without --holdout there are no unseen records" in capsys.readouterr().out


def test_check_of_a_class_compares_with_chance(world, capsys):
    line = ["check", str(world / "target"), *sets(world, ["retain"]), "--forget-class", "place"]
    assert run(line) == MET
    assert "accuracy 1.000 of the class, chance is 0.333" in capsys.readouterr().out


# --- forget -----------------------------------------------------------------------------------


def test_forget_writes_what_the_interface_promises(forgotten):
    output, status = forgotten
    assert {path.name for path in output.iterdir()} == {
        "model",
        "report.json",
        "report.html",
        "report.md",
        "run.yaml",
        "log.jsonl",
    }
    report = read(output)
    jsonschema.validate(report, SCHEMA)
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET)
    assert report["model"]["family"] == SEQUENCE
    assert report["method"]["name"] == "deepcut"
    assert {claim["claim"] for claim in report["verdict"]["claims"]} == {
        "forgetting",
        "membership",
        "utility",
    }
    assert {role: some["records"] for role, some in report["data"].items()} == {
        "forget": 8,
        "retain": 24,
        "holdout": 12,
        "test": 9,
    }
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
    assert (
        sum("step" in line and "loss" in line and "round" not in line for line in lines)
        == (report["cost"]["steps"])
    )
    assert [line for line in lines if "round" in line] == report["rounds"]


def test_the_records_are_known_before_and_less_after(forgotten):
    results = read(forgotten[0])["results"]
    before, after = (results[model]["forget"] for model in ("target", "unlearned"))
    assert before["accuracy"]["value"] == 1.0
    assert after["accuracy"]["value"] < 0.7
    assert after["loss"]["value"] > before["loss"]["value"] + 0.5
    assert set(before) == SEQUENCE_METRICS | {"js_to_retrained"}
    assert set(results["retrained"]["forget"]) == SEQUENCE_METRICS
    assert set(results["retrained"]["test"]) == {"accuracy", "f1_micro", "f1_macro", "loss"}


def test_the_retrained_model_is_the_yardstick_and_its_cost_is_known(forgotten, world):
    report = read(forgotten[0])
    assert set(report["results"]) == {"target", "unlearned", "retrained"}
    assert set(report["distance_to_retrained"]) == {"target", "unlearned"}
    for found in report["distance_to_retrained"].values():
        assert {"forget", "retain", "test"} <= set(found["margin_kl"])
    recipe = read(world / "retrained", "provenance.json")
    assert report["cost"]["seconds_retraining"] == recipe["seconds"]
    assert [set(one) for one in report["per_record"]] == [
        {"id", "before", "after", "retrained"}
    ] * 8
    assert {"projection", "geometry", "confusion"} <= set(report)


def test_the_unlearned_model_loads_like_any_other(forgotten, world):
    folder = forgotten[0] / "model"
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pth", ".pkl"}
    assert (folder / "README.md").read_text("utf-8").startswith("---\n")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    target = AutoModelForSequenceClassification.from_pretrained(world / "target")
    assert model.config.id2label == target.config.id2label
    record = SETS[SEQUENCE]["forget"].records[0]
    batch = tokenizer(record.text, return_tensors="pt")
    label = LABELS[SEQUENCE].index(record.label)
    with torch.no_grad():
        before, after = (one(**batch).logits.softmax(-1)[0, label] for one in (target, model))
    assert before > 0.6
    assert after < before


def test_the_run_file_repeats_the_run(forgotten, world):
    """Same model bytes, and the same report but for what the clock says."""
    first, status = forgotten
    second = world / "again"
    again = run(["forget", "--config", str(first / "run.yaml"), "--output", str(second), "--quiet"])
    assert again == status
    assert (second / "run.yaml").read_bytes() == (first / "run.yaml").read_bytes()
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
    assert without_times(read(second)) == without_times(read(first))


def test_another_seed_gives_another_model(forgotten, world):
    first, second = forgotten[0], world / "other-seed"
    config = ["--config", str(first / "run.yaml"), "--quiet", "training.seed=1"]
    assert run(["forget", *config, "--output", str(second)]) in (MET, NOT_MET)
    names = [folder / "model" / "model.safetensors" for folder in (first, second)]
    assert names[0].read_bytes() != names[1].read_bytes()


def test_no_text_of_any_record_is_left_in_the_output(forgotten):
    texts = [record.text for some in SETS[SEQUENCE].values() for record in some.records]
    assert sum(len(text.split()) >= 5 for text in texts) > 30
    assert leaks(forgotten[0], texts) == []


def test_a_class_is_removed(world):
    """Of 24 kept records 8 are places; 12 + 9 unseen ones have 4 + 3 of them."""
    output = world / "no-places"
    line = ["forget", str(world / "target"), *sets(world, ROLES[1:]), "--output", str(output)]
    assert run([*line, "--forget-class", "place", *FAST, "method.learning_rate=3e-3"]) in (
        MET,
        NOT_MET,
    )
    report = read(output)
    jsonschema.validate(report, SCHEMA)
    assert report["request"]["forget_class"] == "place"
    assert {role: some["records"] for role, some in report["data"].items()} == {
        "forget": 8,
        "retain": 16,
        "holdout": 8,
        "test": 6,
        "holdout_class": 7,
    }
    results = report["results"]
    assert results["target"]["forget"]["accuracy"]["value"] == 1.0
    assert results["unlearned"]["forget"]["accuracy"]["value"] <= 1 / 3
    config = yaml.safe_load((output / "run.yaml").read_text("utf-8"))
    assert config["data"]["forget_class"] == "place"


def test_a_tagger_forgets_sentences(world):
    output = world / "tags-run"
    line = ["forget", str(world / "tagger"), *sets(world, prefix="tagged-")]
    assert run([*line, "--output", str(output), *FAST]) in (MET, NOT_MET)
    report = read(output)
    jsonschema.validate(report, SCHEMA)
    assert report["model"]["family"] == TOKEN
    before, after = (report["results"][m]["forget"] for m in ("target", "unlearned"))
    assert before["f1_entity"]["value"] == 1.0
    assert after["f1_entity"]["value"] < 1.0
    assert 0 < report["per_record"][0]["before"]["correct"] <= 1
    texts = [record.content for some in SETS[TOKEN].values() for record in some.records]
    assert leaks(output, texts) == []


# --- evaluate, report -------------------------------------------------------------------------


def test_evaluate_measures_the_saved_model_as_forget_did(forgotten, world, tmp_path):
    """The same models and records: every figure and the verdict are those of the run."""
    output = tmp_path / "measured"
    beside = ["--target", str(world / "target"), "--retrained", str(world / "retrained")]
    status = run(
        [
            "evaluate",
            str(forgotten[0] / "model"),
            *sets(world),
            *beside,
            "--quiet",
            "--output",
            str(output),
            "evaluation.resamples=50",
        ]
    )
    assert status == forgotten[1]
    report, earlier = read(output), read(forgotten[0])
    jsonschema.validate(report, SCHEMA)
    assert report["command"] == "evaluate"
    for part in ("results", "verdict", "distance_to_retrained", "criteria", "per_record"):
        assert report[part] == earlier[part], part
    assert {path.name for path in output.iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "run.yaml",
    }


def test_evaluate_needs_no_other_model(forgotten, world, tmp_path):
    output = tmp_path / "measured"
    status = run(
        [
            "evaluate",
            str(forgotten[0] / "model"),
            *sets(world, ["forget", "holdout"]),
            "--quiet",
            "--output",
            str(output),
            "evaluation.resamples=20",
        ]
    )
    assert status in (MET, NOT_MET)
    report = read(output)
    jsonschema.validate(report, SCHEMA)
    assert set(report["results"]) == {"unlearned"}


def test_report_writes_the_pages_again_from_the_numbers(forgotten, capsys):
    output, _ = forgotten
    pages = {name: (output / name).read_bytes() for name in ("report.html", "report.md")}
    for name in pages:
        (output / name).write_text("spoiled")
    assert run(["report", str(output)]) == MET
    capsys.readouterr()
    assert {name: (output / name).read_bytes() for name in pages} == pages


# What the data and the model are like


SHORT_RUN = (
    " --output out --quiet method.max_epochs=1 method.learning_rate=1e-3 evaluation.resamples=20"
)


@pytest.fixture
def report_and_schema(tmp_path):
    def both():
        report = read(tmp_path / "out")
        jsonschema.validate(report, SCHEMA)
        return report

    return both


@pytest.fixture
def tagger(tmp_path):
    """Record files and a tagger of them whose tags are written another way."""

    def make(names, rewrite):
        folder, sets = tmp_path / "tagger", SETS[TOKEN]
        for role, records in sets.items():
            rows = [
                {"id": r.id, "words": list(r.tokens), "ner_tags": rewrite(r.tags)}
                for r in records.records
            ]
            (tmp_path / f"own-{role}.jsonl").write_text(json_lines(*rows))
        model = tiny_classifier(
            TOKEN, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
        )
        records = [
            read_records(str(tmp_path / f"own-{role}.jsonl"), name=role, family=TOKEN, labels=names)
            for role in ("forget", "retain")
        ]
        labelling = Labelling(names, MAX_LENGTH, TOKEN)
        known = [tokenize_labelled(some, toy_tokenizer(), labelling) for some in records]
        loading.save(learn_by_heart(model, *known), toy_tokenizer(), folder)
        roles = ("forget", "retain", "holdout")
        return " ".join([str(folder), *(f"--{role} own-{role}.jsonl" for role in roles)])

    return make


IOB1 = ("O", "B-animal", "I-animal", "B-place", "I-place")


def as_iob1(tags):
    """B- only where an entity touches one of its own type: the place behind two animals does."""
    kinds = [tag[2:] for tag in tags]
    touches = [number > 0 and kinds[number - 1] == kind for number, kind in enumerate(kinds)]
    return [
        tag if tag == "O" else ("B-" if tag[0] == "B" and touch else "I-") + tag[2:]
        for tag, touch in zip(tags, touches, strict=True)
    ]


def test_a_tagger_of_iob1_data_is_measured_in_iob1(call_classifier, tagger, report_and_schema):
    """Its labels are those of IOB2, in which none of these records held an entity."""
    line = tagger(IOB1, as_iob1)
    status, out, err, _ = call_classifier(f"check {line}")
    assert status == MET, err
    assert "tags: IOB1, by the " in out
    call_classifier(f"forget {line}{SHORT_RUN}")
    report = report_and_schema()
    assert report["evaluation"] == {
        "score": "f1_entity",
        "tag_scheme": "IOB1",
        "tags_off_scheme": 0,
    }
    assert report["results"]["target"]["forget"]["f1_entity"]["value"] == 1.0
    assert report["rounds"][0]["forget_score"] == 1.0
    assert {c["metric"] for c in report["criteria"]} == {"f1_entity", "mia_loss_auc"}


PARTS = {"O": "X", "B-animal": "NOUN", "I-animal": "NOUN", "B-place": "NAME"}


def test_a_tagger_of_parts_of_speech_is_measured_by_its_words(
    call_classifier, tagger, report_and_schema
):
    line = tagger(("NAME", "NOUN", "X"), lambda tags: [PARTS[tag] for tag in tags])
    status, out, err, _ = call_classifier(f"check {line}")
    assert status == MET, err
    assert "no label is O, so that words are scored one by one, by accuracy" in out
    assert "f1_entity" not in out
    status, _, err, _ = call_classifier(f"forget {line} --force{SHORT_RUN}")
    assert status in (MET, NOT_MET), err
    report = report_and_schema()
    assert report["evaluation"]["score"] == "accuracy"
    assert {c["metric"] for c in report["criteria"]} == {"accuracy", "mia_loss_auc"}
    statuses = {c["claim"]: c["status"] for c in report["verdict"]["claims"]}
    assert statuses["forgetting"] != "not measured"
    assert statuses["utility"] != "not measured"
    target = report["results"]["target"]["forget"]["accuracy"]["value"]
    assert report["rounds"][0]["forget_score"] == pytest.approx(target)


def test_a_forced_run_says_first_that_there_was_nothing_to_forget(
    call_classifier, report_and_schema, tmp_path
):
    """Of a model that has learned nothing at all."""
    line = "$classifiers/blank --forget test.jsonl --retain retain.jsonl --holdout unseen.jsonl"
    files = {"unseen.jsonl": json_lines(*further(9))}
    status, out, _, _ = call_classifier(f"forget {line} --output none", files)
    assert (status, "nothing to unlearn" in out) == (MET, True)
    assert not (tmp_path / "none").exists()
    status, out, err, _ = call_classifier(f"forget {line} --force{SHORT_RUN}", files)
    report = report_and_schema()
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET), err
    assert report["check"]["memorised"] is False
    assert "before the run: nothing to unlearn" in out
    page = (tmp_path / "out" / "report.md").read_text()
    first = page.partition("\n**")[2].partition("\n")[0]
    assert "There was nothing to forget: by these tests the classifier did not know" in first


def further(count):
    """Further records of the kind that the test set is of."""
    records = labelled(count, SEQUENCE, "further", seed=5).records
    return [{"id": r.id, "text": r.text, "label": r.label} for r in records]


def test_numbers_without_a_0_are_remarked_on(call_classifier):
    rows = [{"text": f"the cat is {word}", "label": 1} for word in ("old", "new", "here")]
    files = {"f.jsonl": json_lines(*rows)}
    status, out, _, _ = call_classifier("check $classifiers/texts --forget f.jsonl", files)
    assert status == MET
    assert "counted from 1, set data.first_label=1" in out
    _, out, _, _ = call_classifier(
        "check $classifiers/texts --forget f.jsonl data.first_label=1", files
    )
    assert "counted from 1" not in out


def test_time_before_a_classifiers_run_was_cut_off_is_time_of_unlearning(
    call_classifier, report_and_schema, monkeypatch
):
    """1000 s before: measuring takes no less than nothing."""
    monkeypatch.setattr(Trainer, "seconds_before", 1000.0)
    call_classifier(
        "forget $classifiers/texts --forget forget.jsonl --retain retain.jsonl "
        f"--holdout holdout.jsonl{SHORT_RUN}"
    )
    cost = report_and_schema()["cost"]
    assert 0 < cost["seconds_evaluation"] < 900
    assert cost["seconds_unlearning"] > 1000


def test_views_that_are_equal_copies_are_reported(call_classifier, report_and_schema, tmp_path):
    model = tiny_classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    loading.save(model, toy_tokenizer(), tmp_path / "dry")
    line = "dry --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl"
    _, out, _, _ = call_classifier(f"check {line}")
    assert "equal copies; method.view_dropout=0.1" in out
    call_classifier(f"forget {line} --force{SHORT_RUN}")
    assert any("equal copies" in note for note in report_and_schema()["verdict"]["notes"])
    _, out, _, _ = call_classifier(f"check {line} method.view_dropout=0.1")
    assert "equal copies" not in out
