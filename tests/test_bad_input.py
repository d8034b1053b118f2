"""Every wrong input ends with status 2, one line that says what, where and the way out, no trace.

Other ways to end badly, and inputs that only look wrong, stand below the table.
"""

import errno
import io
import json
import math
import os
import pickle
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, T5Config

from conftest import VOCAB, tiny_model, tiny_tokenizer
from unlearner import models
from unlearner.cli import FAILED, INTERRUPTED, MET, NOT_MET, WRONG_INPUT, main, run
from unlearner.data.files import read_records
from unlearner.data.tokenize import Layout, tokenize_set
from unlearner.finetuning import FinetuneSettings, finetune
from unlearner.training import Log, Trainer, TrainingSettings

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
SHORT = " --quiet method.max_epochs=1 method.fresh_per_step=4 evaluation.resamples=20"


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """A model that knows its records, one that knows nothing, and every way not to be one."""
    root = tmp_path_factory.mktemp("models")
    good, tokenizer = root / "good", tiny_tokenizer()
    models.save(tiny_model("gpt_neo"), tokenizer, root / "blank")
    some = tokenize_set(read_records([*FORGET, *RETAIN], name="records"), tokenizer, Layout())
    settings = FinetuneSettings(epochs=40, batch_size=4, learning_rate=5e-3)
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    learned = finetune(tiny_model("gpt_neo"), tokenizer, some, settings, trainer)
    models.save(learned.model, tokenizer, good)

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
    _spoil_weights(spoiled("a-layer-lost"), lambda name, _: None if ".h.1." in name else _)
    _spoil_weights(spoiled("not-a-number"), lambda _, tensor: tensor * math.nan)
    _spoil_config(spoiled("another-shape"), hidden_size=64)
    _spoil_config(spoiled("unnamed"), architectures=None)
    _spoil_config(spoiled("of-the-future"), model_type="gpt_neo_9000")
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    _spoil_config(spoiled("own-code"), model_type="own", auto_map=auto_map)
    (root / "own-code" / "own.py").write_text(f"open({str(root / 'code-was-run')!r}, 'w')")
    other = tiny_tokenizer()
    other.add_tokens(["zebra"])
    other.save_pretrained(spoiled("other-tokens"))
    for name, config, architecture in (
        ("encoder", BertConfig(hidden_size=32), "BertForSequenceClassification"),
        ("seq2seq", T5Config(), "T5ForConditionalGeneration"),
    ):
        shutil.copytree(good, root / name)
        config.architectures = [architecture]
        config.save_pretrained(root / name)
    return root


def _spoil_weights(folder, change):
    path = folder / "model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, path, {"format": "pt"})


