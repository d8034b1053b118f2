"""Quantile matching: its distance by hand, its partners, and a run of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lm_methods import LAYOUT, LOW, OTHER, POOL, QUESTIONS, tokenized, weights
from torch.nn.functional import huber_loss

from conftest import tiny_model, tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.data.batches import collate
from unlearner.errors import UserError
from unlearner.families.base import Baseline, Prepared
from unlearner.families.causal_lm import CausalLM
from unlearner.families.causal_lm_sets import check_unseen, partners_of
from unlearner.inference.language_model import Questions
from unlearner.inference.reference import Likelihoods, likelihoods
from unlearner.methods.icu import ICU, Ascent
from unlearner.methods.quantile_matching import QuantileMatching
from unlearner.methods.weighted_gradient_ascent import WeightedGradientAscent
from unlearner.models.loading import Loaded
from unlearner.pipeline.findings import training_notes
from unlearner.settings import TrainingSettings
from unlearner.training.data import UnlearningData
from unlearner.training.log import Log
from unlearner.training.quantiles import (
    Quantiles,
    ask_quantiles,
    distance,
    log_odds,
    quantiles,
)
from unlearner.training.stop_rule import _membership
from unlearner.training.trainer import Trainer


def test_quantiles_are_straight_lines_between_the_partners_values():
    """Two values stand at levels 1/4 and 3/4; four are asked for at 1/8, 3/8, 5/8 and 7/8."""
    partner = Quantiles(np.array([1.0, 3.0]), np.array([0.0, 4.0]))
    losses, entropies = partner.at(4)
    assert losses.tolist() == [1.0, 1.5, 2.5, 3.0]
    assert entropies.tolist() == [0.0, 1.0, 3.0, 4.0]
    assert partner.at(2)[0].tolist() == [1.0, 3.0]


def found(losses, entropies, owner):
    values = [torch.tensor(some) for some in (losses, entropies)]
    return Likelihoods(-values[0], torch.zeros(len(owner)), values[1], torch.tensor(owner))


def test_the_distance_by_hand():
    """Losses 5 and 1 of record 0, sorted 1 and 5, against 1.5 and 3: H(-0.5) = 0.125, H(2) = 1.5.

    Their mean is 0.8125. Entropies 2 and 2 against 2 and 5: H(0) = 0, H(-3) = 2.5, mean 1.25.
    """
    partner = Quantiles(np.array([1.5, 3.0]), np.array([2.0, 5.0]))
    some = found([5.0, 9.0, 1.0], [2.0, 0.0, 2.0], [0, 1, 0])
    assert distance(some, 0, partner, 0.0).item() == pytest.approx(0.8125)
    assert distance(some, 0, partner, 2.0).item() == pytest.approx(0.8125 + 2 * 1.25)
    assert distance(some, 2, partner, 1.0).item() == 0.0


def test_log_odds_by_hand():
    """Of p = 1, 1/2 and e^-10: log(0 + 0.01), log(1 + 0.01), log(e^10 - 0.99)."""
    odds = log_odds(torch.tensor([0.0, math.log(2), 10.0], dtype=torch.float64))
    assert odds.tolist() == pytest.approx([-4.605170186, 0.009950331, 9.999955053], abs=1e-9)


def test_the_distance_of_log_odds_by_hand():
    """Log-odds 0 and 2 against 0.5 and 5: H(-0.5) = 0.125, H(-3) = 2.5, mean 1.3125.

    The loss l with log(e^l - 1 + 0.01) = r is log(e^r + 0.99). Entropies are compared as they are.
    """
    losses, goals = (
        [math.log(math.exp(odds) + 0.99) for odds in some] for some in ((2.0, 0.0), (0.5, 5.0))
    )
    partner = Quantiles(np.array(goals), np.array([2.0, 5.0]))
    some = found(losses, [2.0, 2.0], [0, 0])
    assert distance(some, 0, partner, 0.0, by_odds=True).item() == pytest.approx(1.3125)
    assert distance(some, 0, partner, 2.0, by_odds=True).item() == pytest.approx(1.3125 + 2 * 1.25)


@pytest.mark.parametrize("logit", [14.0, 9.0, 3.0, 0.0, -9.0])
def test_by_log_odds_a_known_token_is_pushed_as_hard_as_any(logit):
    """Of two tokens, whose odds are e^logit: the slope is the share of 1 - p in 1 - 0.99 p.

    By losses it would be 1 - p: of a token known by heart next to nothing.
    """
    logits = torch.tensor([logit, 0.0], dtype=torch.float64, requires_grad=True)
    log_prob = logits.log_softmax(-1)[:1]
    known = Likelihoods(log_prob, log_prob * 0, log_prob * 0, torch.zeros(1, dtype=torch.long))
    distance(known, 0, Quantiles(np.array([20.0]), np.zeros(1)), 0.0, by_odds=True).backward()
    p = log_prob.exp().item()
    assert logits.grad[0].item() == pytest.approx((1 - p) / (1 - 0.99 * p), rel=1e-6)


def test_a_tokens_gradient_is_bounded_and_turns_round_at_its_level():
    partner = Quantiles(np.array([2.0, 2.0]), np.zeros(2))
    for loss, slope in ((0.0, -1.0), (1.5, -0.5), (2.0, 0.0), (2.5, 0.5), (9.0, 1.0)):
        losses = torch.tensor([loss, loss], requires_grad=True)
        some = Likelihoods(-losses, losses * 0, losses * 0, torch.zeros(2, dtype=torch.long))
        distance(some, 0, partner, 0.0).backward()
        assert (2 * losses.grad).tolist() == pytest.approx([slope, slope])


def odds_of(losses):
    return ((1 - (-losses).exp()) / (-losses).exp() + 0.01).log()


def by_definition(model, windows, partners, entropy_weight, by):
    """Record by record and one sequence at a time, from the whole table of probabilities."""

    def sorted_values(record, some):
        rows = []
        for one in (window for window in some if window.record == record):
            ids = torch.from_numpy(one.input_ids)
            log_probs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
            at = torch.from_numpy(one.scored)
            own = -log_probs.gather(-1, ids[1:, None])[:, 0][at]
            rows.append((own, -(log_probs.exp() * log_probs).sum(-1)[at]))
        return [torch.cat(values).sort().values for values in zip(*rows, strict=True)]

    total = 0
    for record in {window.record for window in windows}:
        mine = sorted_values(record, windows)
        other = [values.detach().numpy() for values in sorted_values(record, partners)]
        kinds = ((1, odds_of if by == "odds" else lambda some: some), (entropy_weight, lambda e: e))
        for (weight, seen), own, goal in zip(kinds, mine, other, strict=True):
            levels = [(np.arange(len(some)) + 0.5) / len(some) for some in (own, goal)]
            wanted = torch.from_numpy(np.interp(*levels, goal))
            total = total + weight * huber_loss(seen(own), seen(wanted))
    return total / len({window.record for window in windows})


@pytest.mark.parametrize("by", ["odds", "losses"])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
def test_loss_and_gradient_equal_the_definition(entropy_weight, by):
    """In float64, with records of one, two and three windows, padded together."""
    model = tiny_model("gpt2").double()
    forget, partners = tokenized("forget", QUESTIONS), tokenized("holdout", OTHER[:3])
    method = QuantileMatching(entropy_weight=entropy_weight, forget_weight=3.0, by=by)
    with torch.no_grad():
        asked = likelihoods(model, collate(partners.windows), entropies=True)
    term = method.forget_term(model, {"forget": collate(forget.windows)}, quantiles(asked))
    wanted = 3 * by_definition(model, forget.windows, partners.windows, entropy_weight, by)
    assert term["forget"].item() == pytest.approx(wanted.item(), rel=1e-9)
    slopes = [
        torch.autograd.grad(value, list(model.parameters())) for value in (term["forget"], wanted)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def data(level=LOW, **fields):
    sets = {"forget": tokenized("forget", QUESTIONS), "pool": tokenized("pool", POOL)}
    unseen = tokenized("holdout", OTHER)
    rest = {"layout": LAYOUT, "partners": unseen.subset([0, 1]), "unseen": unseen.subset([2, 3])}
    return UnlearningData(
        tiny_tokenizer(),
        sets["forget"],
        sets["pool"],
        tokenized("retain", POOL),
        None,
        level,
        Questions(prompt_start=0.75),
        1e9,
        **rest | fields,
    )


def test_quantiles_of_a_set_are_those_of_its_records_whatever_the_batches(monkeypatch):
    monkeypatch.setattr("unlearner.training.quantiles.BATCH_TOKENS", 40)
    model, some = tiny_model("gpt2"), tokenized("holdout", QUESTIONS)
    for record, own in enumerate(ask_quantiles(model, some)):
        alone = likelihoods(model, collate(some.windows_of([record])), entropies=True)
        for values, wanted in ((own.losses, -alone.log_probs), (own.entropies, alone.entropy)):
            assert values.tolist() == pytest.approx(wanted.sort().values.tolist(), abs=1e-5)


def test_a_run_moves_the_records_losses_to_those_of_unseen_text():
    """A model that knows its records by heart has their mean loss near the unseen one's."""
    model, run = tiny_model("llama"), data()
    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    model = trainer.start(model, 1e-2)
    whole = collate(run.forget.windows)
    for _ in range(60):
        trainer.step(lambda: {"learn": likelihoods(model, whole).loss()})
    losses = []
    for method in (None, QuantileMatching(learning_rate=3e-3, min_steps=100, path=0.3)):
        if method is not None:
            fresh = Trainer(TrainingSettings(device="cpu"), Log(None))
            model = method.unlearn(model, run, fresh)
            assert fresh.rounds[-1]["steps"] == 100
        with torch.no_grad():
            losses.append(
                [
                    likelihoods(model, collate(some.windows)).loss().item()
                    for some in (run.forget, run.partners)
                ]
            )
    assert losses[0][0] < 0.5 < losses[0][1] - 1
    assert abs(losses[1][0] - losses[1][1]) < 0.25 * (losses[0][1] - losses[0][0])


