"""What TOFU's metrics ask of a model: the losses of all answers, and its own answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from unlearner.asking import Questions, ask, beam_continuations
from unlearner.data.base import Record, RecordSet
from unlearner.data.tokenize import Layout, TokenizedSet, Window, tokenize_set
from unlearner.datasets.tofu import Question
from unlearner.models import Loaded
from unlearner.tofu_metrics import TofuAnswer

# open-unlearning lets a model answer in so many tokens; TOFU ends question and answer there.
ANSWER_TOKENS = 200


def ask_tofu(
    loaded: Loaded, questions: Mapping[str, Sequence[Question]], layout: Layout, batch_tokens: int
) -> dict[str, list[TofuAnswer]]:
    """What the model says to the questions of every set.

    Args:
        layout: How a question and its answer are joined. Only the answer's tokens count, the
            end-of-text token among them where the layout has one, as in TOFU.
        batch_tokens: Tokens of one forward pass.
    """
    layout = replace(layout, scope="response")
    return {role: _answers(loaded, some, layout, batch_tokens) for role, some in questions.items()}


def _answers(
    loaded: Loaded, questions: Sequence[Question], layout: Layout, batch_tokens: int
) -> list[TofuAnswer]:
    right = _tokenized(loaded, [(row.question, row.answer) for row in questions], layout)
    right_losses = losses(loaded, right, batch_tokens)
    pairs = [
        (row.question, answer) for row in questions for answer in (row.paraphrased, *row.perturbed)
    ]
    others = iter(losses(loaded, _tokenized(loaded, pairs, layout), batch_tokens))
    found = []
    for row, loss, text in zip(questions, right_losses, _generated(loaded, right), strict=True):
        paraphrased = next(others)
        perturbed = tuple(next(others) for _ in row.perturbed)
        found.append(TofuAnswer(loss, paraphrased, perturbed, text.strip(), row.answer))
    return found


def _tokenized(loaded: Loaded, pairs: Sequence[tuple[str, str]], layout: Layout) -> TokenizedSet:
    records = tuple(
        Record(str(number), prompt=question, response=answer)
        for number, (question, answer) in enumerate(pairs)
    )
    return tokenize_set(RecordSet("questions", records, "tofu"), loaded.tokenizer, layout)


def losses(loaded: Loaded, some: TokenizedSet, batch_tokens: int) -> list[float]:
    """The mean negative log-probability of each record's scored tokens, in nats."""
    asked = Questions(continuations="none", batch_tokens=batch_tokens)
    sums, counts = np.zeros(len(some)), np.zeros(len(some))
    for answer in ask(loaded.model, loaded.tokenizer, some.windows, asked):
        sums[answer.record] -= answer.log_probs[answer.scored].sum(dtype=np.float64)
        counts[answer.record] += answer.scored.sum()
    return (sums / counts).tolist()


def _generated(loaded: Loaded, some: TokenizedSet) -> list[str]:
    """The greedy answer to each question."""
    first: dict[int, Window] = {}
    for window in some.windows:
        if window.scored.any():  # the window in which the answer begins
            first.setdefault(window.record, window)
    windows = [first[record] for record in range(len(some))]
    room = [max(1, min(ANSWER_TOKENS, loaded.context - window.prefix)) for window in windows]
    return beam_continuations(loaded.model, loaded.tokenizer, windows, num_beams=1, num_tokens=room)
