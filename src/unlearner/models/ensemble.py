"""Several classifiers that answer as one: the mean of their probabilities.

B examples, T tokens, C classes.
"""

import copy
import functools
import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from unlearner import functional

# In the folder of an ensemble; the weights of its shards lie in folders below it.
ENSEMBLE_FILE = "ensemble.json"


class ShardEnsemble(PreTrainedModel):
    """Classifiers of the same labels that were trained on different records.

    Its configuration is that of the first shard but for the architecture.

    Args:
        shards: Of one architecture and with the same labels in the same order.
    """

    # Whatever the shards compute attention by is in their configuration, and so in its own.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, shards: Sequence[PreTrainedModel]) -> None:
        super().__init__(copy.deepcopy(shards[0].config))
        self.shards = nn.ModuleList(shards)
        self.config.architectures = [type(self).__name__]

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

    def save_pretrained(self, save_directory: str | Path, *_: object, **options: object) -> None:  # type: ignore[override]
        """Write each shard as an ordinary model into a folder of its own, and which they are."""
        folder = Path(save_directory)
        names = [f"shard-{number}" for number in range(len(self.shards))]
        for name, shard in zip(names, self.shards, strict=True):
            shard.save_pretrained(folder / name, **options)  # type: ignore[operator]
        self.config.save_pretrained(folder)
        content = json.dumps({"average": "probabilities", "shards": names}, indent=2)
        (folder / ENSEMBLE_FILE).write_text(content + "\n", encoding="utf-8")


class ShardEnsembleForSequenceClassification(ShardEnsemble):
    """An ensemble that gives every text one label."""


class ShardEnsembleForTokenClassification(ShardEnsemble):
    """An ensemble that gives every token a tag."""


def make_ensemble(shards: Sequence[PreTrainedModel], family: str) -> ShardEnsemble:
    """The ensemble of some shards of a family."""
    tags = family == "token-classification"
    kind = ShardEnsembleForTokenClassification if tags else ShardEnsembleForSequenceClassification
    return kind(shards).eval()


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return argument in _forward_arguments(type(model))


@functools.cache
def _forward_arguments(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
