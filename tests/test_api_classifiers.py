"""The Python interface on tiny classifiers of texts and of words that know their records."""

import json

import jsonschema
import pytest
import yaml
from test_commands import SCHEMA
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import unlearner
from classifier_commands import FILES, SETS, rows
from classifier_world import LABELS, SEQUENCE, TOKEN, tiny_classifier, tiny_config, toy_tokenizer
from conftest import tiny_model, tiny_tokenizer
from unlearner.cli.app import run as command
from unlearner.data.record import RecordSet
from unlearner.errors import UserError
from unlearner.methods.deepcut import DeepCUT
from unlearner.pipeline.pipeline import NothingToUnlearn
from unlearner.provenance import digest_model

METHOD = DeepCUT(max_epochs=3, learning_rate=1e-3, steps_per_round=4)
SETTINGS = {"evaluation": {"resamples": 20}, "training": {"device": "cpu"}}
ROLES = ("forget", "retain", "holdout", "test")
GIVEN = {role: rows(SEQUENCE, role) for role in ROLES}
TAGGED = {role: rows(TOKEN, role) for role in ROLES}


def run(folder, **changed):
    given = {**GIVEN, "method": METHOD, "settings": SETTINGS, **changed}
    return unlearner.unlearn(str(folder), **given)


def loaded(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts(classifier_folders):
    return classifier_folders / "texts"


@pytest.fixture(scope="module")
def result(texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        return run(texts, retrained=texts.with_name("texts-retrained"))


def test_a_result_has_the_verdict_the_report_and_the_model_that_was_measured(result, texts):
    assert result.verdict.status in ("met", "not met")
    assert result.report["verdict"] == result.verdict.to_json()
    assert result.report["model"]["digest_unlearned"] == digest_model(result.model)
    assert result.report["model"]["digest_target"] == digest_model(loaded(texts)[0])
    assert result.tokenizer.get_vocab() == toy_tokenizer().get_vocab()
    jsonschema.validate(json.loads(json.dumps(result.report)), SCHEMA)


def test_the_records_are_known_before_and_less_after(result):
    before, after = (result.report["results"][m]["forget"] for m in ("target", "unlearned"))
    assert before["accuracy"]["value"] == 1.0
    assert after["accuracy"]["value"] < 0.8


def test_all_sets_and_the_retrained_model_are_measured(result):
    sizes = {role: some["records"] for role, some in result.report["data"].items()}
    assert sizes == {role: len(some) for role, some in GIVEN.items()}
    assert set(result.report["results"]) == {"target", "unlearned", "retrained"}


def test_a_loaded_model_gives_what_its_folder_gives(result, texts):
    model, tokenizer = loaded(texts)
    found = unlearner.unlearn(
        model,
        tokenizer=tokenizer,
        method=METHOD,
        settings=SETTINGS,
        retrained=texts.with_name("texts-retrained"),
        **GIVEN,
    )
    assert found.report["results"] == result.report["results"]
    assert digest_model(found.model) == digest_model(result.model)


def test_saving_writes_what_the_command_writes_and_the_run_file_repeats_it(texts, tmp_path):
    paths = {}
    for role in ROLES:
        paths[role] = tmp_path / f"{role}.jsonl"
        paths[role].write_text(FILES[f"{role}.jsonl"], encoding="utf-8")
    settings = {**SETTINGS, "method": METHOD.model_dump()}
    beside = texts.with_name("texts-retrained")
    found = unlearner.unlearn(texts, **paths, retrained=beside, settings=settings)
    found.save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["log.jsonl", "model", "report.html", "report.json", "report.md", "run.yaml"]
    sections = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert sections["method"]["name"] == "deepcut"
    assert sections["data"]["test"] == str(paths["test"])
    assert sections["model"]["retrained"] == str(beside)
    line = [
        "forget",
        "--config",
        str(tmp_path / "out" / "run.yaml"),
        "--quiet",
        "--output",
        str(tmp_path / "again"),
    ]
    assert command(line) == (0 if found.verdict.status == "met" else 3)
    first, again = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "again")
    )
    files = [report["model"].pop("files") for report in (first, again)]
    # What was loaded and saved again tells where from in its configuration.
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]
    for name in ("results", "verdict", "criteria", "data", "method", "model"):
        assert first[name] == again[name], name


