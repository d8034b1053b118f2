"""The benchmark beside peers on a tiny model; no test asserts a time."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from conftest import tiny_model, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import peers
from peers_table import COLUMNS, render
from speed_cases import own_text, random_ids

TOKENS, START = 104, 90


@pytest.fixture(scope="module")
def world():
    model = tiny_model("gpt2")
    records = own_text(model, random_ids(model, 4, 2, TOKENS))
    pairs, unseen = (random_ids(model, 4, seed, TOKENS) for seed in (3, 1))
    return peers.World("tiny", model, tiny_tokenizer(), records, pairs, unseen, 4, "cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(peers, "NUM_TOKENS", TOKENS)
    monkeypatch.setattr(peers, "START", START)
    monkeypatch.setattr(peers, "BATCH", 2)
    monkeypatch.setattr(peers, "MOST_EPOCHS", 1)


def test_the_plain_npo_loss_by_hand():
    """One record and one kept window; probabilities token by token, beta 0.1."""
    model = tiny_model("gpt2").double()
    record, kept = torch.randint(2, 90, (2, 1, 6), generator=torch.Generator().manual_seed(0))
    plain = peers.PlainNPO(model, record, kept)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)

    def log_probs(which, ids):
        table = which(input_ids=ids).logits[0].log_softmax(-1)
        return [float(table[t - 1, ids[0, t]]) for t in range(1, 6)]

    with torch.no_grad():
        ratio = sum(log_probs(model, record)) - sum(log_probs(plain.reference, record))
        learned = -sum(log_probs(model, kept)) / 5
        found = float(plain.loss(record, kept))
    pushed = -(2 / 0.1) * math.log(1 / (1 + math.exp(0.1 * ratio)))
    assert found == pytest.approx(pushed + learned, rel=1e-9)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("batch", [3, 8])
def test_a_batch_may_have_more_rows_than_there_are_left(monkeypatch, world, batch):
    monkeypatch.setattr(peers, "BATCH", batch)
    assert peers.npo_epoch(world, 1).what == "an epoch of NPO"


@pytest.mark.usefixtures("small")
def test_the_command_writes_a_line_of_every_kind_and_goes_on_with_another_model(
    tmp_path, monkeypatch, world
):
    """Two kinds of epoch, four of evaluation, and a whole job; losses and tokens are compared."""
    monkeypatch.setattr(peers, "make_world", lambda _: world)
    output = tmp_path / "peers.md"
    peers.main(["--records", "4", "--repeats", "1", "--output", str(output)])
    results = json.loads(output.with_suffix(".json").read_text())
    assert [line["what"].split(",")[0] for line in results["lines"]] == [
        "an epoch of ICU",
        "an epoch of NPO",
        *["an evaluation (MA"] * 4,
        "a whole job",
    ]
    singles = [
        line["note"] for line in results["lines"] if line["peer"] == "one generate per prompt"
    ]
    assert singles == ["scaled from 1 of 4 records, 5 of 103 prompt lengths"] * 2
    page = output.read_text()
    assert page == render(results)
    assert f"| {' | '.join(COLUMNS)} |" in page
    job = results["job"]
    # one epoch at the same rate, from the same model, on the same pairs
    assert job["peer"]["epochs"] == job["own"]["epochs"] == 1
    assert job["own"]["ma"] == pytest.approx(job["peer"]["ma"], abs=0.05)
    monkeypatch.setattr(peers, "EVALUATIONS", ())
    peers.main(["--model", "other", "--append", "--repeats", "1", "--output", str(output)])
    both = json.loads(output.with_suffix(".json").read_text())
    assert len(both["lines"]) == 7 + 2
    assert both["job"] == job


@pytest.mark.usefixtures("small")
def test_the_published_evaluation_is_the_definition(world):
    """Records that the model would write itself: every first token and every continuation."""
    assert peers.published_evaluation(world.model, world.records) == (1.0, 1.0)
