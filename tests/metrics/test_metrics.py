"""Every metric by hand, and the rules that all of them hold."""

import importlib
import json
import math

import numpy as np
import pytest

from unlearner import registry
from unlearner.evaluation.retrained_gap import token_loss_distances, token_loss_ks
from unlearner.inference.answers import Answer
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Metric
from unlearner.metrics.degenerate import is_degenerate


def metric(name) -> Metric:
    return registry.load("metrics", name).metric


def tally(name, **fields):
    return metric(name).tally(answer(**fields))


def answer(**fields) -> Answer:
    """One window of 24 tokens, known by heart, unless the fields say otherwise."""
    ids = np.asarray(fields.pop("input_ids", np.arange(1, 25)))
    labels = len(ids) - 1
    fields = {
        "scored": np.ones(labels, dtype=bool),
        "log_probs": np.zeros(labels, dtype=np.float32),
        "argmax": ids[1:],
        **fields,
    }
    arrays = {name: np.asarray(fields.pop(name)) for name in ("scored", "log_probs", "argmax")}
    return Answer(record=0, id="r", input_ids=ids, **arrays, **fields)


CAUSAL_METRICS = [
    name for name in registry.names("metrics") if set(CAUSAL_LM) & set(metric(name).families)
]


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_every_metric_file_defines_a_described_metric(name):
    module = importlib.import_module(f"unlearner.metrics.{name}")
    assert isinstance(module.metric, Metric)
    assert module.metric.better in ("lower", "higher", "chance")
    needs = ("", "continuations", "target", "bertscore", "retrained", "judge", "dialogue")
    assert module.metric.needs in needs
    assert module.metric.families
    assert set(module.metric.families) <= {*CAUSAL_LM, *CLASSIFIERS}
    assert registry.first_line(module).endswith(".")


@pytest.mark.parametrize("name", CAUSAL_METRICS)
def test_a_window_that_cannot_say_has_no_weight_and_raises_nothing(name):
    """One token, no label, no text, no target, no encoder."""
    assert tally(name, input_ids=[5], continuation_text="", reference_text="") == (0, 0)


@pytest.mark.parametrize("name", CAUSAL_METRICS)
def test_tallies_are_finite_floats(name):
    numerator, weight = tally(
        name,
        kl=np.ones(23, dtype=np.float32),
        expected=-np.ones(23, dtype=np.float32),
        deviation=np.ones(23, dtype=np.float32),
        zlib_bytes=30,
        bertscore=0.5,
        judged=7.0,
        prefix=4,
        reference_text="a b c d e",
        continuation_text="a b c d f",
    )
    assert isinstance(numerator, float)
    assert isinstance(weight, float)
    assert math.isfinite(numerator)
    assert weight > 0


def test_loss_sums_the_scored_labels_only():
    """Labels 2 and 3 of 3 count: 0.5 + 0.25 nats over 2 labels."""
    given = {"input_ids": [1, 2, 3, 4], "log_probs": [-9, -0.5, -0.25], "scored": [0, 1, 1]}
    given["scored"] = np.array(given["scored"], dtype=bool)
    assert tally("loss", **given) == (0.75, 2)
    assert tally("mia_loss_auc", **given) == (0.75, 2)
    assert tally("perplexity", **given) == (0.75, 2)


def test_perplexity_is_the_exponential_and_infinite_where_that_overflows():
    """exp(log 8) = 8 choices; a float64 ends near exp(709.78)."""
    transform = metric("perplexity").transform
    assert transform(math.log(8)) == pytest.approx(8)
    assert transform(709) < math.inf
    assert transform(710) == math.inf
    assert metric("perplexity").pooled


def test_kl_counts_the_scored_labels_and_ignores_what_is_not_known_of_the_others():
    """0.5 + 1.5 nats over 2 labels; the unscored first label holds NaN."""
    scored = np.array([False, True, True])
    kl = np.array([np.nan, 0.5, 1.5], dtype=np.float32)
    assert tally("kl_to_target", input_ids=[1, 2, 3, 4], scored=scored, kl=kl) == (2, 2)
    assert tally("kl_to_target") == (0, 0)


