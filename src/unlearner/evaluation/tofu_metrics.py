"""TOFU's own metrics: forget quality and model utility, and what they are made of.

They rest on the losses of the right, reworded and wrong answers to each question, and on the
model's own answer.

Reference: Maini et al. (2024), arXiv:2401.06121.
Differs from the paper as its authors' code and open-unlearning's do: wrong answers are averaged by
the geometric mean, and the choices' probabilities are normalised by length. Every token of an
answer counts, the first with them, also where the tokenizer joins it with the end of the question:
open-unlearning counts from the length of the question by itself, and leaves that token out, which
is often the least likely one. The sizes of these and
of smaller differences, on the authors' own logs: `docs/benchmarks.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import cast

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import ks_2samp

from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, TokenizedSet, Window, tokenize_set
from unlearner.datasets import tofu
from unlearner.evaluation.intervals import record_values
from unlearner.inference.language_model import Questions, beam_continuations, infer
from unlearner.metrics import loss
from unlearner.models.loading import Loaded, limit_threads, load_causal_lm
from unlearner.settings import DataSettings, EvaluationSettings, Template

# open-unlearning lets a model answer in so many tokens; TOFU ends question and answer there.
ANSWER_TOKENS = 200

# The sets of model utility; on the last two the right answer competes with the wrong ones.
UTILITY_SETS = ("retain", "real_authors", "world_facts")

CHOICE_SETS = ("real_authors", "world_facts")


@dataclass(frozen=True)
class TofuAnswer:
    """What a model answers to one question.

    Attributes:
        loss: L of the right answer, in nats per token.
        paraphrased_loss: L of the answer in other words; of the answer itself where there is none.
        perturbed_losses: L of each wrong answer.
        generated: The greedy answer.
        answer: The right one.
    """

    loss: float
    paraphrased_loss: float
    perturbed_losses: tuple[float, ...]
    generated: str
    answer: str

    @property
    def truth_ratio(self) -> float:
        """R, > 0."""
        return truth_ratio(self.paraphrased_loss, self.perturbed_losses)


def measure_tofu(
    data: DataSettings, options: tofu.Options, models: Mapping[str, Path]
) -> dict[str, dict[str, float]]:
    """TOFU's figures of every model; forget quality of all but the retrained one, if there is one.

    Args:
        models: Folders of models by their role.
    """
    questions = tofu.questions(data.folder, options)
    answers = {}
    for role, folder in models.items():
        loaded = load_causal_lm(str(folder))
        limit_threads(loaded.model)
        layout = Layout(
            template=Template.parse(data.template).layout,
            chat=bool(data.chat),
            date=data.date,
            append_eos=data.append_eos,
            max_length=max(2, min(data.max_length, loaded.context)),
        )
        answers[role] = answer_all(loaded, questions, layout, EvaluationSettings().batch_tokens)
    values = {role: figures(sets) for role, sets in answers.items()}
    ratios = {role: [one.truth_ratio for one in sets["forget"]] for role, sets in answers.items()}
    for role in values:
        if "retrained" in ratios and role != "retrained":
            quality, distance = forget_quality(ratios[role], ratios["retrained"])
            values[role] |= {"forget_quality": quality, "forget_quality_ks": distance}
    return values


# What a model answers


def answer_all(
    loaded: Loaded,
    questions: Mapping[str, Sequence[tofu.Question]],
    layout: Layout,
    batch_tokens: int,
) -> dict[str, list[TofuAnswer]]:
    """The model's answers to the questions of every set.

    Args:
        layout: How a question and its answer are joined. Only the answer's tokens count, the
            end-of-text token among them where the layout has one, as in TOFU.
        batch_tokens: Tokens of one forward pass.
    """
    layout = replace(layout, scope="response")
    return {role: _answers(loaded, rows, layout, batch_tokens) for role, rows in questions.items()}


def _answers(
    loaded: Loaded, questions: Sequence[tofu.Question], layout: Layout, batch_tokens: int
) -> list[TofuAnswer]:
    right = _tokenized(loaded, [(row.question, row.answer) for row in questions], layout)
    pairs = [
        (row.question, answer) for row in questions for answer in (row.paraphrased, *row.perturbed)
    ]
    right_losses = losses(loaded, right, batch_tokens)
    others = iter(losses(loaded, _tokenized(loaded, pairs, layout), batch_tokens))
    answers = []
    for row, right_loss, text in zip(
        questions, right_losses, _generated(loaded, right), strict=True
    ):
        paraphrased = next(others)
        perturbed = tuple(next(others) for _ in row.perturbed)
        answers.append(TofuAnswer(right_loss, paraphrased, perturbed, text.strip(), row.answer))
    return answers


def _tokenized(loaded: Loaded, pairs: Sequence[tuple[str, str]], layout: Layout) -> TokenizedSet:
    records = tuple(
        Record(str(number), prompt=question, response=answer)
        for number, (question, answer) in enumerate(pairs)
    )
    found = tokenize_set(RecordSet("questions", records, "tofu"), loaded.tokenizer, layout)
    return replace(found, windows=tuple(window.with_end() for window in found.windows))


def losses(loaded: Loaded, tokenized: TokenizedSet, batch_tokens: int) -> list[float]:
    """The mean negative log-probability of each record's scored tokens, in nats."""
    forced = Questions(continuations="none", batch_tokens=batch_tokens)
    answers = infer(loaded.model, loaded.tokenizer, tokenized.windows, forced)
    return list(record_values(answers, loss.metric).values())


