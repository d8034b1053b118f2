"""A model's own `generate`, and what of it and of the model's cache can be trusted.

State-space layers, linear attention and short convolutions keep a state that is no list of keys and
values, some models keep it in themselves, and some are wrong for several rows. What a model can do
is not known by its name: it is tried on a few tokens, against its own forward pass over all of them
at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from unlearner.errors import UserError
from unlearner.models import sharding
from unlearner.models.ensemble import takes
from unlearner.models.heads import OutputHead


class Generation(NamedTuple):
    """How the model's `generate` gives what its forward pass gives.

    Attributes:
        rows: Prompts of one length at a time.
        cached: With its cache; without, each token costs a pass over the whole text.
    """

    rows: int
    cached: bool

    @property
    def note(self) -> str:
        """What is to be said of it; empty where nothing is."""
        if self.rows > 1:
            return ""
        how = "one row at a time" if self.cached else "one row at a time and without its cache"
        return (
            "the library's `generate` gives other tokens for several rows of this model than for "
            f"each alone: continuations are made {how}, which is slow"
        )


WAYS = (Generation(64, True), Generation(1, True), Generation(1, False))

# Of each model that is alive, what was found.
_KNOWN_CACHES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_KNOWN_WAYS: WeakKeyDictionary[nn.Module, Generation] = WeakKeyDictionary()

PROBE_ROWS, PROBE_TOKENS, PROBE_NEW = 2, 8, 4

# What a model raises that is given a cache of another kind than its own.
_REFUSALS = (
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def shares_cache(model: PreTrainedModel, head: OutputHead | None) -> bool:
    """Whether a prompt can be continued from the keys and values of a pass over a longer text.

    Believed only after it gave the states of the whole pass, with another text run in between:
    some models keep a state in themselves.

    Args:
        head: The model's output head; None where it is run as a whole.
    """
    if model not in _KNOWN_CACHES:
        plain = _keeps_keys_and_values(model)

        def tried() -> bool:
            return _continues_from_cache(model if head is None else model.base_model)

        with torch.no_grad():
            found = plain and sharding.inside(model, tried, calls_model=head is None)
        _KNOWN_CACHES[model] = found
    return _KNOWN_CACHES[model]


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """Whether every layer's state is one of keys and values, as its configuration has it."""
    if model._is_stateful:
        return False
    try:
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    except _REFUSALS:
        return False
    return all(
        isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in layers
    )


def _probe_tokens(model: nn.Module, shift: int = 0) -> Tensor:
    """Rows of tokens that differ, (PROBE_ROWS, PROBE_TOKENS)."""
    numbers = torch.arange(PROBE_ROWS * PROBE_TOKENS, device=sharding.device_of(model))  # type: ignore[arg-type]
    size = model.config.get_text_config().vocab_size  # type: ignore[union-attr]
    return ((5 + shift + 7 * numbers) % size).view(PROBE_ROWS, PROBE_TOKENS)


def _continues_from_cache(part: nn.Module) -> bool:
    ids, last = _probe_tokens(part), PROBE_TOKENS - 1
    try:
        whole = part(input_ids=ids, use_cache=False)[0][:, -1]
        cache, other = DynamicCache(), DynamicCache()
        for tokens, states in ((ids, cache), (_probe_tokens(part, 3), other)):
            mask = torch.ones_like(tokens[:, :last])
            part(
                input_ids=tokens[:, :last],
                attention_mask=mask,
                past_key_values=states,
                use_cache=True,
            )
        found = next_states(part, ids[:, last], last, cache)
    except _REFUSALS:
        return False
    return _same_logits(found, whole)


def next_states(part: nn.Module, tokens_R: Tensor, position: int, cache: DynamicCache) -> Tensor:
    """What the model, or its body, gives for one more token of each row, (R, V) or (R, D)."""
    inputs = {"input_ids": tokens_R[:, None]}
    if takes(part, "position_ids"):
        inputs["position_ids"] = torch.full_like(tokens_R, position)[:, None]
    return part(**inputs, past_key_values=cache, use_cache=True)[0][:, -1]


def _same_logits(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of sums; damaged weights give NaN, which is reported elsewhere."""
    scale = float(expected.abs().nan_to_num().max())
    # `generate` gives float32 whatever the model computes in.
    found = found.to(expected.dtype)
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


@torch.no_grad()
def way_to_generate(model: PreTrainedModel) -> Generation:
    """The fastest of `WAYS` that gives what the forward pass gives; the last if none does."""
    if model not in _KNOWN_WAYS:
        right = (way for way in WAYS[:-1] if _gives_forward_logits(model, way))
        _KNOWN_WAYS[model] = next(right, WAYS[-1])
    return _KNOWN_WAYS[model]


def _gives_forward_logits(model: PreTrainedModel, way: Generation) -> bool:
    ids = _probe_tokens(model)
    for rows in ids.split(way.rows):
        with plain_generation(model):
            out = model.generate(  # type: ignore[operator]
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=PROBE_NEW,
                min_new_tokens=PROBE_NEW,
                pad_token_id=0,
                use_cache=way.cached,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits = torch.stack(out.logits, 1)
        for row, found in zip(out.sequences, logits, strict=True):
            whole = model(input_ids=row[None, :-1], use_cache=False).logits[0, -PROBE_NEW:]
            if not _same_logits(found, whole):
                return False
    return True


@contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Without the model's own penalties, sampling and limits: the most probable tokens as they are.

    Some chat models bring a penalty of repetition, which works on greedy decoding too.
    """
    own = model.generation_config
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    values = {name: getattr(own, name, None) for name in kept}
    model.generation_config = GenerationConfig(**values)
    try:
        yield
    finally:
        model.generation_config = own


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    num_tokens: int,
    *,
    num_beams: int = 1,
    sampled: bool = False,
) -> list[np.ndarray]:
    """What the model's own `generate` puts behind prompts of equal length, at most `num_tokens`.

    As many rows at a time as it is right for.

    Args:
        sampled: Drawn from the model's own distribution over all tokens, by the global generator.
    """
    drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}
    way = way_to_generate(model)
    # A cache that is wrong for several rows cannot be put in the order of several beams.
    cached = way.cached and (num_beams == 1 or way.rows > 1)
    # To a model that keeps its state in itself one token looks like the next of the text before.
    cached = cached and not (model._is_stateful and input_ids.shape[1] == 1)
    found: list[np.ndarray] = []
    for rows in input_ids.split(way.rows):
        with plain_generation(model):
            out: Tensor = model.generate(  # type: ignore[operator]
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=num_tokens,
                do_sample=sampled,
                **drawn,
                num_beams=num_beams,
                pad_token_id=next(iter(eos_ids(model)), 0),
                use_cache=cached,
            )
        found += list(out[:, input_ids.shape[1] :].cpu().numpy())
    return found


def eos_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens at which generation stops.

    Raises:
        UserError: The model's files name something else.
    """
    generation = getattr(model, "generation_config", None)
    value = generation.eos_token_id if generation else None
    value = model.config.get_text_config().eos_token_id if value is None else value
    tokens = [] if value is None else value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(token, int) for token in tokens):
        raise UserError(
            "the model's eos_token_id (config.json, generation_config.json) is no token: give a "
            "whole number, or a list of some"
        )
    return frozenset(tokens)
