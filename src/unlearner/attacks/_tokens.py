"""Tokens that an attack picks at the label positions of records, and what of a text they are.

N label positions, V vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from unlearner import functional
from unlearner.data.windows import TokenizedSet, Window
from unlearner.functional import Tensors
from unlearner.inference.reference import logits_at, rows_of_windows
from unlearner.models.heads import output_head

# From the logits (N, V) of some label positions, and the labels (N,): a number for each.
LabelJudge = Callable[[Tensor, Tensor], Tensor]


def at_labels(model: PreTrainedModel, windows: Sequence[Window], judge: LabelJudge) -> list[Tensor]:
    """What `judge` gives at the label positions of each window, (N_window, ...) on the CPU."""
    head = output_head(model.eval())

    def infer(batch: Tensors) -> Tensor:
        logits, labels = logits_at(model, head, batch), batch["labels"]
        parts = [judge(logits[rows], labels[rows]) for rows in functional.chunks(len(labels))]
        return torch.cat(parts) if parts else logits.new_zeros(0)

    return rows_of_windows(model, windows, infer)


def record_means(some: TokenizedSet, rows: Sequence[Tensor]) -> np.ndarray:
    """(N,) the mean over each record's labels of what every one has; NaN for one without any."""
    sums, counts = np.zeros(len(some)), np.zeros(len(some))
    for window, values in zip(some.windows, rows, strict=True):
        sums[window.record] += float(values.double().sum())
        counts[window.record] += len(values)
    with np.errstate(invalid="ignore"):
        return sums / counts
