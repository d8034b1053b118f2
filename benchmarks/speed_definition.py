"""MA and EL_10 as they are defined, one `generate` per prompt length, and what that costs.

T tokens per record, t prompt length. A batch of records is continued together, greedily, as the
published code of ICU does. MA takes T - 1 calls of one new token; EL_10 with prompts from s on
takes one call of T - t new tokens for each t in s..T-10. (The published code also continues the
prompts of the last lengths, which EL_10 does not look at; they are left out here.) Only calls of
`generate` are charged, not the counting of n-grams.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speed_timing import Cost, sum_of, timed

N = 10  # of EL_n


@dataclass
class Definition:
    """What `generate` gave for the prompt lengths asked so far.

    Attributes:
        ids: (B, T) the records.
        first: By prompt length, the one new token of each record and the cost of the call.
        rest: By prompt length, the whole continuation of each record and the cost of the call.
    """

    model: Any
    ids: Tensor
    ends: frozenset[int]
    first: dict[int, tuple[list[list[int]], Cost]] = field(default_factory=dict)
    rest: dict[int, tuple[list[list[int]], Cost]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.ids.shape[1]

    def infer(self, lengths: Iterable[int]) -> None:
        """Make the calls for some prompt lengths."""
        for length in lengths:
            self.infer_first(length)
            if length <= self.num_tokens - N:
                self.infer_rest(length)

    def infer_first(self, length: int) -> None:
        """One new token behind the first `length`, as MA asks for."""
        self.first[length] = timed(lambda: self._generate(length, 1))

    def infer_rest(self, length: int) -> None:
        """The whole continuation behind the first `length` tokens, as EL_10 asks for."""
        left = self.num_tokens - length
        self.rest[length] = timed(lambda: self._generate(length, left))

    def _generate(self, length: int, new: int) -> list[list[int]]:
        prompts = self.ids[:, :length]
        out = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
        )
        return [self._until_end(row) for row in out[:, length:].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        for place, token in enumerate(tokens):
            if token in self.ends:
                return tokens[: place + 1]
        return tokens

    def memorization_accuracy(self) -> list[float]:
        """MA of each record; every prompt length must have been asked."""
        labels = range(1, self.num_tokens)
        return [
            sum(self.first[t][0][row][0] == ids[t] for t in labels) / len(labels)
            for row, ids in enumerate(self.ids.tolist())
        ]

    def extraction_likelihood(self, start: int) -> list[float]:
        """EL_10 of each record; every prompt length from `start` on must have been asked."""
        prompts = prompt_lengths(start, self.num_tokens)
        values = []
        for row, ids in enumerate(self.ids.tolist()):
            total = 0.0
            for t in prompts:
                total += overlap(self.rest[t][0][row], ids[t:])
            values.append(total / len(prompts))
        return values

    def cost(self, start: int) -> Cost:
        """Of MA and EL_10 with prompts from `start` on; as measured, or scaled from what was asked.

        Where not all lengths were asked, reading prompts is scaled by their tokens and every
        further token by the number of forward passes: a length t has T - 1 - t of them behind the
        one that reads the prompt.
        """
        every, prompts = range(1, self.num_tokens), prompt_lengths(start, self.num_tokens)
        if self.is_complete:
            singles = sum_of([self.first[t][1] for t in every])
            return singles + sum_of([self.rest[t][1] for t in prompts])
        reading = sum_of([cost for _, cost in self.first.values()]) * (1 / sum(self.first))
        asked = [t for t in self.rest if t >= start]
        further = sum_of([self.rest[t][1] - self.first[t][1] for t in asked])
        passes = sum(self.num_tokens - 1 - t for t in asked)
        all_passes = sum(self.num_tokens - 1 - t for t in prompts)
        return reading * (sum(every) + sum(prompts)) + further * (all_passes / passes)

    @property
    def is_complete(self) -> bool:
        """Every prompt length was asked, so values and cost are no estimates."""
        return set(self.first) == set(range(1, self.num_tokens))


def prompt_lengths(start: int, num_tokens: int) -> range:
    """The prompts of EL_10."""
    return range(start, num_tokens - N + 1)


def overlap(continuation: Sequence[int], text: Sequence[int]) -> float:
    """OV_10: the 10-grams of the continuation that occur in the text, per 10-gram of the text."""
    known = ngrams(text)
    return sum(gram in set(known) for gram in ngrams(continuation)) / len(known)


def ngrams(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + N]) for i in range(len(ids) - N + 1)]


def spread_lengths(num_tokens: int, late: int, count: int, generator: torch.Generator) -> list[int]:
    """Prompt lengths of EL_10, half of them before `late`, one drawn from each equal part."""
    found = []
    for low, high in ((1, late), (late, num_tokens - N + 1)):
        edges = torch.linspace(low, high, count // 2 + 1).int().tolist()
        for start, stop in itertools.pairwise(edges):
            found.append(int(torch.randint(start, stop, (), generator=generator)))
    return found