def test_unigram_f1_counts_words_without_punctuation_and_articles():
    """cat, sat, on, mat and cat, on, hat: 2 in common, P 2/3, R 2/4, F1 4/7.

    A word counts as often as in both: dog, dog and dog, dog, dog have 2 in common, F1 4/5.
    """
    given = {"reference_text": "The cat sat on the mat.", "continuation_text": "A CAT, on-a-hat!"}
    numerator, weight = tally("unigram_f1", **given)
    assert (numerator, weight) == (pytest.approx(4 / 7), 1)
    twice = {"reference_text": "dog dog", "continuation_text": "dog's"}
    assert tally("unigram_f1", **twice)[0] == pytest.approx(2 / 4)  # dog and s
    thrice = {"reference_text": "dog dog", "continuation_text": "dog dog a dog"}
    assert tally("unigram_f1", **thrice)[0] == pytest.approx(4 / 5)
    assert tally("unigram_f1", reference_text="so", continuation_text="?!") == (0, 1)
    assert tally("unigram_f1", reference_text="the!", continuation_text="so") == (0, 0)


def test_a_rating_counts_where_there_is_one():
    assert tally("judge", judged=0.0) == (0, 1)
    assert tally("judge", judged=10.0) == (10, 1)
    assert tally("judge") == (0, 0)


def test_memorization_accuracy_is_over_the_labels_that_count():
    """Two of three argmaxes are the text's; of the two labels of the response one is."""
    text = {"input_ids": [1, 2, 3, 4], "argmax": [2, 9, 4]}
    assert tally("ma", **text) == (2, 3)
    assert tally("ma", **text, scored=np.array([False, True, True])) == (1, 2)


def test_extraction_likelihoods_count_their_prompts():
    """T=24 by heart: prompts 1..21 for n=3 and 1..14 for n=10; from 18 on 4 and none."""
    assert tally("el_3") == (21, 21)
    assert tally("el_10") == (14, 14)
    assert tally("el_3", prompt_start=18) == (4, 4)
    assert tally("el_10", prompt_start=18) == (0, 0)


def test_el_10_is_zero_where_no_ten_tokens_follow_the_text():
    """The model says 99 after every prompt: 14 prompts, no overlap."""
    decoded = {m: np.full(24 - m, 99) for m in range(1, 24)}
    assert tally("el_10", argmax=[99] * 23, decoded=decoded) == (0, 14)


def test_extraction_strength_tallies_tokens_behind_the_telling_prefix():
    """T=4, token 1 missed: after tokens 0 and 1 the rest follows, 2 tokens of 4."""
    assert tally("es", input_ids=[1, 2, 3, 4], argmax=[9, 3, 4]) == (2, 4)
    assert tally("es", input_ids=[1, 2, 3, 4], argmax=[2, 3, 9]) == (0, 4)


def test_extraction_strength_of_a_response_counts_its_own_tokens():
    """Tokens 3 to 5 answer 1 2: all hit, the question alone gives 3 of 3 away; token 4 missed: 1.

    That token 2 of the question and token 6 of the template are missed does not matter.
    """
    text = {"input_ids": [1, 2, 3, 4, 5, 6], "scored": np.array([0, 1, 1, 1, 0], dtype=bool)}
    assert tally("es", **text, argmax=[9, 3, 4, 5, 9]) == (3, 3)
    assert tally("es", **text, argmax=[9, 3, 9, 5, 9]) == (1, 3)


def test_bleu_by_hand():
    """One word of five differs: precisions 4/5 3/4 2/3 1/2, product 1/5, no brevity penalty."""
    said = {"reference_text": "The cat sat down here", "continuation_text": "the cat sat down now"}
    assert tally("bleu", **said) == (pytest.approx(0.2**0.25), 1)


