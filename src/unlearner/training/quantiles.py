"""The token losses and entropies of unseen records, as what forget records are to have.

Each forget record has an unseen partner; what it is to have are the partner's quantiles, under the
model in training as it was last asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss
from transformers import PreTrainedModel

from unlearner.data.batches import length_batches, share_of
from unlearner.data.windows import TokenizedSet
from unlearner.inference.reference import BATCH_TOKENS, Likelihoods, likelihoods
from unlearner.models import sharding
from unlearner.training.trainer import Trainer


@dataclass(frozen=True)
class Quantiles:
    """The sorted token losses and entropies of one unseen record, (n,) each in nats."""

    losses: np.ndarray
    entropies: np.ndarray

    def at(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses and entropies at the levels (k - 1/2) / count, k = 1, ..., count."""
        return quantiles_at(self.losses, count), quantiles_at(self.entropies, count)


def quantiles_at(values: np.ndarray, count: int) -> np.ndarray:
    """Quantiles of sorted values (n,) at the levels (k - 1/2) / count, k = 1, ..., count.

    Between the n values, which stand at (j - 1/2) / n, it is a straight line; outside of them the
    first and the last.
    """
    own = (np.arange(len(values)) + 0.5) / len(values)
    return np.interp((np.arange(count) + 0.5) / count, own, values)


# Below this the odds against a token count as one: one in a hundred is as good as certain.
CERTAIN = 0.01


def log_odds(losses: Tensor) -> Tensor:
    r"""log(e^l - 1 + 0.01) of each loss l, in nats: the log-odds against the label.

    Large losses stay what they are. Small ones, where a loss of 0.02 is another kind of token than
    one of 0.2, are told apart by their ratio, down to 0.01.
    """
    return losses + torch.log1p((CERTAIN - 1) * torch.exp(-losses))


def distance(
    found: Likelihoods,
    place: int,
    partner: Quantiles,
    entropy_weight: float,
    *,
    by_odds: bool = False,
) -> Tensor:
    """D_f of one of the records, by its place in the batch; 0 of a record without a label.

    Args:
        by_odds: Compare the log-odds of losses, not losses.
    """
    mine = found.owner == place
    losses, entropies = -found.log_probs[mine], found.entropy[mine]
    if not len(losses):
        return found.log_probs.sum() * 0
    goals = partner.at(len(losses))
    total = found.log_probs.new_zeros(())
    for some, goal, weight in zip((losses, entropies), goals, (1.0, entropy_weight), strict=True):
        if weight:
            own, wanted = some.sort().values, torch.from_numpy(goal).to(some)
            if by_odds and some is losses:
                own, wanted = log_odds(own), log_odds(wanted)
            total = total + weight * huber_loss(own, wanted)
    return total


def quantiles(found: Likelihoods) -> list[Quantiles]:
    """Of each record of a batch."""
    losses, entropies, owner = (
        some.cpu().numpy() for some in (-found.log_probs, found.entropy, found.owner)
    )
    return [
        Quantiles(np.sort(losses[owner == place]), np.sort(entropies[owner == place]))
        for place in range(found.num_records)
    ]


# One in so many unseen records for the method is held still, and no partner.
HELD = 4


def divide(unseen: TokenizedSet) -> tuple[TokenizedSet, TokenizedSet]:
    """Unseen records to be partners, and others to be held still; of one alone it is both.

    A record that is held still keeps its losses, while other unseen text may grow likelier with the
    text that is learned: as a partner it would give goals that unseen text has left behind.
    """
    held = [place for place in range(len(unseen)) if place % HELD == 0]
    others = [place for place in range(len(unseen)) if place % HELD]
    return unseen.subset(others or held), unseen.subset(held)


class Partners:
    """The unseen partner of each forget record, and its quantiles as last taken.

    Args:
        unseen: The unseen records for the method, see `divide`.
    """

    def __init__(self, unseen: TokenizedSet, num_forget: int, trainer: Trainer) -> None:
        self.partners, self.trainer = divide(unseen)[0], trainer
        trainer.details["unseen_set_aside"] = len(unseen)
        trainer.details["partners_are_shared"] = num_forget > len(unseen)
        self.order = torch.randperm(len(self.partners), generator=trainer.generator).tolist()
        self.known: list[Quantiles] = []

    def of(self, records: Iterable[int]) -> list[Quantiles]:
        """Of some forget records, each named once or more, in the order of their first places."""
        order = self.order
        return [self.known[order[record % len(order)]] for record in dict.fromkeys(records)]

    def refresh(self, model: PreTrainedModel) -> None:
        """Take the quantiles under the model as it is now.

        They go through the trainer's journal, so that a run that was cut off has the same.
        """

        def ask() -> list[list[list[float]]]:
            return [
                [
                    np.round(values.astype(float), 5).tolist()
                    for values in (own.losses, own.entropies)
                ]
                for own in ask_quantiles(model, self.partners)
            ]

        found = self.trainer.evaluate_round(ask)
        self.known = [Quantiles(*map(np.array, pair)) for pair in found]


@torch.no_grad()
def ask_quantiles(model: PreTrainedModel, some: TokenizedSet) -> list[Quantiles]:
    model.eval()
    found: dict[int, list[Quantiles]] = {}
    for indices in length_batches(some.windows, BATCH_TOKENS):
        windows = [some.windows[index] for index in indices]
        batch = share_of(windows, sharding.device_of(model))
        records = list(dict.fromkeys(window.record for window in windows))
        parts = quantiles(likelihoods(model, batch, entropies=True))
        for record, part in zip(records, parts, strict=False):
            found.setdefault(record, []).append(part)
    return [
        Quantiles(
            np.sort(np.concatenate([part.losses for part in found[record]])),
            np.sort(np.concatenate([part.entropies for part in found[record]])),
        )
        for record in range(len(some))
    ]