def test_a_class_is_removed(texts):
    found = run(texts, forget=None, forget_class="place")
    assert found.report["request"]["forget_class"] == "place"
    assert found.report["data"]["forget"]["records"] == 8
    assert found.config.data.forget_class == "place"


def test_a_tagger_forgets_sentences(classifier_folders):
    found = run(classifier_folders / "tags", **TAGGED)
    before, after = (found.report["results"][m]["forget"] for m in ("target", "unlearned"))
    assert before["f1_entity"]["value"] > after["f1_entity"]["value"]


def test_the_method_is_that_of_the_family_where_none_is_given(texts):
    settings = {**SETTINGS, "method": {"max_epochs": 1, "steps_per_round": 2}}
    found = run(texts, method="", settings=settings)
    assert found.report["method"]["name"] == "deepcut"
    assert found.report["method"]["max_epochs"] == 1


def test_a_model_that_knows_nothing_is_left_alone_unless_forced(classifier_folders):
    """A random model has no lower loss on odd labels to forget than on others."""
    model, tokenizer = loaded(classifier_folders / "blank")
    before = digest_model(model)
    given = {**GIVEN, "tokenizer": tokenizer, "settings": SETTINGS, "method": METHOD}
    with pytest.raises(NothingToUnlearn, match="nothing to unlearn by these measures"):
        unlearner.unlearn(model, **given)
    assert digest_model(model) == before
    assert unlearner.unlearn(model, force=True, **given).report["request"]["records"] == 8


# What cannot be


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"retain": None}, "--retain: none given"),
        ({"forget": None}, r"--forget: none given; .*--forget-class"),
        ({"pool": GIVEN["retain"]}, "--pool: for causal language models"),
        ({"forget_class": "place"}, "--forget and --forget-class: give one of them"),
        (
            {"forget": [{"text": "a cat", "label": "planet"}]},
            "record 1: label is text of 6 characters",
        ),
        ({"forget": ["a cat"]}, "text and label"),
        ({"method": "icu"}, "icu is for causal-lm, MODEL is sequence-classification"),
        ({"retrained": "no/such/model"}, "no/such/model: no such folder"),
    ],
)
def test_what_cannot_be_used_is_refused(changed, message, texts):
    with pytest.raises(UserError, match=message):
        run(texts, **changed)


def test_a_class_to_be_forgotten_is_refused_for_a_language_model():
    given = {"forget": ["the town"], "retain": ["in the town"], "holdout": ["the number"]}
    with pytest.raises(UserError, match="--forget-class: for classifiers; MODEL is a causal"):
        unlearner.unlearn(
            tiny_model("gpt_neo"), tokenizer=tiny_tokenizer(), forget_class="place", **given
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "one of several labels"),
        ({"id2label": {0: "a"}, "label2id": {"a": 0}}, "1 outputs"),
        ({"id2label": {0: "a", 1: "a"}, "label2id": {"a": 0}}, "two outputs alike"),
    ],
)
def test_a_loaded_head_of_another_kind_is_refused_like_one_from_files(changes, message):
    with pytest.raises(UserError, match=message):
        unlearner.unlearn(tiny_classifier(SEQUENCE, **changes), tokenizer=toy_tokenizer(), **GIVEN)


def test_a_loaded_encoder_without_a_head_is_refused():
    from transformers import BertForMaskedLM, BertModel

    for kind in (BertModel, BertForMaskedLM):
        with pytest.raises(UserError, match="neither a causal language model nor a classifier"):
            unlearner.unlearn(kind(tiny_config(SEQUENCE)), tokenizer=toy_tokenizer(), **GIVEN)


def test_a_set_already_read_is_taken_as_it_is(texts):
    """Records by their class, as the demo gives them."""
    sets = {role: RecordSet(role, SETS[SEQUENCE][role].records, "memory") for role in ROLES}
    found = run(texts, **sets)
    assert found.report["data"]["forget"]["records"] == 8
    assert found.report["results"]["target"]["forget"]["accuracy"]["value"] == 1.0
    assert found.report["projection"]["labels"] == [*LABELS[SEQUENCE]]
