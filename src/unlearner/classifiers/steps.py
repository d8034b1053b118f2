"""What a step of a method for classifiers works on: examples by the part they play in its loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from unlearner.adapters import has_adapters, without_adapters
from unlearner.classifiers.heads import Classifier, Encoded
from unlearner.classifiers.sets import ClassifierData, Remaining, passes
from unlearner.data.batches import Tensors
from unlearner.data.labelled import Example
from unlearner.training import Trainer

# Examples by part, "forget" and "retain".
Parts = Mapping[str, Sequence[Example]]


def forget_and_remaining(
    data: ClassifierData, generator: Generator, sizes: tuple[int, int], per_forget: int = 1
) -> Iterator[Parts]:
    """For ever: a batch of forget examples and one of remaining examples, which differ each time.

    Args:
        sizes: Forget and remaining examples of a step.
        per_forget: Batches of remaining examples that each forget batch meets.
    """
    remaining = Remaining(data.retain.examples, generator)
    for forget in passes(data.forget.examples, sizes[0], generator):
        for _ in range(per_forget):
            yield {"forget": forget, "retain": remaining.draw(sizes[1], forget)}


def encode_parts(classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Encoded]:
    """Encode the examples of all parts together, and take them apart again.

    A part without examples is empty: a mean over it would not be a number.
    """
    examples = [example for some in parts.values() for example in some]
    trainer.tokens += sum(map(len, examples))
    sizes = [sum(len(example.labels) for example in some) for some in parts.values()]
    pieces = zip(*(tensor.split(sizes) for tensor in classifier.encode(examples)), strict=True)
    return {role: Encoded(*piece) for role, piece in zip(parts, pieces, strict=True)}


def encode_batch(model: Any, batch: Mapping[str, Tensors]) -> dict[str, Encoded]:
    """Encode the parts of a batch, each made by `data.labelled.collate_examples`."""
    classifier = Classifier(model)
    return {role: Encoded(*classifier(some), some["labels"]) for role, some in batch.items()}


@torch.no_grad()
def teach(teacher: Classifier, examples: Sequence[Example]) -> Tensor:
    """A teacher's logits (N, C) at the labelled positions, from which no gradient flows."""
    with without_adapters(teacher.bare):
        return teacher.encode(examples).logits


def frozen_copy(model: Any) -> Any:
    """The target model, which neither training nor dropout touches, for `teach`.

    With adapters it is the model itself, which is the target once they are off.
    """
    if has_adapters(model):
        return model
    return copy.deepcopy(model).requires_grad_(False).eval()


def compared(
    forget_labels: Tensor,
    retain_labels: Tensor,
    outside: int | None,
    limit: int,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Places of the forget labels that are anchors, and of the retain labels to compare them with.

    Of tags, anchors are the words of entities; compared with them are those of the retain labels,
    and about as many words outside entities as there are words in them.

    Args:
        outside: The tag of a word that is no entity; None where there is no such label.
        limit: Places of each at most, which bounds the memory.
    """
    anchors = _draw(_where(forget_labels, outside, equal=False), limit, generator)
    entities = _where(retain_labels, outside, equal=False)
    others = _where(retain_labels, outside, equal=True)
    others = _draw(others, len(anchors) + len(entities), generator)
    return anchors, _draw(torch.cat([entities, others]), limit, generator)


def _where(labels: Tensor, outside: int | None, *, equal: bool) -> Tensor:
    # A comparison of a tensor with None is one truth value, not one for each element.
    is_outside = (
        torch.zeros_like(labels, dtype=torch.bool) if outside is None else labels == outside
    )
    return (is_outside == equal).nonzero()[:, 0]


def _draw(places: Tensor, limit: int, generator: Generator | None) -> Tensor:
    """The places themselves, or a draw of so many of them, in their order."""
    if len(places) <= limit:
        return places
    drawn = torch.randperm(len(places), generator=generator)[:limit].sort().values
    return places[drawn.to(places.device)]
