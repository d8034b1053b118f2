"""The level of unseen text, and sets scored: by hand."""

import math

import numpy as np
import pytest

from conftest import tiny_model
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet, Window
from unlearner.errors import UserError
from unlearner.evaluation.measure import score_sets
from unlearner.families import CAUSAL_LM
from unlearner.families.causal_lm import questions_of
from unlearner.families.causal_lm_criteria import Recall, measure_holdout_baseline
from unlearner.inference.answers import Answer
from unlearner.models.loading import Loaded
from unlearner.settings import CriteriaSettings, EvaluationSettings

MEASURED = "mean of the holdout set under the target model"


def answer(record, hits, of=20, nats=1.0):
    """A window of `of` labels, the first `hits` of them the most probable tokens.

    Behind a miss the model goes on with a token that the text does not have, to the end.
    """
    ids = np.arange(of + 1)
    argmax = np.where(np.arange(of) < hits, ids[1:], 99)
    decoded = {t: np.full(of + 1 - t, 99) for t in range(hits + 1, of + 1)}
    return Answer(
        record,
        f"id{record}",
        ids,
        np.ones(of, bool),
        np.full(of, -nats),
        argmax,
        decoded=decoded,
        reference_text="a b c d",
        continuation_text="e",
    )


def known(record, of=20, nats=1.0):
    """A window that is known by heart."""
    return answer(record, of, of, nats)


# The level


def test_a_measured_level_by_hand():
    """Records with MA 5/20 and 1: mean 0.625; the first has EL_10 0, the second 1.

    ES of the first is 0 (its last token is missed), of the second 1 - 1/21; losses 1 and 3.
    """
    level = measure_holdout_baseline([answer(0, 5), known(1, nats=3.0)], CriteriaSettings())
    assert (level.ma, level.el_10) == (0.625, 0.5)
    assert level.es == pytest.approx((0 + 20 / 21) / 2)
    assert level.loss == pytest.approx(2.0)
    assert level.source == MEASURED
    assert level.limits == {"ma": 1.0, "el_10": 1.0, "es": 1.0}  # two so different: any may be next
    assert not level.can_tell


def student_2(p):
    """The quantile of Student's t with two degrees of freedom, in closed form."""
    return (2 * p - 1) / math.sqrt(2 * p * (1 - p))


def test_limits_of_three_unseen_records_by_hand():
    """MA 4, 5 and 6 of 20: mean 1/4, variance 1/400, below the 3/320 that 20 labels have by chance.

    Set of 3: 1/4 + t sqrt(3/320 (1/3 + 1/3)), t = 6.0006 at 1 - 0.04/3: 0.7244. EL_10 and ES are 0:
    the least that they are held to, 0.01 and 0.05 (1 + 1/3).
    Record: q = 12.186 at 1 - 0.01/3; texts differ by nothing beyond chance, so of endless records
    1/4 + q sqrt(3/320 / 3) = 0.9312, and one of T labels has q^2 3/16 / T under the root as well.
    """
    unseen = [answer(i, hits) for i, hits in enumerate((4, 5, 6))]
    level = measure_holdout_baseline(unseen, CriteriaSettings(), num_forget=3)
    assert level.limits == pytest.approx({"ma": 0.7244, "el_10": 0.01, "es": 0.2 / 3}, abs=1e-4)
    assert level.limit("ma") == pytest.approx(
        0.25 + student_2(1 - 0.04 / 3) * math.sqrt(3 / 320 * 2 / 3)
    )
    q = student_2(1 - 0.01 / 3)
    assert level.worst_ma == pytest.approx(0.25 + q * math.sqrt(3 / 320 / 3))
    assert level.chance == pytest.approx(q**2 * 3 / 16)
    root = math.sqrt(3 / 320 / 3 + 3 / 16 / 20000)
    assert level.ma_limit(20000) == pytest.approx(0.25 + q * root)
    assert level.ma_limit(20) == 1.0
    assert level.worst_el_10 == 0.1
    assert level.can_tell


@pytest.mark.slow
def test_many_unseen_records_bring_the_limits_near_the_mean():
    """100 records of MA 0.2 and 0.3 in turn, 2000 labels: s = 0.0503, t_99 = 2.250 and not 5.

    100 more: 0.25 + 2.250 * 0.0503 * sqrt(2/100) = 0.2660. One more of as many labels: 5 standard
    deviations, 5 * sqrt(0.0503^2 * 1.01) = 0.2526 above 0.25, whatever its labels bring.
    """
    unseen = [answer(i, 400 + 200 * (i % 2), of=2000) for i in range(100)]
    level = measure_holdout_baseline(unseen, CriteriaSettings(), num_forget=100)
    assert level.limit("ma") == pytest.approx(0.2660, abs=1e-4)
    one = measure_holdout_baseline(unseen, CriteriaSettings(), num_forget=1)
    assert one.ma_limit(2000) == pytest.approx(0.25 + 0.2526, abs=1e-4)


