"""ICU's preset "paper" beside the published loop, written plainly, and its rules one by one."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_icu import LOW, nll, tokenized, trainer, unlearning_data

from conftest import tiny_model
from published_icu import PublishedLoop
from unlearner.data.batches import collate
from unlearner.inference import language_model
from unlearner.inference.language_model import beam_continuations
from unlearner.inference.reference import Likelihoods, TargetDistribution
from unlearner.methods.icu import ICU, Ascent
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.retrieval.neighbours import Retrieved
from unlearner.training.stop_rule import Refinement, RoundState

NUM_RECORDS = 11


def paired_data(tokenizer, forget, pool, level=LOW):
    """The i-th record of the pool is the partner of the i-th to be forgotten."""
    data = unlearning_data(tokenizer, forget, pool, level)
    found = Retrieved(((0,),), ((1.0,),), "tf-idf", (), 0)
    every = list(range(len(pool)))
    return replace(data, analogous=AnalogousSet(every, pool, every[: len(forget)], found, 0))


def look(active, number=0, **changed):
    figures = {"ma": 1.0, "el_10": 1.0, "loss": 1.0}
    state = RoundState(number, active, figures, 1.0, 1.0, False, False, 1.0, 0.0)
    return replace(state, **changed)


def scripted(monkeypatch, states):
    """Every examination finds the next of the states."""
    left = iter(states)
    monkeypatch.setattr(Refinement, "evaluate_round", lambda *_: next(left))


def rows(some):
    return torch.stack([torch.from_numpy(window.input_ids) for window in some.windows])


def difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_the_preset_steps_as_the_published_loop_does(monkeypatch, tokenizer):
    """Three epochs in double precision: all records, then 4 of 11, then 1, which empties batches.

    Every epoch has ceil(11 / 4) = 3 steps, also the last, of which two are of batches without
    records.
    """
    active = [range(NUM_RECORDS), (0, 3, 4, 9), (6,)]
    forget, pool = tokenized("f", (12,) * NUM_RECORDS, 1), tokenized("p", (12,) * NUM_RECORDS, 2)
    ours = tiny_model("gpt_neo").double()
    theirs = copy.deepcopy(ours)
    method = ICU(preset="paper", batch_size=4, learning_rate=1e-3, max_epochs=3)
    scripted(monkeypatch, [look(some, number) for number, some in enumerate([*active, ()])])
    worker = trainer(seed=5)
    method.unlearn(ours, paired_data(tokenizer, forget, pool), worker)
    assert worker.steps == 9

    loop = PublishedLoop(theirs, rows(forget), rows(pool), 1e-3, every_position=False, batch_size=4)
    generator = torch.Generator().manual_seed(5)
    for remembered in active:
        loop.epoch(remembered, torch.randperm(NUM_RECORDS, generator=generator).tolist())
    assert difference(ours, loop.target) > 5e-3
    assert difference(ours, theirs) < 1e-6


def batches_of(method, active, seed=0):
    return method._batches(active, 10, torch.Generator().manual_seed(seed))


def test_original_batches_lose_records_and_regrouped_ones_are_filled_up():
    """Ten records in fours; 1, 2, 5 and 8 are left: 3 steps as ever, or one of four."""
    active = (1, 2, 5, 8)
    whole = batches_of(ICU(batch_size=4, batches="original"), range(10))
    left = batches_of(ICU(batch_size=4, batches="original"), active)
    assert [len(batch) for batch in whole] == [4, 4, 2]
    assert left == [[record for record in batch if record in active] for batch in whole]
    assert [sorted(batch) for batch in batches_of(ICU(batch_size=4), active)] == [[1, 2, 5, 8]]


@pytest.mark.parametrize(
    ("mean_over", "expected"),
    [
        # Losses 3 of 2 labels and 6 of 4, B = 8: (3 + 6) / 8, or (2 * 3 + 4 * 6) / 6 labels.
        ("records", {"analogous": 0.5 * 2, "kl": 0.25, "forget": -9 / 8}),
        ("tokens", {"analogous": 0.5 * 1.5, "kl": 0.25, "forget": -30 / 6}),
    ],
)
def test_what_the_terms_are_divided_by(mean_over, expected):
    """Kept: losses 3 of one label and 1 of three: (3 + 1) / 2, or (3 + 3 * 1) / 4."""
    owner = torch.tensor([0, 1, 1, 1, 2, 2, 3, 3, 3, 3])
    losses = torch.tensor([3.0, 1, 1, 1, 2, 4, 6, 6, 6, 6])
    kl = torch.tensor([0.25] * 4 + [0.0] * 6)
    method = ICU(forget_bound="none", mean_over=mean_over, analogous_weight=0.5, batch_size=8)
    labels = Likelihoods(-losses, kl, torch.zeros(10), owner)
    terms = method._weigh(labels, num_kept=2, num_records=4, ascent=Ascent(None))
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected)


def test_a_record_bound_with_means_over_tokens():
    """Losses 3 of 2 labels and 6 of 4 with bound 5: (2 * 3 + 4 * 5) / 6."""
    owner = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    losses = torch.tensor([1.0, 2, 4, 6, 6, 6, 6])
    method = ICU(forget_bound="record", mean_over="tokens")
    labels = Likelihoods(-losses, torch.zeros(7), torch.zeros(7), owner)
    terms = method._weigh(labels, 1, 3, Ascent(5.0))
    assert float(terms["forget"]) == pytest.approx(-26 / 6)


def test_means_over_tokens_of_a_model_are_the_published_ones():
    model = tiny_model("llama")
    kept, forget = tokenized("kept", (9, 5), 0).windows, tokenized("f", (4, 7, 11), 1).windows
    batch = {"analogous": collate(kept), "forget": collate(forget)}
    target = TargetDistribution.of(model, kept).logits([0, 1], batch["analogous"])
    terms = ICU(preset="paper")._terms(model, batch, target, None)
    for name, windows, weight in (("forget", forget, -1.0), ("analogous", kept, 0.5)):
        tokens = [float(x.detach()) for window in windows for x in nll(model, window)]
        assert float(terms[name].detach()) == pytest.approx(weight * np.mean(tokens), rel=1e-5)


def test_a_batch_that_lost_all_records_moves_weights_by_momentum_alone(monkeypatch, tokenizer):
    """Adam with betas (0.9, 0.98) after one gradient g, then a gradient of 0 in step 2.

    m = 0.9 * 0.1 g = 0.09 g over 1 - 0.81 = 0.19; v = 0.98 * 0.02 g^2 over 1 - 0.9604 = 0.0396: a
    step of rate * (0.09 / 0.19) / sqrt(0.0196 / 0.0396), 0.673 of the rate, against g's sign.
    """
    forget, pool = tokenized("f", (12,) * 2, 1), tokenized("p", (12,) * 2, 2)
    model = tiny_model("gpt2").double()
    worker = trainer()
    kept = []
    step = worker.step

    def recorded(loss, private=(), on_way_back=None):
        kept.append([weight.detach().clone() for weight in model.parameters()])
        return step(loss, private, on_way_back)

    worker.step = recorded
    method = ICU(preset="paper", batch_size=1, learning_rate=1e-3, max_epochs=1)
    monkeypatch.setattr(ICU, "_batches", lambda *_: [[0], []])
    scripted(monkeypatch, [look((0,)), look((), 1)])
    data = paired_data(tokenizer, forget, pool)
    method.unlearn(model, data, worker)
    before, between = kept
    share = (0.09 / 0.19) / math.sqrt(0.0196 / 0.0396)
    for first, second, last in zip(before, between, model.parameters(), strict=True):
        moved = (second - first).abs() > 0.9999e-3  # a gradient much larger than Adam's epsilon
        ratio = (last.detach() - second)[moved] / (second - first)[moved]
        torch.testing.assert_close(ratio, torch.full_like(ratio, share), rtol=1e-3, atol=0)


def test_the_model_is_given_the_last_tokens_of_the_prefix(monkeypatch):
    """Prefixes of 6 and 3 tokens: the last four of the one, all three of the other."""
    windows = tokenized("f", (12, 6), 1).windows
    given = []

    def generate(_, ids, num_tokens, *, num_beams):
        given.append((ids.tolist(), num_tokens, num_beams))
        return [np.arange(num_tokens)] * len(ids)

    monkeypatch.setattr(language_model, "generate", generate)
    model, tokenizer = tiny_model("gpt2"), FakeTokenizer()
    assert beam_continuations(model, tokenizer, windows, num_beams=2, prompt_tokens=4) == ["6", "3"]
    first, second = (window.input_ids.tolist() for window in windows)
    assert given == [([first[2:6]], 6, 2), ([second[:3]], 3, 2)]
    given.clear()
    beam_continuations(model, tokenizer, windows, num_beams=2)
    assert [ids for ids, _, _ in given] == [[first[:6]], [second[:3]]]


class FakeTokenizer:
    def decode(self, ids, **_):
        return str(len(ids))


@pytest.mark.parametrize(("keep", "restored"), [("best", 1), ("last", None)])
def test_the_last_model_is_kept_whatever_it_has_cost(monkeypatch, tokenizer, keep, restored):
    """Round 1 keeps within the floor, rounds 2 and 3 are beyond it."""
    forget, pool = tokenized("f", (12,) * 3, 1), tokenized("p", (12,) * 3, 2)
    ratios = [1.0, 1.0, 9.0, 9.0]
    states = [look((0, 1), number, kept_ratio=ratio) for number, ratio in enumerate(ratios)]
    scripted(monkeypatch, states)
    worker = trainer()
    data = replace(paired_data(tokenizer, forget, pool), utility_floor=1.1)
    method = ICU(preset="paper", max_epochs=3, learning_rate=1e-3, keep=keep)
    method.unlearn(tiny_model("gpt2"), data, worker)
    assert worker.details.get("restored_round") == restored
    assert worker.steps == 3
