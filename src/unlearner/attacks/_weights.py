"""A model's weight matrices, as attacks change them: rounded, pruned, disturbed."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from unlearner.attacks.base import Materials, Subject, recall
from unlearner.evaluation.attack_figures import RecordValues

# From a matrix with its output channels first, (out, in) or (experts, out, in), another like it.
Change = Callable[[Tensor], Tensor]


def matrices(model: PreTrainedModel) -> Iterator[tuple[nn.Parameter, bool]]:
    """The weights of linear maps and experts, and whether they are stored transposed.

    Embeddings, and an output layer that is tied to them, are left out: they are kept as they are
    by the usual ways to quantise, and hold a row for each token.
    """
    embeddings = model.get_input_embeddings().weight
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            is_matrix = weight.dim() >= 2 and not isinstance(module, nn.Embedding)
            if is_matrix and weight is not embeddings:
                yield weight, isinstance(module, Conv1D)


@torch.no_grad()
def change_matrices(model: PreTrainedModel, change: Change) -> None:
    """Put what `change` gives in the place of every matrix."""
    for weight, transposed in matrices(model):
        plain = weight.data.T if transposed else weight.data
        changed = change(plain.float()).to(weight.dtype)
        weight.data.copy_(changed.T if transposed else changed)


def recall_after(subject: Subject, materials: Materials, change: Change) -> RecordValues:
    """How much of the records a copy of the model names once its matrices were changed."""
    copy = subject.changed()
    change_matrices(copy.model, change)
    return recall(copy.loaded, materials)