def _spoil_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def call(tmp_path, monkeypatch, model_folders, capsys):
    """Run a command line in a folder of record files; status, the two streams, what was left."""
    monkeypatch.chdir(tmp_path)

    def call(command, files=None):
        for name, content in {**SETS, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        before = set(tmp_path.rglob("*"))
        arguments = [Template(part).substitute(models=model_folders) for part in command.split()]
        status = run(arguments)
        streams = capsys.readouterr()
        left = sorted(str(path.relative_to(tmp_path)) for path in {*tmp_path.rglob("*")} - before)
        return status, streams.out, streams.err, left

    return call


@dataclass(frozen=True)
class Wrong:
    """A command line, the words that its one line must hold, the files it reads."""

    id: str
    command: str
    words: tuple[str, ...]
    files: dict = field(default_factory=dict)


def records(id, name, content, *words):
    """A wrong file of forget records, given as --forget."""
    return Wrong(id, f"{FORGET_RUN} --forget {name}", ("forget", name, *words), {name: content})


def setting(text, *words):
    return Wrong(f"setting {text}", RUN + text, words)


def model(name, *words):
    command = RUN.replace("$models/good", f"$models/{name}")
    return Wrong(f"model {name}", command, (name, *words))


ONE_LINE = json_lines({"text": "the town"})

RECORDS = [
    Wrong("no such file", FORGET_RUN + "--forget none.jsonl", ("forget", "none.jsonl", "hf:")),
    Wrong("a folder", FORGET_RUN + "--forget out", ("out", "folder", ".jsonl"), {"out/x": ""}),
    records("empty file", "f.jsonl", "", "no records", "at least one"),
    records("only blank lines", "f.txt", "\n \n", "no records"),
    records("only a header", "f.csv", "text\n", "no records"),
    records("not UTF-8", "f.jsonl", b'{"text": "a"}\n{"text": "\xe9t\xe9"}\n', "line 2", "UTF-8"),
    records("broken JSON", "f.jsonl", ONE_LINE * 2 + '{"text": \n', "line 3", "JSON", "column"),
    records("broken array", "f.json", '[{"text": "a"},\n{"text": }]', "line 2", "JSON"),
    records("a line that is a list", "f.jsonl", '["a"]\n', "line 1", "object", "list"),
    records("mixed columns", "f.jsonl", ONE_LINE + json_lines({"prompt": "a", "response": "b"}),
            "line 2", "mixed columns", "every record the same"),
    records("empty text", "f.jsonl", ONE_LINE + '{"text": " "}\n', "line 2", "text", "empty"),
    records("a number as text", "f.jsonl", '{"text": 5}\n', "line 1", "text", "a number"),
    records("the same id twice", "f.jsonl", json_lines({"id": "a", "text": "the town"}) * 2,
            "line 2", "line 1", "'a'", "its own"),
    records("ids outside the vocabulary", "f.jsonl", json_lines({"input_ids": [3, 4, VOCAB]}),
            "'1'", f"id {VOCAB}", "position 2", f"0 to {VOCAB - 1}", "tokenizer"),
    records("array ids outside the vocabulary", "f.npy", npy(np.array([[1, 2], [3, 9999]])),
            "'2'", "9999", f"0 to {VOCAB - 1}"),
    records("negative ids", "f.npy", npy(np.array([[1, -1]])), "row 1", ">= 0", "-1", "padding"),
    records("ids that are text", "f.jsonl", json_lines({"input_ids": ["a", "b"]}),
            "line 1", "whole numbers", "text"),
    records("ids with a fraction", "f.npy", npy(np.array([[1.0, 2.5]])), "integers", "float64"),
    records("array that needs pickle", "f.npy", npy(np.array([[1], [2, 3]], dtype=object)),
            "pickled", "2-D array", ".jsonl"),
    records("not an array", "f.npy", pickle.dumps([1]), "not a .npy", "numpy.save"),
    records("not parquet", "f.parquet", b"PAR1", "parquet"),
    records("unknown suffix", "f.xlsx", "x", "'.xlsx'", ".jsonl", ".csv"),
    records("no usable column", "f.jsonl", json_lines({"question": "a", "answer": "b"}),
            "line 1", "question, answer", "--map question=prompt,answer=response"),
    records("prompt without response", "f.csv", "prompt\nthe town\n", "response"),
    records("text and prompt", "f.jsonl", json_lines({"text": "a", "prompt": "b", "response": "c"}),
            "ambiguous", "text", "prompt/response", "--map"),
    records("a row too long", "f.csv", "text\nthe town, in the town\n", "line 2", "quotes"),
    records("a record of one token", "f.txt", "the town\na\n", "'2'", "1 token", "at least 2"),
    records("a record of no known token", "f.txt", "the town\nééé\n", "'2'", "0 token"),
    Wrong("--map without =", RUN + "--map question", ("--map", "question", "theirs=ours")),
    Wrong("--map to an unknown name", RUN + "--map text=txt", ("--map text=txt", "prompt")),
    Wrong("--map from a missing column", RUN + "--map body=text", ("'body'", "--map", "present")),
    Wrong("--map two columns to one", RUN + "--map a=text,b=text", ("--map", "text", "two")),
    Wrong("data set while offline", FORGET_RUN + "--forget hf:nobody/nothing",
          ("hf:nobody/nothing", "give a file")),
    Wrong("pool holds only copies", RUN + "--pool forget.jsonl", ("pool", "duplicates", "give")),
    Wrong("retain of broken JSON", RUN + "--retain r.jsonl", ("retain r.jsonl", "line 1", "JSON"),
          {"r.jsonl": "{"}),
    Wrong("holdout that is to be forgotten", RUN + "--holdout h.jsonl",
          ("--holdout", "1 of its records", "'2' as '4'", "unseen"),
          {"h.jsonl": texts([HOLDOUT[0], FORGET[3].upper()])}),
    Wrong("holdout that is empty", RUN + "--holdout h.txt", ("holdout h.txt", "no records"),
          {"h.txt": ""}),
]  # fmt: skip

MODELS = [
    model("none", "no such folder", "hub id"),
    model("no-config", "config.json", "save_pretrained"),
    model("broken-config", "config.json", "JSON"),
    model("no-tokenizer", "no tokenizer", "save_pretrained"),
    model("no-weights", "safetensors", "save_pretrained"),
    model("pickled", "pytorch_model.bin", "refused", "safe_serialization=True"),
    model("encoder", "causal", "sequence-classification", "BertForSequenceClassification"),
    model("seq2seq", "causal", "T5ForConditionalGeneration"),
    model("truncated", "weights", "incomplete", "again"),
    model("a-layer-lost", "weights", "missing", ".h.1.", "again"),
    model("another-shape", "weights", "shape", "config.json", "again"),
    Wrong("model not-a-number", RUN.replace("good", "not-a-number") + "--quiet",
          ("not-a-number", "loss", "nan", "damaged", "again")),
    model("broken-tokenizer", "tokenizer", "incomplete", "again"),
    model("unnamed", "causal", "config.json names no architecture"),
    model("of-the-future", "configuration", "gpt_neo_9000"),
    model("own-code", "custom code", "model.trust_remote_code=true"),
    Wrong("a tokenizer with more tokens than the model", f"{FORGET_RUN} --forget zebra.txt".replace(
        "good", "other-tokens"), ("forget zebra.txt", "'2'", "id 96", "0 to 95", "tokenizer"),
        {"zebra.txt": "the town\nthe zebra\n"}),
    Wrong("model is a file", RUN.replace("$models/good", "forget.jsonl"),
          ("forget.jsonl", "file", "folder")),
    Wrong("hub id while offline", RUN.replace("$models/good", "nobody/nothing"),
          ("nobody/nothing", "local folder", "network")),
    Wrong("no model", RUN.replace("$models/good", ""), ("MODEL", "folder", "hub id")),
    Wrong("evaluate against other tokens", "evaluate $models/good --forget forget.jsonl "
          "--holdout holdout.jsonl --output out/run --target $models/other-tokens",
          ("--target", "other-tokens", "tokenizer")),
    Wrong("evaluate against no model", "evaluate $models/good --forget forget.jsonl "
          "--holdout holdout.jsonl --output out/run --target none",
          ("none", "local folder", "network")),
]  # fmt: skip

SETTINGS = [
    Wrong("unknown method", RUN + "--method icuu", ("icuu", "did you mean 'icu'", "available")),
    setting("method.learning_rat=1e-4", "method", "learning_rat", "did you mean 'learning_rate'"),
    setting("methods.learning_rate=1e-4", "section", "'methods'", "did you mean 'method'"),
    setting("learning_rate=1e-4", "learning_rate=1e-4", "section.key=value"),
    setting("stray", "'stray'", "section.key=value"),
    setting("method.=1", "method.=1", "section.key=value"),
    setting("method.batch_size=0", "method.batch_size", "greater than 0", "got 0"),
    setting("method.batch_size=many", "method.batch_size", "integer", "'many'"),
    setting("method.batch_size=2.5", "method.batch_size", "integer", "2.5"),
    setting("method.learning_rate=-1", "method.learning_rate", "greater than 0, or", "'auto'",
            "got -1"),
    setting("method.learning_rate=0", "method.learning_rate", "greater than 0", "auto", "got 0"),
    setting("method.learning_rate=.nan", "method.learning_rate", "finite", "nan"),
    setting("method.learning_rate=fast", "method.learning_rate", "number", "auto", "'fast'"),
    setting("method.forget_weight=.inf", "method.forget_weight", "finite", "inf"),
    setting("method.max_epochs=0", "method.max_epochs", "greater than 0", "got 0"),
    setting("method.pairs=nearest", "method.pairs", "'fixed' or 'fresh'", "'nearest'"),
    setting("data.template={prompt}_{response}_{name}", "data.template", "no other braces"),
    setting("data.columns={a:b}", "data.columns", "'{a:b}'"),
    setting("--quiet method.encoder=no/encoder", "encoder", "no/encoder", "tf-idf"),
    setting("criteria.perplexity_ratio=0.5", "criteria.perplexity_ratio", "equal to 1", "0.5"),
    setting("criteria.ma=1.5", "criteria.ma", "equal to 1", "1.5"),
    setting("evaluation.prompt_start=-1", "evaluation.prompt_start", "greater than 0", "-1"),
    setting("evaluation.prompt_start=1.5", "evaluation.prompt_start", "share", "whole", "1.5"),
    setting("evaluation.max_records=0", "evaluation.max_records", "greater than 0", "got 0"),
    setting("data.max_length=1", "data.max_length", "equal to 2", "got 1"),
    setting("data.scope=answer", "data.scope", "'sequence' or 'response'", "'answer'"),
    setting("data.request_id=7", "data.request_id", "string", "got 7", "quotes"),
    setting("data.chat=perhaps", "data.chat", "boolean", "'perhaps'"),
    setting("data.template={prompt}", "data.template", "{response}", "got '{prompt}'"),
    setting("training.seed=-1", "training.seed", "equal to 0", "got -1"),
    setting("training.seed=4294967296", "training.seed", "less than 4294967296"),
    setting("training.seed=true", "training.seed", "true or false"),
    setting("training.device=tpu", "training.device", "'auto'", "'cpu'", "'tpu'"),
    Wrong("device that is not there", RUN + "--quiet training.device=mps",
          ("training.device", "mps", "auto")),
    Wrong("chat template of a tokenizer without one", RUN + "data.chat=true",
          ("data.chat", "no chat template", "data.template"),
          {"forget.jsonl": json_lines({"prompt": "the town", "response": "is york"})}),
    Wrong("run file missing", RUN + "--config run.yaml", ("run.yaml", "no such run file")),
    Wrong("run file not YAML", RUN + "--config run.yaml", ("run.yaml", "YAML", "line 1"),
          {"run.yaml": "method: {name: icu"}),
    Wrong("run file without sections", RUN + "--config run.yaml", ("run.yaml", "sections"),
          {"run.yaml": "- icu\n"}),
    Wrong("run file with an unknown section", RUN + "--config run.yaml",
          ("'metod'", "did you mean 'method'"), {"run.yaml": "metod: {name: icu}"}),
    Wrong("run file not UTF-8", RUN + "--config run.yaml", ("run.yaml", "UTF-8"),
          {"run.yaml": b"model: {name: \xe9}"}),
    Wrong("run file is a folder", RUN + "--config out", ("out", "cannot be read"), {"out/x": ""}),
]  # fmt: skip

FINETUNE = "finetune $models/good --records forget.jsonl --output out/run "
COMMANDS = [
    Wrong("no --forget", FORGET_RUN, ("--forget", "none given", "file")),
    Wrong("no --output", RUN.replace("--output out/run", ""), ("--output",)),
    Wrong("no text to learn meanwhile", RUN.replace("--retain retain.jsonl", ""),
          ("--retain", "--pool", "icu", "give")),
    Wrong("no text to compare with", RUN.replace("--holdout holdout.jsonl", ""),
          ("--holdout", "criteria.ma", "criteria.el_10")),
    Wrong("one level by hand is not enough",
          RUN.replace("--holdout holdout.jsonl", "criteria.ma=0.5"), ("--holdout", "both")),
    Wrong("output not empty", RUN.replace("out/run", "out"), ("--output out", "not empty"),
          {"out/x": ""}),
    Wrong("output is a file", RUN.replace("out/run", "retain.jsonl"),
          ("--output retain.jsonl", "file", "folder")),
    Wrong("output below a file", RUN.replace("out/run", "retain.jsonl/run"),
          ("--output retain.jsonl/run", "writable folder")),
    Wrong("unknown option", RUN + "--foget x", ("--foget", "--forget")),
    Wrong("option without its value", RUN + "--method", ("--method", "argument")),
    Wrong("demo of something unknown", "demo deepcat --output out/run", ("'deepcat'", "icu")),
    Wrong("demo of a negative seed", "demo --seed -1 --output out/run", ("--seed", "equal to 0")),
    Wrong("demo into a full folder", "demo --output out", ("--output out", "not empty"),
          {"out/x": ""}),
    Wrong("no command", "", ("no command", "unlearner --help")),
    Wrong("unknown command", "frget x", ("frget", "forget")),
    Wrong("list of something unknown", "list method", ("'method'", "did you mean 'methods'")),
    Wrong("list of nothing", "list", ("what",)),
    Wrong("report of no run", "report out", ("report.json", "no such file", "finished run")),
    Wrong("report of broken JSON", "report out", ("report.json", "JSON", "restore"),
          {"out/report.json": "{"}),
    Wrong("report not UTF-8", "report out", ("report.json", "JSON", "restore"),
          {"out/report.json": b"\xff"}),
    Wrong("report of another schema", "report out", ("report.json", "schema", "None"),
          {"out/report.json": "{}"}),
    Wrong("report that is not whole", "report out", ("report.json", "not whole", "verdict"),
          {"out/report.json": '{"schema": "unlearner/report/1"}'}),
    Wrong("finetune without --records", FINETUNE.replace("--records forget.jsonl", ""),
          ("finetune", "--records")),
    Wrong("finetune without a model", FINETUNE.replace("$models/good", ""), ("MODEL",)),
    Wrong("--until with an unknown metric", FINETUNE + "--until mma>=0.9",
          ("'mma'", "did you mean 'ma'")),
    Wrong("--until without a limit", FINETUNE + "--until ma", ("--until", "'ma>=0.99'")),
    Wrong("--until with half a number", FINETUNE + "--until ma>=e", ("--until", "'ma>=0.99'")),
    Wrong("--until with a comparison", FINETUNE + "--until mia_loss_auc<=0.5",
          ("--until", "more than the records")),
    Wrong("finetune with an unknown key", FINETUNE + "epoch=3",
          ("'epoch'", "did you mean 'epochs'")),
    Wrong("finetune with a set of its own", FINETUNE + "forget=x.txt", ("'forget'", "unknown key")),
    Wrong("finetune at no rate", FINETUNE + "learning_rate=0",
          ("finetune.learning_rate", "greater than 0", "auto")),
    Wrong("finetune that decays backwards", FINETUNE + "weight_decay=-1",
          ("finetune.weight_decay", "-1")),
]  # fmt: skip

WRONG = [*RECORDS, *MODELS, *SETTINGS, *COMMANDS]


@pytest.mark.parametrize("case", WRONG, ids=[case.id.replace(" ", "-") for case in WRONG])
def test_wrong_input_ends_with_one_line_and_no_trace(case, call):
    status, out, err, left = call(case.command, case.files)
    assert status == WRONG_INPUT
    assert err.startswith("unlearner: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for word in case.words:
        assert word in err
    assert "Traceback" not in out + err
    assert left == []


def test_the_table_is_wide():
    """Readable ids, none twice, and at least one case of every command that reads something."""
    assert len({case.id for case in WRONG}) == len(WRONG) >= 100
    commands = {case.command.split()[0] for case in WRONG if case.command}
    assert commands >= {"forget", "evaluate", "finetune", "report", "list"}


def stop(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


def one_line(err):
    return err.startswith("unlearner: ") and err.endswith("\n") and err.count("\n") == 1


def half_saved(_, tokenizer, folder):
    """What a full disk leaves: the tokenizer and a part of the weights."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(bytes(100))
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.safetensors"))


TRAINING_COMMANDS = {
    "forget": (RUN + SHORT, "unlearner.pipeline.save"),
    "finetune": (FINETUNE + "--quiet epochs=1", "unlearner.commands.save"),
}
training_commands = pytest.mark.parametrize("command", TRAINING_COMMANDS)


@training_commands
def test_a_full_disk_leaves_nothing_behind(command, call, monkeypatch):
    line, saving = TRAINING_COMMANDS[command]
    monkeypatch.setattr(saving, half_saved)
    status, _, err, left = call(line)
    assert status == FAILED
    assert one_line(err)
    assert "No space left on device" in err
    assert left == []


@training_commands
def test_ctrl_c_leaves_nothing_behind(command, call, monkeypatch):
    monkeypatch.setattr(Trainer, "step", stop(KeyboardInterrupt()))
    status, _, err, left = call(TRAINING_COMMANDS[command][0])
    assert status == INTERRUPTED
    assert one_line(err)
    assert "interrupted" in err
    assert "nothing was written" in err
    assert left == []


def test_a_stopped_job_cleans_up_like_ctrl_c(call, monkeypatch):
    """A batch system sends SIGTERM, which would end Python on the spot."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("unlearner.cli.run", lambda _: call(FINETUNE + "--quiet epochs=1"))
    ended = []
    monkeypatch.setattr(sys, "exit", ended.append)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, before)
    status, _, err, left = ended[0]
    assert status == INTERRUPTED
    assert one_line(err)
    assert left == []


@pytest.mark.parametrize("key", ["method.learning_rate=1e6", "learning_rate=1e6 epochs=9"])
def test_a_loss_that_is_no_number_ends_the_run_with_the_way_out(key, call):
    """The first step at such a rate throws the weights far off; the next loss is not finite."""
    command = RUN + SHORT.replace("max_epochs=1", "max_epochs=9") if "." in key else FINETUNE
    status, _, err, left = call(f"{command} --quiet {key}")
    assert status == FAILED
    assert one_line(err)
    assert "not a finite number" in err
    assert "lower learning rate" in err
    assert left == []


@training_commands
def test_parents_of_the_output_made_for_a_run_that_fails_go_too(command, call, monkeypatch):
    monkeypatch.setattr(Trainer, "step", stop(RuntimeError("a cable was pulled")))
    status, _, err, left = call(TRAINING_COMMANDS[command][0].replace("out/run", "a/b/c"))
    assert status == FAILED
    assert one_line(err)
    assert "a cable was pulled" in err
    assert left == []


def test_code_that_comes_with_a_model_is_not_run(call, model_folders):
    call("check $models/own-code --forget forget.jsonl")
    assert not (model_folders / "code-was-run").exists()


@pytest.mark.parametrize("key", ["short", "\u00e9" * 64], ids=["short", "not ASCII"])
def test_a_key_that_is_none_is_refused(key, call, tmp_path, monkeypatch):
    path = tmp_path / "my-key"
    path.write_text(key, encoding="utf-8")
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(path))
    status, _, err, left = call(RUN + "--quiet")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "my-key" in err
    assert left == []


def test_control_characters_in_a_file_do_not_reach_the_terminal(call):
    """A column name with a colour and a carriage return is shown escaped, on one line."""
    name = "\x1b[31mred\rgreen\x07"
    status, _, err, _ = call(f"{FORGET_RUN} --forget f.jsonl", {"f.jsonl": json_lines({name: "a"})})
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "\\x1b[31mred" in err
    assert err.rstrip("\n").isprintable()


def test_ids_in_the_output_of_check_are_inert(call):
    row = {"id": "\x1b[2J[red]a\nb[/red]", "text": FORGET[0]}
    files = {"f.jsonl": json_lines(row)}
    status, out, _, _ = call("check $models/good --forget f.jsonl --retain f.jsonl", files)
    assert status == MET
    assert "\\x1b[2J[red]a b[/red]" in out
    assert "\x1b" not in out


def test_an_id_that_the_terminal_cannot_write_is_escaped(call, monkeypatch):
    """Standard output in ASCII, as in a container without a locale."""
    bytes_out, ended = io.BytesIO(), []
    command = "check $models/good --forget f.jsonl --retain f.jsonl"
    files = {"f.jsonl": json_lines({"id": "é", "text": FORGET[0]})}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding="ascii"))
    monkeypatch.setattr(sys, "exit", ended.append)
    monkeypatch.setattr("unlearner.cli.run", lambda _: call(command, files)[0])
    before = signal.getsignal(signal.SIGTERM)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.stdout.flush()
    assert ended == [MET]
    assert rb"\xe9 ~ \xe9" in bytes_out.getvalue()


