"""The reference model: the target as it was before the first step, as a loss asks it.

Its answers are needed at every step and never change. They are asked for once, before training,
and kept: one number a label, or the hidden state from which a distribution is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unlearner import functional, processes
from unlearner.adapters import without_adapters
from unlearner.data.batches import Tensors, collate, length_batches
from unlearner.data.tokenize import Window
from unlearner.likelihoods import likelihoods
from unlearner.models import known_head
from unlearner.target import BATCH_TOKENS, TargetDistribution, logits_at

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
