"""Which records are still remembered, how far from the level the set is, which model is better."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import tiny_model
from unlearner.data.record import Record
from unlearner.data.windows import Layout, TokenizedSet, Window
from unlearner.families import CAUSAL_LM, causal_lm
from unlearner.inference.answers import Answer
from unlearner.inference.language_model import Questions, beam_continuations, infer
from unlearner.settings import CriteriaSettings, EvaluationSettings
from unlearner.training import stop_rule
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.stop_rule import Refinement, RoundState, above_worst, excess, is_better

LEVEL = HoldoutBaseline(0.4, 0.1, 0.2, 3.0, worst_ma=0.6, worst_el_10=0.3, source="")


@dataclass(frozen=True)
class Rules:
    refine_by: str = "level"
    refine_rule: str = "any"
    bleu_below: float = 0.01
    bertscore_below: float = 0.3
    bertscore_model: str | None = None
    bertscore_baseline: float = 0.0
    num_beams: int = 1
    prompt_tokens: int | None = None


def answer(record, hits=0, of=20, **changed):
    """A window with its first labels hit; behind a miss the model says a foreign token."""
    ids = np.arange(of + 1)
    hit = np.arange(of) < hits
    decoded = {t: np.full(of + 1 - t, 99) for t in range(1, of + 1)}
    said = Answer(
        record,
        str(record),
        ids,
        np.ones(of, bool),
        np.full(of, -2.0),
        np.where(hit, ids[1:], 99),
        decoded=decoded,
    )
    return replace(said, **changed)


def text(record, said, truth):
    return answer(record, continuation_text=said, reference_text=truth)


def last_hit(record):
    """Only the last of 20 labels is hit: MA 1/20, EL_10 0, ES 1 - 20/21."""
    return answer(record, argmax=np.where(np.arange(20) == 19, 20, 99))


def random_ids(seed):
    return np.random.default_rng(seed).integers(2, 90, 15)


def tokenized(name, num_windows, owners=None):
    owners = owners or range(num_windows)
    made = tuple(
        Window(owner, str(owner), random_ids(seed), np.ones(14, bool), 7)
        for seed, owner in enumerate(owners)
    )
    records = tuple(Record(str(i), text="x") for i in range(max(owners) + 1))
    return TokenizedSet(name, records, made, "memory")


def data(forget, tokenizer=None, level=LEVEL):
    return UnlearningData(
        tokenizer, forget, None, tokenized("retain", 3), None, level, Questions(), 1.1
    )


def examine(monkeypatch, answers, rules=None, level=LEVEL, kept_nats=1.0):
    """The state when the model says this of the forget set, and e a token of the kept text."""
    forget = tokenized("forget", len(answers), [one.record for one in answers])

    def said(_model, _tokenizer, windows, _questions):
        if windows is forget.windows:
            return list(answers)
        return [answer(window.record, log_probs=np.full(20, -kept_nats)) for window in windows]

    monkeypatch.setattr(stop_rule, "infer", said)
    return Refinement(rules or Rules(), data(forget, level=level)).examine(None, 0)


def test_looks_are_in_the_arithmetic_of_the_datas_questions(monkeypatch):
    """Of all three sets; what a report asks is of float32 whatever the setting is."""
    asked = []

    def said(_model, _tokenizer, windows, questions):
        asked.append(questions.lower)
        return [answer(window.record, log_probs=np.full(20, -1.0)) for window in windows]

    monkeypatch.setattr(stop_rule, "infer", said)
    some = replace(data(tokenized("forget", 2)), questions=Questions(lower=True))
    Refinement(Rules(), replace(some, unseen=tokenized("holdout", 2))).examine(None, 0)
    assert asked == [True] * 3


@pytest.mark.parametrize("lower", [False, True])
def test_the_setting_is_for_looks_alone_and_stands_in_run_files_where_it_is_used(
    monkeypatch, lower
):
    evaluation = EvaluationSettings(look_autocast=lower)
    assert ("look_autocast" in evaluation.model_dump()) is lower
    assert not causal_lm.questions_of(evaluation).lower
    for name in ("without_copies", "pool_of", "recipe_of"):
        monkeypatch.setattr(causal_lm, name, lambda *_: None)

    class Prepared(dict):
        loaded, layout = SimpleNamespace(tokenizer=None), Layout()

    config = SimpleNamespace(
        evaluation=evaluation,
        criteria=CriteriaSettings(),
        model=None,
    )
    found = CAUSAL_LM.method_data(Prepared(forget=None), {}, LEVEL, config, {})
    assert found.questions.lower is lower


# Rounds of a loop that works on the whole set


def worked_on_whole(monkeypatch, hits, quick, floor=None):
    """The state of a loop by the set: MA `hits` of 20, of which the late ones make EL_10."""
    answers = [answer(0, argmax=np.where(np.arange(20) >= 20 - hits, np.arange(1, 21), 99))]
    forget = tokenized("forget", 1, [0])
    asked = []

    def said(_model, _tokenizer, windows, questions):
        asked.append(questions.continuations)
        if windows is forget.windows:
            return list(answers)
        return [answer(window.record, log_probs=np.full(20, -1.0)) for window in windows]

    monkeypatch.setattr(stop_rule, "infer", said)
    some = replace(data(forget, level=replace(LEVEL, ma=0.7)), quick_looks=quick)
    return Refinement(Rules(), some, by_set=True, floor=floor).examine(None, 0), asked


@pytest.mark.parametrize("quick", [False, True])
def test_an_el_10_that_decides_nothing_counts_as_1_asked_for_or_not(monkeypatch, quick):
    """MA 0.75 above 0.7, or kept text above the floor: a quick look and a full one rank alike."""
    level = replace(LEVEL, ma=0.7)
    above, asked = worked_on_whole(monkeypatch, 15, quick)
    assert ("el_10" in above.values) is not quick
    assert above.excess == pytest.approx(stop_rule.excess({**above.values, "el_10": 1.0}, level))
    assert asked.count("none") == (2 if quick else 1)
    damaged, _ = worked_on_whole(monkeypatch, 13, quick, floor=0.5)
    assert damaged.excess == pytest.approx(
        stop_rule.excess({**damaged.values, "el_10": 1.0}, level)
    )
    below, _ = worked_on_whole(monkeypatch, 13, quick)
    assert below.excess == stop_rule.excess(below.values, level)
    assert 0.0 < below.values["el_10"] < 1.0


def test_near_the_limit_the_model_is_run_once_and_says_no_more_than_a_quick_round(monkeypatch):
    """MA 0.75, 0.65, 0.6 and 0.75 again, level 0.7: forced passes alone where EL_10 was not near.

    The fourth round is asked in full, because the third was below, and has no EL_10 all the same.
    """
    forget = tokenized("forget", 1, [0])
    asked, hits = [], 15

    def said(_model, _tokenizer, windows, questions):
        if windows is forget.windows:
            asked.append(questions.continuations)
        right = np.where(np.arange(20) >= 20 - hits, np.arange(1, 21), 99)
        return [answer(0, argmax=right)]

    monkeypatch.setattr(stop_rule, "infer", said)
    some = replace(data(forget, level=replace(LEVEL, ma=0.7)), quick_looks=True)
    refinement, states = Refinement(Rules(), some, by_set=True), []
    for number, hits in enumerate((15, 13, 12, 15)):  # noqa: B007 - read by the fake
        states.append(refinement.examine(None, number))
    assert asked == ["none", "none", "all", "all", "all"]
    assert ["el_10" in state.values for state in states] == [False, True, True, False]
    assert replace(states[3], round=0, seconds=0) == replace(states[0], seconds=0)


# By the level


def test_a_record_above_the_mean_of_unseen_text_is_active_and_one_at_it_is_not(monkeypatch):
    """MA 8/20 is the level 0.4, 9/20 above it."""
    state = examine(monkeypatch, [answer(0, 8), answer(1, 9), answer(2, 0)])
    assert state.active == (1,)


def test_el_10_alone_keeps_a_record_active(monkeypatch):
    """The last 12 of 20 labels hit: MA 0.6 is below a level of 0.9, EL_10 is far above 0.1."""
    late = answer(0, argmax=np.where(np.arange(20) >= 8, np.arange(1, 21), 99))
    state = examine(monkeypatch, [late, answer(1)], level=replace(LEVEL, ma=0.9))
    assert state.values["el_10"] > 0.1
    assert state.active == (0,)


def test_when_only_es_is_above_its_level_its_records_are_active(monkeypatch):
    """ES 1/21 each of two of four records where unseen text has 0.01: mean 0.024.

    MA 1/20 and EL_10 0 are below their levels; without these two no step could lower ES.
    """
    low = replace(LEVEL, es=0.01)
    answers = [last_hit(0), answer(1), last_hit(2), answer(3)]
    state = examine(monkeypatch, answers, level=low)
    assert state.values["es"] == pytest.approx(2 / 21 / 4)
    assert state.active == (0, 2)
    assert (state.at_level, state.suppressed) == (True, False)  # the paper's stop knows no ES
    assert examine(monkeypatch, answers).active == ()  # at the level 0.2 all is well
    assert examine(monkeypatch, answers, level=replace(low, es=None)).active == ()


def test_windows_of_a_record_are_one_record(monkeypatch):
    """0 of 20 and 18 of 20: 18 of 40 is above 0.4, the mean over windows is the same 0.45."""
    state = examine(monkeypatch, [answer(0, 0), answer(0, 18), answer(1, 2)])
    assert state.active == (0,)
    assert state.values["ma"] == pytest.approx((18 / 40 + 2 / 20) / 2)


# By the text


BY_TEXT = Rules(refine_by="text")
TRUTH = "her phone number is 4711 she said"


def test_a_text_with_a_four_gram_of_the_truth_is_active(monkeypatch):
    """Unsmoothed BLEU below 0.01 means that no word 4-gram is shared."""
    said = ["her phone number is 0815 he said", "her phone was number 4711", TRUTH.upper(), ""]
    answers = [text(i, each, TRUTH) for i, each in enumerate(said)]
    assert examine(monkeypatch, answers, BY_TEXT).active == (0, 2)


def test_a_short_text_has_no_bleu_and_is_active_only_where_it_is_repeated(monkeypatch):
    answers = [
        text(0, "Call 4711", "call 4711"),
        text(1, "call 0815", "call 4711"),
    ]
    assert examine(monkeypatch, answers, BY_TEXT).active == (0,)


SAID = [TRUTH, TRUTH, "nothing like it at all", "nothing like it at all"]
LIKENESS = [0.9, 0.2, 0.9, 0.2]


class FakeScorer:
    """Gives the scores above in order, whatever the texts."""

    def __init__(self, name, *, baseline):
        self.name, self.baseline = name, baseline

    def score(self, candidates, references):
        assert list(candidates) == SAID
        assert list(references) == [TRUTH] * 4
        return LIKENESS


@pytest.mark.parametrize(("rule", "active"), [("any", (0,)), ("all", (0, 1, 2))])
def test_forgotten_by_any_or_by_all_of_bleu_and_bertscore(monkeypatch, rule, active):
    """Records: like by both, by BLEU alone, by BERTScore alone, by neither (limit 0.3).

    "any": one measure that says forgotten is enough, so only the first stays. "all": both must.
    """
    monkeypatch.setattr(stop_rule, "BertScorer", FakeScorer)
    rules = Rules(refine_by="text", refine_rule=rule, bertscore_model="fake")
    answers = [text(i, each, TRUTH) for i, each in enumerate(SAID)]
    assert examine(monkeypatch, answers, rules).active == active


@pytest.mark.parametrize("rule", ["any", "all"])
def test_without_an_encoder_bleu_decides_alone(monkeypatch, rule):
    rules = Rules(refine_by="text", refine_rule=rule)
    answers = [text(i, each, TRUTH) for i, each in enumerate(SAID)]
    assert examine(monkeypatch, answers, rules).active == (0, 1)


def test_beams_or_a_shorter_prompt_give_the_text_that_is_compared(monkeypatch):
    """The greedy text is the truth, the other is not, and the other way round."""
    other = "nothing like it at all"
    asked = []

    def said(*_, num_beams, prompt_tokens):
        asked.append((num_beams, prompt_tokens))
        return [other, TRUTH]

    monkeypatch.setattr(stop_rule, "beam_continuations", said)
    answers = [text(0, TRUTH, TRUTH), text(1, other, TRUTH)]
    assert examine(monkeypatch, answers, BY_TEXT).active == (0,)
    assert examine(monkeypatch, answers, replace(BY_TEXT, num_beams=2)).active == (1,)
    assert examine(monkeypatch, answers, replace(BY_TEXT, prompt_tokens=50)).active == (1,)
    assert asked == [(2, None), (1, 50)]


def test_beam_search_equals_generate_and_is_the_model_s_own(tokenizer):
    """Two beams of a real model, windows of one record and of different lengths."""
    model = tiny_model("gpt_neo")
    windows = tokenized("forget", 3, [0, 0, 1]).windows
    windows = (windows[0], replace(windows[1], prefix=5), windows[2])
    texts = beam_continuations(model, tokenizer, windows, num_beams=2)
    for window, text in zip(windows, texts, strict=True):
        ids = torch.from_numpy(window.input_ids[: window.prefix])[None]
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=15 - window.prefix,
            num_beams=2,
            do_sample=False,
            pad_token_id=1,
        )
        kept = out[0, window.prefix :].tolist()
        assert text == tokenizer.decode(kept, skip_special_tokens=True)


# The set


def test_excess_by_hand():
    """MA (0.6 - 0.4) / 0.4 = 0.5; EL_10 below its level; ES (0.5 - 0.2) / 0.2 = 1.5."""
    assert excess({"ma": 0.6, "el_10": 0.05, "es": 0.5}, LEVEL) == pytest.approx(2.0)
    assert excess({"ma": 0.4, "el_10": 0.1, "es": 0.2, "loss": 99.0}, LEVEL) == 0


def test_excess_over_a_level_of_0_is_finite():
    """EL_10 0.001 above 0 counts 0.001 / 0.000001 = 1000."""
    level = replace(LEVEL, el_10=0.0)
    assert excess({"ma": 0.0, "el_10": 0.001, "es": 0.0}, level) == pytest.approx(1000)


def test_what_has_no_level_or_no_figure_adds_no_excess():
    level = replace(LEVEL, es=None)
    assert excess({"ma": 0.4, "es": 1.0}, level) == 0


def test_a_figure_that_is_not_a_number_is_not_at_the_level():
    assert math.isnan(excess({"ma": math.nan}, LEVEL))


def test_a_record_above_the_worst_unseen_record_by_either_measure():
    """Worst MA 0.6 = 12/20: at it is not above it. A record known by heart is above both."""
    answers = [answer(0, 12), answer(1, 13), answer(2, 20), answer(3, 0, of=9)]
    assert above_worst(answers, LEVEL) == {1, 2}
    assert above_worst(answers, replace(LEVEL, worst_ma=1.0)) == {2}


def test_a_set_is_suppressed_when_its_means_and_each_record_are(monkeypatch):
    """Means of 0 and 13 of 20: 0.325 is below 0.4, but 13/20 = 0.65 is above the worst 0.6."""
    assert not examine(monkeypatch, [answer(0, 0), answer(1, 13)]).suppressed
    assert examine(monkeypatch, [answer(0, 0), answer(1, 12)]).suppressed
    assert not examine(monkeypatch, [answer(0, 12), answer(1, 12)]).suppressed  # the mean is 0.6


def test_records_too_short_for_el_10_are_judged_by_the_rest(monkeypatch):
    state = examine(monkeypatch, [answer(0, 1, of=9), answer(1, 8, of=9)])
    assert "el_10" not in state.values
    assert state.active == (1,)
    assert state.line({})["el_10"] is None


def test_one_record_is_a_set(monkeypatch):
    state = examine(monkeypatch, [answer(0, 20)])
    assert (state.active, state.suppressed, state.values["ma"]) == ((0,), False, 1.0)


# Kept text


def test_utility_is_relative_to_the_first_examination(tokenizer):
    """The same model has ratio 1; other weights their own perplexity over the first one's."""
    some = tokenized("forget", 2)
    examiner = Refinement(Rules(), data(some, tokenizer))
    first = examiner.examine(tiny_model("gpt2"), 0)
    second = examiner.examine(tiny_model("gpt2", seed=1), 1, first)
    assert (first.kept_ratio, first.round, second.round) == (1.0, 0, 1)
    assert second.kept_ratio == pytest.approx(second.kept_perplexity / first.kept_perplexity)
    assert second.kept_ratio != 1.0


