"""TOFU's published evaluation logs through our formulas, beside the paper's, plainly worked out.

The logs are of Phi-1.5 fine-tuned on all of TOFU and retrained without forget10, forget05 and
forget01. Each holds, for every question, the summed losses and token counts of the right, reworded
and wrong answers, and what the model answered. What is worked out here starts from those sums and
counts; what is ours is given the means over tokens. The differences that `docs/benchmarks.md`
states are held at its figures.
"""

import json
from fractions import Fraction
from functools import cache
from math import comb, exp, prod
from statistics import mean

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.datasets.tofu import Options, questions
from unlearner.evaluation.tofu_metrics import (
    TofuAnswer,
    choice_probability,
    figures,
    forget_quality,
    rouge_l_recall,
    truth_ratio,
)

SPLITS = {
    "full": "forget10",
    "retain90": "forget10",
    "retain95": "forget05",
    "retain99": "forget01",
}
SETS = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
WRONG_ANSWERS = {"forget": 5, "retain": 5, "real_authors": 3, "world_facts": 3}

# Model utility: as published and ours, with the arithmetic mean over wrong answers, with whole
# answers' probabilities in the choices, and with both, which is the paper to the letter.
UTILITY = {
    "full": (0.5221, 0.5034, 0.5830, 0.5597),
    "retain90": (0.5320, 0.5130, 0.5928, 0.5693),
    "retain95": (0.5250, 0.5070, 0.5859, 0.5636),
    "retain99": (0.5186, 0.4986, 0.5796, 0.5548),
}

# Forget quality of the full model against each: p and D as published and ours, and by the paper.
FORGET_QUALITY = {
    "retain90": (2.194e-16, 0.3467, 2.431e-17, 0.3567),
    "retain95": (6.867e-13, 0.3417, 2.010e-14, 0.3617),
    "retain99": (7.367e-05, 0.3717, 6.710e-05, 0.3733),
}


@pytest.fixture(scope="module")
def log(shared_data):
    """A published log by its model: the rows of each set, in the order of the questions."""
    folder = shared_data / "tofu/published_logs"
    if not folder.is_dir():
        pytest.skip(f"no published logs at {folder}")

    @cache
    def read(name):
        columns = json.loads((folder / f"phi_{name}.json").read_text("utf-8"))
        return {role: rows(columns[part]) for role, part in SETS.items()}

    return read


def rows(columns):
    numbers = range(len(columns["gt_loss"]))
    return [{name: column[str(n)] for name, column in columns.items()} for n in numbers]


def our_answer(row):
    _, generated, answer = row["generated_text"]
    wrong = tuple(row["average_perturb_loss"])
    return TofuAnswer(row["avg_gt_loss"], row["avg_paraphrased_loss"], wrong, generated, answer)


# The paper, plainly


def normalised(loss, tokens):
    """P(answer | question) to the power of 1 / |answer|, from the loss summed over the answer."""
    return exp(-loss) ** (1 / tokens)


def arithmetic(values):
    return sum(values) / len(values)


def geometric(values):
    return prod(values) ** (1 / len(values))


def plain_truth_ratio(row, average):
    """The average wrong answer's normalised probability over the reworded right one's."""
    pairs = zip(row["perturb_loss"], row["num_token_perturb"], strict=True)
    wrong = average([normalised(loss, tokens) for loss, tokens in pairs])
    return wrong / normalised(row["paraphrased_loss"], row["num_token_paraphrased"])


def plain_choice(row, whole):
    """The right answer's share of the probability of all answers, whole or by length."""
    losses = [row["gt_loss"], *row["perturb_loss"]]
    tokens = [row["num_token_gt"], *row["num_token_perturb"]]
    pairs = zip(losses, tokens, strict=True)
    shares = [exp(-loss) if whole else normalised(loss, count) for loss, count in pairs]
    return shares[0] / sum(shares)


def plain_utility(sets, average, whole):
    """The harmonic mean of probability, ROUGE-L recall and max(0, 1 - R) of three sets."""
    nine = [arithmetic([normalised(row["gt_loss"], row["num_token_gt"]) for row in sets["retain"]])]
    nine += [
        arithmetic([plain_choice(row, whole) for row in sets[role]])
        for role in ("real_authors", "world_facts")
    ]
    for role in ("retain", "real_authors", "world_facts"):
        nine.append(arithmetic([row["rougeL_recall"] for row in sets[role]]))
        kept = [max(0, 1 - plain_truth_ratio(row, average)) for row in sets[role]]
        nine.append(arithmetic(kept))
    return 9 / sum(1 / value for value in nine)


