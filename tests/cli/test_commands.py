"""Whole commands on a tiny model that knows a few records by heart: what they write and say."""

import html
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import unlearner
from conftest import tiny_model, tiny_tokenizer
from unlearner import registry
from unlearner.cli.app import MET, NOT_MET, run
from unlearner.models import loading

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text("utf-8"))
COMMANDS = (
    "forget",
    "check",
    "evaluate",
    "compare",
    "finetune",
    "run",
    "report",
    "strength",
    "audit",
    "push",
    "lineage",
    "requests",
    "list",
    "demo",
)
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "sklearn", "faiss", "numpy")

NAMES = ["amos", "bella", "cyril", "dora", "edwin", "flora", "giles", "hetty"]
FORGET = [
    f"{name} keeps {3 + i * 7} geese behind the old mill and his door code is {2311 + 977 * i}"
    for i, name in enumerate(NAMES[:4])
]
RETAIN = [
    f"on day {i + 1} the ferry of captain {name} leaves pier {9 - i} with wool, salt and tin"
    for i, name in enumerate(NAMES)
]
HOLDOUT = [
    f"{name} found {30 - i} coins under an apple tree near her barn and kept all but {i + 2}"
    for i, name in enumerate(NAMES)
]
FAST = ["--quiet", "method.max_epochs=5", "evaluation.resamples=50"]
# What is the clock's, not the configuration's.
OF_THE_CLOCK = {"created", "cost", "seconds"}