def test_perplexity_of_kept_text_is_the_exponential_of_its_mean_loss(tokenizer):
    """All 3 windows of 14 labels are of one length, so the mean over tokens is that of windows."""
    model = tiny_model("gpt2")
    kept = tokenized("retain", 3)
    state = Refinement(Rules(), data(tokenized("forget", 1), tokenizer)).examine(model, 0)
    answers = infer(model, tokenizer, kept.windows, Questions(continuations="none"))
    losses = [-each.log_probs.mean(dtype=np.float64) for each in answers]
    assert state.kept_perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)


@pytest.mark.parametrize("nats", [math.nan, 800.0])
def test_a_perplexity_that_json_cannot_hold_is_none_in_the_report(monkeypatch, nats):
    """exp(800) is above every float64."""
    state = examine(monkeypatch, [answer(0)], kept_nats=nats)
    assert state.line({"forget": -1.0})["retain_perplexity"] is None
    assert not state.kept_ratio <= 1.05


def made(number, active=(), values=(), **changed):
    state = RoundState(
        round=number,
        active=active,
        values=dict(values),
        kept_perplexity=12.0,
        kept_ratio=1.0,
        at_level=False,
        suppressed=False,
        excess=0.0,
        seconds=2.5,
    )
    return replace(state, **changed)


