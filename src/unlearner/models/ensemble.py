"""Several classifiers that answer as one: the mean of their probabilities.

B examples, T tokens, C classes.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from unlearner import functional


class ShardEnsemble(nn.Module):
    """Classifiers of the same labels that were trained on different records.

    It has what the rest of the package asks of a model: `forward`, `config`, `device` and
    `save_pretrained`. Its configuration is that of the first shard but for the architecture.

    Args:
        shards: Of one architecture and with the same labels in the same order.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        super().__init__()
        self.shards = nn.ModuleList(shards)
        self.config = copy.deepcopy(shards[0].config)
        self.config.architectures = [type(self).__name__]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits (B, C), of tags (B, T, C): the log of the mean probability of each label."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if takes(self.shards[0], "token_type_ids"):
            inputs["token_type_ids"] = token_type_ids
        logits_S = torch.stack([shard(**inputs).logits for shard in self.shards])
        return SequenceClassifierOutput(logits=functional.average_predictions(logits_S))  # type: ignore

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write each shard as an ordinary model into a folder of its own, and which they are."""
        folder = Path(folder)
        names = [f"shard-{number}" for number in range(len(self.shards))]
        for name, shard in zip(names, self.shards, strict=True):
            shard.save_pretrained(folder / name, **options)  # type: ignore[operator]
        self.config.save_pretrained(folder)
        told = json.dumps({"average": "probabilities", "shards": names}, indent=2)
        (folder / ENSEMBLE_FILE).write_text(told + "\n", encoding="utf-8")


class ShardEnsembleForSequenceClassification(ShardEnsemble):
    """An ensemble that gives every text one label."""


class ShardEnsembleForTokenClassification(ShardEnsemble):
    """An ensemble that gives every token a tag."""


KINDS: dict[str, tuple[type[ShardEnsemble], Any]] = {
    "sequence-classification": (
        ShardEnsembleForSequenceClassification,
        AutoModelForSequenceClassification,
    ),
    "token-classification": (
        ShardEnsembleForTokenClassification,
        AutoModelForTokenClassification,
    ),
}


def make_ensemble(shards: Sequence[Any], family: str) -> ShardEnsemble:
    """The ensemble of some shards of a family."""
    return KINDS[family][0](shards).eval()


# In the folder of several models that answer as one; their weights lie in folders below it.
ENSEMBLE_FILE = "ensemble.json"


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return argument in _forward_arguments(type(model))


@functools.cache
def _forward_arguments(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
