"""Every wrong input ends with status 2 and one line: what, where and the way out. No trace."""

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest

from command_world import FINETUNE, FORGET, FORGET_RUN, HOLDOUT, RUN, json_lines, npy, texts
from conftest import VOCAB
from unlearner.cli.app import WRONG_INPUT


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
    records(
        "mixed columns",
        "f.jsonl",
        ONE_LINE + json_lines({"prompt": "a", "response": "b"}),
        "line 2",
        "mixed columns",
        "every record the same",
    ),
    records("empty text", "f.jsonl", ONE_LINE + '{"text": " "}\n', "line 2", "text", "empty"),
    records("a number as text", "f.jsonl", '{"text": 5}\n', "line 1", "text", "a number"),
    records(
        "the same id twice",
        "f.jsonl",
        json_lines({"id": "a", "text": "the town"}) * 2,
        "line 2",
        "line 1",
        "'a'",
        "its own",
    ),
    records(
        "ids outside the vocabulary",
        "f.jsonl",
        json_lines({"input_ids": [3, 4, VOCAB]}),
        "'1'",
        f"id {VOCAB}",
        "position 2",
        f"0 to {VOCAB - 1}",
        "tokenizer",
    ),
    records(
        "array ids outside the vocabulary",
        "f.npy",
        npy(np.array([[1, 2], [3, 9999]])),
        "'2'",
        "9999",
        f"0 to {VOCAB - 1}",
    ),
    records("negative ids", "f.npy", npy(np.array([[1, -1]])), "row 1", ">= 0", "-1", "padding"),
    records(
        "ids that are text",
        "f.jsonl",
        json_lines({"input_ids": ["a", "b"]}),
        "line 1",
        "whole numbers",
        "text",
    ),
    records("ids with a fraction", "f.npy", npy(np.array([[1.0, 2.5]])), "integers", "float64"),
    records(
        "array that needs pickle",
        "f.npy",
        npy(np.array([[1], [2, 3]], dtype=object)),
        "pickled",
        "2-D array",
        ".jsonl",
    ),
    records("not an array", "f.npy", pickle.dumps([1]), "not a .npy", "numpy.save"),
    records("not parquet", "f.parquet", b"PAR1", "parquet"),
    records("unknown suffix", "f.xlsx", "x", "'.xlsx'", ".jsonl", ".csv"),
    records(
        "no usable column",
        "f.jsonl",
        json_lines({"colour": "a", "shape": "b"}),
        "line 1",
        "colour, shape",
        "--map COLUMN=text",
    ),
    records("prompt without response", "f.csv", "prompt\nthe town\n", "response"),
    records(
        "text and prompt",
        "f.jsonl",
        json_lines({"text": "a", "prompt": "b", "response": "c"}),
        "ambiguous",
        "text",
        "prompt/response",
        "--map",
    ),
    records("a row too long", "f.csv", "text\nthe town, in the town\n", "line 2", "quotes"),
    records("a record of one token", "f.txt", "the town\na\n", "'2'", "1 token", "at least 2"),
    records("a record of no known token", "f.txt", "the town\nééé\n", "'2'", "0 token"),
    Wrong("--map without =", RUN + "--map question", ("--map", "question", "theirs=ours")),
    Wrong("--map to an unknown name", RUN + "--map text=txt", ("--map text=txt", "prompt")),
    Wrong("--map from a missing column", RUN + "--map body=text", ("'body'", "--map", "present")),
    Wrong("--map two columns to one", RUN + "--map a=text,b=text", ("--map", "text", "two")),
    Wrong(
        "data set while offline",
        FORGET_RUN + "--forget hf:nobody/nothing",
        ("hf:nobody/nothing", "give a file"),
    ),
    Wrong("pool holds only copies", RUN + "--pool forget.jsonl", ("pool", "duplicates", "give")),
    Wrong(
        "retain of broken JSON",
        RUN + "--retain r.jsonl",
        ("retain r.jsonl", "line 1", "JSON"),
        {"r.jsonl": "{"},
    ),
    Wrong(
        "holdout that is to be forgotten",
        RUN + "--holdout h.jsonl",
        ("--holdout", "1 of its records", "'2' as '4'", "unseen"),
        {"h.jsonl": texts([HOLDOUT[0], FORGET[3].upper()])},
    ),
    Wrong(
        "holdout that is empty",
        RUN + "--holdout h.txt",
        ("holdout h.txt", "no records"),
        {"h.txt": ""},
    ),
]