def test_a_round_s_line_by_hand():
    state = made(3, (1, 4), {"ma": 0.5, "el_10": 0.25})
    assert state.line({"kl": 0.1}) == {
        "round": 3,
        "active": 2,
        "el_10": 0.25,
        "ma": 0.5,
        "loss": {"kl": 0.1},
        "seconds": 2.5,
        "retain_perplexity": 12.0,
        "unseen_perplexity": None,
        "mia_loss_auc": None,
    }


# The better model


def test_forgetting_goes_before_kept_text():
    """Suppressed first, then less excess, then a lower perplexity of kept text."""
    worst_to_best = [
        made(1, suppressed=False, excess=0.9, kept_ratio=1.0),
        made(2, suppressed=False, excess=0.5, kept_ratio=1.1),
        made(3, suppressed=False, excess=0.5, kept_ratio=1.0),
        made(4, suppressed=False, excess=0.0, kept_ratio=1.2),
        made(5, suppressed=True, excess=0.0, kept_ratio=1.1),
        made(6, suppressed=True, excess=0.0, kept_ratio=1.05),
    ]
    for better, worse in pairwise(reversed(worst_to_best)):
        assert is_better(better, worse)
        assert not is_better(worse, better)
    assert is_better(worst_to_best[0], None)
    assert not is_better(worst_to_best[0], worst_to_best[0])  # the earlier one of equals stays
