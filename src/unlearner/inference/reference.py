"""What a language model gives for the labels of windows, and what is kept of the target model's.

T tokens, V vocabulary, D hidden, N label positions. The target's full table of probabilities takes
N * T * V * 4 bytes (5.1 GB for 128 records of 200 tokens under GPT-Neo 125M). Kept are the last
hidden states, N * T * D numbers, and a frozen copy of the output head, which turn into logits
again for a few positions at a time.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner import functional, processes
from unlearner.data.batches import collate, length_batches, length_groups, rows_alone
from unlearner.data.windows import Window
from unlearner.functional import TargetLogits, Tensors
from unlearner.inference import micro_batches
from unlearner.models import sharding
from unlearner.models.adapters import has_adapters, without_adapters
from unlearner.models.heads import OutputHead, output_head

BATCH_TOKENS = 4096

# What one more forward and backward pass takes, in tokens. On a processor a step took least by 128
# of 0.26M parameters, by 64 of 135M (`benchmarks/results/lengths.md`). An accelerator launches
# kernels for tens of milliseconds meanwhile; what it was given is reckoned, not measured.
PASS_TOKENS, PASS_TOKENS_ON_ACCELERATOR = 128, 2048

Batch = Mapping[str, Tensors | None]


class Likelihoods(NamedTuple):
    """The labels of a set's windows under a model.

    Attributes:
        log_probs: log p of each label, (N,) in nats.
        kl: KL(target || model) of the distribution that each is of, (N,) in nats; 0 where no target
            was given.
        entropy: Of the distribution that each is of, (N,) in nats; 0 where it was not asked for.
        owner: Which record of the batch each is of, (N,), from 0.
    """

    log_probs: Tensor
    kl: Tensor
    entropy: Tensor
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
    model: PreTrainedModel,
    batch: Tensors | None,
    target: TargetLogits | None = None,
    num_target: int | None = None,
    *,
    entropies: bool = False,
) -> Likelihoods:
    """The labels of all processes' windows under a causal language model.

    Args:
        batch: This process's windows as `data.batches.collate` makes them; None where it has none.
            A sharded model then works all the same.
        target: Gives another model's logits at a slice of the label positions, to compare with.
        num_target: At how many of them, from the first on; None for all.
        entropies: Compute entropies.
    """
    device = sharding.device_of(model)
    if batch is None and not sharding.is_sharded(model):
        nothing = torch.zeros(0, device=device)
        parts = nothing, nothing, nothing, nothing.long()
    else:
        windows = unlabelled(device) if batch is None else batch
        head = output_head(model)
        compared = 0 if target is None or batch is None else len(batch["labels"])
        compared = compared if num_target is None else num_target

        def infer(some: Tensors, before: int) -> list[Tensor]:
            logits, labels = logits_at(model, head, some), some["labels"]
            overwrite = head is not None and head.is_linear
            its_target = target if target is None or not before else _behind(target, before)
            here = min(max(compared - before, 0), len(labels))
            found = functional.label_log_probs(
                logits, labels, its_target, here, entropies=entropies, overwrite=overwrite
            )
            return list(found)

        forward = partial(micro_batches.rows_of, windows, infer)
        found = sharding.inside(model, forward, calls_model=head is None)
        parts = *found, windows["owner"][windows["positions"][:, 0]]
    return Likelihoods(*map(processes.gather_rows, parts))


def _behind(target: TargetLogits, before: int) -> TargetLogits:
    """The target's logits of a part of the label positions, behind so many others."""
    return lambda rows: target(slice(before + rows.start, before + rows.stop))


def unlabelled(device: torch.device) -> Tensors:
    """A batch of one window without a label: it goes forward and backward and changes nothing."""
    return collate([Window(0, "", np.zeros(2, np.int64), np.zeros(1, bool), 1)], device)


def body(model: PreTrainedModel, batch: Tensors) -> Tensor:
    """Last hidden states (B, T, D), behind the final norm: what the output head takes."""
    return model.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )[0]