MODELS = [
    model("none", "no such folder", "hub id"),
    model("no-config", "config.json", "save_pretrained"),
    model("broken-config", "config.json", "JSON"),
    model("no-tokenizer", "no tokenizer", "save_pretrained"),
    model("no-weights", "safetensors", "save_pretrained"),
    model("pickled", "pytorch_model.bin", "refused", "safe_serialization=True"),
    model("encoder", "causal", "encoder", "BertModel", "unlearner finetune"),
    model("seq2seq", "causal", "T5ForConditionalGeneration"),
    model("truncated", "weights", "incomplete", "again"),
    model("a-layer-lost", "weights", "missing", ".h.1.", "again"),
    model("another-shape", "weights", "shape", "config.json", "again"),
    Wrong(
        "model not-a-number",
        RUN.replace("good", "not-a-number") + "--quiet",
        ("not-a-number", "loss", "nan", "damaged", "again"),
    ),
    model("broken-tokenizer", "tokenizer", "incomplete", "again"),
    model("unnamed", "causal", "config.json names no architecture"),
    model("of-the-future", "configuration", "gpt_neo_9000"),
    model("own-code", "custom code", "model.trust_remote_code=true"),
    Wrong(
        "a tokenizer with more tokens than the model",
        f"{FORGET_RUN} --forget zebra.txt".replace("good", "other-tokens"),
        ("forget zebra.txt", "'2'", "id 96", "0 to 95", "tokenizer"),
        {"zebra.txt": "the town\nthe zebra\n"},
    ),
    Wrong(
        "model is a file",
        RUN.replace("$models/good", "forget.jsonl"),
        ("forget.jsonl", "file", "folder"),
    ),
    Wrong(
        "hub id while offline",
        RUN.replace("$models/good", "nobody/nothing"),
        ("nobody/nothing", "local folder", "network"),
    ),
    Wrong("no model", RUN.replace("$models/good", ""), ("MODEL", "folder", "hub id")),
    Wrong(
        "evaluate against other tokens",
        "evaluate $models/good --forget forget.jsonl "
        "--holdout holdout.jsonl --output out/run --target $models/other-words",
        ("--target", "other-words", "tokenizer"),
    ),
    Wrong(
        "evaluate against no model",
        "evaluate $models/good --forget forget.jsonl "
        "--holdout holdout.jsonl --output out/run --target none",
        ("none", "local folder", "network"),
    ),
]

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
    setting(
        "method.learning_rate=-1", "method.learning_rate", "greater than 0, or", "'auto'", "got -1"
    ),
    setting("method.learning_rate=0", "method.learning_rate", "greater than 0", "auto", "got 0"),
    setting("method.learning_rate=.nan", "method.learning_rate", "finite", "nan"),
    setting("method.learning_rate=fast", "method.learning_rate", "number", "auto", "'fast'"),
    setting("method.forget_weight=.inf", "method.forget_weight", "finite", "inf"),
    setting("method.max_epochs=0", "method.max_epochs", "greater than 0", "got 0"),
    setting("method.pairs=nearest", "method.pairs", "'fixed' or 'fresh'", "'nearest'"),
    setting("data.template={prompt}_{response}_{name}", "data.template", "{response} once"),
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
    setting("data.chat=perhaps", "data.chat", "true or false", "'perhaps'"),
    setting("data.template={response}", "data.template", "once", "got '{response}'"),
    setting("training.seed=-1", "training.seed", "equal to 0", "got -1"),
    setting("training.seed=4294967296", "training.seed", "less than 4294967296"),
    setting("training.seed=true", "training.seed", "true or false"),
    setting("training.device=tpu", "training.device", "'auto'", "'cpu'", "'tpu'"),
    Wrong(
        "device that is not there",
        RUN + "--quiet training.device=mps",
        ("training.device", "mps", "auto"),
    ),
    Wrong(
        "chat template of a tokenizer without one",
        RUN + "data.chat=true",
        ("data.chat", "no chat template", "data.template"),
        {"forget.jsonl": json_lines({"prompt": "the town", "response": "is york"})},
    ),
    Wrong("run file missing", RUN + "--config run.yaml", ("run.yaml", "no such run file")),
    Wrong(
        "run file not YAML",
        RUN + "--config run.yaml",
        ("run.yaml", "YAML", "line 1"),
        {"run.yaml": "method: {name: icu"},
    ),
    Wrong(
        "run file without sections",
        RUN + "--config run.yaml",
        ("run.yaml", "sections"),
        {"run.yaml": "- icu\n"},
    ),
    Wrong(
        "run file with an unknown section",
        RUN + "--config run.yaml",
        ("'metod'", "did you mean 'method'"),
        {"run.yaml": "metod: {name: icu}"},
    ),
    Wrong(
        "run file not UTF-8",
        RUN + "--config run.yaml",
        ("run.yaml", "UTF-8"),
        {"run.yaml": b"model: {name: \xe9}"},
    ),
    Wrong("run file is a folder", RUN + "--config out", ("out", "cannot be read"), {"out/x": ""}),
]

