"""Continuations of many prompts at once, each from the key/value cache of one forward pass.

They are greedy, or drawn.

T tokens of a window.

EL_n continues every prompt x_<t of a record. Where the most probable token at t is x_t, the
continuation of x_<t is x_t followed by the continuation of x_<t+1, so only the prompts behind which
the model breaks from the text are decoded. All of them advance together by absolute position: a row
joins when the position reaches its prompt length. Every row then holds exactly `position` cached
tokens, so there is no padding, no mask and no shifted position, and models with local attention,
rotary or learned positions see what they would see alone. Where the model's attention is known
(`prefix_attention`), rows of one window read the keys and values of their prompts in common.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from unlearner.inference.generation import eos_ids, generate, next_states
from unlearner.inference.prefix_attention import PrefixAttention, RowGroups, can_share
from unlearner.models import sharding
from unlearner.models.heads import OutputHead, argmax, logits_in_parts


@dataclass(frozen=True)
class Prompt:
    """The prompt of a window whose continuation has to be decoded.

    Attributes:
        window: Row of the window in the teacher-forced batch.
        length: Prompt length m; its first continued token stands at position m.
        first: That token, known from the teacher-forced pass.
        total: T, the length to which the continuation runs.
    """

    window: int
    length: int
    first: int
    total: int


# From the logits of some rows, (R, V), the token of each, (R,).
Choice = Callable[[Tensor], Tensor]


def drawn(logits_RV: Tensor) -> Tensor:
    """(R,) a token of each row, from the model's own distribution, by the global generator."""
    return torch.multinomial(logits_RV.float().softmax(-1), 1)[:, 0]


@dataclass(frozen=True)
class Decoder:
    """What makes the next token.

    Attributes:
        head: The model's output head; None where it is run as a whole.
        choose: `argmax`, or `drawn`.
    """

    model: PreTrainedModel
    head: OutputHead | None
    choose: Choice

    def next_tokens(self, tokens_R: Tensor, position: int, cache: DynamicCache) -> Tensor:
        """(R,) what follows one more token of each row."""
        part = self.model if self.head is None else self.model.base_model
        states = next_states(part, tokens_R, position, cache)
        return torch.cat([self.choose(logits) for logits in logits_in_parts(states, self.head)])


class RowBatch:
    """Prompts that are decoded together, by length, and where their keys and values come from.

    Attributes:
        base: Tokens whose keys and values the rows of a window share; 0 where they cannot.
        windows: The rows' windows in the teacher-forced batch, each once.
        window: (R,) the place of each row's window in `windows`.
    """

    def __init__(self, prompts: Sequence[Prompt], base: int) -> None:
        self.prompts, self.base = prompts, base
        self.windows, self.window = np.unique(
            [prompt.window for prompt in prompts], return_inverse=True
        )

    def of_windows(self, states_BHTD: Tensor) -> Tensor:
        """The windows' states up to `base`, (W, H, base, D); no copy of all of them."""
        shared = states_BHTD[:, :, : self.base]
        if len(self.windows) == len(states_BHTD):
            return shared
        return shared[torch.as_tensor(self.windows, device=states_BHTD.device)]

    def of_rows(self, states_BHTD: Tensor) -> Tensor:
        """A copy of the window's states from `base` on for each row, (R, H, T - base, D)."""
        index = torch.as_tensor(self.windows[self.window], device=states_BHTD.device)
        return states_BHTD[:, :, self.base :][index]


class RowCache(DynamicLayer):
    """One layer's keys and values of each row, from the position on that its batch calls `base`.

    The teacher-forced pass has filled every position of the windows; a row overwrites the ones from
    its prompt length on before it reads them.

    Attributes:
        keys_buffer: (R, H, T - base, D) of the rows, the newest token's behind the others.
    """

    def __init__(self, keys: Tensor, values: Tensor, batch: RowBatch) -> None:
        super().__init__()
        self.base = batch.base
        self.dtype, self.device = keys.dtype, keys.device
        self.keys_buffer, self.values_buffer = batch.of_rows(keys), batch.of_rows(values)
        self.is_initialized = True
        self.position = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        rows, last = len(key_states), self.position - self.base
        self.keys_buffer[:rows, :, last] = key_states[:, :, 0]
        self.values_buffer[:rows, :, last] = value_states[:, :, 0]
        return self.keys_buffer[:rows, :, : last + 1], self.values_buffer[:rows, :, : last + 1]

    def get_seq_length(self) -> int:
        return self.position

    def keep(self, rows: Tensor) -> None:
        self.keys_buffer = self.keys_buffer[rows]
        self.values_buffer = self.values_buffer[rows]