def logits_at(model: PreTrainedModel, head: OutputHead | None, batch: Tensors) -> Tensor:
    """Logits (N, V) at the batch's label positions only."""
    if head is not None:
        return head(at_labels(model, batch, partial(body, model)))

    def whole(some: Tensors) -> Tensor:
        return model(
            input_ids=some["input_ids"], attention_mask=some["attention_mask"], use_cache=False
        ).logits

    return at_labels(model, batch, whole)


def at_labels(model: PreTrainedModel, batch: Tensors, run: Callable[[Tensors], Tensor]) -> Tensor:
    """What `run` gives at the batch's label positions, (N, ...).

    Windows of similar length go through the model together: where they are padded to one length,
    a quarter to two fifths of a step's positions may be padding.

    Args:
        run: Gives (B, T, ...) for input_ids and attention_mask; it runs the model once.
    """

    def of_labels(some: Tensors) -> Tensor:
        window, position = some["positions"].unbind(-1)
        return run(some)[window, position]

    lengths = batch["attention_mask"].sum(-1).tolist()
    groups = _groups(model, batch["attention_mask"].device, lengths)
    if len(groups) == 1:
        return of_labels(batch)
    found, places = [], []
    for group in groups:
        chosen = torch.zeros_like(batch["attention_mask"][:, 0], dtype=torch.bool)
        chosen[group] = True
        here, part = rows_alone(batch, chosen, max(lengths[row] for row in group))
        found.append(of_labels(part))
        places.append(here)
    return torch.cat(found)[torch.cat(places).argsort()]


def _groups(
    model: PreTrainedModel, device: torch.device, lengths: Sequence[int]
) -> list[list[int]]:
    """Which windows to run together; all where every process has to run the same passes."""
    if sharding.is_sharded(model):
        return [list(range(len(lengths)))]
    costs = PASS_TOKENS if device.type == "cpu" else PASS_TOKENS_ON_ACCELERATOR
    return length_groups(lengths, costs)


@torch.no_grad()
def rows_of_windows(
    model: PreTrainedModel, windows: Sequence[Window], infer: Callable[[Tensors], Tensor]
) -> list[Tensor]:
    """What `infer` gives at the label positions of each window, (N_window, ...) on the CPU.

    Every process has a share of the batches, so the model must not be sharded yet.

    Args:
        infer: Gives a row for each label position of a batch.
    """
    found: dict[int, Tensor] = {}
    for indices in processes.share(length_batches(windows, BATCH_TOKENS)):
        batch = collate([windows[index] for index in indices], model.device)
        rows_N = infer(batch)
        for place, index in enumerate(indices):
            found[index] = rows_N[batch["positions"][:, 0] == place].cpu()
    return processes.in_order(found)


@dataclass(frozen=True)
class TargetDistribution:
    """What the target model predicts at the scored positions of some windows.

    Attributes:
        hidden: For each window the hidden states of its label positions (N_window, D), on the CPU.
        head: The target model's output head, frozen; None when its logits are not reproduced by
            one, and then `model` is run again every time.
        model: A frozen copy of the target model, only where there is no head; the model itself
            where it has adapters, with which off it is the target.
    """

    hidden: Sequence[Tensor]
    head: OutputHead | None
    model: PreTrainedModel | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, windows: Sequence[Window]) -> "TargetDistribution":
        """The distributions of `model` as it is now, whatever is done to it later.

        It must not be sharded yet.
        """
        return cls.of_sets(model, {"": windows})[""]

    @classmethod
    def of_sets(
        cls,
        model: PreTrainedModel,
        sets: Mapping[str, Sequence[Window]],
        like: "TargetDistribution | None" = None,
    ) -> "dict[str, TargetDistribution]":
        """Those on some sets, which share one frozen head or model; see `of`.

        Args:
            like: Another of the same model, as it still is, with which they share it as well.
        """
        if not sets:
            return {}
        head = output_head(model)
        if head is None:
            if like is not None:
                return dict.fromkeys(sets, like)
            itself = has_adapters(model) and not sharding.wanted()
            frozen = model if itself else copy.deepcopy(model).requires_grad_(False)
            return dict.fromkeys(sets, cls((), None, frozen.eval()))

        def states(batch: Tensors) -> Tensor:
            return at_labels(model, batch, partial(body, model))

        kept = head.frozen() if like is None else like.head
        return {
            name: cls(rows_of_windows(model, windows, states), kept)
            for name, windows in sets.items()
        }

    @property
    def num_bytes(self) -> int:
        """Bytes of the kept hidden states (the frozen head apart)."""
        return sum(states.numel() * states.element_size() for states in self.hidden)

    def logits(self, indices: Sequence[int], batch: Tensors | None) -> TargetLogits:
        """A function giving the target's logits at a slice of the batch's label positions.

        Args:
            indices: Which of the windows the batch holds, in the batch's order.
            batch: None where this process has no share; nothing calls the function then.
        """
        if batch is None:
            return _no_logits
        device = batch["input_ids"].device
        if self.head is None:
            assert self.model is not None
            with torch.no_grad(), without_adapters(self.model):
                whole = logits_at(self.model, None, batch)
            return lambda rows: whole[rows]
        head = self.head
        states = torch.cat([self.hidden[index] for index in indices]).to(device)

        # Called again in the backward pass, which runs outside the forward's autocast: the gradient
        # must be that of the divergence that was reported.
        enabled = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type)
        # A call is of some positions only, and autocast keeps no copy of what is not trained.
        head = head.rounded(dtype) if enabled else head

        def of_rows(rows: slice) -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=enabled):
                return head(states[rows])

        return of_rows