def test_bleu_is_unsmoothed_and_knows_its_bounds():
    """No shared 4-gram: 0. Equal: 1. Half as long, 4 words of 8: exp(1 - 8/4)."""
    text = "one two three four five six seven eight"
    assert tally("bleu", reference_text=text, continuation_text="one two three five") == (0, 1)
    assert tally("bleu", reference_text=text, continuation_text=text) == (1, 1)
    assert tally("bleu", reference_text=text, continuation_text="") == (0, 1)
    halved = tally("bleu", reference_text=text, continuation_text="one two three four")
    assert halved == (pytest.approx(math.exp(-1)), 1)


def test_a_text_of_three_words_has_no_bleu():
    """It has no 4-gram, so even a perfect copy would score 0."""
    assert tally("bleu", reference_text="one two three", continuation_text="one two three") == (
        0,
        0,
    )


def test_rouge_l_by_hand():
    """Subsequence a c e: P = 3/4, R = 3/5, F1 = 2 * 0.45 / 1.35 = 2/3."""
    said = {"reference_text": "a b c d e", "continuation_text": "A x c, e!"}
    assert tally("rouge_l", **said) == (pytest.approx(2 / 3), 1)
    assert tally("rouge_l", reference_text="a b", continuation_text="") == (0, 1)
    assert tally("rouge_l", reference_text="...", continuation_text="...") == (0, 0)


def test_rouge_l_sees_words_of_every_script():
    """rouge-score alone keeps only a-z and 0-9, and would call this copy 0."""
    text = "Анна живёт в Омске"
    assert tally("rouge_l", reference_text=text, continuation_text=text.upper()) == (1, 1)


def test_bertscore_is_left_out_without_an_encoder():
    assert tally("bertscore_f1", bertscore=0.25) == (0.25, 1)
    assert tally("bertscore_f1") == (0, 0)


def test_loops_and_salads_are_degenerate_and_varied_tokens_are_not():
    """Period 6 of 20: 6 of 17 4-grams are distinct. Period 9: 9 of 17 and log 9 / log 20 = 0.73.

    Three tokens drawn 100 times have up to 81 of 97 distinct 4-grams, but log 3 / log 100 = 0.24.
    """
    assert is_degenerate(np.resize(np.arange(6), 20))
    assert not is_degenerate(np.resize(np.arange(9), 20))
    assert is_degenerate(np.random.default_rng(0).integers(0, 3, 100))
    assert not is_degenerate(np.arange(20))
    assert not is_degenerate(np.zeros(9, dtype=int))  # too short to tell a loop


def test_degenerate_judges_the_continuation_of_the_prefix():
    """Behind 4 tokens the model says 7 twenty times; behind 15 of 24 nine tokens are too few."""
    looped = {"argmax": np.full(23, 7), "decoded": {4: np.full(20, 7), 15: np.full(9, 7)}}
    assert tally("degenerate", **looped, prefix=4) == (1, 1)
    assert tally("degenerate", prefix=4) == (0, 1)
    assert tally("degenerate", **looped, prefix=15) == (0, 0)


def test_a_continuation_that_ends_early_is_sound():
    """Room for 20 tokens, but the model ends after one."""
    ended = {"argmax": np.full(23, 7), "decoded": {4: np.array([7])}, "eos_ids": frozenset({7})}
    assert tally("degenerate", **ended, prefix=4) == (0, 1)


def test_text_of_people_is_not_degenerate_and_is_when_looped(shared_data):
    """Words of 1000 stories in pieces of 50: none degenerate, all when their first 16 repeat."""
    texts = json.loads((shared_data / "lm-text-samples" / "tinystories_1000.json").read_text())
    pieces = []
    for text in texts:
        ids = np.unique(text.split(), return_inverse=True)[1]
        pieces += [ids[start : start + 50] for start in range(0, len(ids) - 49, 50)]
    assert len(pieces) > 1000
    assert not any(is_degenerate(piece) for piece in pieces)
    assert all(is_degenerate(np.resize(piece[:16], 50)) for piece in pieces)