def plain_kolmogorov_smirnov(some, others):
    """D by its definition, and the share of all orders whose D is at least as large."""
    n, m = len(some), len(others)
    widest = max(
        abs(m * sum(x <= at for x in some) - n * sum(x <= at for x in others))
        for at in [*some, *others]
    )
    # Orders are paths from (0, 0) to (n, m). Those with a smaller D never leave the strip.
    paths = [1] + [0] * m
    for i in range(n + 1):
        for j in range(m + 1):
            before = paths[j - 1] if j else 0
            inside = abs(i * m - j * n) < widest
            paths[j] = (paths[j] + before if i + j else 1) if inside else 0
    return float(1 - Fraction(paths[m], comb(n + m, n))), widest / (n * m)


def test_the_plain_kolmogorov_smirnov_test_by_hand():
    """{1, 2, 3} and {4, 5, 6}: D = 1, and 2 of C(6, 3) = 20 orders part them so, p = 0.1."""
    assert plain_kolmogorov_smirnov([1, 2, 3], [4, 5, 6]) == (pytest.approx(0.1), 1)


# The logs through both


@pytest.mark.parametrize("name", SPLITS)
def test_the_published_rows_are_those_we_ask(log, shared_data, name):
    """The first 300 rows of each set, in their order, with five or three wrong answers."""
    asked = questions(str(shared_data / "tofu"), Options(split=SPLITS[name], retain_records=None))
    for role, some in log(name).items():
        published = [row["generated_text"][0] for row in some]
        assert published == [f"Question: {one.question}\n" for one in asked[role]]
        assert {len(row["perturb_loss"]) for row in some} == {WRONG_ANSWERS[role]}
        assert {len(one.perturbed) for one in asked[role]} == {WRONG_ANSWERS[role]}


@pytest.mark.parametrize("name", SPLITS)
def test_truth_ratios_are_the_published_ones(log, name):
    """The log has R = exp(2.17159 - 4.35825) = 0.11227 for full's first forget row, in float32.

    From probabilities it is the geometric mean of the wrong answers' over the reworded one's. The
    paper's arithmetic mean is never smaller.
    """
    for some in log(name).values():
        for row in some:
            ours = truth_ratio(row["avg_paraphrased_loss"], row["average_perturb_loss"])
            assert ours == pytest.approx(row["truth_ratio"], rel=1e-6)
            assert ours == pytest.approx(plain_truth_ratio(row, geometric), rel=1e-6)
            assert ours <= plain_truth_ratio(row, arithmetic) * (1 + 1e-6)
    if name == "full":
        assert log(name)["forget"][0]["truth_ratio"] == pytest.approx(0.11227, abs=5e-6)


@pytest.mark.parametrize("name", SPLITS)
def test_choice_probabilities_are_the_published_ones(log, name):
    """The log has -ln 0.41110 = 0.88893 for full's first author: the answers' shares by length."""
    for role in ("real_authors", "world_facts"):
        for row in log(name)[role]:
            ours = choice_probability(row["avg_gt_loss"], row["average_perturb_loss"])
            assert ours == pytest.approx(exp(-row["normalized_gt_loss"]), rel=1e-9)
            assert ours == pytest.approx(plain_choice(row, whole=False), rel=1e-6)


@pytest.mark.parametrize("name", SPLITS)
def test_every_figure_of_a_published_model(log, name):
    """The nine values and model utility; on the forget set min(R, 1/R), which utility leaves out.

    ROUGE-L recall of the published answers, row by row, is the published one.
    """
    sets = log(name)
    ours = figures({role: [our_answer(row) for row in some] for role, some in sets.items()})
    for role, some in sets.items():
        recall = mean(row["rougeL_recall"] for row in some)
        assert ours[f"{role}_rouge_l_recall"] == pytest.approx(recall, rel=1e-9)
        for row in some[::10]:
            _, generated, answer = row["generated_text"]
            assert rouge_l_recall(answer, generated) == pytest.approx(row["rougeL_recall"])
    ratios = [plain_truth_ratio(row, geometric) for row in sets["forget"]]
    even = arithmetic([min(ratio, 1 / ratio) for ratio in ratios])
    assert ours["forget_truth_ratio"] == pytest.approx(even, rel=1e-6)
    plain = plain_utility(sets, geometric, whole=False)
    assert ours["model_utility"] == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", SPLITS)