def test_more_records_than_partners_share_them():
    """Three records and two partners: no record is left without one."""
    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    method = QuantileMatching(learning_rate=1e-3, min_steps=2, max_epochs=1, batch_size=1)
    model = method.unlearn(tiny_model("llama"), data(), trainer)
    assert trainer.steps == 3
    assert weights(model).isfinite().all()
    (note,) = training_notes(trainer, writes_text=True)
    assert note.startswith("2 unseen records gave the method its goals")
    assert "share one" in note


def prepared(num_forget, num_holdout, **method):
    config = RunConfig.from_sections({"method": {"name": "quantile_matching", **method}})
    family = CausalLM()
    sets = {
        "forget": tokenized("forget", [("who?", f"number {i}") for i in range(num_forget)]),
        "holdout": tokenized("holdout", [("why?", f"because {i}") for i in range(num_holdout)]),
    }
    model = Loaded(tiny_model("llama"), tiny_tokenizer(), "x")
    return config, Prepared(family, model, sets, {}, LAYOUT)


@pytest.mark.parametrize(
    ("num_forget", "num_holdout", "partners"), [(2, 10, 2), (4, 4, 2), (9, 5, 2), (3, 2, 1)]
)
def test_partners_are_as_many_as_the_records_or_half_of_what_is_there(
    num_forget, num_holdout, partners
):
    config, some = prepared(num_forget, num_holdout)
    own = partners_of(some, config)
    assert len(own) == partners
    assert {record.id for record in own.records} <= {str(i) for i in range(num_holdout)}