@dataclass(frozen=True)
class Reference:
    """What the reference model gives for the windows of one step.

    Attributes:
        log_probs: Log p of each label of a set, (N,) in nats, in the order of `Likelihoods`.
        logits: Gives a function of a set that gives the logits at a slice of the label positions
            of this process's share.
    """

    log_probs: Callable[[str], Tensor]
    logits: Callable[[str], TargetLogits]


@dataclass(frozen=True)
class KeptReference:
    """What the target model gave for whole sets, from which that for a step is taken."""

    log_probs: Mapping[str, Sequence[Tensor]]
    logits: Mapping[str, TargetDistribution]
    device: torch.device

    @classmethod
    def of(
        cls, model: PreTrainedModel, sets: Mapping[str, Sequence[Window]], needs: Mapping[str, str]
    ) -> "KeptReference":
        """That of the model as it is now, whatever is done to it later.

        It must not be sharded yet.

        Args:
            sets: The windows of each set that steps will draw from.
            needs: What the loss needs of which set: "log_probs" of its labels, or "logits" of all
                tokens at each label position.
        """
        head = output_head(model)

        def log_probs(batch: Tensors) -> Tensor:
            # Not through `likelihoods`, which gathers: every process has other windows here.
            return functional.label_log_probs(logits_at(model, head, batch), batch["labels"])[0]

        def named(kind: str) -> list[str]:
            return [name for name in needs if needs[name] == kind]

        return cls(
            {name: rows_of_windows(model, sets[name], log_probs) for name in named("log_probs")},
            TargetDistribution.of_sets(model, {name: sets[name] for name in named("logits")}),
            model.device,
        )

    def at(self, places: Mapping[str, Sequence[int]], batch: Batch) -> Reference:
        """That for a step's windows.

        Args:
            places: Which windows of each set the step has, over all processes.
        """
        mine = {name: processes.share(indices) for name, indices in places.items()}

        def log_probs(name: str) -> Tensor:
            kept = self.log_probs[name]
            rows = torch.cat([torch.zeros(0), *(kept[place] for place in mine[name])])
            return processes.gather_rows(rows.to(self.device))

        return Reference(log_probs, lambda name: self.logits[name].logits(mine[name], batch[name]))


def asked_of(reference: PreTrainedModel | Reference, batch: Batch) -> Reference:
    """The reference as a loss uses it: as it is, or of a frozen model, which runs at every step."""
    if not isinstance(reference, nn.Module):
        return reference
    model = cast("PreTrainedModel", reference)

    def log_probs(name: str) -> Tensor:
        with torch.no_grad(), without_adapters(model):
            return likelihoods(model, batch[name]).log_probs

    frozen = TargetDistribution((), None, model)
    return Reference(log_probs, lambda name: frozen.logits((), batch[name]))


def _no_logits(rows: slice) -> Tensor:
    raise AssertionError(f"this process has no windows, so nothing needs logits of {rows}")
