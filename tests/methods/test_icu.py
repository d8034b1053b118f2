"""ICU: the objective by hand and by definition, its reductions, its epochs and its stop."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from conftest import VOCAB, tiny_model
from unlearner.data.batches import collate
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet, Window
from unlearner.inference.language_model import Questions
from unlearner.inference.reference import TargetDistribution
from unlearner.methods.icu import ICU, PAPER, Held, _still_active
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.retrieval.neighbours import Retrieved
from unlearner.settings import TrainingSettings
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.log import Log
from unlearner.training.pace import Fading, Pace
from unlearner.training.stop_rule import RoundState
from unlearner.training.trainer import Trainer


def tokenized(name, lengths, seed, records=None):
    rng = np.random.default_rng(seed)
    owners = records or list(range(len(lengths)))
    made = [
        Window(owner, str(owner), rng.integers(2, VOCAB, n), np.ones(n - 1, bool), n // 2)
        for owner, n in zip(owners, lengths, strict=True)
    ]
    some = tuple(Record(str(i), text="x") for i in range(max(owners) + 1))
    return TokenizedSet(name, some, tuple(made), "memory")


def nll(model, window):
    """Mean negative log-probability of a window's labels, from the whole softmax in float64."""
    ids = torch.from_numpy(window.input_ids)
    table = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return [-table[t - 1, ids[t]] for t in range(1, len(ids))]


def definition(model, reference, kept, forget, method, bound):
    """The objective as the docstring writes it, one record at a time."""
    learned = [sum(nll(model, window)) / (len(window) - 1) for window in kept]
    divergence = []
    for window in kept:
        ids = torch.from_numpy(window.input_ids)[None]
        p = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        q = reference(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        divergence.append((q.exp() * (q - p)).sum(-1).mean())
    climbed = []
    for window in forget:
        tokens = torch.stack(nll(model, window))
        if method.forget_bound == "token":
            tokens = tokens.clamp(max=bound)
        loss = tokens.mean()
        climbed.append(loss.clamp(max=bound) if method.forget_bound == "record" else loss)
    return (
        method.analogous_weight * sum(learned) / len(kept)
        + method.kl_weight * sum(divergence) / len(kept)
        - method.forget_weight * sum(climbed) / method.batch_size
    )


@pytest.mark.parametrize("bound", ["none", "record", "token"])
def test_objective_and_gradient_equal_the_definition(architecture, bound):
    model, reference = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    method = ICU(forget_bound=bound, batch_size=4)
    kept, forget = tokenized("kept", (9, 5, 12), 0).windows, tokenized("f", (7, 11), 1).windows
    limit = float(np.mean([float(x) for window in forget for x in nll(model, window)]))
    batch = {"analogous": collate(kept), "forget": collate(forget)}
    target = TargetDistribution.of(reference, kept).logits([0, 1, 2], batch["analogous"])
    terms = method._terms(model, batch, target, limit)
    wanted = definition(model, reference, kept, forget, method, limit)
    assert float(sum(terms.values())) == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)
    found = torch.autograd.grad(sum(terms.values()), list(model.parameters()), allow_unused=True)
    exact = torch.autograd.grad(wanted, list(model.parameters()), allow_unused=True)
    for one, other in zip(found, exact, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other.float(), rtol=2e-3, atol=2e-4)


def test_loss_with_a_model_as_reference_equals_kept_hidden_states():
    model, reference = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    kept, forget = tokenized("kept", (9, 5), 0).windows, tokenized("f", (7,), 1).windows
    batch = {"analogous": collate(kept), "forget": collate(forget)}
    kept_states = TargetDistribution.of(reference, kept).logits([0, 1], batch["analogous"])
    method = ICU(forget_bound="none")
    one = method.loss(model, batch, reference)
    other = method.loss(model, batch, kept_states)
    assert {n: float(v) for n, v in one.items()} == pytest.approx(
        {n: float(v) for n, v in other.items()}, rel=1e-4
    )