@pytest.mark.parametrize(("num_forget", "limit", "left"), [(4, 4, 4), (2, 5, 5), (4, 6, 4)])
def test_partners_are_drawn_from_those_that_are_not_measured(num_forget, limit, left):
    """Of 8 unseen ones: 4 of the 4 beyond a sample of 4; of 2 beyond a sample of 6, and 2 more."""
    config, some = prepared(num_forget, 8)
    evaluation = config.evaluation.model_copy(update={"max_records": limit})
    config = replace(config, evaluation=evaluation)
    measured = some.family.measured_sets(some, config)
    assert len(measured["holdout"]) == limit
    judged = some.family.judged_sets(some, measured, config)
    assert len(judged["holdout"]) == left


@pytest.mark.parametrize("num_holdout", [0, 1])
def test_fewer_than_two_unseen_records_are_refused(num_holdout):
    config, some = prepared(3, max(1, num_holdout))
    with pytest.raises(UserError, match="give 2 at least"):
        check_unseen(config, some["holdout"] if num_holdout else None)
    check_unseen(RunConfig.from_sections({"method": {"name": "icu"}}), None)


def test_no_figure_is_measured_on_a_partner():
    """Also where the models were measured for another method first, as `compare` does."""
    config, some = prepared(2, 8)
    plain = RunConfig.from_sections({"method": {"name": "npo"}})
    sets = some.family.measured_sets(some, plain)
    answers = {"target": some.family.infer(some.loaded, sets, config.evaluation)}
    scores = {"target": some.family.score("target", answers, sets, plain)}
    level = some.family.level(answers["target"], plain, under="the target model")
    some.sets["retain"], some.duplicates["retain"] = tokenized("retain", POOL), []
    before = Baseline(
        sets,
        answers,
        scores,
        level,
        (),
        data=some.family.method_data(some, sets, level, plain, scores),
        references=some.family.references(some.loaded, sets),
        digest="",
    )
    after = some.family.for_method(config, some, before)
    partners = {record.id for record in after.data.partners.records}
    judged = {record.id for record in after.sets["holdout"].records}
    assert (len(partners), len(judged)) == (2, 6)
    assert not partners & judged
    assert after.data.unseen is after.sets["holdout"]
    own = after.answers["target"]["holdout"]
    ids = [record.id for record in after.sets["holdout"].records]
    assert [ids[answer.record] for answer in own] == [answer.id for answer in own]
    assert {answer.id for answer in own} == judged
    assert after.scores["target"]["holdout"]["loss"].records == 6
    assert len(after.references["holdout"].hidden) == len(after.sets["holdout"].windows)
    assert after.level == before.level
    assert some.family.for_method(plain, some, before) is before


