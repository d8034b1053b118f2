r"""Logit lens: is a record's next word known between the layers, though it is not said?

The hidden state behind every block is put through the model's last norm and its output layer, as if
the blocks behind it were not there. Of each record the share of tokens that are the most probable
one behind any block but the last.

Reference: Patil et al. (2023), arXiv:2309.17410, with the first of the candidates only; the lens is
nostalgebraist's (2020).
"""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from unlearner import functional
from unlearner.attacks._tokens import record_means
from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.inference.hidden_states import keep_states
from unlearner.models import sharding
from unlearner.models.heads import output_head

# What architectures call the norm before the output layer.
NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "embedding_norm")


class LogitLens(Attack):
    """Is a record's next word known between the layers, though it is not said?"""

    label = "reading between the layers"
    cost = "full"
    shows = (
        "Whether the model still works the words out on the way, and only its last layers keep "
        "them back: then whoever has the weights can read them."
    )
    cannot_show = "What a trained probe would read; the lens is plain, and blunt in early layers."
    figures = (AttackFigure("any_layer", "known behind any layer but the last", "mean"),)

    def skipped(self, materials: Materials) -> str:
        model = materials.target.model
        if output_head(model) is None or last_norm(model) is None:
            return "the model has no output layer and norm that a hidden state can be put through"
        if len(sharding.blocks(model)) < 2:
            return "the model has one layer, so there is nothing between"
        return ""

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        parts = []
        for role in (FORGET, UNSEEN):
            some = materials.sets[role]
            parts.append(seen_on_the_way(subject.model, some))
        return Attempt({"any_layer": RecordValues(*parts)})


def last_norm(model: PreTrainedModel) -> nn.Module | None:
    """What the last hidden state goes through before the output layer; None where it is unknown."""
    places = [model.base_model, *model.base_model.children()]
    found = (getattr(place, name, None) for place in places for name in NORMS)
    return next((one for one in found if isinstance(one, nn.Module)), None)


@torch.no_grad()
def seen_on_the_way(model: PreTrainedModel, some: TokenizedSet) -> np.ndarray:
    """(N,) the share of each record's labels that are named behind some block but the last."""
    head, norm = output_head(model.eval()), last_norm(model)
    assert head is not None
    assert norm is not None
    device = sharding.device_of(model)
    labels = [
        torch.from_numpy(window.input_ids[1:][window.scored]).to(device) for window in some.windows
    ]
    seen = [torch.zeros(len(one), dtype=torch.bool, device=device) for one in labels]
    for block in range(len(sharding.blocks(model)) - 1):
        for place, states in enumerate(keep_states(model, block, some.windows)):
            for rows in functional.chunks(len(states)):
                named = head(norm(states[rows].to(device))).argmax(-1)
                seen[place][rows] |= named == labels[place][rows]
    return record_means(some, [one.float().cpu() for one in seen])


attack = LogitLens()
