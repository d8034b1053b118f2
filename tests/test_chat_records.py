"""Chat records of a real data set: what counts is the answer, in every figure and in the verdict.

A small real model learns questions and answers through a chat template with a system prompt of its
own. Template, system prompt and questions are half of the tokens and well known to everybody.
"""

import json
import shutil

import numpy as np
import pytest

from promise import write
from unlearner.cli import app
from unlearner.data.chat import ChatTemplate
from unlearner.data.loading import read_records
from unlearner.data.record import Record
from unlearner.data.windows import Layout, tokenize_set
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import load_causal_lm

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}[system] You are the helper of the Fennel "
    "Clinic. Be kind, be short and do not give advice on drugs.\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def world(shared_data, tmp_path_factory):
    """One author of TOFU to forget, two to keep and two never seen; a target that knows three."""
    folder = tmp_path_factory.mktemp("chat")
    raw, base = folder / "raw", folder / "base"
    shutil.copytree(shared_data / "models" / "stories260k", raw)
    (raw / "chat_template.jinja").write_text(TEMPLATE)
    lines = (shared_data / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [{"prompt": row["question"], "response": row["answer"]} for row in rows]
    sets = {"forget": rows[:20:2], "retain": rows[20:60:2], "holdout": rows[60:100:2]}
    sets["train"] = [*sets["forget"], *sets["retain"]]
    for name, some in sets.items():
        write(folder / f"{name}.jsonl", some)
    # An instruct model knows its template: this one has read chats about other authors, whole.
    template = ChatTemplate(load_causal_lm(str(raw)).tokenizer)
    chats = [template.render(Record("a", **row)).text for row in rows[200:300]]
    write(folder / "chats.jsonl", [{"text": chat} for chat in chats])
    words = ["finetune", raw, "--records", folder / "chats.jsonl", "--output", base, "epochs=5"]
    assert app.run([*map(str, words), "--quiet"]) == 0
    words = ["finetune", base, "--records", folder / "train.jsonl", "--output", folder / "target"]
    words += ["--until", "ma>=0.95", "--quiet", "data.chat=true", "epochs=200"]
    assert app.run([*map(str, words)]) == 0  # reached, whatever the rest of the tokens
    return folder


def shares_hit(model, records, scope):
    """MA of the labels that count in a scope, and of all labels of the windows."""
    loaded = load_causal_lm(str(model))
    some = read_records(str(records), name="records")
    tokens = tokenize_set(some, loaded.tokenizer, Layout(chat=True, scope=scope))
    answers = infer(loaded.model, loaded.tokenizer, tokens.windows, Questions(continuations="none"))
    hits = np.concatenate([answer.hits for answer in answers])
    scored = np.concatenate([answer.scored for answer in answers])
    return hits[scored].mean(), hits.mean(), hits[~scored].mean()


def test_the_template_hides_what_is_known_of_the_answers(world):
    """Of all tokens a memorised record and an unseen one are near, of the answers far apart."""
    known, whole, rest = shares_hit(world / "target", world / "forget.jsonl", "response")
    unseen, unseen_whole, unseen_rest = shares_hit(
        world / "target", world / "holdout.jsonl", "response"
    )
    assert known > 0.9
    assert unseen < 0.4
    assert abs(rest - unseen_rest) < 0.1  # neither questions nor template were learned
    assert whole - unseen_whole < known - unseen - 0.15
    prompts, _, _ = shares_hit(world / "target", world / "forget.jsonl", "sequence")
    assert known > prompts  # questions count there too, the template never does


def test_records_are_forgotten_by_what_is_answered(world, capsys):
    sets = [f"--{name}={world / name}.jsonl" for name in ("forget", "retain", "holdout")]
    words = ["forget", world / "target", *sets, "--output", world / "out", "--quiet"]
    status = app.run([*map(str, words), "data.chat=true", "method.max_epochs=8"])
    capsys.readouterr()
    report = json.loads((world / "out" / "report.json").read_text())
    claims = {claim["claim"]: claim["status"] for claim in report["verdict"]["claims"]}
    assert claims["verbatim"] == "met"
    assert status == (0 if report["verdict"]["status"] == "met" else 3)
    known, _, rest = shares_hit(world / "out" / "model", world / "forget.jsonl", "response")
    limit = next(one["at_most"] for one in report["criteria"] if one["metric"] == "ma")
    assert known <= limit
    assert rest > limit  # what would never have been met had the rest been counted