def test_model_utility_by_the_published_code_and_by_the_paper(log, name):
    """Both departures of TOFU's code from its paper, at the size that the documentation states."""
    ways = [(geometric, False), (arithmetic, False), (geometric, True), (arithmetic, True)]
    values = [plain_utility(log(name), average, whole) for average, whole in ways]
    assert values == pytest.approx(UTILITY[name], abs=5e-5)


@pytest.mark.parametrize("name", FORGET_QUALITY)
def test_forget_quality_of_the_published_models(log, name):
    """The full model against each retrained one: the exact two-sided p-value, and D.

    TOFU puts 1 / R in, which reverses both orders and changes nothing.
    """
    ratios = {
        model: [our_answer(row).truth_ratio for row in log(model)["forget"]]
        for model in ("full", name)
    }
    ours = forget_quality(ratios["full"], ratios[name])
    plain = plain_kolmogorov_smirnov(ratios["full"], ratios[name])
    assert ours == pytest.approx(plain, rel=1e-9)
    inverse = {model: [1 / ratio for ratio in some] for model, some in ratios.items()}
    assert forget_quality(inverse["full"], inverse[name]) == pytest.approx(ours, rel=1e-9)
    paper = {
        model: [plain_truth_ratio(row, arithmetic) for row in log(model)["forget"]]
        for model in ("full", name)
    }
    by_the_paper = plain_kolmogorov_smirnov(paper["full"], paper[name])
    expected = FORGET_QUALITY[name]
    assert ours == pytest.approx((expected[0], expected[1]), rel=5e-4)
    assert by_the_paper == pytest.approx((expected[2], expected[3]), rel=5e-4)


# What is counted as the answer


def test_published_losses_count_the_answers_tag_and_the_end_of_text(log, shared_data):
    """Phi's tokens are GPT-2's: those of "Answer: " and the answer, and one for the end of text."""
    folder = shared_data / "gpt2-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no tokenizer at {folder}")
    tokenizer = gpt2_tokenizer(folder)

    @cache
    def count(text):
        return len(tokenizer.encode(f"Answer: {text}").ids) + 1

    for name, split in SPLITS.items():
        asked = questions(str(shared_data / "tofu"), Options(split=split, retain_records=None))
        for role, some in log(name).items():
            for row, one in zip(some, asked[role], strict=True):
                texts = [one.answer, one.paraphrased, *one.perturbed]
                published = [row["num_token_gt"], row["num_token_paraphrased"]]
                assert [count(text) for text in texts] == [*published, *row["num_token_perturb"]]


def gpt2_tokenizer(folder):
    vocabulary = json.loads((folder / "encoder.json").read_text("utf-8"))
    lines = (folder / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    merges = [tuple(line.split()) for line in lines if line]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_the_first_token_of_an_answer_counts_behind_a_space(shared_data):
    """Ours begins at the answer's first letter; a mask as long as the prompt's tokens would not.

    The prompt ends in a space, a token of its own there, which the whole text joins with the
    answer's first word: "▁" and "▁The". In 187 of the 280 answers of forget01 such a mask drops
    the first token.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(shared_data / "models/stories260k"))
    asked = questions(str(shared_data / "tofu"), Options(split="forget01"))["forget"]
    pairs = [
        (one.question, text)
        for one in asked
        for text in (one.answer, one.paraphrased, *one.perturbed)
    ]
    records = tuple(Record(str(n), prompt=q, response=a) for n, (q, a) in enumerate(pairs))
    some = tokenize_set(RecordSet("answers", records, "tofu"), tokenizer, Layout(scope="response"))
    dropped = 0
    for window, (question, text) in zip(some.windows, pairs, strict=True):
        first = int(window.scored.argmax()) + 1
        assert tokenizer.decode(window.input_ids[first:]).strip() == text.strip()
        dropped += len(tokenizer(f"{question} ")["input_ids"]) > first
    assert (dropped, len(pairs)) == (187, 280)
