"""What a loss asks of a model: log-probabilities and vectors at the labelled positions of a batch.

A batch has a part for each set. A part is windows of text as `data.batches.collate` makes them, or
labelled examples, themselves or as `data.labelled.collate_examples` makes them. N labelled
positions, C classes, A anchors.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from unlearner.data.batches import Tensors
from unlearner.data.labelled import Example
from unlearner.inference.reference import likelihoods
from unlearner.models.adapters import has_adapters, without_adapters
from unlearner.models.heads import Classifier, Encoded, Vector

Part = Tensors | Sequence[Example]

# Only of text may a process have no share: examples are shared out when they are encoded.
Parts = Mapping[str, Part | None]

# Examples by part, "forget" and "retain".
Examples = Mapping[str, Sequence[Example]]


def mean_losses(model: PreTrainedModel, batch: Parts) -> dict[str, Tensor]:
    """The mean negative log-probability of each part in nats, over all its labelled positions."""
    if is_text(batch):
        return {role: likelihoods(model, part).loss() for role, part in batch.items()}  # type: ignore[arg-type]
    return {
        role: cross_entropy(some.logits.float(), some.labels)
        for role, some in encode_parts(model, batch).items()
    }


def is_text(batch: Parts) -> bool:
    """Whether the parts are windows of text: only those say which record each is of."""
    return any(
        part is None or (isinstance(part, dict) and "owner" in part) for part in batch.values()
    )


def encode_parts(
    model: PreTrainedModel, batch: Parts, vector: Vector = "head"
) -> dict[str, Encoded]:
    """What a classifier makes of each part's labelled positions; parts without any are left out.

    The examples of all parts go forward together.

    Args:
        vector: What the features are; see `Classifier`.
    """
    classifier = Classifier(model, vector)
    tensors = {role: part for role, part in batch.items() if isinstance(part, dict)}
    if tensors:
        return {role: Encoded(*classifier(some), some["labels"]) for role, some in tensors.items()}
    parts = {role: part for role, part in batch.items() if part and not isinstance(part, dict)}
    sizes = [sum(len(example.labels) for example in part) for part in parts.values()]
    encoded = classifier.encode([example for part in parts.values() for example in part])
    pieces = zip(*(tensor.split(sizes) for tensor in encoded), strict=True)
    return {role: Encoded(*piece) for role, piece in zip(parts, pieces, strict=True)}


@torch.no_grad()
def teach(teacher: PreTrainedModel, part: Part | None) -> Tensor:
    """A teacher's logits (N, C) at a part's labelled positions, from which no gradient flows."""
    with without_adapters(teacher):
        return encode_parts(teacher, {"taught": part})["taught"].logits


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
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
    anchors = _at_most(limit, _where(forget_labels, outside, equal=False), generator)
    entities = _where(retain_labels, outside, equal=False)
    others = _where(retain_labels, outside, equal=True)
    others = _at_most(len(anchors) + len(entities), others, generator)
    return anchors, _at_most(limit, torch.cat([entities, others]), generator)


def _where(labels: Tensor, outside: int | None, *, equal: bool) -> Tensor:
    # A comparison of a tensor with None is one truth value, not one for each element.
    is_outside = (
        torch.zeros_like(labels, dtype=torch.bool) if outside is None else labels == outside
    )
    return (is_outside == equal).nonzero()[:, 0]


def _at_most(limit: int, places: Tensor, generator: Generator | None) -> Tensor:
    """The places themselves, or a draw of so many of them, in their order."""
    if len(places) <= limit:
        return places
    drawn = torch.randperm(len(places), generator=generator)[:limit].sort().values
    return places[drawn.to(places.device)]
