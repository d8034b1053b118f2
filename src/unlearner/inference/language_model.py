"""Asking a model: the only file that does. One pass answers every metric of a round.

Shapes: B windows, T tokens, N label positions, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unlearner import functional, processes
from unlearner.data.batches import Tensors, collate, length_batches
from unlearner.data.windows import Window
from unlearner.inference.answers import Answer, find_breaks, first_prompt
from unlearner.inference.decoding import Prompt, decode, generate_plainly, has_plain_cache
from unlearner.inference.reference import TargetDistribution
from unlearner.models import sharding
from unlearner.models.heads import OutputHead, argmax, logits_in_parts, output_head
from unlearner.models.loading import eos_ids


@dataclass(frozen=True)
class Questions:
    """What to ask beyond the teacher-forced pass.

    Attributes:
        continuations: "none", "text" (one per window, behind its prefix) or "all" (every prompt
            from `prompt_start` on, which EL needs).
        prompt_start: Shortest prompt of EL: a length in tokens, or a share of the window below 1.
        batch_tokens: Tokens of one teacher-forced batch, padding included.
        memory_bytes: Room for the decoding rows' own keys and values. A constant, not what
            happens to be free: batches, and with them the last bits of a report, stay the same.
    """

    continuations: str = "all"
    prompt_start: float = 1
    batch_tokens: int = 4096
    memory_bytes: int = 1 << 30


@torch.no_grad()
def ask(
    model: Any,
    tokenizer: Any,
    windows: Sequence[Window],
    questions: Questions,
    target: TargetDistribution | None = None,
) -> list[Answer]:
    """What the model says about each window, in their order, from one pass over it.

    Args:
        target: The target model's distributions of the same windows, for the divergence from it.
    """
    model.eval()
    head = output_head(model)
    answers: dict[int, Answer] = {}
    for indices in sharding.share(model, length_batches(windows, questions.batch_tokens)):
        some = [windows[index] for index in indices]
        batch = collate(some, sharding.device_of(model))
        target_logits = target.logits(indices, batch) if target else None
        forward = partial(_teacher_forced, model, head, batch, target_logits)
        said = forward() if head is None else sharding.inside(model, forward)
        said = replace(said, windows=sharding.agree(model, said.windows))
        found = _continue(model, head, batch, said, some, questions)
        for row, index in enumerate(indices):
            forced = said.windows[row]
            answers[index] = _answer(model, tokenizer, some[row], forced, found[row], questions)
    if not sharding.is_sharded(model):
        for some in processes.gather(answers):
            answers |= some
    return [answers[index] for index in range(len(windows))]


@dataclass(frozen=True)
class _Forced:
    """The teacher-forced part of an answer, over the T-1 labels of a window."""

    log_probs: np.ndarray
    argmax: np.ndarray
    kl: np.ndarray | None


@dataclass(frozen=True)
class _Said:
    """What one teacher-forced pass gives: the windows' parts and the key/value cache."""

    windows: list[_Forced]
    cache: Any


