"""Inference of language models: one pass over the windows answers every metric of a round.

Shapes: B windows, T tokens, N label positions, V vocabulary, D hidden.
"""

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from unlearner import functional, processes
from unlearner.data.batches import collate, length_batches
from unlearner.data.windows import Window
from unlearner.functional import TargetLogits, Tensors
from unlearner.inference.answers import Answer
from unlearner.inference.decoding import Decoder, Prompt, continuations, continued, drawn
from unlearner.inference.generation import eos_ids, generate, shares_cache
from unlearner.inference.reference import TargetDistribution
from unlearner.models import sharding
from unlearner.models.heads import OutputHead, argmax, logits_in_parts, output_head
from unlearner.models.offloading import free_on_cuda


@dataclass(frozen=True)
class Questions:
    """What to infer beyond the teacher-forced pass.

    Attributes:
        continuations: "none", "text" (one per window, behind its prefix) or "all" (every prompt
            from `prompt_start` on, which EL needs).
        prompt_start: Shortest prompt of EL: a length in tokens, or a share of the text below 1.
        batch_tokens: Tokens of one teacher-forced batch, padding included.
        memory_bytes: Room for the decoding rows' own keys and values; None for `decoding_room`.
        lower: Run the model in bfloat16 arithmetic; probabilities are float32 all the same.
    """

    continuations: str = "all"
    prompt_start: float = 1
    batch_tokens: int = 4096
    memory_bytes: int | None = None
    lower: bool = False


ROOM = 1 << 30
ROOM_OF_FREE = 0.5


def decoding_room(device: torch.device, *, divided: bool = False) -> int:
    """Bytes for the keys and values of continuations: half of a CUDA device's free memory.

    Elsewhere, and where a model is divided so that all processes must run the same batches, a
    constant: batches, and with them the last bits of a report, stay the same.
    """
    if device.type != "cuda" or divided:
        return ROOM
    return int(ROOM_OF_FREE * free_on_cuda(device))


@torch.no_grad()
def infer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[Window],
    questions: Questions,
    target: TargetDistribution | None = None,
) -> list[Answer]:
    """The model's answer to each window, in their order, from one pass over it.

    Args:
        target: The target model's distributions of the same windows, for the divergence from it.
    """
    model.eval()
    head = output_head(model)
    shares = shares_cache(model, head)
    kind = sharding.device_of(model).type
    with torch.autocast(kind, torch.bfloat16) if questions.lower else nullcontext():
        return _infer(model, tokenizer, windows, questions, target, head, shares=shares)


def _infer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[Window],
    questions: Questions,
    target: TargetDistribution | None,
    head: OutputHead | None,
    *,
    shares: bool,
) -> list[Answer]:
    """As `infer`, in the arithmetic that it was called in."""
    divided = sharding.is_sharded(model)  # then every process has to run every batch
    room = questions.memory_bytes or decoding_room(sharding.device_of(model), divided=divided)
    batches = length_batches(windows, questions.batch_tokens)
    answers: dict[int, Answer] = {}
    for indices in batches if divided else processes.share(batches):
        chosen = [windows[index] for index in indices]
        batch = collate(chosen, sharding.device_of(model))
        target_logits = target.logits(indices, batch) if target else None
        forward = partial(
            _teacher_forced,
            model,
            head,
            chosen,
            batch,
            target_logits,
            questions,
            shares=shares,
        )
        forced, cache = sharding.inside(model, forward, calls_model=head is None)
        forced = sharding.agree(model, forced)
        prompts = [
            Prompt(row, length, int(answer.argmax[length - 1]), stop)
            for row, answer in enumerate(forced)
            for length, stop in _prompts_to_decode(answer, questions.continuations)
        ]
        decoded = continuations(model, head, cache, batch["input_ids"], prompts, memory_bytes=room)
        for index, answer, tokens in zip(indices, forced, decoded, strict=True):
            size = _zlib_bytes(answer, tokenizer)
            answers[index] = replace(answer, decoded=tokens, zlib_bytes=size)
            if questions.continuations != "none":
                answers[index] = _with_texts(answers[index], tokenizer)
    return [answers[i] for i in range(len(windows))] if divided else processes.in_order(answers)


def _teacher_forced(
    model: PreTrainedModel,
    head: OutputHead | None,
    windows: Sequence[Window],
    batch: Tensors,
    target_logits: TargetLogits | None,
    questions: Questions,
    *,
    shares: bool,
) -> tuple[list[Answer], Cache | None]:
    """The answers but for continuations, and the keys and values that these begin with, if any."""
    states_BTD, cache = _states_and_cache(model, head, batch, shares=shares)
    kls = _divergences(head, states_BTD, batch, target_logits)
    ends, answers = eos_ids(model), []
    for row, window in enumerate(windows):
        labels = batch["input_ids"][row, 1 : len(window)]
        log_probs, best, moments = _label_scores(head, states_BTD[row, : len(window) - 1], labels)
        answers.append(
            Answer(
                record=window.record,
                id=window.id,
                input_ids=window.input_ids,
                scored=window.scored,
                log_probs=log_probs,
                argmax=best,
                eos_ids=ends,
                prompt_start=questions.prompt_start,
                prefix=window.prefix,
                first_counts=window.first_counts,
                kl=None if kls is None else kls[row],
                expected=moments[0],
                deviation=moments[1],
            )
        )
    return answers, cache