def _generated(loaded: Loaded, tokenized: TokenizedSet) -> list[str]:
    """The greedy answer to each question."""
    first: dict[int, Window] = {}
    for window in tokenized.windows:
        if window.scored.any():  # the window in which the answer begins
            first.setdefault(window.record, window)
    windows = [first[record] for record in range(len(tokenized))]
    room = [max(1, min(ANSWER_TOKENS, loaded.context - window.prefix)) for window in windows]
    return beam_continuations(loaded.model, loaded.tokenizer, windows, num_beams=1, num_tokens=room)


# The figures


def probability(loss: float) -> float:
    """The length-normalised probability exp(-L), in (0, 1]."""
    return float(np.exp(-loss))


def choice_probability(loss: float, other_losses: Sequence[float]) -> float:
    """The answer's normalised probability as a share of all answers' together, in [0, 1].

    The paper has the whole answers' probabilities here, which favour short ones.
    """
    # Before the exponential the smallest is taken off: improbable answers would all become 0.
    losses = np.array([loss, *other_losses])
    shares = np.exp(losses.min() - losses)
    return float(shares[0] / shares.sum())


def truth_ratio(paraphrased_loss: float, perturbed_losses: Sequence[float]) -> float:
    """R with the geometric mean over the wrong answers, > 0.

    The paper's arithmetic mean gives a larger R.
    """
    return float(np.exp(paraphrased_loss - mean(perturbed_losses)))


def indifference(ratio: float) -> float:
    """min(R, 1 / R), in [0, 1]: the truth ratio of forgotten records, 1 where R is 1."""
    return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def truthfulness(ratio: float) -> float:
    """max(0, 1 - R), in [0, 1]: the truth ratio of all other records, higher is better."""
    return max(0.0, 1 - ratio)


def rouge_l_recall(answer: str, generated: str) -> float:
    """Share of the answer's words that the longest common subsequence has, stemmed, in [0, 1]."""
    return float(_stemming_scorer().score(answer, generated)["rougeL"].recall)


@cache
def _stemming_scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def harmonic_mean(values: Sequence[float]) -> float:
    """Of values >= 0; 0 where one of them is."""
    return 0.0 if 0 in values else len(values) / sum(1 / value for value in values)


def forget_quality(ratios: Sequence[float], retrained: Sequence[float]) -> tuple[float, float]:
    """The two-sided Kolmogorov-Smirnov test of the forget records' truth ratios.

    It sees order only: TOFU's code, which puts 1 / R in, gives the same.

    Args:
        ratios: R of each forget record under the unlearned model.
        retrained: The same under a model that was trained without them.

    Returns:
        The p-value (forget quality: above 0.05 the two cannot be distinguished) and the statistic
        D.
    """
    result = ks_2samp(ratios, retrained, alternative="two-sided")
    statistic, p_value = cast("tuple[float, float]", result)
    return float(p_value), float(statistic)


def figures(answers: Mapping[str, Sequence[TofuAnswer]]) -> dict[str, float]:
    """Probability, ROUGE-L recall and truth ratio of each set, and the model utility.

    Model utility is the harmonic mean of the nine values of `UTILITY_SETS`.
    """
    values = {}
    for role, rows in answers.items():
        score = indifference if role == "forget" else truthfulness
        values[f"{role}_probability"] = mean(_probability(role, answer) for answer in rows)
        values[f"{role}_rouge_l_recall"] = mean(
            rouge_l_recall(answer.answer, answer.generated) for answer in rows
        )
        values[f"{role}_truth_ratio"] = mean(score(answer.truth_ratio) for answer in rows)
    nine = [value for name, value in values.items() if name.startswith(UTILITY_SETS)]
    assert len(nine) == 9  # three values of three sets
    return values | {"model_utility": harmonic_mean(nine)}


def _probability(role: str, answer: TofuAnswer) -> float:
    if role in CHOICE_SETS:
        return choice_probability(answer.loss, answer.perturbed_losses)
    return probability(answer.loss)
