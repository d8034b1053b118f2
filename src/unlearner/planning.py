"""What a run takes: the bytes of its parts, the phase that needs most of them, and seconds.

All of it is arithmetic on the numbers of a `Shape` and a `Step`; `docs/memory.md` derives the
terms. B windows, T tokens, N label positions, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unlearner import processes, sharding
from unlearner.config import TrainingSettings
from unlearner.data.tokenize import CONTINUATION_TOKENS
from unlearner.functional import TARGET_CHUNK
from unlearner.models import LOGITS_BYTES
from unlearner.run import RunConfig
from unlearner.shapes import Shape

FLOAT, HALF = 4, 2

# A training step is a forward and a backward pass, which costs two more; with checkpointing the
# backward pass computes the forward pass again.
FORWARDS_PER_STEP, FORWARDS_WITH_CHECKPOINTING = 3, 4
# Of the steps of a run about one in 700 is larger.
DEVIATIONS = 3
# Buffers of TARGET_CHUNK x V in `functional.label_log_probs`: the target's logits, their
# log-softmax, the difference and a product.
CHUNK_BUFFERS = 4
# Score-sized tensors alive at a time without a fused kernel: the scores, the masked and the softmax
# forwards, and as many gradients backwards.
SCORES_ALIVE = 3
# The C library's heap takes back what is freed and cannot always use it again for something of
# another size. With MALLOC_MMAP_THRESHOLD_=1048576 a process was seen to hold what is alive and no
# more, and to take a third longer; without, 1.5 times what comes and goes inside one block on top,
# and 0.9 of what asking takes.
BLOCK_GAPS, ASKING_GAPS = 1.5, 0.9
# Rows that have ended are dropped by copying the others, into gaps that are a little too small.
ROWS_AGAIN = 2
# Tensors of the feed-forward part's inner width alive at a time beside those that are kept.
INNER_ALIVE = 3
# An adapted layer's own output, its adapter's, the scaled one, and their sum.
ADAPTER_ALIVE = 4
# With dropout on attention the CPU has no fused kernel: softmax, mask and their product are kept.
DROPPED_SCORES = 3

# Copies of the weights and of both moments while a checkpoint is written.
CHECKPOINT_COPIES = 3

_STAYS = (
    "parameters",
    "optimiser moments",
    "best weights",
    "reference outputs",
    "reference states",
    "gaps in the heap",
)
_TRAINS = (*_STAYS, "further models")
# What there is together in each phase of a run.
PHASES = {
    "the target model is measured": ("parameters", "evaluation"),
    "a step goes forward": (*_TRAINS, "activations", "logits", "embedding gradient"),
    "a step turns back": (*_TRAINS, "activations", "embedding gradient", "work inside a block"),
    "a step ends": (*_TRAINS, "gradients", "embedding gradient", "work inside a block"),
    "the model is examined": (*_TRAINS, "gradients", "evaluation"),
    "a checkpoint is saved": (*_TRAINS, "gradients", "checkpoint"),
    "the saved model is measured": (*_STAYS, "gradients", "saved model", "evaluation"),
}
# Kept in the machine's memory where the model is on an accelerator.
ON_HOST = frozenset({"best weights", "reference states", "checkpoint"})


@dataclass(frozen=True)
class Step:
    """The largest training step of a run, and what its method keeps beside the model.

    Attributes:
        tokens: Padded tokens that go forward together (B * T).
        square: T * T summed over the windows, which attention scores take.
        labels: N, positions with logits of their own.
        longest: T of the longest window that is asked about.
        asked: Tokens of the largest set that is asked about.
        dropout: The model's own dropout is on.
        copies: Further models of the target's size: teachers, shards, one made anew.
        outputs: Frozen copies of the output layer.
        states: Positions whose hidden states under the target model are kept.
        keeps_best: The weights of the best round are kept.
        others: Further models beside the run: a retrained one to compare with.
        saved: Models of the target's size that the saved one consists of.
    """

    tokens: int
    square: int
    labels: int
    longest: int
    asked: int
    dropout: bool = False
    copies: int = 0
    outputs: int = 0
    states: int = 0
    keeps_best: bool = False
    others: int = 0
    saved: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of a run's parts and phases.

    Attributes:
        parts: Bytes by part.
        phases: The parts that are there together; with an accelerator those on it.
        host_bytes: With an accelerator, what the machine's own memory holds; else 0.
        held_bytes: What is there already once the target model has been measured.
    """

    parts: dict[str, int]
    phases: dict[str, dict[str, int]]
    host_bytes: int
    held_bytes: int

    @property
    def phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def in_peak(self) -> dict[str, int]:
        """The parts of that phase."""
        return self.phases[self.phase]

    @property
    def peak_bytes(self) -> int:
        """What is expected at most, beside the interpreter and its libraries."""
        return sum(self.in_peak.values())


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take at most.

    Attributes:
        seconds_per_epoch: Training and examining once, from the pass just timed.
        max_epochs: The method's limit.
        memory: Of the configuration that was asked about.
        again: The memory that another configuration of the same run takes.
    """

    seconds_per_epoch: float
    max_epochs: int
    memory: Memory
    again: Callable[[RunConfig], Memory] = field(repr=False, compare=False)


def forwards_per_step(training: TrainingSettings) -> int:
    """The forward passes that one training step costs as much as."""
    return FORWARDS_WITH_CHECKPOINTING if training.gradient_checkpointing else FORWARDS_PER_STEP


def largest_draw(lengths: Sequence[int], count: int) -> int:
    """The tokens of so many windows drawn at random, as large as a run is likely to meet.

    The mean of their sum and three of its standard deviations, and no more than the longest ones.
    """
    count = min(count, len(lengths))
    if not count:
        return 0
    spread = statistics.pstdev(lengths) * math.sqrt(count)
    likely = count * statistics.fmean(lengths) + DEVIATIONS * spread
    return min(math.ceil(likely), sum(sorted(lengths)[-count:]))


def trained_numbers(shape: Shape, training: TrainingSettings) -> int:
    """Numbers that have a gradient: all, or those of the adapters, rank * (in + out) a layer."""
    rank = training.lora_rank
    return rank * shape.adapter_ends if rank else shape.parameters


def block_bytes(shape: Shape, step: Step, training: TrainingSettings, *, cpu: bool) -> int:
    """What one block keeps of a step for its backward pass.

    In bfloat16 matrix products and what follows them are half as wide, but the stream between
    blocks and its normalisations stay float32, and every reader of a normalisation keeps a bfloat16
    copy of its own.
    """
    lower = training.precision == "bfloat16"
    width = HALF if lower else FLOAT
    norm_floats = shape.norms * shape.hidden * (shape.norm_kept - (1 if lower else 0))
    # queries, keys and values, repeated for all heads, and what attention makes of them
    products = 4 * shape.attention + shape.inner * shape.inner_kept
    read = shape.readers * shape.hidden if lower else 0
    masks = 2 * shape.hidden if step.dropout else 0
    token = FLOAT * (norm_floats + masks) + width * (products + read)
    return step.tokens * token + step.square * _score_bytes(shape, step, lower=lower, cpu=cpu)


def _score_bytes(shape: Shape, step: Step, *, lower: bool, cpu: bool) -> int:
    """Bytes kept for each pair of a query and a key, over all heads of a block."""
    if shape.plain_scores:  # softmax in float32, and once more as the product reads it
        return shape.heads * (shape.plain_scores * FLOAT + (HALF if lower else 0))
    if cpu and step.dropout and shape.drops_scores:
        return shape.heads * DROPPED_SCORES * FLOAT
    return HALF if lower else FLOAT  # the mask alone, which all heads share


def working_bytes(shape: Shape, step: Step, *, cpu: bool, adapters: bool = False) -> int:
    """What is alive for a moment inside one block, forwards or backwards, beside what is kept."""
    plain = shape.plain_scores or (cpu and step.dropout and shape.drops_scores)
    scores = SCORES_ALIVE * shape.heads * step.square if plain else 0
    inside = (INNER_ALIVE + (ADAPTER_ALIVE if adapters else 0)) * shape.inner
    return FLOAT * (step.tokens * (inside + 2 * shape.hidden) + scores)


def activation_bytes(shape: Shape, step: Step, training: TrainingSettings, *, cpu: bool) -> int:
    """What is kept between the forward and the backward pass.

    With checkpointing only the input of each block, and one block at a time is computed again. In
    bfloat16 also the weights as matrix products read them.
    """
    block = block_bytes(shape, step, training, cpu=cpu)
    stream = FLOAT * step.tokens * shape.hidden
    checkpointed = training.gradient_checkpointing
    kept = shape.layers * stream + block if checkpointed else shape.layers * block
    weights = HALF * shape.linear if training.precision == "bfloat16" else 0
    return kept + 2 * stream + weights  # of the last normalisation, into and out of it


def logits_bytes(shape: Shape, step: Step, training: TrainingSettings) -> int:
    """One float32 [N, V] buffer; in bfloat16 beside the logits that it is made of."""
    each = FLOAT + (HALF if training.precision == "bfloat16" else 0)
    chunks = CHUNK_BUFFERS * min(TARGET_CHUNK, step.labels) if step.outputs else 0
    return shape.vocabulary * (each * step.labels + FLOAT * chunks)


def evaluation_bytes(shape: Shape, step: Step, config: RunConfig) -> int:
    """Asking once: keys and values of one batch, a block at work, and the decoding rows.

    Every prompt from `prompt_start` on is taken to be decoded, as of text that the model does not
    know, and the one of the text that is compared. A row holds what stands behind the shortest
    prompt of its batch.
    """
    settings = config.evaluation
    tokens = min(settings.batch_tokens, step.asked)
    windows = max(1, tokens // step.longest)
    batch = Step(tokens, windows * step.longest**2, 0, step.longest, tokens)
    working = working_bytes(shape, batch, cpu=True) + FLOAT * tokens * shape.attention * 3
    if not shape.has_logits:
        return working
    token_bytes = 2 * FLOAT * shape.layers * shape.keys
    start = settings.prompt_start
    first = int(start * step.longest) if start < 1 else min(int(start), step.longest)
    compared = max(1, step.longest - CONTINUATION_TOKENS)
    own = step.longest - min(first, compared) if shape.shares_prefix else step.longest
    rows = windows * (step.longest - first + 1) * own * token_bytes
    logits = 2 * min(LOGITS_BYTES, FLOAT * tokens * shape.vocabulary)
    decoding = ROWS_AGAIN * min(settings.memory_bytes, rows) + logits
    return int(tokens * token_bytes + working + decoding)


def memory(shape: Shape, step: Step, config: RunConfig, *, device: str, shards: int = 1) -> Memory:
    """The parts and phases of a run.

    Args:
        device: "cpu", or the kind of accelerator.
        shards: Processes among which the model is divided in training. The target and the saved
            model are whole, and so the parameters count as whole.
    """
    training, cpu = config.training, device == "cpu"
    trained = FLOAT * trained_numbers(shape, training)
    whole, lora = FLOAT * shape.parameters, bool(training.lora_rank)
    output = FLOAT * shape.vocabulary * shape.hidden if shape.has_logits else 0
    embedding = 0 if lora or not shape.has_logits else FLOAT * shape.embedding
    parts = {
        "parameters": whole * (1 + step.others) + (trained if lora else 0),
        "gradients": trained // shards,
        "optimiser moments": 2 * trained // shards,
        "best weights": trained // shards if step.keeps_best else 0,
        "reference outputs": step.outputs * output,
        "reference states": FLOAT * step.states * shape.hidden,
        "further models": step.copies * whole,
        "activations": activation_bytes(shape, step, training, cpu=cpu),
        "logits": logits_bytes(shape, step, training),
        # Of the output layer before all others, and of the embeddings, tied to it or not, at last.
        "embedding gradient": embedding,
        "work inside a block": working_bytes(shape, step, cpu=cpu, adapters=lora),
        "evaluation": evaluation_bytes(shape, step, config),
        "checkpoint": 0 if training.checkpoint_every == "never" else CHECKPOINT_COPIES * trained,
        "saved model": step.saved * whole,
    }
    if cpu:
        inside = block_bytes(shape, step, training, cpu=True) + parts["work inside a block"]
        gaps = BLOCK_GAPS * inside + ASKING_GAPS * parts["evaluation"]
        parts["gaps in the heap"] = int(gaps)
    in_phases = {
        phase: {
            name: parts[name] for name in names if name in parts and (cpu or name not in ON_HOST)
        }
        for phase, names in PHASES.items()
    }
    on_host = sum(parts[name] for name in ("best weights", "reference states"))
    on_host += max(parts["checkpoint"], parts["saved model"])
    return Memory(parts, in_phases, 0 if cpu else on_host, parts["parameters"])


def make_plan(
    model: Any,
    largest_step: Callable[[RunConfig], Step],
    config: RunConfig,
    *,
    seconds: float,
    max_epochs: int,
) -> Plan:
    """The plan of a run.

    Args:
        largest_step: The largest step under a configuration, on the sets of this run.
        seconds: Of an epoch.
    """
    shape, device = Shape.of(model), device_of(config.training)

    def again(changed: RunConfig) -> Memory:
        shards = processes.count() if sharding.wanted() else 1
        return memory(shape, largest_step(changed), changed, device=device, shards=shards)

    return Plan(seconds, max_epochs, again(config), again)


def device_of(training: TrainingSettings) -> str:
    """Where a run would train: "cpu", "cuda" or "mps"."""
    if training.device != "auto":
        return training.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
