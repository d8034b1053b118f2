"""TOFU's own metrics: numbers by hand, padding and batches do not matter, real rows once."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import tiny_model, tiny_tokenizer
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.datasets.tofu import Options, Question, questions
from unlearner.evaluation.tofu_metrics import (
    ANSWER_TOKENS,
    TofuAnswer,
    answer_all,
    choice_probability,
    figures,
    forget_quality,
    harmonic_mean,
    indifference,
    losses,
    probability,
    rouge_l_recall,
    truth_ratio,
    truthfulness,
)
from unlearner.models.loading import Loaded, load_causal_lm

LN2 = math.log(2)


def test_probability_is_normalised_by_length():
    """Two tokens of probability 1/2 and 1/8: (1/16)^(1/2) = 1/4."""
    assert probability((LN2 + 3 * LN2) / 2) == pytest.approx(1 / 4)


def test_choice_probability_is_a_share_of_all_answers():
    """1/2 of 1/2 + 1/4 + 1/8 + 1/8 = 1/2."""
    assert choice_probability(LN2, [2 * LN2, 3 * LN2, 3 * LN2]) == pytest.approx(1 / 2)


def test_choice_probability_of_answers_too_improbable_for_a_float():
    """exp(-1000) is 0 in a float; the odds of 1 to 1/2 are 2/3 all the same."""
    assert choice_probability(1000, [1000 + LN2]) == pytest.approx(2 / 3)


def test_the_truth_ratio_takes_the_geometric_mean_of_wrong_answers():
    """sqrt(1/2 * 1/8) = 1/4 over 1/2 is 1/2; the arithmetic mean would be 5/16 over 1/2 = 5/8."""
    assert truth_ratio(LN2, [LN2, 3 * LN2]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(("ratio", "forget", "kept"), [(0.5, 0.5, 0.5), (4, 0.25, 0), (1, 1, 0)])
def test_the_truth_ratio_counts_differently_for_what_is_forgotten(ratio, forget, kept):
    """Forgotten: min(R, 1/R). All else: max(0, 1 - R)."""
    assert indifference(ratio) == pytest.approx(forget)
    assert truthfulness(ratio) == pytest.approx(kept)


def test_extreme_truth_ratios_are_numbers():
    assert indifference(0.0) == 0
    assert indifference(math.inf) == 0
    assert truthfulness(math.inf) == 0


def test_rouge_recall_counts_the_answers_words_and_stems_them():
    """ "writes sad long books": writ, sad and book in order, 3 of 4; extra words cost nothing."""
    assert rouge_l_recall("writes sad long books", "He was writing a sad, sad book") == 3 / 4
    assert rouge_l_recall("Paris", "") == 0


def test_model_utility_is_the_harmonic_mean():
    """3 / (1 + 2 + 4) = 3/7; one value of 0 makes it 0."""
    assert harmonic_mean([1, 1 / 2, 1 / 4]) == pytest.approx(3 / 7)
    assert harmonic_mean([1, 0]) == 0


def test_forget_quality_by_hand():
    """{1, 2, 3} and {4, 5, 6}: D = 1, and 2 of C(6, 3) = 20 orders part them so, p = 0.1."""
    p_value, distance = forget_quality([1, 2, 3], [4, 5, 6])
    assert distance == 1
    assert p_value == pytest.approx(0.1)


def test_forget_quality_is_that_of_the_inverse_ratios():
    """TOFU's code compares 1 / R: the order is reversed in both, the test sees the same."""
    generator = np.random.default_rng(0)
    ours, theirs = generator.lognormal(0, 1, 40), generator.lognormal(0.4, 1, 40)
    inverse = forget_quality(list(1 / ours), list(1 / theirs))
    assert forget_quality(list(ours), list(theirs)) == pytest.approx(inverse)


def answer(loss, paraphrased, perturbed, generated="b", text="a b"):
    return TofuAnswer(loss, paraphrased, perturbed, generated, text)


def test_figures_of_four_sets_by_hand():
    """Each set: P 1/2, ROUGE 1 of 2 words; R = (1/8) / (1/2) = 1/4.

    Forget: min(1/4, 4) = 1/4. Others: 3/4. Choices: 1/2 of 1/2 + 1/8 + 1/8 = 2/3. Utility:
    9 / (2 + 2 + 4/3 + 2 (3/2 + 2 + 4/3)) = 9 / 15 = 0.6.
    """
    one = [answer(LN2, LN2, (3 * LN2, 3 * LN2))]
    found = figures(dict.fromkeys(("forget", "retain", "real_authors", "world_facts"), one))
    assert found["forget_probability"] == pytest.approx(1 / 2)
    assert found["forget_truth_ratio"] == pytest.approx(1 / 4)
    assert found["retain_truth_ratio"] == pytest.approx(3 / 4)
    assert found["retain_rouge_l_recall"] == 1 / 2
    assert found["world_facts_probability"] == pytest.approx(2 / 3)
    assert found["model_utility"] == pytest.approx(0.6)


