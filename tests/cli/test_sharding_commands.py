"""Commands whose model is divided among processes."""

import json
from pathlib import Path
from string import Template

import pytest
import torch
from safetensors.torch import load_file
from test_sharding import environment, sharded

import classifier_commands
from command_world import FINETUNE, FORGET_RUN
from test_processes import LAST, ROUNDING, world  # noqa: F401 - a fixture
from unlearner.cli.app import NOT_MET, WRONG_INPUT, run


def test_forget_gives_the_result_of_one_process(world):  # noqa: F811
    command = world(FORGET_RUN.replace("out/run", "two") + LAST)
    assert sharded(lambda: run(command)) == [NOT_MET] * 2
    assert run(world(FORGET_RUN.replace("out/run", "one") + LAST)) == NOT_MET
    one, two = (json.loads(Path(name, "report.json").read_text()) for name in ("one", "two"))
    assert one["results"]["target"] == two["results"]["target"]
    assert one["cost"]["tokens"] == two["cost"]["tokens"]
    logs = [Path(name, "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):  # of eight steps, each with the rounding of those before
        assert json.loads(b)["loss"] == pytest.approx(json.loads(a)["loss"], abs=4 * ROUNDING)


def test_finetune_writes_an_ordinary_model(world):  # noqa: F811
    command = world(FINETUNE + "--quiet epochs=1 training.device=cpu")
    assert sharded(lambda: run(command)) == [0, 0]
    config = json.loads(Path("out/run/config.json").read_text())
    assert config["architectures"] == ["GPTNeoForCausalLM"]
    assert (
        run(world(FINETUNE.replace("out/run", "one") + "--quiet epochs=1 training.device=cpu")) == 0
    )
    one, two = (load_file(f"{name}/model.safetensors") for name in ("one", "out/run"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP version 1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP version 1"),  # as accelerate takes it
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
    ],
)
def test_other_ways_to_divide_a_model_are_refused_in_one_line(world, capfd, variables, words):  # noqa: F811
    with environment(**variables):
        assert run(world(FORGET_RUN + LAST)) == WRONG_INPUT
        assert run(world(FINETUNE)) == WRONG_INPUT
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(words in line and "--fsdp_version 2" in line for line in told)


@pytest.mark.parametrize("command", [classifier_commands.RUN, classifier_commands.FINETUNE])
def test_classifiers_are_refused_in_one_line(
    tmp_path, monkeypatch, classifier_folders, capfd, command
):
    monkeypatch.chdir(tmp_path)
    for name, content in classifier_commands.FILES.items():
        (tmp_path / name).write_text(content)
    arguments = Template(command).substitute(classifiers=classifier_folders).split()
    assert sharded(lambda: run(arguments)) == [WRONG_INPUT] * 2
    told = [line for line in capfd.readouterr().err.splitlines() if "unlearner: " in line]
    assert len(told) == 1
    assert "leave --use_fsdp out" in told[0]