def _teacher_forced(
    model: Any, head: OutputHead | None, batch: Tensors, target_logits: Any
) -> _Said:
    """Log-probability of every label, most probable token before it, and the key/value cache."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    cache = DynamicCache()  # without a configuration: sliding layers keep every position too
    if head is not None:
        out = model.base_model(**inputs, past_key_values=cache, use_cache=True)
        states = out[0]
    else:
        out = model(**inputs, past_key_values=cache, use_cache=True)
        states = out.logits
    kls = _divergences(head, states, batch, target_logits)
    forced = []
    for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        labels = batch["input_ids"][row, 1:length]
        log_probs, argmax = _read(head, states[row, : length - 1], labels)
        forced.append(_Forced(log_probs, argmax, None if kls is None else kls[row]))
    return _Said(forced, out.get("past_key_values", cache))


def _read(head: OutputHead | None, states: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    log_probs, best = [], []
    rows = 0
    for logits in logits_in_parts(states, head):
        best.append(argmax(logits))
        some = labels[rows : rows + len(logits)]
        log_probs.append(functional.label_log_probs(logits, some, overwrite=head is not None)[0])
        rows += len(logits)
    return torch.cat(log_probs).cpu().numpy(), torch.cat(best).cpu().numpy()


def _divergences(
    head: OutputHead | None, states: Tensor, batch: Tensors, target_logits: Any
) -> list[np.ndarray] | None:
    """KL(target || model) at the scored labels of each window, NaN at the others."""
    if target_logits is None:
        return None
    window, position = batch["positions"].unbind(-1)
    found = [
        np.full(length - 1, np.nan, dtype=np.float32)
        for length in batch["attention_mask"].sum(-1).tolist()
    ]
    for rows in functional.chunks(len(window)):
        logits = states[window[rows], position[rows]]
        logits = logits if head is None else head(logits)
        kl = functional.kl_divergence(target_logits(rows), logits).cpu().numpy()
        for row, place, value in zip(
            window[rows].tolist(), position[rows].tolist(), kl, strict=True
        ):
            found[row][place] = value
    return found


def _continue(
    model: Any,
    head: OutputHead | None,
    batch: Tensors,
    said: _Said,
    windows: Sequence[Window],
    questions: Questions,
) -> list[dict[int, np.ndarray]]:
    """The continuations behind the breaks of each window that its questions need."""
    ends = eos_ids(model)
    prompts = []
    for row, (window, forced) in enumerate(zip(windows, said.windows, strict=True)):
        for length in _needed(window, forced.argmax, ends, questions):
            first = int(forced.argmax[length - 1])
            prompts.append(Prompt(row, length, first, len(window)))
    found: list[dict[int, np.ndarray]] = [{} for _ in windows]
    if not prompts:
        return found
    if has_plain_cache(said.cache, batch["input_ids"].shape[1]):
        room = questions.memory_bytes
        by_steps = partial(decode, model, head, said.cache, prompts, ends, memory_bytes=room)
        decoded = by_steps() if head is None else sharding.inside(model, by_steps)
    else:
        decoded = generate_plainly(model, batch["input_ids"], prompts, ends)
    for (row, length), tokens in decoded.items():
        found[row][length] = tokens
    return found


def _needed(
    window: Window, argmax: np.ndarray, ends: frozenset[int], questions: Questions
) -> list[int]:
    """Prompt lengths to decode: breaks from the shortest prompt on, and the one behind prefix."""
    if questions.continuations == "none":
        return []
    breaks = find_breaks(argmax, window.input_ids, ends)
    needed = breaks[breaks >= window.prefix][:1].tolist()
    if questions.continuations == "all":
        start = first_prompt(questions.prompt_start, len(window))
        needed += breaks[breaks >= start].tolist()
    return sorted(set(needed))


def _answer(
    model: Any,
    tokenizer: Any,
    window: Window,
    forced: _Forced,
    decoded: dict[int, np.ndarray],
    questions: Questions,
) -> Answer:
    answer = Answer(
        record=window.record,
        id=window.id,
        input_ids=window.input_ids,
        scored=window.scored,
        log_probs=forced.log_probs,
        argmax=forced.argmax,
        eos_ids=eos_ids(model),
        decoded=decoded,
        prompt_start=first_prompt(questions.prompt_start, len(window)),
        prefix=window.prefix,
        kl=forced.kl,
    )
    if questions.continuations == "none":
        return answer
    text = tokenizer.decode(answer.continuation(window.prefix), skip_special_tokens=True)
    reference = tokenizer.decode(window.input_ids[window.prefix :], skip_special_tokens=True)
    return replace(answer, reference_text=reference, continuation_text=text)


@torch.no_grad()
def beam_continuations(
    model: Any,
    tokenizer: Any,
    windows: Sequence[Window],
    *,
    num_beams: int,
    num_tokens: Sequence[int] | None = None,
) -> list[str]:
    """The text of each window's continuation behind its prefix, by beam search.

    Args:
        num_tokens: New tokens of each at most; None for as many as the window has behind its
            prefix.
    """
    if num_tokens is None:
        num_tokens = [len(window) - window.prefix for window in windows]
    texts = [""] * len(windows)
    by_prefix: dict[int, list[int]] = {}
    for index, window in enumerate(windows):
        by_prefix.setdefault(window.prefix, []).append(index)
    for prefix, indices in by_prefix.items():  # equal lengths: no padding in any architecture
        ids = torch.stack([torch.from_numpy(windows[i].input_ids[:prefix]) for i in indices])
        ids = ids.to(sharding.device_of(model))
        longest = max(num_tokens[index] for index in indices)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest,
            do_sample=False,
            num_beams=num_beams,
            pad_token_id=next(iter(eos_ids(model)), 0),
        )
        for index, row in zip(indices, out[:, prefix:].tolist(), strict=True):
            kept = row[: num_tokens[index]]
            texts[index] = tokenizer.decode(kept, skip_special_tokens=True)
    return texts