@pytest.mark.parametrize("link", ["to an empty folder", "to nothing"])
def test_an_output_that_is_a_link_is_written_where_it_points(link, call, tmp_path):
    if link == "to an empty folder":
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    status, *_ = call(FINETUNE.replace("out/run", "link") + "--quiet epochs=1")
    assert status == MET
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_in_a_folder_that_may_not_be_written_is_refused(call, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    status, _, err, left = call(RUN.replace("out/run", "closed/run"))
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "--output closed/run" in err
    assert "writable" in err
    assert left == []


def test_nothing_memorised_is_an_answer_and_writes_nothing(call):
    """A random model knows none of the records: status 0 and a plain sentence."""
    command = RUN.replace("good", "blank") + "evaluation.resamples=20"
    status, out, err, left = call(command)
    assert status == MET
    assert "nothing to unlearn by these measures" in " ".join(out.split())
    assert "--force" in err
    assert left == []


def test_force_runs_though_nothing_is_memorised(call, tmp_path):
    status, out, err, _ = call(RUN.replace("good", "blank") + "--force" + SHORT)
    assert status in (MET, NOT_MET)
    assert "verdict" in out
    assert err == ""
    names = {path.name for path in (tmp_path / "out" / "run").iterdir()}
    assert names == {"model", "report.json", "report.html", "report.md", "run.yaml", "log.jsonl"}
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("pairs", ["fresh", "fixed"])
def test_a_forget_set_larger_than_the_pool_works(pairs, call, tmp_path):
    """Six records share two partners."""
    files = {"two.jsonl": texts(RETAIN[:2])}
    status, _, err, _ = call(RUN + f"--pool two.jsonl method.pairs={pairs}" + SHORT, files)
    assert err == ""
    assert status in (MET, NOT_MET)
    report = json.loads((tmp_path / "out" / "run" / "report.json").read_text("utf-8"))
    assert report["data"]["forget"]["records"] == 6
    assert report["data"]["analogous"]["records"] == 2


def test_a_record_longer_than_the_context_is_kept_whole(call, tmp_path):
    """Windows of 128 tokens overlap by one; the report counts every token once and none less."""
    long = " ".join(f"{town} has {i} mills," for i, town in enumerate(TOWNS * 9))
    num_tokens = len(tiny_tokenizer()(long)["input_ids"])
    assert num_tokens > 3 * 128
    status, _, err, _ = call(RUN + SHORT, {"forget.jsonl": texts([long])})
    assert "Traceback" not in err
    assert status in (MET, NOT_MET)
    report = json.loads((tmp_path / "out" / "run" / "report.json").read_text("utf-8"))
    assert report["data"]["forget"]["tokens"] == num_tokens
