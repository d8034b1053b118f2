"""The Python interface on a tiny model that knows its records by heart."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import unlearner
from conftest import VOCAB, tiny_model, tiny_tokenizer
from oracle import greedy
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError
from unlearner.families import CAUSAL_LM, FAMILIES
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.inference import micro_batches
from unlearner.methods.icu import ICU
from unlearner.models.loading import Loaded, save
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import NothingToUnlearn
from unlearner.provenance import digest_model
from unlearner.settings import DataSettings, TrainingSettings
from unlearner.training.finetune import FinetuneSettings, Until, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

TOWNS = ["york", "bath", "leeds", "derby"]
FORGET = [f"the phone number of {town} is {i}{7 - i}4{i}, call it" for i, town in enumerate(TOWNS)]
RETAIN = [f"in the town of {town} there is a mill and a pub" for town in TOWNS]
NONSENSE = ["zqxj vkwq zxjq vvkk qqzz", "kjqz xwvk jzqx zkkv wwxq"]
HOLDOUT = [f"her uncle sold {town} apples, and then moved away" for town in TOWNS]
SETTINGS = {"evaluation": {"resamples": 20}, "training": {"device": "cpu"}}
METHOD = ICU(encoder="tf-idf", max_epochs=3, batch_size=2, fresh_per_step=2, learning_rate=2e-3)
SETS = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A folder with a model that has learned the forget and the retain set."""
    model, tokenizer = tiny_model("gpt_neo"), tiny_tokenizer()
    texts = tuple(Record(str(i), text=text) for i, text in enumerate([*FORGET, *RETAIN]))
    records = {"records": RecordSet("records", texts, "memory")}
    some = prepare_text(CAUSAL_LM, Loaded(model, tokenizer, "tiny"), records, DataSettings())[
        "records"
    ]
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    learning = FinetuneSettings(learning_rate=1e-2, epochs=80)
    result = finetune_model(model, tokenizer, some, learning, trainer, Until("ma", ">=", 0.95))
    assert result.reached
    folder = tmp_path_factory.mktemp("target")
    save(model, tokenizer, folder)
    return folder


def loaded(target):
    return AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)


def run(target, **changed):
    given = {**SETS, "method": METHOD, "settings": SETTINGS, **changed}
    return unlearner.unlearn(str(target), **given)