def test_mia_loss_auc_by_hand():
    """Losses 1 2 4 of the set and 2 3 of the holdout set, lower means member.

    1 beats both, 2 ties with 2 (a half) and beats 3, 4 beats none: 3.5 of 6 pairs.
    """
    compare = metric("mia_loss_auc").compare
    own, held = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0])
    assert compare is not None
    assert compare(own, held, np.ones((1, 3)), np.ones((1, 2))).tolist() == [3.5 / 6]
    # Counting the member of loss 1 twice and leaving out the held-out 3: 1 1 and a half of 4.
    weights = np.array([[2.0, 1.0, 1.0]])
    assert compare(own, held, weights, np.array([[1.0, 0.0]])).tolist() == [2.5 / 4]


TEN = {"input_ids": np.arange(11), "log_probs": -np.arange(1.0, 11.0)}  # losses 1, 2, ..., 10


def test_zlib_divides_the_mean_loss_by_the_compressed_bytes():
    """Losses 1 to 10 have the mean 5.5; of 11 bytes s is 0.5, the mean of a tally of ten labels."""
    total, weight = tally("mia_zlib_auc", **TEN, zlib_bytes=11)
    assert weight == 10
    assert total / weight == pytest.approx(0.5)


def test_min_k_is_the_mean_loss_of_the_least_likely_fifth():
    """Of ten labels the two with losses 9 and 10; of four the one that a fifth is at least."""
    assert tally("mia_min_k_auc", **TEN) == (19.0, 2.0)
    assert tally("mia_min_k_auc", input_ids=np.arange(5), log_probs=-np.arange(4.0)) == (3.0, 1.0)
    scored = np.arange(10) < 5
    assert tally("mia_min_k_auc", **TEN, scored=scored) == (5.0, 1.0)


def test_min_k_plus_plus_standardises_before_it_takes_the_lowest():
    """Losses 1 to 10, expected 1 everywhere; the last two have the deviation 9, all others 1.

    z is 0, -1, ..., -7 and then -8/9 and -1: the lowest two are -7 and -6.
    """
    deviation = np.array([1.0] * 8 + [9.0] * 2)
    fields = TEN | {"expected": -np.ones(10), "deviation": deviation}
    assert tally("mia_min_k_plus_plus_auc", **fields) == (13.0, 2.0)
    certain = TEN | {"expected": TEN["log_probs"], "deviation": np.zeros(10)}
    assert tally("mia_min_k_plus_plus_auc", **certain) == (0.0, 2.0)


def test_a_metric_names_the_other_set_and_compares_or_does_neither():
    with pytest.raises(ValueError, match="both of versus and compare"):
        Metric(tally=metric("loss").tally, better="lower", versus="holdout")


def test_the_ks_distance_of_token_losses_by_hand():
    """At 1 nat a quarter of the own tokens is passed and three quarters of the others: 1/2."""
    own = [tokens(1.0, 2.0), tokens(2.0, 3.0)]
    other = [tokens(1.0, 1.0, 0.5), tokens(3.0)]
    assert token_loss_ks(own, other) == pytest.approx(0.5)
    assert token_loss_ks(own, own[::-1]) == 0
    hidden = answer(input_ids=[1, 2], scored=[False], log_probs=[-9.0])
    assert token_loss_ks([*own, hidden], other) == pytest.approx(0.5)
    assert token_loss_ks([hidden], other) is None
    found = token_loss_distances({"forget": own, "test": own}, {"forget": other})
    assert found == {"token_loss_ks": {"forget": pytest.approx(0.5)}}


def tokens(*losses):
    return answer(input_ids=range(len(losses) + 1), log_probs=[-loss for loss in losses])