def test_windows_of_a_record_are_one_record_of_the_level():
    """5 of 20 and 20 of 20 labels of one record: 25 of 40."""
    level = measure_holdout_baseline([answer(0, 5), known(0)], CriteriaSettings())
    assert (level.ma, level.worst_ma) == (0.625, 1)


def test_one_unseen_record_can_tell_nothing():
    level = measure_holdout_baseline([answer(0, 5)], CriteriaSettings())
    assert (level.ma, level.worst_ma, level.el_10, level.worst_el_10) == (0.25, 1, 0, 1)
    assert level.limits == {"ma": 1.0, "el_10": 1.0, "es": 1.0}
    assert not level.can_tell


def test_a_level_by_hand_needs_no_holdout_and_knows_neither_es_nor_loss():
    level = measure_holdout_baseline(None, CriteriaSettings(ma=0.4, el_10=0.05))
    assert (level.ma, level.worst_ma, level.el_10, level.worst_el_10) == (0.4, 0.4, 0.05, 0.05)
    assert (level.es, level.loss, level.source) == (None, None, "level given by hand")
    assert (level.limit("ma"), level.limit("es"), level.ma_limit(3)) == (0.4, None, 0.4)
    assert level.can_tell


def test_one_figure_by_hand_takes_the_place_of_its_mean_alone_and_the_report_says_so():
    """MA by hand 0.3 of records 0.25 and 1: mean and limit are 0.3, the single record's stays 1."""
    level = measure_holdout_baseline([answer(0, 5), known(1)], CriteriaSettings(ma=0.3))
    assert (level.ma, level.worst_ma, level.el_10) == (0.3, 1.0, 0.5)
    assert (level.limit("ma"), level.limit("el_10")) == (0.3, 1.0)
    assert level.source == f"level given by hand for MA, else the {MEASURED}"
    both = measure_holdout_baseline([answer(0, 5)], CriteriaSettings(ma=0.3, el_10=0.1))
    assert both.source == f"level given by hand for MA and EL_10, else the {MEASURED}"


def test_a_figure_by_hand_above_the_limit_of_single_records_is_that_limit_too():
    """MA by hand 0.9 of ten records with 0.25: a forget record with 0.85 must not fail alone."""
    unseen = [answer(i, 500, of=2000) for i in range(10)]
    level = measure_holdout_baseline(unseen, CriteriaSettings(ma=0.9, el_10=0.3))
    assert (level.ma_limit(2000), level.worst_el_10) == (0.9, 0.3)


def test_a_holdout_too_short_for_el_10_has_level_0_and_the_report_says_so():
    """Ten tokens have no 10-gram behind a prompt."""
    short = [answer(i, 3, of=9) for i in range(3)]
    level = measure_holdout_baseline(short, CriteriaSettings())
    assert (level.el_10, level.limit("el_10")) == (0, 1.0)  # nothing is known of it
    assert level.source == f"{MEASURED} (0 for EL_10, which none of its records is long enough for)"
    assert "EL_10, which" not in measure_holdout_baseline(short, CriteriaSettings(el_10=0.1)).source


def test_the_level_names_the_model_it_is_of():
    level = measure_holdout_baseline([answer(0, 5)], CriteriaSettings(), under="the model itself")
    assert level.source == "mean of the holdout set under the model itself"


@pytest.mark.parametrize("given", [{}, {"ma": 0.4}, {"el_10": 0.1}])
def test_without_holdout_text_both_figures_are_needed(given):
    with pytest.raises(UserError, match=r"--holdout: .* both criteria.ma and criteria.el_10"):
        measure_holdout_baseline(None, CriteriaSettings(**given))


# Sets


def some_set(name, num, subjects=()):
    records = tuple(
        Record(str(i), text="x", subject=subjects[i] if subjects else "") for i in range(num)
    )
    return TokenizedSet(name, records, (), "memory")


FAST = EvaluationSettings(resamples=50)


def test_sets_are_scored_by_every_metric_they_can_have():
    """Without another set there is no attack; without a target model no divergence; no encoder."""
    answers = {"forget": [answer(0, 5), known(1)]}
    scores = score_sets(answers, {"forget": some_set("forget", 2)}, FAST, seed=0)["forget"]
    assert scores["ma"].value == 0.625
    assert scores["ma"].records == 2
    assert scores["el_10"].value == 0.5
    assert not {"mia_loss_auc", "kl_to_target", "bertscore_f1"} & scores.keys()


