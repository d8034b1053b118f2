"""The pace of a run that ends at a level: when to look at the model again, how fast to go there.

A large model can pass the level of unseen text within an epoch. Rounds come sooner the nearer it
is, and the learning rate falls there.
"""

import math

from unlearner.training.stop_rule import RoundState

# The first round of a run comes after this share of an epoch, and each further one where half of
# the way that is left would be gone at the last round's speed. Where one step would go all of it
# the learning rate falls, to this share at least.
FIRST_ROUND = 0.25
SMALLEST_RATE = 1 / 8

# What a step has of the rate of the one before, once the level was reached from one side.
FADING = 0.984


class Pace:
    """When to look at the model again, and how fast to go there.

    Attributes:
        rate: The share of the learning rate that the next steps take.
    """

    def __init__(self, steps_per_round: int | str, level: float) -> None:
        self.steps_per_round, self.level = steps_per_round, level
        self.rate, self.fall = 1.0, math.nan  # MA that one step takes off at the whole rate

    def steps(self, state: RoundState, left: int, *, pushes: bool) -> int:
        """Steps up to the next round, of those left in the epoch; all where none pushes."""
        if isinstance(self.steps_per_round, int):
            return min(self.steps_per_round, left)
        way = state.values["ma"] - self.level
        if self.steps_per_round == "epoch" or not pushes:
            self.rate = 1.0
            return left
        if way <= 0:  # single records are left, or EL and ES: as slowly as the last steps
            return left
        if math.isnan(self.fall):
            return max(1, round(FIRST_ROUND * left))
        self.rate = min(1.0, max(way / self.fall, SMALLEST_RATE))
        return min(left, max(1, int(way / (self.fall * self.rate) / 2)))  # half of the way

    def learn(self, before: RoundState, after: RoundState, count: int) -> None:
        """Take note of how far the last steps went; those that went nowhere say nothing."""
        fall = (before.values["ma"] - after.values["ma"]) / (count * self.rate)
        if fall > 0:
            self.fall = fall


class Fading(Pace):
    """The pace of a run with partners, which ends at the level from either side.

    Rounds come with each epoch. Once the level was reached, records go on to the other side of it
    and come back: by less each time, since the rate falls with every step.
    """

    since: int | None = None  # steps since then

    def steps(self, state: RoundState, left: int, *, pushes: bool) -> int:  # noqa: ARG002
        count = min(self.steps_per_round, left) if isinstance(self.steps_per_round, int) else left
        if self.since is None and state.values["ma"] <= self.level:
            self.since = 0
        if self.since is not None:
            self.rate = max(SMALLEST_RATE, FADING**self.since)
            self.since += count
        return count