def test_a_run_ends_where_both_sides_and_kept_text_are_reached():
    """Limits that everything is within, and no unseen records to be told from."""
    easy = replace(LOW, ma=1.0, el_10=1.0, es=1.0, worst_ma=1.0, worst_el_10=1.0)
    method = QuantileMatching(learning_rate=1e-9, min_steps=60, steps_per_round=10)
    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    method.unlearn(tiny_model("llama"), data(easy, unseen=None), trainer)
    assert trainer.steps == 10
    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    method.model_copy(update={"stop": "never"}).unlearn(
        tiny_model("llama"), data(easy, unseen=None), trainer
    )
    assert trainer.steps == 60


def test_what_is_logged_holds_no_record_of_one(tmp_path):
    log = tmp_path / "log.jsonl"
    trainer = Trainer(TrainingSettings(device="cpu"), Log(log))
    method = QuantileMatching(learning_rate=1e-3, min_steps=3, max_epochs=1, batch_size=2)
    method.unlearn(tiny_model("llama"), data(), trainer)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line["loss"] for line in lines if "step" in line]
    assert [("forget" in step) for step in steps] == [True, False, True]


# The same distance in ICU, and other terms on the way back


def test_icus_ascent_ends_at_the_partners_losses_by_hand():
    """A kept record of loss 2; forget records of losses 1 and 5, and of 4; all entropies 0.

    Against 1.5 and 3: (0.125 + 1.5) / 2 = 0.8125; 4 against 4: 0. Over a batch of 4: 0.203125.
    """
    owner = torch.tensor([0, 1, 1, 2])
    losses = torch.tensor([2.0, 5.0, 1.0, 4.0])
    nothing = torch.zeros(4)
    partners = [
        Quantiles(np.array([1.5, 3.0]), np.zeros(2)),
        Quantiles(np.array([4.0]), np.zeros(1)),
    ]
    method = ICU(forget_bound="quantiles", batch_size=4, forget_weight=2.0)
    labels = Likelihoods(-losses, nothing, nothing, owner)
    terms = method._weigh(labels, 1, 3, Ascent(3.0, partners))
    assert terms["forget"].item() == pytest.approx(2 * 0.203125)
    assert terms["analogous"].item() == pytest.approx(2.0 * 2.0)
    alone = Likelihoods(*(some[1:] for some in labels[:3]), owner[1:] - 1)
    assert method._weigh(alone, 0, 2, Ascent(3.0, partners)) == {"forget": terms["forget"]}


def test_icu_sets_unseen_records_aside_where_it_learns_from_them_alone():
    assert ICU().learns_from_unseen
    assert not ICU(forget_bound="token").learns_from_unseen
    assert not ICU(preset="paper").learns_from_unseen
    assert QuantileMatching().learns_from_unseen


def test_a_loss_on_the_way_back_is_asked_for_the_forget_term_there_and_for_the_others_here():
    """The gradient of a step is that of two losses, each at its own model."""
    seen = []

    class Watched(WeightedGradientAscent):
        def loss(self, model, batch, reference=None):
            seen.append(next(model.parameters()).detach().clone())
            return super().loss(model, batch, reference)

    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    method = Watched(learning_rate=1e-2, max_epochs=2, batch_size=3, path=0.8, stop="never")
    method.unlearn(tiny_model("llama"), data(), trainer)
    assert trainer.steps == 2
    assert len(seen) == 4  # kept text here, the records on the way, in each of two steps
    assert torch.equal(seen[0], seen[1])  # the first step is at the target: all of the way is
    assert not torch.equal(seen[2], seen[3])
    target = next(tiny_model("llama").parameters())
    assert (seen[3] - target).norm() < (seen[2] - target).norm()
    assert set(trainer.rounds[1]["loss"]) == {"forget", "retain"}


# Told apart from unseen text


def test_the_mark_is_how_far_the_auc_is_off_beyond_its_standard_error():
    """Losses 1 and 2 against 3, 4 and 5: AUC 1; the error is sqrt(6 / (12 * 2 * 3)) = 0.2887."""
    own, unseen = np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    beyond = pytest.approx(0.5 - math.sqrt(6 / 72))
    assert _membership(own, unseen) == (1.0, beyond)
    assert _membership(own + 5, unseen) == (0.0, beyond)  # as far on this side
    assert _membership(np.array([3.5, 4.5]), unseen) == (0.5, 0.0)
    assert _membership(own, np.zeros(0)) == (None, 0.0)