class Rows:
    """The rows of one decoding batch that still run, ordered by prompt length.

    Attributes:
        origin: Row of the output that each row writes.
        tokens: (R, T), whole from the prompt length on.
    """

    def __init__(self, batch: RowBatch, eos: Tensor) -> None:
        self.eos, self.window = eos, batch.window
        self.lengths = np.array([prompt.length for prompt in batch.prompts])
        self.totals = np.array([prompt.total for prompt in batch.prompts])
        self.origin = np.arange(len(self.lengths))
        tokens = torch.zeros(len(self.lengths), int(self.totals.max()), dtype=torch.long)
        first = torch.tensor([prompt.first for prompt in batch.prompts])
        tokens[torch.from_numpy(self.origin), torch.from_numpy(self.lengths)] = first
        self.tokens = tokens.to(eos.device)
        self.ended = torch.zeros(len(tokens), dtype=torch.bool, device=eos.device)

    def keep(self, rows: np.ndarray) -> None:
        index = torch.as_tensor(rows, device=self.tokens.device)
        self.lengths, self.totals = self.lengths[rows], self.totals[rows]
        self.window, self.origin = self.window[rows], self.origin[rows]
        self.tokens, self.ended = self.tokens[index], self.ended[index]


def _keys_and_values(cache: Cache) -> dict[int, tuple[Tensor, Tensor]]:
    """Those of the layers of attention, by number; other layers have none."""
    return {
        number: (layer.keys, layer.values)
        for number, layer in enumerate(cache.layers)
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    }


def row_batches(
    cache: Cache, prompts: Sequence[Prompt], *, shares: bool, logits_bytes: int, memory_bytes: int
) -> Iterator[RowBatch]:
    """Prompts of similar length, as many as have room.

    Args:
        cache: Of the teacher-forced pass.
        prompts: All of them.
        shares: Whether rows can read a common prompt, so that only what is behind it is theirs.
        logits_bytes: Of one row.
        memory_bytes: Room for the rows' own keys, values and logits.
    """
    states = [part for both in _keys_and_values(cache).values() for part in both]
    num_tokens = states[0].shape[2]
    token_bytes = sum(part[0, :, 0].numel() * part.element_size() for part in states)
    # Long prompts first: the rows of a batch then start, and end, close together.
    batch: list[Prompt] = []
    base = 0
    for prompt in sorted(prompts, key=lambda prompt: (-prompt.length, prompt.window)):
        shortest = prompt.length if shares else 0
        row_bytes = (num_tokens - shortest) * token_bytes + logits_bytes
        if batch and (len(batch) + 1) * row_bytes > memory_bytes:
            yield RowBatch(batch[::-1], base)
            batch = []
        batch.append(prompt)
        base = shortest
    yield RowBatch(batch[::-1], base)


# Rows that have ended are dropped once they are this share of the rows being computed.
DROP_SHARE = 0.25


def continuations(
    model: PreTrainedModel,
    head: OutputHead | None,
    cache: Cache | None,
    input_ids: Tensor,
    prompts: Sequence[Prompt],
    *,
    memory_bytes: int,
) -> list[dict[int, np.ndarray]]:
    """The greedy continuations of prompts of each window, by prompt length.

    Each runs to `total` tokens or to the first end-of-text token, which it includes.

    Args:
        cache: Of the teacher-forced pass over `input_ids`; None for a model whose rows cannot be
            continued from one, see `generation.shares_cache`.
        input_ids: (B, T), the windows.
        memory_bytes: Room for keys, values and logits of the prompts that are decoded together.
    """
    found: list[dict[int, np.ndarray]] = [{} for _ in input_ids]
    decoder = Decoder(model, head, argmax)
    for prompt, tokens in continued(decoder, cache, input_ids, prompts, memory_bytes):
        found[prompt.window][prompt.length] = tokens
    return found


def continued(
    decoder: Decoder,
    cache: Cache | None,
    input_ids: Tensor,
    prompts: Sequence[Prompt],
    memory_bytes: int,
) -> list[tuple[Prompt, np.ndarray]]:
    """The prompts, in any order, with what follows them as the decoder chooses it.

    Arguments and ends are those of `continuations`. Of a prompt without a cache its first token is
    chosen anew.
    """
    if not prompts:
        return []
    if cache is not None:
        decode = partial(_decode, decoder, cache, prompts, memory_bytes)
    else:
        decode = partial(_generate_all, decoder, input_ids, prompts)
    calls_model = cache is None or decoder.head is None
    return sharding.inside(decoder.model, decode, calls_model=calls_model)


