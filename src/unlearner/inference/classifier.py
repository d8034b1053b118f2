"""Inference of classifiers: one pass over the examples answers every metric."""

import numpy as np
import torch
from torch import nn

from unlearner import processes
from unlearner.data.batches import length_batches
from unlearner.data.labelled import LabelledSet, collate_examples
from unlearner.inference.answers import ClassAnswer
from unlearner.models.heads import Classifier, padding_id

BATCH_TOKENS = 4096


@torch.no_grad()
def classify(
    model: nn.Module,
    records: LabelledSet,
    labels: tuple[str, ...],
    batch_tokens: int = BATCH_TOKENS,
) -> list[ClassAnswer]:
    """The classifier's answer to each example of a set, in their order; dropout is off.

    Args:
        labels: The names of the model's outputs, in their order.
        batch_tokens: Tokens of one forward pass, padding included.
    """
    classifier = Classifier(model.eval())
    device, padding = classifier.bare.device, padding_id(classifier.bare)
    examples = records.examples
    answers: dict[int, ClassAnswer] = {}
    for indices in processes.share(length_batches(examples, batch_tokens)):
        batch = [examples[index] for index in indices]
        logits, features = classifier(collate_examples(batch, device, padding=padding))
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        vectors = features.float().cpu().numpy()
        ends = np.cumsum([len(example.labels) for example in batch])[:-1]
        parts = zip(indices, batch, np.split(log_probs, ends), np.split(vectors, ends), strict=True)
        for index, example, log_probs_MC, features_MD in parts:
            answers[index] = ClassAnswer(
                example.record,
                example.id,
                example.labels,
                log_probs_MC,
                features_MD,
                labels,
                scheme=records.scheme,
            )
    return processes.in_order(answers)
