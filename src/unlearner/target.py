"""The target model's next-token distributions, kept small.

T tokens, V vocabulary, D hidden, N label positions. The full table of probabilities takes
N * T * V * 4 bytes (5.1 GB for 128 records of 200 tokens under GPT-Neo 125M). Kept here are the
last hidden states, N * T * D numbers, and a frozen copy of the output head, which turn into
logits again for a few positions at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearner import functional, processes, sharding
from unlearner.adapters import has_adapters, without_adapters
from unlearner.data.batches import Tensors, collate, length_batches
from unlearner.data.tokenize import Window
from unlearner.models import OutputHead, output_head

BATCH_TOKENS = 4096


class TargetDistribution:
    """What the target model predicts at the scored positions of some windows.

    Args:
        hidden: For each window the hidden states of its label positions (N_window, D), on the CPU.
        head: The target model's output head, frozen; None when its logits are not reproduced by
            one, and then `model` is asked again every time.
        model: A frozen copy of the target model, only where there is no head; the model itself
            where it has adapters, with which off it is the target.
    """

    def __init__(self, hidden: list[Tensor], head: OutputHead | None, model: Any = None) -> None:
        self.hidden, self.head, self.model = hidden, head, model

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, windows: Sequence[Window]) -> TargetDistribution:
        """The distributions of `model` as it is now, whatever is done to it later.

        It must not be sharded yet.
        """
        head = output_head(model)
        if head is None:
            shared = has_adapters(model) and not sharding.wanted()
            frozen = model if shared else copy.deepcopy(model).requires_grad_(False)
            return cls([], None, frozen.eval())
        hidden: dict[int, Tensor] = {}
        for indices in processes.share(length_batches(windows, BATCH_TOKENS)):
            batch = collate([windows[index] for index in indices], model.device)
            states = body(model, batch)
            for row, index in enumerate(indices):
                places = batch["positions"][batch["positions"][:, 0] == row, 1]
                hidden[index] = states[row, places].cpu()
        for some in processes.gather(hidden):
            hidden |= some
        return cls([hidden[index] for index in range(len(windows))], head.frozen())

    @property
    def num_bytes(self) -> int:
        """Bytes of the kept hidden states (the frozen head apart)."""
        return sum(states.numel() * states.element_size() for states in self.hidden)

    def logits(self, indices: Sequence[int], batch: Tensors) -> Callable[[slice], Tensor]:
        """A function giving the target's logits at a slice of the batch's label positions.

        Args:
            indices: Which of the windows the batch holds, in the batch's order.
            batch: The batch, needed only where the whole model has to be asked.
        """
        device = batch["input_ids"].device
        if self.head is None:
            with torch.no_grad(), without_adapters(self.model):
                whole = logits_at(self.model, None, batch)
            return lambda rows: whole[rows]
        head = self.head
        states = torch.cat([self.hidden[index] for index in indices]).to(device)

        # Asked again in the backward pass, which runs outside the forward's autocast: the gradient
        # must be that of the divergence that was told.
        enabled = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type)

        def of_rows(rows: slice) -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=enabled):
                return head(states[rows])

        return of_rows


def body(model: Any, batch: Tensors) -> Tensor:
    """Last hidden states (B, T, D), behind the final norm: what the output head takes."""
    return model.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )[0]


def logits_at(model: Any, head: OutputHead | None, batch: Tensors) -> Tensor:
    """Logits (N, V) at the batch's label positions only."""
    window, position = batch["positions"].unbind(-1)
    if head is not None:
        return head(body(model, batch)[window, position])
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits
    return logits[window, position]


def label_log_probs(
    model: Any,
    head: OutputHead | None,
    batch: Tensors | None,
    target: Callable[[slice], Tensor] | None = None,
    num_target: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, KL from the target and owner of each label of all processes' batches, (N,).

    Args:
        batch: This process's share; None where it has none. A sharded model is asked all the same.
        target: Gives the target's logits of the first `num_target` label positions.
    """
    device = sharding.device_of(model)
    if batch is None and not sharding.is_sharded(model):
        nothing = torch.zeros(0, device=device)
        log_probs, kl, owner = nothing, nothing, nothing.long()
    else:
        batch = _no_labels(device) if batch is None else batch
        log_probs, kl = _ask_labels(model, head, batch, target, num_target)
        owner = batch["owner"][batch["positions"][:, 0]]
    return tuple(map(processes.gather_rows, (log_probs, kl, owner)))  # type: ignore[return-value]


def _ask_labels(
    model: Any,
    head: OutputHead | None,
    batch: Tensors,
    target: Callable[[slice], Tensor] | None,
    num_target: int,
) -> tuple[Tensor, Tensor]:
    def ask() -> tuple[Tensor, Tensor]:
        return functional.label_log_probs(
            logits_at(model, head, batch),
            batch["labels"],
            target,
            num_target,
            overwrite=head is not None and head.is_linear,
        )

    return ask() if head is None else sharding.inside(model, ask)


def _no_labels(device: torch.device) -> Tensors:
    """A batch of one window without a label: it goes forward and backward and changes nothing."""
    one, none = torch.zeros(1, 2, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long)
    batch = {
        "input_ids": one,
        "attention_mask": torch.ones_like(one),
        "positions": none,
        "labels": none[:, 0],
        "owner": one[:, 0],
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