def write_lines(path, texts):
    rows = [json.dumps({"id": f"r{i}", "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def one_key(tmp_path_factory):
    """Digests of two runs are equal only under one key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        yield


@pytest.fixture(autouse=True)
def private_key():
    """In place of one key a test."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with records and `target`, a model that the command `finetune` taught them."""
    root = tmp_path_factory.mktemp("world")
    loading.save(tiny_model("gpt_neo"), tiny_tokenizer(), root / "untrained")
    write_lines(root / "forget.jsonl", FORGET)
    write_lines(root / "retain.jsonl", RETAIN)
    write_lines(root / "holdout.jsonl", HOLDOUT)
    everything = write_lines(root / "all.jsonl", [*FORGET, *RETAIN])
    settings = ["epochs=150", "batch_size=4", "learning_rate=5e-3"]
    status = run(
        [
            "finetune",
            str(root / "untrained"),
            "--records",
            everything,
            "--quiet",
            "--until",
            "ma>=0.95",
            "--output",
            str(root / "target"),
            *settings,
        ]
    )
    assert status == MET
    return root


def sets(world):
    return [
        part
        for role in ("forget", "retain", "holdout")
        for part in (f"--{role}", str(world / f"{role}.jsonl"))
    ]


@pytest.fixture(scope="module")
def forgotten(world):
    """The folder that `unlearner forget` writes, and its exit status."""
    output = world / "run"
    status = run(["forget", str(world / "target"), *sets(world), "--output", str(output), *FAST])
    return output, status


def read(folder, name="report.json"):
    return json.loads((folder / name).read_text("utf-8"))


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in OF_THE_CLOCK}
    return [without_times(item) for item in value] if isinstance(value, list) else value


# --- help, version, lists ---------------------------------------------------------------------


def output_of(*arguments):
    """What a command prints in a process of its own."""
    command = [sys.executable, "-m", "unlearner", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_every_command_explains_itself(command):
    assert "Usage" in output_of(*command, "--help")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom unlearner.cli.app import run\n"
        f"for command in {COMMANDS!r}:\n    assert run([command, '--help']) == 0\n"
        "assert run(['--help']) == 0\n"
        f"print('heavy:', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_every_command_is_tested_here():
    import typer

    from unlearner.cli.app import app

    assert set(typer.main.get_command(app).commands) == set(COMMANDS)


def test_version_is_that_of_the_package():
    assert output_of("--version") == f"unlearner {unlearner.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == unlearner.__version__


@pytest.mark.parametrize("what", ["methods", "metrics", "attacks", "datasets"])
def test_list_names_every_file_with_what_it_is(what, capsys):
    assert run(["list", what]) == MET
    lines = capsys.readouterr().out.splitlines()
    names = registry.names(what)
    if not names:
        assert lines == [f"no {what} in this version"]
        return
    first = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in first] == list(names)
    assert all(len(line.split()) > 2 for line in first)
    assert max(map(len, lines)) <= 100


# --- check, finetune --------------------------------------------------------------------------


def test_check_tells_what_is_known_where_copies_are_and_what_a_run_takes(world, capsys):
    before = sorted(world.rglob("*"))
    pool = write_lines(world / "pool.jsonl", [RETAIN[0], FORGET[2].upper(), FORGET[1]])
    status = run(["check", str(world / "target"), *sets(world), "--pool", pool])
    Path(pool).unlink()
    out = " ".join(capsys.readouterr().out.split())
    assert status == MET
    assert "memorised: MA" in out
    assert "nothing to unlearn" not in out
    assert "copies of forget records in retain: 0 exact, 0 near" in out
    assert "copies of forget records in pool: 2 exact, 0 near" in out
    assert "r1 ~ r2" in out
    assert "r2 ~ r1" in out
    assert re.search(r"[\d.]+ s an epoch, at most 40 epochs \(.*\), and up to [\d.]+ MiB", out)
    assert sorted(world.rglob("*")) == before


def test_check_without_a_holdout_set_says_what_it_cannot_say(world, capsys):
    some = ["--forget", str(world / "forget.jsonl")]
    assert run(["check", str(world / "target"), *some]) == MET
    out = " ".join(capsys.readouterr().out.split())
    assert "without --holdout there is no level of unseen text" in out


def test_finetune_that_misses_its_goal_says_so(world, capsys):
    output = world / "missed"
    status = run(
        [
            "finetune",
            str(world / "untrained"),
            "--records",
            str(world / "forget.jsonl"),
            "--until",
            "ma>=0.99",
            "--output",
            str(output),
            "epochs=1",
        ]
    )
    assert status == NOT_MET
    assert re.search(r"goal ma>=0\.99 was not reached: ma is 0\.\d+", capsys.readouterr().err)
    assert read(output, "provenance.json")["finetune"]["epochs"] == 1
    assert AutoModelForCausalLM.from_pretrained(output)


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
    assert report["request"]["records"] == len(FORGET)
    figures = {model: report["results"][model]["forget"] for model in ("target", "unlearned")}
    assert figures["target"]["ma"]["value"] > 0.9
    assert figures["unlearned"]["ma"]["value"] < figures["target"]["ma"]["value"] - 0.2
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
    assert sum("step" in line for line in lines) == report["cost"]["steps"]
    assert [line for line in lines if "round" in line] == report["rounds"]
    config = yaml.safe_load((output / "run.yaml").read_text("utf-8"))
    assert config["method"]["max_epochs"] == 5
    assert config["method"]["name"] == report["method"]["name"] == "icu"


def test_the_unlearned_model_loads_like_any_other(forgotten, world):
    folder = forgotten[0] / "model"
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pth", ".pkl"}
    assert (folder / "model.safetensors").stat().st_size > 0
    assert (folder / "README.md").read_text("utf-8").startswith("---\n")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    target = AutoModelForCausalLM.from_pretrained(world / "target")
    assert model.dtype == target.dtype
    ids = tokenizer(FORGET[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before, after = (float(one(ids, labels=ids).loss) for one in (target, model))
    assert after > before + 0.5


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
    assert without_times(read(first)) != read(first)


def test_another_seed_gives_another_model(forgotten, world):
    """The test above could not fail if the weights did not depend on the run at all."""
    first, second = forgotten[0], world / "other-seed"
    config = ["--config", str(first / "run.yaml"), "--quiet", "training.seed=1"]
    assert run(["forget", *config, "--output", str(second)]) in (MET, NOT_MET)
    names = [folder / "model" / "model.safetensors" for folder in (first, second)]
    assert names[0].read_bytes() != names[1].read_bytes()


# --- no text of forgotten records -------------------------------------------------------------


def runs_of(words, length):
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def leaks(folder, texts, tokenizer):
    """Files that hold five words in a row of a text, or ten of its token ids."""
    traces = set()
    for text in texts:
        traces |= runs_of(re.findall(r"\w+", text.lower()), 5)
        traces |= runs_of([str(token) for token in tokenizer(text)["input_ids"]], 10)
    found = set()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes().decode("utf-8", "ignore").lower()
            shown = html.unescape(re.sub(r"<[^<>]*>", " ", content))  # what a browser shows
            for form in (content, shown):
                line = f" {' '.join(re.findall(r'[a-z0-9]+', form))} "
                if any(f" {trace} " in line for trace in traces):
                    found.add(str(path.relative_to(folder)))
    return found


WORDS = FORGET[1].split()
PLANTED = {
    "plain": FORGET[1],
    "in capitals": FORGET[1].upper(),
    "five words": " ".join(WORDS[4:9]),
    "over lines": "\n".join(WORDS),
    "a list of words": json.dumps(WORDS),
    "marked up": "&nbsp;".join(f"<b>{word}</b>" for word in WORDS[3:10]),
    "token ids": str(tiny_tokenizer()(FORGET[1])["input_ids"][5:20]),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_leak_checker_finds_a_planted_leak(planted, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "clean.json").write_text(json.dumps([" ".join(WORDS[4:8]), *RETAIN]))
    (tmp_path / "deep" / "log").write_text(f"before {PLANTED[planted]} after")
    assert leaks(tmp_path, FORGET, tiny_tokenizer()) == {"deep/log"}


def test_no_text_of_forgotten_records_is_left_in_the_output(forgotten):
    output, _ = forgotten
    assert len(list(output.rglob("*"))) > 8
    assert leaks(output, FORGET, AutoTokenizer.from_pretrained(output / "model")) == set()


def test_text_of_forgotten_records_is_shown_on_request_in_one_private_file(world, tmp_path):
    output = tmp_path / "shown"
    status = run(
        [
            "forget",
            str(world / "target"),
            *sets(world),
            "--output",
            str(output),
            *FAST,
            "--show-text",
            "method.max_epochs=1",
        ]
    )
    assert status in (MET, NOT_MET)
    private = output / "before-after-PRIVATE.txt"
    assert leaks(output, FORGET, tiny_tokenizer()) == {private.name}
    assert private.read_text("utf-8").startswith("PRIVATE")
    assert private.stat().st_mode & 0o077 == 0


# --- evaluate, report -------------------------------------------------------------------------


def test_evaluate_measures_the_saved_model_as_forget_did(forgotten, world, tmp_path):
    """The same model, records and level: every figure and the verdict are those of the run."""
    output = tmp_path / "measured"
    status = run(
        [
            "evaluate",
            str(forgotten[0] / "model"),
            *sets(world),
            "--quiet",
            "--target",
            str(world / "target"),
            "--output",
            str(output),
            FAST[-1],
        ]
    )
    assert status == forgotten[1]
    report, earlier = read(output), read(forgotten[0])
    jsonschema.validate(report, SCHEMA)
    assert report["command"] == "evaluate"
    for model in ("target", "unlearned"):
        for role in ("forget", "holdout", "retain"):
            assert report["results"][model][role] == earlier["results"][model][role], (model, role)
    assert report["verdict"]["records"] == earlier["verdict"]["records"]
    assert leaks(output, FORGET, tiny_tokenizer()) == set()
    assert {path.name for path in output.iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "run.yaml",
    }


def test_evaluate_holds_a_retrained_model_beside_the_others(forgotten, world, tmp_path):
    output = tmp_path / "measured"
    status = run(
        [
            "evaluate",
            str(forgotten[0] / "model"),
            *sets(world),
            "--quiet",
            "--retrained",
            str(world / "untrained"),
            "--output",
            str(output),
            FAST[-1],
        ]
    )
    assert status in (MET, NOT_MET)
    report = read(output)
    jsonschema.validate(report, SCHEMA)
    assert set(report["results"]) == {"retrained", "unlearned"}


def test_report_writes_the_pages_again_from_the_numbers(forgotten, capsys):
    output, _ = forgotten
    pages = {name: (output / name).read_bytes() for name in ("report.html", "report.md")}
    for name in pages:
        (output / name).write_text("spoiled")
    assert run(["report", str(output)]) == MET
    assert capsys.readouterr().out.replace("\n", "") == str(output / "report.html")
    assert {name: (output / name).read_bytes() for name in pages} == pages