ROWS = [
    Question("who is it?", "it is amos.", "amos it is.", ("it is bella, the tall one.", "x y")),
    Question("where did the person in the town live?", "york", "in york", ("bath", "in leeds")),
]


def test_only_the_answers_tokens_count_and_each_once():
    """The definition: one forward pass per answer, the mean over its own tokens."""
    model, tokenizer = tiny_model("gpt_neo").double(), tiny_tokenizer()
    loaded = Loaded(model, tokenizer, "tiny")
    records = tuple(
        Record(str(i), prompt=q.question, response=q.answer) for i, q in enumerate(ROWS)
    )
    layout = Layout(scope="response", append_eos=True)
    some = tokenize_set(RecordSet("questions", records, "memory"), tokenizer, layout)
    some = replace(some, windows=tuple(window.with_end() for window in some.windows))
    for row, loss in zip(ROWS, losses(loaded, some, 4096), strict=True):
        ids = tokenizer(f"{row.question} {row.answer}")["input_ids"] + [tokenizer.eos_token_id]
        lengths = np.cumsum([len(token) for token in tokenizer.convert_ids_to_tokens(ids)])
        # The first token that holds a letter of the answer: one of its own for the space has none.
        start = int(np.flatnonzero(lengths > len(row.question) + 1)[0])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        said = [-logits[t - 1, ids[t]].item() for t in range(start, len(ids))]
        assert loss == pytest.approx(sum(said) / len(said), abs=1e-6)


def test_batches_and_neighbours_do_not_change_what_is_said():
    """Alone and padded beside others, in float64."""
    loaded = Loaded(tiny_model("llama").double(), tiny_tokenizer(), "tiny")
    together = answer_all(loaded, {"forget": ROWS}, Layout(), 4096)["forget"]
    for place, row in enumerate(ROWS):
        (alone,) = answer_all(loaded, {"forget": [row]}, Layout(), 1)["forget"]
        assert alone.generated == together[place].generated
        assert alone.loss == pytest.approx(together[place].loss, abs=1e-10)
        assert alone.perturbed_losses == pytest.approx(together[place].perturbed_losses, abs=1e-10)


def test_answers_may_be_longer_than_the_right_one_and_stay_in_the_context():
    """Of 128 positions what the question leaves; the right answer has a few tokens only."""
    model = tiny_model("gpt_neo")
    model.generation_config.eos_token_id = None
    loaded = Loaded(model, tiny_tokenizer(), "tiny")
    (said,) = answer_all(loaded, {"forget": ROWS[1:]}, Layout(), 4096)["forget"]
    new = len(loaded.tokenizer(said.generated)["input_ids"])
    assert 4 * len(loaded.tokenizer("york")["input_ids"]) < new <= min(ANSWER_TOKENS, 128)


@pytest.mark.slow
def test_real_rows_through_a_real_model(shared_data):
    """Of TOFU's own files: every figure is in [0, 1], and reworded answers are told apart by loss.

    A model that never saw the authors finds the answer no likelier than the wrong ones, so R is
    near 1 for most of them.
    """
    folder, model = shared_data / "tofu", shared_data / "models/stories260k"
    asked = questions(str(folder), Options(tofu_records=4))
    assert {role: len(some) for role, some in asked.items()} == dict.fromkeys(
        ("forget", "retain", "real_authors", "world_facts"), 4
    )
    first = json.loads((folder / "forget01_perturbed.json").read_text("utf-8").splitlines()[0])
    assert asked["forget"][0].paraphrased == first["paraphrased_answer"]
    assert len(asked["forget"][0].perturbed) == 5
    assert len(asked["world_facts"][0].perturbed) == 3
    loaded = load_causal_lm(str(model))
    answers = answer_all(loaded, asked, Layout(), 4096)
    found = figures(answers)
    assert all(0 <= value <= 1 for value in found.values())
    ratios = [some.truth_ratio for some in answers["forget"]]
    assert all(0.3 < ratio < 3 for ratio in ratios)
    assert found["forget_truth_ratio"] > 0.5
    assert forget_quality(ratios, ratios) == (1.0, 0.0)
