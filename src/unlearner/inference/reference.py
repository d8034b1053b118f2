"""The target model's next-token distributions, kept small.

T tokens, V vocabulary, D hidden, N label positions. The full table of probabilities takes
N * T * V * 4 bytes (5.1 GB for 128 records of 200 tokens under GPT-Neo 125M). Kept here are the
last hidden states, N * T * D numbers, and a frozen copy of the output head, which turn into
logits again for a few positions at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unlearner import functional, processes
from unlearner.data.batches import Tensors, collate, length_batches
from unlearner.data.windows import Window
from unlearner.models import sharding
from unlearner.models.adapters import has_adapters, without_adapters
from unlearner.models.heads import OutputHead, known_head, output_head


@dataclass(frozen=True)
class Likelihoods:
    """The labels of a set's windows under a model.

    Attributes:
        log_probs: log p of each label, (N,) in nats.
        kl: KL(target || model) of the distribution that each is of, (N,) in nats; 0 where no target
            was given.
        owner: Which record of the batch each is of, (N,), from 0.
    """

    log_probs: Tensor
    kl: Tensor
    owner: Tensor

    @property
    def num_records(self) -> int:
        """Records of the batch; the last has a label."""
        return int(self.owner.max()) + 1 if len(self.owner) else 0

    def loss(self) -> Tensor:
        """Mean negative log-probability over all labels of the batch, in nats per token."""
        return -self.log_probs.mean()

    def sums(self, values_N: Tensor | None = None) -> Tensor:
        """Log p(y | x) of each record, (R,) in nats; or each record's sum of other values."""
        values_N = self.log_probs if values_N is None else values_N
        return functional.sum_per_record(values_N, self.owner, self.num_records)

    def means(self, values_N: Tensor | None = None) -> Tensor:
        """The mean over each record's labels of log p, (R,) in nats, or of other values."""
        values_N = self.log_probs if values_N is None else values_N
        return functional.mean_per_record(values_N, self.owner, self.num_records)


def likelihoods(
    model: Any, batch: Tensors | None, target: Callable[[slice], Tensor] | None = None
) -> Likelihoods:
    """Ask a causal language model about one set's windows.

    Args:
        batch: The windows as `data.batches.collate` makes them; None where this process has none.
        target: Gives another model's logits at a slice of the label positions, to compare with.
    """
    compared = 0 if target is None or batch is None else len(batch["labels"])
    return Likelihoods(*label_log_probs(model, known_head(model), batch, target, compared))


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


Batch = Mapping[str, Tensors | None]


class Reference(Protocol):
    """What the reference model says of the windows of one step."""

    def log_probs(self, name: str) -> Tensor:
        """Log p of each label of a set, (N,) in nats, in the order of `Likelihoods`."""
        ...

    def logits(self, name: str) -> Callable[[slice], Tensor]:
        """Gives the logits at a slice of the label positions of this process's share."""
        ...


class AskedReference:
    """A frozen model that is asked at every step: for a loss in a loop of one's own."""

    def __init__(self, model: Any, batch: Batch) -> None:
        self.model, self.batch = model, batch

    def log_probs(self, name: str) -> Tensor:
        with torch.no_grad(), without_adapters(self.model):
            return likelihoods(self.model, self.batch[name]).log_probs

    def logits(self, name: str) -> Callable[[slice], Tensor]:
        batch = self.batch[name]
        if batch is None:
            return _nothing
        return TargetDistribution([], None, self.model).logits((), batch)


class KeptReference:
    """Answers of the target model on whole sets, from which those of a step are taken."""

    def __init__(
        self,
        log_probs: Mapping[str, Sequence[Tensor]],
        logits: Mapping[str, TargetDistribution],
        device: torch.device,
    ) -> None:
        self.kept_log_probs, self.kept_logits, self.device = log_probs, logits, device

    @classmethod
    def of(
        cls, model: Any, sets: Mapping[str, Sequence[Window]], asked: Mapping[str, str]
    ) -> KeptReference:
        """Ask the model as it is now, whatever is done to it later; it must not be sharded yet.

        Args:
            sets: The windows of each set that steps will draw from.
            asked: What the loss asks on which set: "log_probs" of its labels, or "logits" of all
                tokens at each label position.
        """
        wanted = {name: sets[name] for name, kind in asked.items() if kind == "log_probs"}
        spread = {name: sets[name] for name, kind in asked.items() if kind == "logits"}
        return cls(
            {name: _ask_log_probs(model, windows) for name, windows in wanted.items()},
            {name: TargetDistribution.of(model, windows) for name, windows in spread.items()},
            model.device,
        )

    def at(self, places: Mapping[str, Sequence[int]], batch: Batch) -> Reference:
        """The answers on a step's windows.

        Args:
            places: Which windows of each set the step has, over all processes.
        """
        return _StepReference(self, places, batch)


class _StepReference:
    def __init__(
        self, kept: KeptReference, places: Mapping[str, Sequence[int]], batch: Batch
    ) -> None:
        self.kept, self.batch = kept, batch
        self.mine = {name: processes.share(some) for name, some in places.items()}

    def log_probs(self, name: str) -> Tensor:
        kept = self.kept.kept_log_probs[name]
        found = [kept[place] for place in self.mine[name]]
        rows = torch.cat(found) if found else torch.zeros(0)
        return processes.gather_rows(rows.to(self.kept.device))

    def logits(self, name: str) -> Callable[[slice], Tensor]:
        batch = self.batch[name]
        if batch is None:
            return _nothing
        return self.kept.kept_logits[name].logits(self.mine[name], batch)


def asked_of(reference: Any, batch: Batch) -> Reference:
    """The reference as a loss asks it: as it is, or a frozen model made one."""
    return AskedReference(reference, batch) if isinstance(reference, nn.Module) else reference


def _nothing(rows: slice) -> Tensor:
    raise AssertionError(f"this process has no windows, so nothing asks for logits of {rows}")


@torch.no_grad()
def _ask_log_probs(model: Any, windows: Sequence[Window]) -> list[Tensor]:
    """Log p of the labels of each window, on the CPU."""
    found: dict[int, Tensor] = {}
    head = known_head(model)
    for indices in processes.share(length_batches(windows, BATCH_TOKENS)):
        batch = collate([windows[index] for index in indices], model.device)
        # Not through `likelihoods`, which gathers: every process has other windows here.
        logits = logits_at(model, head, batch)
        log_probs, _ = functional.label_log_probs(logits, batch["labels"])
        for row, index in enumerate(indices):
            found[index] = log_probs[batch["positions"][:, 0] == row].cpu()
    for some in processes.gather(found):
        found |= some
    return [found[index] for index in range(len(windows))]
