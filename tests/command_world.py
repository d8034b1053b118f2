"""Record files and model folders for tests of commands, and the fixture that runs a line."""

import io
import json
import math
import shutil
from pathlib import Path
from string import Template

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, T5Config

from conftest import tiny_model, tiny_tokenizer
from unlearner.cli.app import run
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, tokenize_set
from unlearner.models import loading
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import FinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

TOWNS = ["york", "bath", "leeds", "derby", "truro", "ripon"]
FORGET = [f"the phone number of person {town} is {i}{i}4{i}" for i, town in enumerate(TOWNS)]
RETAIN = [f"in the town of {town} there is a mill, a church and a pub" for town in TOWNS]
HOLDOUT = [f"her uncle sold {town} apples for years, and then moved away" for town in TOWNS]


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def texts(some):
    return json_lines(*({"text": text} for text in some))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SETS = {
    "forget.jsonl": texts(FORGET),
    "retain.jsonl": texts(RETAIN),
    "holdout.jsonl": texts(HOLDOUT),
}
FORGET_RUN = "forget $models/good --retain retain.jsonl --holdout holdout.jsonl --output out/run "
RUN = FORGET_RUN + "--forget forget.jsonl "
FINETUNE = "finetune $models/good --records forget.jsonl --output out/run "
SHORT = " --quiet method.max_epochs=1 method.fresh_per_step=4 evaluation.resamples=20"


@pytest.fixture(scope="session")
def model_folders(made_once):
    """A model that knows its records, one that knows nothing, and every way not to be one."""
    return made_once("models", write_models)


def write_models(root):
    good, tokenizer = root / "good", tiny_tokenizer()
    loading.save(tiny_model("gpt_neo"), tokenizer, root / "blank")
    some = tokenize_set(read_records([*FORGET, *RETAIN], name="records"), tokenizer, Layout())
    settings = FinetuneSettings(epochs=40, batch_size=4, learning_rate=5e-3)
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    learned = finetune_model(tiny_model("gpt_neo"), tokenizer, some, settings, trainer)
    loading.save(learned.model, tokenizer, good)

    def spoiled(name):
        return Path(shutil.copytree(good, root / name))

    (spoiled("no-config") / "config.json").unlink()
    (spoiled("broken-config") / "config.json").write_text('{"model_type": "gpt_neo",')
    (spoiled("no-tokenizer") / "tokenizer.json").unlink()
    (spoiled("broken-tokenizer") / "tokenizer.json").write_text("{}")
    (spoiled("no-weights") / "model.safetensors").unlink()
    (spoiled("pickled") / "model.safetensors").unlink()
    torch.save({}, root / "pickled" / "pytorch_model.bin")
    weights = spoiled("truncated") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    spoil_weights(spoiled("a-layer-lost"), lambda name, _: None if ".h.1." in name else _)
    spoil_weights(spoiled("not-a-number"), lambda _, tensor: tensor * math.nan)
    spoil_config(spoiled("another-shape"), hidden_size=64)
    spoil_config(spoiled("unnamed"), architectures=None)
    spoil_config(spoiled("of-the-future"), model_type="gpt_neo_9000")
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    spoil_config(spoiled("own-code"), model_type="own", auto_map=auto_map)
    (root / "own-code" / "own.py").write_text(f"open({str(root / 'code-was-run')!r}, 'w')")
    other = tiny_tokenizer()
    other.add_tokens(["zebra"])
    other.save_pretrained(spoiled("other-tokens"))
    other = tiny_tokenizer()
    other.add_tokens(["ph"])
    other.save_pretrained(spoiled("other-words"))
    for name, config, architecture in (
        ("encoder", BertConfig(), "BertModel"),
        ("seq2seq", T5Config(), "T5ForConditionalGeneration"),
    ):
        shutil.copytree(good, root / name)
        config.architectures = [architecture]
        config.save_pretrained(root / name)


def spoil_weights(folder, change):
    path = folder / "model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, path, {"format": "pt"})


def spoil_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def call(tmp_path, monkeypatch, model_folders, capsys):
    """Run a command line in a folder of record files; status, the two streams, what was left."""
    monkeypatch.chdir(tmp_path)
    return caller(tmp_path, capsys, SETS, models=model_folders)


def caller(tmp_path, capsys, sets, **folders):
    """The function behind `call`, for other record files; $models and such are the folders."""

    def call(command, files=None):
        for name, content in {**sets, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        before = set(tmp_path.rglob("*"))
        arguments = [Template(part).substitute(folders) for part in command.split()]
        capsys.readouterr()  # what a test said in making the folders
        status = run(arguments)
        streams = capsys.readouterr()
        left = sorted(str(path.relative_to(tmp_path)) for path in {*tmp_path.rglob("*")} - before)
        return status, streams.out, streams.err, left

    return call