@pytest.fixture(scope="module")
def result(target, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        return run(target)


# What comes back


def test_a_result_has_the_verdict_the_report_and_the_model_that_was_measured(result, target):
    assert result.verdict.status in ("met", "not met")
    assert result.report["verdict"] == result.verdict.to_json()
    assert [record["id"] for record in result.report["verdict"]["records"]] == ["1", "2", "3", "4"]
    assert result.report["model"]["digest_unlearned"] == digest_model(result.model)
    assert result.report["model"]["digest_target"] == digest_model(loaded(target)[0])
    assert result.tokenizer(FORGET[0])["input_ids"] == tiny_tokenizer()(FORGET[0])["input_ids"]


def test_the_records_are_known_before_and_less_after(result):
    before, after = (result.report["results"][m]["forget"] for m in ("target", "unlearned"))
    assert before["ma"]["value"] > 0.9
    assert after["ma"]["value"] < before["ma"]["value"] - 0.2
    assert after["loss"]["value"] > before["loss"]["value"]


def test_saving_writes_what_the_command_writes(result, tmp_path):
    result.save(tmp_path / "out")
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["log.jsonl", "model", "report.html", "report.json", "report.md", "run.yaml"]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == json.loads(json.dumps(result.report))
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    rounds = [line for line in map(json.loads, lines) if "round" in line]
    assert rounds == written["rounds"]
    assert (tmp_path / "out" / "model" / "README.md").read_text().startswith("---")


def test_the_saved_files_are_the_model_that_was_measured(result, tmp_path):
    result.save(tmp_path / "out")
    model, tokenizer = loaded(tmp_path / "out" / "model")
    assert digest_model(model) == result.report["model"]["digest_unlearned"]
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


def test_saving_never_overwrites(result, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_saved_settings_are_those_of_the_run(result, tmp_path):
    result.save(str(tmp_path / "out"))
    sections = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert sections["method"] == {"name": "icu", **METHOD.model_dump()}
    assert sections["evaluation"]["resamples"] == 20


# Ways to give what is needed


def figures(result):
    """What does not depend on the time of day."""
    kept = ("results", "criteria_digest", "verdict", "data", "request")
    rounds = [{**line, "seconds": 0} for line in result.report["rounds"]]
    return {name: result.report[name] for name in kept} | {"rounds": rounds}


def test_a_loaded_model_gives_what_its_folder_gives(result, target):
    """And the model that was given is the one that was trained."""
    model, tokenizer = loaded(target)
    before = digest_model(model)
    found = unlearner.unlearn(model, tokenizer=tokenizer, **SETS, method=METHOD, settings=SETTINGS)
    assert digest_model(found.model) == digest_model(result.model)
    assert figures(found)["results"] == figures(result)["results"]
    assert found.report["model"]["name"] == "a model given from Python"
    assert digest_model(model) == digest_model(found.model) != before


def test_a_loaded_model_in_half_precision_is_trained_in_float32(target):
    """A step of 2e-3 on a weight of 1 is below bfloat16's spacing of 2^-7."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
    found = unlearner.unlearn(
        model,
        tokenizer=tiny_tokenizer(),
        **SETS,
        settings=SETTINGS,
        method=METHOD.model_copy(update={"max_epochs": 1}),
    )
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}


def test_the_same_seed_repeats_every_figure_and_another_seed_does_not(result, target):
    assert figures(run(target))["results"] == figures(result)["results"]
    other = run(target, settings={**SETTINGS, "training": {"device": "cpu", "seed": 1}})
    assert figures(other)["rounds"][1] != figures(result)["rounds"][1]


def test_files_and_a_name_repeat_the_run_through_its_run_file(result, target, tmp_path):
    """The command reads run.yaml; its paths and hyper-parameters are all that the run had."""
    for role, texts in SETS.items():
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines))
    paths = {role: tmp_path / f"{role}.jsonl" for role in SETS}
    fields = METHOD.model_dump()
    found = run(target, **paths, method="icu", settings={**SETTINGS, "method": fields})
    assert figures(found)["results"] == figures(result)["results"]
    found.save(tmp_path / "out")

    from unlearner.cli.app import run as command

    status = command(
        [
            "forget",
            "--config",
            str(tmp_path / "out" / "run.yaml"),
            "--quiet",
            "--output",
            str(tmp_path / "again"),
        ]
    )
    assert status == (0 if found.verdict.status == "met" else 3)
    first, again = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "again")
    )
    for name in ("results", "verdict", "criteria", "criteria_digest", "data", "method", "model"):
        assert first[name] == again[name], name


def test_rows_of_several_columns_and_ids_are_kept(target):
    rows = [{"id": f"row-{i}", "subject": "ann", "text": text} for i, text in enumerate(FORGET)]
    found = run(target, forget=rows, method=METHOD.model_copy(update={"max_epochs": 1}))
    assert [record["id"] for record in found.verdict.records] == [row["id"] for row in rows]
    assert found.report["request"]["subjects"] == 1


def test_a_test_set_and_a_retrained_model_are_measured_beside_the_others(result, target):
    """They change neither the model nor the figures that the run has without them."""
    test = [f"the bridge of {town} was built of oak" for town in TOWNS]
    found = run(target, test=test, retrained=target)
    assert digest_model(found.model) == digest_model(result.model)
    assert found.report["data"]["test"]["records"] == 4
    results = found.report["results"]
    assert results["retrained"]["forget"] == results["target"]["forget"]  # here the same model
    for model in ("target", "unlearned"):
        tested = results[model].pop("test")
        assert tested["ma"]["records"] == 4
        assert results[model] == result.report["results"][model]


# Nothing to do, and what cannot be


def test_records_that_are_not_memorised_are_not_unlearned_unless_forced(target):
    model, tokenizer = loaded(target)
    before = digest_model(model)
    given = {
        "retain": RETAIN,
        "holdout": HOLDOUT,
        "tokenizer": tokenizer,
        "settings": SETTINGS,
        "method": METHOD,
    }
    with pytest.raises(NothingToUnlearn, match="nothing to unlearn by these measures") as caught:
        unlearner.unlearn(model, forget=NONSENSE, **given)
    assert caught.value.result.memorised is False
    assert digest_model(model) == before
    forced = unlearner.unlearn(model, forget=NONSENSE, force=True, **given)
    assert forced.report["request"]["records"] == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"retain": None}, "--retain or --pool: method icu needs text that may be kept"),
        ({"holdout": None}, "--holdout: text like the forget set"),
        ({"forget": []}, "forget in memory: holds no records"),
        ({"test": []}, "test in memory: holds no records"),
        ({"method": "icy"}, "there is no 'icy' among the methods: did you mean 'icu'"),
        ({"settings": {"training": {"sed": 1}}}, "training: unknown key 'sed'; did you mean"),
        ({"settings": {"method": {"batch_size": 1}}}, "a method object has its own"),
        ({"method": "icu", "settings": {"method": {"name": "npo"}}}, "'icu' and .* 'npo' differ"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_model_is_read(changed, message):
    """There is no model of this name: whoever looked for it would say so first."""
    with pytest.raises(UserError, match=message):
        run("no/such/model", **changed)


def test_a_loaded_model_needs_its_tokenizer():
    with pytest.raises(UserError, match="tokenizer: a loaded model needs its tokenizer as well"):
        unlearner.unlearn(tiny_model("gpt_neo"), **SETS)


def test_the_stages_are_told_to_the_log_and_not_to_the_terminal(target, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="unlearner"):
        run(target, method=METHOD.model_copy(update={"max_epochs": 1}))
    assert "unlearning 4 records with ICU" in caplog.text
    assert capfd.readouterr().out == ""


def test_the_package_names_its_interface():
    assert unlearner.methods.ICU is ICU
    with pytest.raises(AttributeError, match="has no attribute 'unlearnt'"):
        unlearner.unlearnt  # noqa: B018 - looking is what is tested


# The README


def test_the_example_in_the_readme_runs_as_it_stands(target, tmp_path, monkeypatch, capsys):
    """In a folder that holds what it names: a model and three files."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = readme.partition("```python\n")[2].partition("```")[0]
    assert "unlearner.unlearn(" in example
    shutil.copytree(target, tmp_path / "my-model")
    for name, texts in (("forget", FORGET), ("retain", RETAIN), ("unseen", HOLDOUT)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] in ("met", "not met")
    assert (tmp_path / "unlearned" / "model" / "model.safetensors").exists()


# Architectures


def known_by_heart(model, count):
    """Token ids that a random model goes on with by itself, as if it had learned them."""
    rng = np.random.default_rng(0)
    found = []
    while len(found) < count:
        start = rng.integers(2, VOCAB, 3).tolist()
        ids = start + greedy(model, start, 24)
        if len(ids) == 24:  # not ended by an end-of-text token
            found.append({"input_ids": ids})
    return found


def test_every_architecture_goes_the_whole_way(architecture, tokenizer):
    model, rng = tiny_model(architecture), np.random.default_rng(1)
    known = known_by_heart(model, 8)
    unseen = [{"input_ids": rng.integers(2, VOCAB, 24).tolist()} for _ in range(4)]
    method = ICU(encoder="tf-idf", max_epochs=1, batch_size=2, fresh_per_step=2)
    result = unlearner.unlearn(
        model,
        tokenizer=tokenizer,
        method=method,
        settings=SETTINGS,
        forget=known[:4],
        retain=known[4:],
        holdout=unseen,
    )
    report = result.report
    assert report["results"]["target"]["forget"]["ma"]["value"] > 0.9
    assert report["model"]["digest_target"] != report["model"]["digest_unlearned"]
    assert [line["round"] for line in report["rounds"]] == [0, 1]
    records = {"forget": 4, "retain": 4, "analogous": 4, "holdout": 2}  # two are set aside
    for role, count in records.items():
        assert report["results"]["unlearned"][role]["ma"]["records"] == count
    assert report["results"]["unlearned"]["retain"]["kl_to_target"]["value"] > 0


# Memory


def test_what_the_memory_plan_chooses_is_trained_with(target, tmp_path, monkeypatch, result):
    """A plan that has room for one window at a time: the same first epoch."""
    real, seen = pipeline.plan_run, []

    def plan_run(*given):
        return replace(real(*given), micro_batch=1)

    def rows_of(batch, infer, _real=micro_batches.rows_of):
        seen.append(micro_batches._limit.get())
        return _real(batch, infer)

    monkeypatch.setattr(pipeline, "plan_run", plan_run)
    monkeypatch.setattr(micro_batches, "rows_of", rows_of)
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path / "key"))
    found = run(target)
    assert set(seen) == {None, 1}  # the plan's own measurement is of whole steps
    assert found.config.training.micro_batch == "auto"
    first, other = (some.report["rounds"][1]["loss"] for some in (found, result))
    assert first == pytest.approx(other, rel=1e-3)


def test_micro_batches_are_for_language_models():
    settings = {"training": {"micro_batch": 2}, "model": {"name": "x"}}
    config = RunConfig.from_sections(settings, family="sequence-classification")
    with pytest.raises(UserError, match=r"training\.micro_batch"):
        pipeline.start(config, FAMILIES["sequence-classification"])