def _until_end(tokens: np.ndarray, ends: frozenset[int]) -> np.ndarray:
    stops = np.flatnonzero(np.isin(tokens, list(ends)))
    return tokens[: stops[0] + 1 if len(stops) else None].astype(np.int32)


def _decode(
    decoder: Decoder, cache: Cache, prompts: Sequence[Prompt], memory_bytes: int
) -> list[tuple[Prompt, np.ndarray]]:
    """As `continued`, from the cache."""
    model, head = decoder.model, decoder.head
    # With a head the logits come in parts.
    logits_bytes = 8 * model.config.get_text_config().vocab_size if head is None else 0
    ends = eos_ids(model)
    found = []
    for batch in row_batches(
        cache,
        prompts,
        shares=can_share(model),
        logits_bytes=logits_bytes,
        memory_bytes=memory_bytes,
    ):
        rows = _decode_rows(decoder, cache, batch)
        for prompt, row in zip(batch.prompts, rows, strict=True):
            found.append((prompt, _until_end(row[prompt.length : prompt.total], ends)))
    return found


def _decode_rows(decoder: Decoder, cache: Cache, batch: RowBatch) -> np.ndarray:
    """The prompts' rows of tokens, each whole from its prompt length on."""
    model = decoder.model
    device = sharding.device_of(model)
    states = _keys_and_values(cache)
    layers = {number: RowCache(*both, batch) for number, both in states.items()}
    row_cache = DynamicCache()
    row_cache.layers = [layers.get(number, layer) for number, layer in enumerate(cache.layers)]
    rows = Rows(batch, torch.tensor(sorted(eos_ids(model)), dtype=torch.long, device=device))
    output = np.zeros(rows.tokens.shape, dtype=np.int64)
    attention = None
    if batch.base:
        shared = {number: tuple(map(batch.of_windows, both)) for number, both in states.items()}
        attention = PrefixAttention(shared)
    with attention.installed(model) if attention else nullcontext():
        for position in range(int(rows.lengths.min()), int(rows.totals.max()) - 1):
            _drop_ended(rows, layers.values(), position, output)
            if len(rows.lengths) == 0:
                break
            joined = int(np.searchsorted(rows.lengths, position, side="right"))
            if not joined:
                continue
            if attention:
                attention.position = position
                attention.groups = RowGroups.of(rows.window[:joined], len(batch.windows), device)
            for layer in layers.values():
                layer.position = position
            _advance(decoder, row_cache, rows, position, joined)
    output[rows.origin] = rows.tokens.cpu().numpy()
    return output


def _advance(decoder: Decoder, cache: DynamicCache, rows: Rows, position: int, joined: int) -> None:
    """One more token for the first `joined` rows, those whose prompt is no longer than position."""
    current = rows.tokens[:joined, position]
    rows.ended[:joined] |= torch.isin(current, rows.eos)
    # A row that joins at the next position keeps its own first token.
    following = decoder.next_tokens(current, position, cache)
    rows.tokens[:joined, position + 1] = sharding.agree(decoder.model, following)


def _drop_ended(
    rows: Rows, layers: Collection[RowCache], position: int, output: np.ndarray
) -> None:
    """Write out and drop rows that have reached their end, when they are enough to be worth it."""
    done = rows.ended.cpu().numpy() | (rows.totals <= position + 1)
    joined = max(1, int(np.searchsorted(rows.lengths, position, side="right")))
    if not done.any() or (done.sum() < DROP_SHARE * joined and not done.all()):
        return
    output[rows.origin[done]] = rows.tokens[torch.as_tensor(done)].cpu().numpy()
    running = np.flatnonzero(~done)
    rows.keep(running)
    for layer in layers:
        layer.keep(torch.as_tensor(running, device=layer.device))


def _generate_all(
    decoder: Decoder, input_ids: Tensor, prompts: Sequence[Prompt]
) -> list[tuple[Prompt, np.ndarray]]:
    """As `continued`, by the model's own `generate` on prompts of equal length.

    For models whose state is not a cache of keys and values (Mamba, hybrids): slower, as exact.
    """
    found, model = [], decoder.model
    for length in sorted({prompt.length for prompt in prompts}):
        same = [prompt for prompt in prompts if prompt.length == length]
        ids = input_ids[[prompt.window for prompt in same], :length]
        longest = max(prompt.total for prompt in same) - length
        rows = generate(model, ids, longest, sampled=decoder.choose is drawn)
        for prompt, row in zip(same, rows, strict=True):
            found.append((prompt, _until_end(row[: prompt.total - length], eos_ids(model))))
    return found