def test_a_lone_record_pushes_no_harder_than_it_does_among_eight():
    """The forget term is a sum over the records divided by batch_size, not by their number."""
    model, method = tiny_model("gpt2"), ICU(forget_bound="none", batch_size=8)
    kept, forget = tokenized("kept", (6,), 0).windows, tokenized("f", (6,) * 8, 1).windows
    target = TargetDistribution.of(model, kept)

    def term(windows):
        batch = {"analogous": collate(kept), "forget": collate(windows)}
        logits = target.logits([0], batch["analogous"])
        return float(method._terms(model, batch, logits, None)["forget"])

    assert sum(term([window]) for window in forget) == pytest.approx(term(forget), rel=1e-5)


def test_windows_of_one_record_count_as_one_record():
    """Two windows of a record: the mean is over all its tokens, not the mean of two means."""
    model, method = tiny_model("gpt2"), ICU(forget_bound="none", batch_size=1)
    kept = tokenized("kept", (6,), 0).windows
    forget = tokenized("f", (4, 9), 1, records=[0, 0]).windows
    batch = {"analogous": collate(kept), "forget": collate(forget)}
    target = TargetDistribution.of(model, kept).logits([0], batch["analogous"])
    found = method._terms(model, batch, target, None)["forget"]
    tokens = [float(x) for window in forget for x in nll(model, window)]
    assert float(found) == pytest.approx(-sum(tokens) / (3 + 8), rel=1e-5)


def test_the_kl_of_the_target_with_itself_is_nought():
    model, kept = tiny_model("gpt_neox"), tokenized("kept", (9, 5), 0).windows
    batch = {"analogous": collate(kept)}
    target = TargetDistribution.of(model, kept).logits([0, 1], batch["analogous"])
    terms = ICU()._terms(model, batch, target, None)
    assert float(terms["kl"]) == pytest.approx(0, abs=1e-5)
    assert "forget" not in terms


def unlearning_data(tokenizer, forget, pool, level):
    found = Retrieved(((0,),), ((1.0,),), "tf-idf", (), 0)
    partners = [i % len(pool) for i in range(len(forget))]
    analogous = AnalogousSet(list(range(len(pool))), pool, partners, found, 0)
    questions = Questions(prompt_start=0.75)
    return UnlearningData(tokenizer, forget, pool, None, analogous, level, questions, 1e9)


def trainer(seed=0):
    return Trainer(TrainingSettings(device="cpu", seed=seed), Log())


# Below every model, so that no record ever counts as forgotten.
LOW = HoldoutBaseline(
    ma=-1.0, el_10=0.0, es=0.0, loss=3.0, worst_ma=-1.0, worst_el_10=0.0, source="test"
)


def test_unlearn_trains_every_architecture(architecture, tokenizer):
    """One epoch moves the weights, keeps them finite, and raises the forget loss."""
    model = tiny_model(architecture)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
    worker = trainer()
    ICU(max_epochs=1, learning_rate=1e-3, forget_bound="none", batch_size=2).unlearn(
        model, unlearning_data(tokenizer, forget, pool, LOW), worker
    )
    after = list(model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.isfinite().all() for parameter in after)
    assert [line["steps"] for line in worker.rounds] == [0, 1, 2]  # a quarter of two is one step
    assert worker.steps == 2  # three records in batches of two


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(tokenizer):
    def weights(seed):
        model = tiny_model("llama")
        forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
        method = ICU(max_epochs=2, learning_rate=1e-3, batch_size=1, fresh_per_step=2)
        method.unlearn(model, unlearning_data(tokenizer, forget, pool, LOW), trainer(seed))
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_no_active_record_and_no_recovery_stops_at_once(tokenizer):
    """With the level at the top every record is forgotten before the first epoch."""
    high = HoldoutBaseline(
        ma=1.0, el_10=1.0, es=1.0, loss=3.0, worst_ma=1.0, worst_el_10=1.0, source="test"
    )
    worker = trainer()
    forget, pool = tokenized("forget", (14, 9), 3), tokenized("pool", (10, 16), 4)
    model = tiny_model("llama")
    ICU(preset="paper").unlearn(model, unlearning_data(tokenizer, forget, pool, high), worker)
    assert worker.steps == 0
    assert len(worker.rounds) == 1


