"""Tasks of the lm-evaluation-harness: its own command's figures, and changes by hand."""

import functools
import json
import math
import random
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from command_world import RUN, SHORT, json_lines
from page_reader import Page
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT
from unlearner.evaluation import harness
from unlearner.evaluation.harness import TaskFigure, paired_change, run_tasks
from unlearner.models.loading import load_causal_lm
from unlearner.settings import EvaluationSettings

lm_eval_tasks = pytest.importorskip("lm_eval.tasks")

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
TOWNS = ["york", "bath", "leeds", "derby", "truro", "ripon", "hull"]
CHOICES = json_lines(
    *(
        {"question": f"in the town of {town} there", "choices": ["is a mill", "are kings"], "a": i}
        for town, i in zip(TOWNS, (0, 0, 1, 0, 0, 1, 0), strict=True)
    )
)
NEXT = json_lines(
    *({"before": f"in the town of {town} there is a", "word": " mill"} for town in TOWNS)
)
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
metadata: {{version: 1.0}}
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{a}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}, {metric: acc_norm}]
"""
LIKELY = """
output_type: loglikelihood
doc_to_text: "{{before}}"
doc_to_target: "{{word}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
TASKS = "evaluation.harness=mills_choice,mills_next "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks on local files: one of multiple choice, one of log-likelihoods."""
    root = tmp_path_factory.mktemp("tasks")
    for name, body, rows in (("mills_choice", CHOICE, CHOICES), ("mills_next", LIKELY, NEXT)):
        (root / f"{name}.yaml").write_text(TASK.format(name=name, folder=root) + body)
        (root / f"{name}.jsonl").write_text(rows)
    return root


def own_command(monkeypatch, model, folder, output, more=""):
    """The figures of `lm_eval`, without its thousands of tasks, which take it half a minute."""
    from lm_eval.__main__ import cli_evaluate

    build = functools.partialmethod(lm_eval_tasks.TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks.TaskManager, "__init__", build)
    line = f"lm_eval run --model hf --model_args pretrained={model},dtype=float32 --device cpu"
    line += f" --tasks mills_choice,mills_next --include_path {folder} --batch_size 8{more}"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--output_path", str(output)])
    cli_evaluate()
    (found,) = output.rglob("results*.json")
    return json.loads(found.read_text("utf-8"))["results"]


def test_a_run_has_the_figures_of_the_harness_own_command(call, folder, monkeypatch, model_folders):
    """Of both tasks every metric and standard error to the last digit, before and after."""
    more = f"{TASKS}evaluation.harness_include_path={folder}"
    status, _, err, _ = call(f"{RUN}{more}{SHORT}")
    assert (status, err) == (NOT_MET, "")
    report = json.loads(Path("out/run/report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    models = {"target": model_folders / "good", "unlearned": Path("out/run/model").resolve()}
    for role, model in models.items():
        own = own_command(monkeypatch, model, folder, Path(f"out/{role}"))
        found = report["tasks"]["results"][role]
        assert set(found) == {"mills_choice", "mills_next"}
        for task, metrics in found.items():
            for name, figure in metrics.items():
                assert figure["value"] == own[task][f"{name},none"], (role, task, name)
                assert figure["stderr"] == own[task][f"{name}_stderr,none"]
                assert figure["records"] == 7
    acc = report["tasks"]["results"]["target"]["mills_choice"]["acc"]
    assert acc["value"] == pytest.approx(5 / 7)  # it has learned that there is a mill
    assert acc["high"] == pytest.approx(acc["value"] + 1.96 * acc["stderr"])
    assert report["tasks"]["chat_template"] is False
    shown = Page(Path("out/run/report.html").read_text("utf-8")).shown
    assert "Tasks of the lm-evaluation-harness" in shown
    assert "mills_next, perplexity" in shown
    assert "without a chat template" in shown
    assert "| mills\\_choice, acc |" in Path("out/run/report.md").read_text("utf-8")


def test_evaluate_runs_the_tasks_on_every_model_and_a_limit_takes_the_first_documents(call, folder):
    line = RUN.replace("forget $models/good", "evaluate $models/blank --target $models/good")
    line += f"--retrained $models/blank {TASKS}evaluation.harness_include_path={folder}"
    line += " evaluation.harness_limit=3 --quiet evaluation.resamples=20"
    assert call(line)[0] == NOT_MET
    tasks = json.loads(Path("out/run/report.json").read_text("utf-8"))["tasks"]
    assert set(tasks["results"]) == {"target", "retrained", "unlearned"}
    assert tasks["results"]["unlearned"] == tasks["results"]["retrained"]  # the same model
    assert tasks["results"]["target"]["mills_next"]["acc"]["records"] == tasks["limit"] == 3
    assert tasks["change"]["unlearned"] == tasks["change"]["retrained"]
    shown = Page(Path("out/run/report.html").read_text("utf-8")).shown
    assert "retrained less before" in shown
    assert "the first 3 documents of each task" in shown


@pytest.mark.slow
def test_a_comparison_shows_what_each_method_has_changed(call, folder):
    line = RUN.replace("forget $models", "compare --methods npo --no-search $models")
    line += f"evaluation.harness=mills_choice evaluation.harness_include_path={folder} --quiet "
    line += "--retrained $models/blank method.max_epochs=1 evaluation.resamples=20"
    assert call(line)[0] == MET
    found = json.loads(Path("out/run/compare.json").read_text("utf-8"))["tasks"]
    assert set(found["change"]) == {"retrained", "npo"}
    assert set(found["change"]["npo"]["mills_choice"]) == {"acc", "acc_norm"}
    assert found["results"]["target"]["mills_choice"]["acc"]["value"] == pytest.approx(5 / 7)
    shown = Page(Path("out/run/compare.html").read_text("utf-8")).shown
    assert "Other tasks" in shown
    assert "mills_choice (acc)" in shown
    with Path(folder, "mills_choice.yaml").open("a") as file:
        file.write("# another wording\n")
    status, _, err, _ = call(line.replace("npo", "npo,idk") + " --resume")
    assert status == WRONG_INPUT
    assert "the tasks of evaluation.harness_include_path changed" in err


def test_the_change_of_a_mean_is_of_the_documents_own_differences():
    """Right on 1, 1, 0, 1 before and 1, 0, 0, 0 after: differences 0, -1, 0, -1, mean -1/2.

    Their variance is 4 (1/2)^2 / 3 = 1/3, the standard error sqrt(1/3 / 4) = 0.2887; of two
    independent figures with standard error 0.25 each it would be 0.3536.
    """
    before = TaskFigure(0.75, 0.25, 4, (1, 1, 0, 1))
    after = TaskFigure(0.25, 0.25, 4, (1, 0, 0, 0))
    found = paired_change(before, after)
    assert found["value"] == -0.5
    assert found["low"] == pytest.approx(-0.5 - 1.96 * math.sqrt(1 / 12))
    assert found["paired"] is True
    alone = paired_change(before, TaskFigure(0.25, 0.25, 4))
    assert alone["high"] == pytest.approx(-0.5 + 1.96 * math.sqrt(0.125))
    assert alone["paired"] is False
    assert paired_change(before, TaskFigure(0.25, math.nan, 4))["low"] is None


def test_running_tasks_changes_neither_tokenizer_nor_random_states(folder, model_folders):
    loaded = load_causal_lm(str(model_folders / "good"))
    pad = loaded.tokenizer.pad_token
    settings = EvaluationSettings.model_validate(
        {"harness": "mills_next", "harness_include_path": str(folder)}
    )
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    found = run_tasks(loaded, settings)["mills_next"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert loaded.tokenizer.pad_token == pad
    assert len(found["acc"].samples) == 7
    assert found["perplexity"].samples == ()  # no mean over documents


@pytest.mark.slow
def test_by_a_real_chat_template_figures_are_those_of_the_harness_too(
    smollm2, folder, monkeypatch, tmp_path
):
    own = own_command(monkeypatch, smollm2, folder, tmp_path, " --apply_chat_template")
    asked = {"harness": "mills_choice,mills_next", "harness_include_path": str(folder)}
    loaded, found = load_causal_lm(str(smollm2)), {}
    for chat in (True, False):
        settings = EvaluationSettings.model_validate(asked | {"harness_chat": chat})
        found[chat] = run_tasks(loaded, settings)["mills_next"]["perplexity"].value
    assert found[True] == own["mills_next"]["perplexity,none"]
    assert found[False] != found[True]


def test_a_preset_names_the_nine_tasks_of_the_paper():
    names = EvaluationSettings.model_validate({"harness": "icu,mills,piqa"}).harness
    assert names[:2] == ("lambada_openai", "hellaswag")
    assert names[-1] == "mills"
    assert len(names) == 10  # piqa is among the nine


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("evaluation.harness=mills_chioce", "did you mean 'mills_choice'?"),
        ("evaluation.harness=mills_lost", "task mills_lost cannot be loaded ("),
        ("evaluation.harness=a evaluation.harness_include_path=gone", "gone: no such folder"),
        ("evaluation.harness=a evaluation.harness_limit=0", "evaluation.harness_limit: "),
    ],
)
def test_tasks_that_cannot_be_run_are_refused_before_the_target_is_measured(
    call, folder, monkeypatch, more, message
):
    build = functools.partialmethod(lm_eval_tasks.TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks.TaskManager, "__init__", build)
    lost = TASK.format(name="mills_lost", folder="/nowhere") + CHOICE
    (folder / "mills_lost.yaml").write_text(lost)
    status, out, err, left = call(
        f"{RUN}evaluation.harness_include_path={folder} {more}{SHORT.replace(' --quiet', '')}"
    )
    assert (status, out) == (WRONG_INPUT, "")
    assert message in err
    assert "measuring" not in err
    assert not any(name.startswith("out") for name in left)


def test_without_the_extra_one_line_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setattr(harness, "HARNESS", "no_such_package")
    status, _, err, _ = call(f"{RUN}{TASKS}{SHORT}")
    assert status == WRONG_INPUT
    assert "pip install 'unlearner[harness]', or leave it out" in err
    assert err.count("\n") == 1