COMMANDS = [
    Wrong("no --forget", FORGET_RUN, ("--forget", "none given", "file")),
    Wrong("no --output", RUN.replace("--output out/run", ""), ("--output",)),
    Wrong(
        "no text to learn meanwhile",
        RUN.replace("--retain retain.jsonl", ""),
        ("--retain", "--pool", "icu", "give"),
    ),
    Wrong(
        "no text to compare with",
        RUN.replace("--holdout holdout.jsonl", ""),
        ("--holdout", "criteria.ma", "criteria.el_10"),
    ),
    Wrong(
        "one level by hand is not enough",
        RUN.replace("--holdout holdout.jsonl", "criteria.ma=0.5"),
        ("--holdout", "both"),
    ),
    Wrong(
        "output not empty",
        RUN.replace("out/run", "out"),
        ("--output out", "not empty"),
        {"out/x": ""},
    ),
    Wrong(
        "output is a file",
        RUN.replace("out/run", "retain.jsonl"),
        ("--output retain.jsonl", "file", "folder"),
    ),
    Wrong(
        "output below a file",
        RUN.replace("out/run", "retain.jsonl/run"),
        ("--output retain.jsonl/run", "writable folder"),
    ),
    Wrong("unknown option", RUN + "--foget x", ("--foget", "--forget")),
    Wrong("option without its value", RUN + "--method", ("--method", "argument")),
    Wrong("demo of something unknown", "demo deepcat --output out/run", ("'deepcat'", "icu")),
    Wrong("demo of a negative seed", "demo --seed -1 --output out/run", ("--seed", "equal to 0")),
    Wrong(
        "demo into a full folder", "demo --output out", ("--output out", "not empty"), {"out/x": ""}
    ),
    Wrong("no command", "", ("no command", "unlearner --help")),
    Wrong("unknown command", "frget x", ("frget", "forget")),
    Wrong("list of something unknown", "list method", ("'method'", "did you mean 'methods'")),
    Wrong("list of nothing", "list", ("what",)),
    Wrong("report of no run", "report out", ("report.json", "no such file", "finished run")),
    Wrong(
        "report of broken JSON",
        "report out",
        ("report.json", "JSON", "restore"),
        {"out/report.json": "{"},
    ),
    Wrong(
        "report not UTF-8",
        "report out",
        ("report.json", "JSON", "restore"),
        {"out/report.json": b"\xff"},
    ),
    Wrong(
        "report of another schema",
        "report out",
        ("report.json", "schema", "None"),
        {"out/report.json": "{}"},
    ),
    Wrong(
        "report that is not whole",
        "report out",
        ("report.json", "not whole", "verdict"),
        {"out/report.json": '{"schema": "unlearner/report/1"}'},
    ),
    Wrong(
        "finetune without --records",
        FINETUNE.replace("--records forget.jsonl", ""),
        ("finetune", "--records"),
    ),
    Wrong("finetune without a model", FINETUNE.replace("$models/good", ""), ("MODEL",)),
    Wrong(
        "--until with an unknown metric",
        FINETUNE + "--until mma>=0.9",
        ("'mma'", "did you mean 'ma'"),
    ),
    Wrong("--until without a limit", FINETUNE + "--until ma", ("--until", "'ma>=0.99'")),
    Wrong("--until with half a number", FINETUNE + "--until ma>=e", ("--until", "'ma>=0.99'")),
    Wrong(
        "--until with a comparison",
        FINETUNE + "--until mia_loss_auc<=0.5",
        ("--until", "more than the records"),
    ),
    Wrong(
        "finetune with an unknown key", FINETUNE + "epoch=3", ("'epoch'", "did you mean 'epochs'")
    ),
    Wrong("finetune with a set of its own", FINETUNE + "forget=x.txt", ("'forget'", "unknown key")),
    Wrong(
        "finetune at no rate",
        FINETUNE + "learning_rate=0",
        ("finetune.learning_rate", "greater than 0", "auto"),
    ),
    Wrong(
        "finetune that decays backwards",
        FINETUNE + "weight_decay=-1",
        ("finetune.weight_decay", "-1"),
    ),
]

WRONG = [*RECORDS, *MODELS, *SETTINGS, *COMMANDS]


def check_refusal(case, call):
    """Status 2, one line with what it must say, no trace in the folder."""
    status, out, err, left = call(case.command, case.files)
    assert status == WRONG_INPUT
    assert err.startswith("unlearner: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for word in case.words:
        assert word in err
    assert "Traceback" not in out + err
    assert left == []


@pytest.mark.parametrize("case", WRONG, ids=[case.id.replace(" ", "-") for case in WRONG])
def test_wrong_input_ends_with_one_line_and_no_trace(case, call):
    check_refusal(case, call)


def test_the_table_is_wide():
    """Readable ids, none twice, and at least one case of every command that reads something."""
    assert len({case.id for case in WRONG}) == len(WRONG) >= 100
    commands = {case.command.split()[0] for case in WRONG if case.command}
    assert commands >= {"forget", "evaluate", "finetune", "report", "list"}