def test_an_epoch_without_active_records_only_learns(tokenizer):
    """As many steps as an epoch of all records has: ceil(5 / 2) = 3, none with a forget term."""
    forget, pool = tokenized("forget", (9,) * 5, 3), tokenized("pool", (10, 16), 4)
    data, worker, model = (
        unlearning_data(tokenizer, forget, pool, LOW),
        trainer(),
        tiny_model("gpt2"),
    )
    method = ICU(batch_size=2, learning_rate=1e-3)
    given = method._begin(model, data, worker)
    batches = method._batches((), 5, worker.generator)
    losses = method._take(batches, given)
    assert worker.steps == 3
    assert set(losses) == {"analogous", "kl"}


def test_a_lone_records_loss_is_not_told(tokenizer):
    lines = []
    worker = Trainer(TrainingSettings(device="cpu"), Log(None, lines.append))
    forget, pool = tokenized("forget", (9,) * 3, 3), tokenized("pool", (10, 16), 4)
    data, method = unlearning_data(tokenizer, forget, pool, LOW), ICU(batch_size=2)
    method._take([[2, 0], [1]], method._begin(tiny_model("gpt2"), data, worker))
    assert ["forget" in line["loss"] for line in lines] == [True, False]


def test_the_best_checkpoint_under_the_floor_comes_back(tokenizer):
    """The rate is absurd: every epoch ruins more, so the last round is not the one to keep."""
    model = tiny_model("gpt2")
    forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
    data = unlearning_data(tokenizer, forget, pool, LOW)
    worker = trainer()
    method = ICU(max_epochs=3, learning_rate=0.05, batch_size=2, forget_bound="none")
    method.model_copy(update={"steps_per_round": "epoch"}).unlearn(model, data, worker)
    ruined = [line["retain_perplexity"] for line in worker.rounds]
    assert all(math.isfinite(value) for value in ruined)
    kept = worker.details.get("restored_round", 3)
    ranks = [line["ma"] for line in worker.rounds[1:]]
    assert ranks[kept - 1] == min(ranks)


def state(ma, *, active=(0, 1), suppressed=False):
    return RoundState(1, active, {"ma": ma}, 1.0, 1.0, False, suppressed, 0.0, 0.0)


def test_rounds_come_sooner_the_nearer_the_level_is():
    """Level 0.4, 20 steps an epoch. First a quarter, 5 steps, from 1.0 to 0.9: 0.02 a step.

    0.5 is left, 25 steps: half of them, 12. Those go to 0.54, 0.03 a step: 0.14 is 4.67 steps, half
    of them are 2. To 0.46, 0.04 a step: 0.06 are 1.5 steps, so one. From 0.42 one step would go
    beyond the level: it is taken at half the rate.
    """
    pace, way = Pace("auto", 0.4), [1.0, 0.9, 0.54, 0.46, 0.42]
    taken = []
    for before, after in pairwise([*way, 0.4]):
        count = pace.steps(state(before), 20, pushes=True)
        taken.append((count, pytest.approx(pace.rate)))
        pace.learn(state(before), state(after), count)
    assert taken == [(5, 1), (12, 1), (2, 1), (1, 1), (1, 0.5)]


def test_the_rate_comes_back_where_nothing_is_pushed_and_falls_no_further_than_an_eighth():
    pace = Pace("auto", 0.4)
    pace.learn(state(0.9), state(0.5), 1)
    assert pace.steps(state(0.41), 20, pushes=True) == 1
    assert pace.rate == 1 / 8  # 0.01 of 0.4 would be a fortieth
    assert pace.steps(state(0.41), 20, pushes=False) == 20
    assert pace.rate == 1


def test_steps_that_went_nowhere_do_not_hurry_the_next():
    """0.2 a step until nothing is pushed; MA is back at 0.5 then: half of the way is no step."""
    pace = Pace("auto", 0.4)
    assert pace.steps(state(1.0), 8, pushes=True) == 2
    pace.learn(state(1.0), state(1.0), 2)
    assert pace.steps(state(1.0), 8, pushes=True) == 2
    pace.learn(state(1.0), state(0.6), 2)
    pace.learn(state(0.4), state(0.45), 1)
    assert pace.steps(state(0.45), 8, pushes=False) == 8
    assert (pace.steps(state(0.5), 8, pushes=True), pace.rate) == (1, pytest.approx(0.5))