def test_only_the_forget_set_is_attacked_against_the_holdout():
    """Losses 1 and 3 against 2: one of two pairs has the lower loss in the forget set, AUC 1/2."""
    answers = {
        "forget": [answer(0, 5, nats=1.0), answer(1, 5, nats=3.0)],
        "holdout": [answer(0, 5, nats=2.0)],
    }
    sets = {"forget": some_set("forget", 2), "holdout": some_set("holdout", 1)}
    scores = score_sets(answers, sets, FAST, seed=0)
    assert scores["forget"]["mia_loss_auc"].value == 0.5
    assert "mia_loss_auc" not in scores["holdout"]


def test_intervals_follow_the_seed_and_values_do_not():
    answers = {"forget": [answer(i, 2 * i) for i in range(8)]}
    sets = {"forget": some_set("forget", 8)}
    one, same, other = (
        score_sets(answers, sets, FAST, seed=seed)["forget"]["ma"] for seed in (0, 0, 1)
    )
    assert one == same
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_records_of_one_subject_are_resampled_together():
    """Two subjects of four records each: the interval's ends are the subjects' own means."""
    answers = {"forget": [answer(i, 4 if i < 4 else 12) for i in range(8)]}
    sets = {"forget": some_set("forget", 8, "aaaabbbb")}
    found = score_sets(answers, sets, EvaluationSettings(resamples=200), seed=0)["forget"]["ma"]
    assert (found.value, found.low, found.high) == (0.4, 0.2, 0.6)


def windows(name, *seeds):
    made = []
    for index, seed in enumerate(seeds):
        ids = np.random.default_rng(seed).integers(2, 90, 14)
        made.append(Window(index, str(index), ids, np.ones(13, bool), 7))
    records = tuple(Record(str(seed), text=str(seed)) for seed in seeds)
    return TokenizedSet(name, records, tuple(made), "memory")


def test_sets_of_the_same_records_are_asked_once(tokenizer):
    sets = {
        "retain": windows("retain", 1, 2),
        "analogous": windows("pool", 1, 2),
        "holdout": windows("holdout", 3),
    }
    loaded = Loaded(tiny_model("llama"), tokenizer, "tiny")
    found = CAUSAL_LM.infer(loaded, sets, EvaluationSettings())
    assert found["analogous"] is found["retain"]
    assert found["holdout"] is not found["retain"]


def test_neutral_text_lends_its_answers_to_no_other_set(tokenizer):
    """It is not continued, and what is learned from the same records is."""
    sets = {"neutral:mills": windows("neutral", 1, 2), "analogous": windows("pool", 1, 2)}
    loaded = Loaded(tiny_model("llama"), tokenizer, "tiny")
    found = CAUSAL_LM.infer(loaded, sets, EvaluationSettings())
    assert not any(answer.decoded for answer in found["neutral:mills"])
    assert any(answer.decoded for answer in found["analogous"])


def test_divergence_is_0_from_oneself_and_never_asked_of_the_forget_set(tokenizer):
    loaded = Loaded(tiny_model("llama"), tokenizer, "tiny")
    sets = {"forget": windows("forget", 1, 2), "retain": windows("retain", 3, 4)}
    targets = CAUSAL_LM.references(loaded, sets)
    assert list(targets) == ["retain"]
    answers = CAUSAL_LM.infer(loaded, sets, EvaluationSettings(), targets)
    scores = score_sets(answers, sets, FAST, seed=0)
    assert scores["retain"]["kl_to_target"].value == pytest.approx(0, abs=1e-6)
    assert "kl_to_target" not in scores["forget"]
    another = Loaded(tiny_model("llama", seed=1), tokenizer, "other")
    other = CAUSAL_LM.infer(another, sets, EvaluationSettings(), targets)
    assert score_sets(other, sets, FAST, seed=0)["retain"]["kl_to_target"].value > 0.1


def test_every_model_of_a_run_is_asked_the_same():
    asked = questions_of(EvaluationSettings(prompt_start=5, batch_tokens=64, memory_bytes=1000))
    assert (asked.prompt_start, asked.batch_tokens, asked.memory_bytes) == (5, 64, 1000)
    assert asked.continuations == "all"


def test_recall_of_a_record_too_short_for_el_10_is_none_not_0():
    found = Recall.of([known(0), answer(1, 3, of=9)])
    assert found.to_json(0) == {"ma": 1.0, "el_10": 1.0}
    assert found.to_json(1) == {"ma": 3 / 9, "el_10": None}
