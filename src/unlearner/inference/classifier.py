"""Asking a classifier: the only file that does. One pass answers every metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unlearner import processes
from unlearner.data.batches import length_batches
from unlearner.data.labelled import Example, collate_examples
from unlearner.inference.answers import ClassAnswer
from unlearner.models.heads import Classifier, padding_id

BATCH_TOKENS = 4096


@torch.no_grad()
def ask(
    model: Any,
    examples: Sequence[Example],
    labels: tuple[str, ...],
    batch_tokens: int = BATCH_TOKENS,
) -> list[ClassAnswer]:
    """What the classifier says of each example, in their order; dropout is off.

    Args:
        labels: The names of the model's outputs, in their order.
        batch_tokens: Tokens of one forward pass, padding included.
    """
    model.eval()
    classifier = Classifier(model)
    padding = padding_id(model)
    answers: dict[int, ClassAnswer] = {}
    for indices in processes.share(length_batches(examples, batch_tokens)):
        some = [examples[index] for index in indices]
        logits, features = classifier(collate_examples(some, model.device, padding=padding))
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        vectors = features.float().cpu().numpy()
        ends = np.cumsum([len(example.labels) for example in some])[:-1]
        parts = zip(indices, some, np.split(log_probs, ends), np.split(vectors, ends), strict=True)
        for index, example, said, read in parts:
            answers[index] = ClassAnswer(
                example.record, example.id, example.labels, said, read, labels
            )
    for said in processes.gather(answers):
        answers |= said
    return [answers[index] for index in range(len(examples))]