def test_rounds_at_a_distance_of_ones_own():
    assert Pace("epoch", 0.4).steps(state(0.41), 20, pushes=True) == 20
    assert Pace(3, 0.4).steps(state(0.41), 20, pushes=True) == 3
    assert Pace(3, 0.4).steps(state(0.41), 2, pushes=True) == 2


def test_forgotten_records_leave_the_epoch_and_learning_alone_ends_when_one_returns():
    assert _still_active([[3, 1], [2], [4, 0]], (0, 1)) == [[1], [0]]
    assert _still_active([[3, 1], [2]], ()) == []
    assert _still_active([[], []], ()) == [[], []]
    assert _still_active([[], []], (1,)) == []


def test_once_within_the_limits_records_are_not_pushed_any_further(tokenizer):
    """ES alone is above its mean and below the limit, so only learning is left: no forget term."""
    level = HoldoutBaseline(
        ma=1.0,
        el_10=1.0,
        es=-1.0,
        loss=3.0,
        worst_ma=1.0,
        worst_el_10=1.0,
        source="test",
        limits={"ma": 1.0, "el_10": 1.0, "es": 1.0},
    )
    forget, pool = tokenized("forget", (14, 9), 3), tokenized("pool", (10, 16), 4)
    data = unlearning_data(tokenizer, forget, pool, level)
    worker = trainer()
    method = ICU(max_epochs=1, learning_rate=1e-3, recovered_at=1.0, batch_size=1)
    method.unlearn(tiny_model("llama"), replace(data, utility_floor=0.1), worker)
    assert worker.rounds[1]["active"] == 2
    assert set(worker.rounds[1]["loss"]) == {"analogous", "kl"}


def test_the_preset_is_the_paper_and_what_is_given_goes_before_it():
    method = ICU(preset="paper", num_beams=1)
    assert (method.learning_rate, method.pairs, method.refine_by) == (5e-6, "fixed", "text")
    assert (method.batches, method.mean_over, method.prompt_tokens) == ("original", "tokens", 50)
    assert (method.recover, method.keep) == (False, "last")
    assert (method.forget_weight, method.analogous_weight, method.kl_weight) == (1.0, 0.5, 1.0)
    assert method.num_beams == 1
    assert PAPER["num_beams"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"forget_weight": -1},
        {"pairs": "nearest"},
        {"batch_size": 0},
        {"recovered_at": 0.9},
        {"learning_rate": 0},
        {"learning_rate": "fast"},
        {"beta": 1},
    ],
)
def test_hyper_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        ICU(**wrong)


def test_with_partners_the_rate_fades_with_each_step_from_the_level_on():
    """Level 0.4, 10 steps a round: whole before it, then 0.984^0, ^10, ^20, at last an eighth."""
    pace = Fading("auto", 0.4)
    rates = []
    for ma in (0.9, 0.4, 0.5, 0.3):
        assert pace.steps(state(ma), 10, pushes=True) == 10
        rates.append(pace.rate)
    assert rates == pytest.approx([1.0, 1.0, 0.984**10, 0.984**20])
    for _ in range(20):
        pace.steps(state(0.4), 10, pushes=True)
    assert pace.rate == 1 / 8


def test_unseen_text_s_divergence_is_a_mean_over_records():
    """Of two records of other lengths: 0 at the target, else each record's own mean counts once."""
    model, windows = tiny_model("gpt2"), tokenized("u", (5, 14), 7).windows
    held = Held.of(model, windows)
    assert float(held.divergence(model, [0, 1])) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.3)
    each = [float(held.divergence(model, [place])) for place in (0, 1)]
    assert min(each) > 1e-4
    assert float(held.divergence(model, [0, 1])) == pytest.approx(sum(each) / 2, rel=1e-5)