def _states_and_cache(
    model: PreTrainedModel, head: OutputHead | None, batch: Tensors, *, shares: bool
) -> tuple[Tensor, Cache | None]:
    """Last hidden states (B, T, D), logits without a head, and the keys and values, if any."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    forward = model if head is None else model.base_model
    if shares:
        # without a configuration: sliding layers keep every position too
        out = forward(**inputs, past_key_values=DynamicCache(), use_cache=True)
    else:
        out = forward(**inputs, use_cache=False)
    states_BTD = out.logits if head is None else out[0]
    return states_BTD, out.past_key_values if shares else None


def _zlib_bytes(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> int:
    """The compressed size of the text of the labels that count; 0 where there are none."""
    labels = answer.input_ids[1:][answer.scored]
    return len(zlib.compress(str(tokenizer.decode(labels)).encode())) if len(labels) else 0


def _label_scores(
    head: OutputHead | None, states: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probability of each label, the most probable token in its place, and (2, T-1) moments."""
    log_probs, best, moments = [], [], []
    rows = 0
    for logits in logits_in_parts(states, head):
        best.append(argmax(logits))
        moments.append(torch.stack(functional.log_prob_moments(logits)))
        some = labels[rows : rows + len(logits)]
        log_probs.append(functional.label_log_probs(logits, some, overwrite=head is not None)[0])
        rows += len(logits)
    return (
        torch.cat(log_probs).cpu().numpy(),
        torch.cat(best).cpu().numpy(),
        torch.cat(moments, dim=1).cpu().numpy(),
    )


def _divergences(
    head: OutputHead | None,
    states: Tensor,
    batch: Tensors,
    target_logits: TargetLogits | None,
) -> list[np.ndarray] | None:
    """KL(target || model) at the scored labels of each window, NaN at the others."""
    if target_logits is None:
        return None
    window, position = batch["positions"].unbind(-1)
    kl_BT = np.full(batch["input_ids"].shape, np.nan, dtype=np.float32)
    for rows in functional.chunks(len(window)):
        logits = states[window[rows], position[rows]]
        logits = logits if head is None else head(logits)
        kl = functional.kl_divergence(target_logits(rows), logits)
        kl_BT[window[rows].tolist(), position[rows].tolist()] = kl.cpu().numpy()
    lengths = batch["attention_mask"].sum(-1).tolist()
    return [kl_T[: length - 1].copy() for kl_T, length in zip(kl_BT, lengths, strict=True)]


def _prompts_to_decode(answer: Answer, continuations: str) -> list[tuple[int, int]]:
    """Prompts and where they end: breaks from the shortest on, the first one behind the prefix."""
    if continuations == "none":
        return []
    breaks, end = answer.breaks, answer.stop(answer.prefix)
    first = breaks[(breaks >= answer.prefix) & (breaks < end)][:1].tolist()
    needed = dict.fromkeys(first, end)
    for start, stop in answer.prompts(answer.prompt_start) if continuations == "all" else ():
        needed |= dict.fromkeys(breaks[(breaks >= start) & (breaks < stop)].tolist(), stop)
    return sorted(needed.items())


def _with_texts(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> Answer:
    stop = answer.stop(answer.prefix)
    parts = answer.input_ids[answer.prefix : stop], answer.continuation(answer.prefix)
    reference, text = (str(tokenizer.decode(part, skip_special_tokens=True)) for part in parts)
    return replace(answer, reference_text=reference, continuation_text=text)


@torch.no_grad()
def beam_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[Window],
    *,
    num_beams: int,
    num_tokens: Sequence[int] | None = None,
    prompt_tokens: int | None = None,
) -> list[str]:
    """The text of each window's continuation behind its prefix, by beam search.

    Args:
        num_tokens: New tokens of each at most; None for as many as the window's text has behind
            its prefix.
        prompt_tokens: Tokens of the prefix, its last, that the model is given; None for all.
    """
    if num_tokens is None:
        num_tokens = [max(1, window.stop - window.prefix) for window in windows]
    texts = [""] * len(windows)
    by_length: dict[int, list[int]] = {}
    prompts = [window.input_ids[: window.prefix][-(prompt_tokens or 0) :] for window in windows]
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for indices in by_length.values():  # equal lengths: no padding in any architecture
        ids = torch.stack([torch.from_numpy(prompts[i]) for i in indices])
        ids = ids.to(sharding.device_of(model))
        longest = max(num_tokens[index] for index in indices)
        rows = generate(model, ids, longest, num_beams=num_beams)
        for index, row in zip(indices, rows, strict=True):
            new = row[: num_tokens[index]]
            texts[index] = str(tokenizer.decode(new, skip_special_tokens=True))
    return texts


@torch.no_grad()
def drawn_responses(
    model: PreTrainedModel, windows: Sequence[Window], count: int, batch_tokens: int = 4096
) -> list[list[np.ndarray]]:
    """Of each window that many texts drawn behind its prefix, by the global generator.

    Each is as long as what the window has there, or ends with the first end-of-text token.
    """
    model.eval()
    head = output_head(model)
    shares, room = shares_cache(model, head), decoding_room(sharding.device_of(model))
    decoder = Decoder(model, head, drawn)
    found: list[list[np.ndarray]] = [[] for _ in windows]
    for indices in length_batches(windows, batch_tokens):
        batch = collate([windows[index] for index in indices], sharding.device_of(model))
        states_BTD, cache = _states_and_cache(model, head, batch, shares=shares)
        prompts = []
        for row, index in enumerate(indices):
            length, total = windows[index].prefix, windows[index].stop
            if total > length:
                last = states_BTD[row, length - 1]
                logits = last if head is None else head(last)
                first = drawn(logits.expand(count, -1)).tolist()
                prompts += [Prompt(row, length, token, total) for token in first]
        for prompt, tokens in continued(decoder, cache, batch["input_ids"], prompts, room):
            found[indices[prompt.window]].append(tokens)
    return found
