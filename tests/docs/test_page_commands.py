"""Every command that the pages of the way in show is run, in a folder that holds what they name.

The models are tiny ones, and settings are added that make a run short: what is tested is that the
lines are accepted, find their files and leave what the next line needs.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from command_world import FORGET, HOLDOUT, RETAIN, texts
from conftest import tiny_model, tiny_tokenizer
from small_demo import shorten
from unlearner.cli.app import MET, NOT_MET, run
from unlearner.models import loading

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGES = (
    "README.md",
    "docs/start.md",
    "docs/first-tasks.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("howto-*.md")),
)
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
# What a line of the pages makes; a page begins without it.
MADE = re.compile(r"--(?:output|files) ([\w.-]+)")

SHORT = ["--quiet", "--force", "method.max_epochs=1"]
SMALL = ["evaluation.resamples=20", "evaluation.max_records=4", "training.device=cpu"]
# What is added to a command, by its first words.
ADDED = {
    "forget": [*SHORT, *SMALL],
    "check": SMALL,
    "evaluate": ["--quiet", *SMALL],
    "finetune": ["--quiet", "epochs=1"],
    "compare": ["--quiet", "method.max_epochs=1", *SMALL],
    "strength": ["--quiet", "--points", "2"],
    "audit": ["--quiet"],
    "requests find": ["--kinds", "exact"],
    "requests run": [*SHORT, *SMALL],
    "requests verify": ["--quiet"],
}
# In place of what would take minutes, for a command that names none itself.
QUICK_ATTACKS = ["--attacks", "leftovers,extraction"]
VERDICTS = {
    *("forget", "audit", "evaluate", "check", "finetune", "requests run", "requests verify"),
    "requests leftovers",
}


def blocks(page):
    """The lines of a page's shell blocks."""
    found = BLOCK.findall((ROOT / page).read_text("utf-8"))
    return [line for block in found for line in block.splitlines()]


@pytest.fixture(scope="module")
def world(made_once, model_folders):
    return made_once("front-door", lambda root: write_world(root, model_folders))


def write_world(root, model_folders):
    """What a page takes for granted: models, records, and a run and a request of before."""
    shutil.copytree(model_folders / "good", root / "my-model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template, tokenizer.model_max_length = CHAT_TEMPLATE, 512
    loading.save(tiny_model("llama"), tokenizer, root / ".models/SmolLM2-135M-Instruct")
    files = {
        "forget.jsonl": texts(FORGET[:4]),
        "second.jsonl": texts(FORGET[4:]),
        "retain.jsonl": texts(RETAIN),
        "kept.jsonl": texts(RETAIN[:3]),
        "unseen.jsonl": texts(HOLDOUT),
        "corpus.txt": "\n".join(RETAIN[3:]),
        "customers.jsonl": texts([text.replace("person", "mara") for text in FORGET[:3]]),
        "letter.txt": "Mara\n",
        "book.txt": "\n\n".join(text.replace(" ", "\n", 1) for text in FORGET),
        "younger-book.txt": "\n\n".join(HOLDOUT),
    }
    for name, content in files.items():
        (root / name).write_text(content, encoding="utf-8")


@pytest.fixture
def shortened(monkeypatch):
    shorten(monkeypatch)


def make(argument_lines):
    """Run lines of which the page takes the results for granted."""
    for line in argument_lines:
        assert run_line(line) in (MET, NOT_MET), line


def run_line(line):
    """The status of a line of a page, with what shortens it."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "unlearner":
        words = [part for part in arguments if re.fullmatch(r"[a-z]+", part)][:2]
        verb = " ".join(words if words[0] == "requests" else words[:1])
        more = list(ADDED.get(verb, []))
        if verb == "audit" and "--attacks" not in arguments:
            more += QUICK_ATTACKS
        if "--search" in arguments:
            more.append("search.trials=2")
        if verb == "requests run":
            more = [part for part in more if "=" in part or part in ("--quiet", "--force")]
        return run([*arguments, *more])
    if program == "python":
        script = EXAMPLES / Path(arguments[0]).name
        assert script.exists(), line
        return subprocess.run(
            [sys.executable, str(script), *arguments[1:], "--epochs", "1"], check=True
        ).returncode
    if program == "make":
        assert re.search(rf"^(\w.*\s)?{arguments[0]}\b.*:", (ROOT / "Makefile").read_text(), re.M)
        return MET
    assert program == "tr", f"no test knows how to run: {line}"
    return subprocess.run(line, shell=True, check=True).returncode


def status_of(line):
    """The statuses that a line may end with: of a short run no verdict is promised."""
    return (MET, NOT_MET) if any(f" {verb} " in f" {line} " for verb in VERDICTS) else (MET,)


@pytest.mark.slow
@pytest.mark.usefixtures("shortened")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, world, tmp_path, monkeypatch):
    place = tmp_path / "page"
    shutil.copytree(world, place)
    monkeypatch.chdir(place)
    lines = [line for line in blocks(page) if line.strip()]
    assert lines, f"{page} shows no command"
    own = {name for line in lines for name in MADE.findall(line)}
    if page == "README.md":
        _asks_in_chats(place)
    make(line for name, line in given_for("\n".join(lines)).items() if name not in own)
    if any(" encoder " in line for line in lines):  # what the shop's classifier began with
        AutoModel.from_pretrained("shop/model").save_pretrained("encoder")
        AutoTokenizer.from_pretrained("shop/model").save_pretrained("encoder")
    for line in lines:
        assert run_line(line) in status_of(line), line
    for name in own:
        assert Path(name).exists(), f"{page}: {name} was not made"


RUN = "--retain retain.jsonl --holdout unseen.jsonl"
GIVEN = {
    "demo": "unlearner demo icu --files demo",
    "shop": "unlearner demo deepcut --files shop",
    "chat": "python examples/trl_adapter.py --output chat --files-only",
    "out": f"unlearner forget my-model --forget forget.jsonl {RUN} --output out",
    "requests.db": "unlearner requests add --id 2026-014 --records forget.jsonl",
}


def given_for(lines):
    """What a page names and does not make: `demo/model` needs the demo's files."""
    signs = {
        "demo": "demo/",
        "shop": "shop/",
        "chat": "chat/",
        "out": " out",
        "requests.db": "report 2026-014",
    }
    return {name: GIVEN[name] for name, sign in signs.items() if sign in lines}


def _asks_in_chats(place):
    """The model of the README is an instruct model, and its records are asked."""
    shutil.rmtree(place / "my-model")
    shutil.copytree(place / ".models/SmolLM2-135M-Instruct", place / "my-model")
    for name in ("forget", "retain", "unseen"):
        path = place / f"{name}.jsonl"
        rows = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
        asked = [{"prompt": row[:12], "response": row[12:]} for row in rows]
        path.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
