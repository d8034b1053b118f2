"""What a run takes: the bytes of its parts, the phase that needs most of them, and seconds.

All of it is arithmetic on the numbers of a `Shape` and a `Step`; `docs/memory.md` derives the
terms. B windows, T tokens, N label positions, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from unlearner import processes
from unlearner.config import RunConfig
from unlearner.data.windows import CONTINUATION_TOKENS
from unlearner.errors import UserError
from unlearner.functional import TARGET_CHUNK
from unlearner.inference.prefix_attention import can_share
from unlearner.models import sharding
from unlearner.models.adapters import linear_layers
from unlearner.models.ensemble import ShardEnsemble
from unlearner.models.heads import LOGITS_BYTES
from unlearner.models.loading import num_parameters
from unlearner.settings import TrainingSettings

# Activation functions that transformers writes out in single operations of torch, each of which
# keeps an operand for the backward pass.
COMPOSED = frozenset({"gelu_new", "gelu_fast", "gelu_python", "quick_gelu", "gelu_accurate"})

ACTIVATION_NAMES = ("hidden_act", "activation_function", "hidden_activation", "activation")

ATTENTION_DROPOUT = (
    "attention_probs_dropout_prob",
    "attention_dropout",
    "attn_pdrop",
    "attn_dropout",
)


@dataclass(frozen=True)
class Shape:
    """Widths and counts of a transformer, as far as memory depends on them.

    Attributes:
        parameters: Numbers in the model, shared ones once.
        linear: Numbers of the weights that matrix products read, the output layer's among them.
        adapter_ends: Sum of (in + out) over the linear layers that get an adapter.
        layers: Blocks of the model's body.
        hidden: D, the width between blocks.
        heads: Attention heads of a block.
        attention: Width of the queries of all heads.
        keys: Width of the keys, and of the values, that a cache holds.
        inner: Width inside the feed-forward part.
        inner_kept: Tensors of that width that a block keeps for the backward pass.
        norms: Normalisations of width D in a block.
        norm_kept: Tensors that each of them and its reader keep in float32.
        readers: Linear layers of a block that read a normalisation.
        vocabulary: V, logits of one position; for a classifier its labels.
        embedding: Numbers of the token embeddings.
        plain_scores: Tensors of attention scores that every head keeps; 0 with a fused kernel.
        drops_scores: The model has dropout on attention scores.
        shares_prefix: Rows that continue one window can read it in common.
        has_logits: There are logits at every label position, not one vector of a few labels.
    """

    parameters: int
    linear: int
    adapter_ends: int
    layers: int
    hidden: int
    heads: int
    attention: int
    keys: int
    inner: int
    inner_kept: int
    norms: int
    norm_kept: int
    readers: int
    vocabulary: int
    embedding: int
    plain_scores: int
    drops_scores: bool
    shares_prefix: bool
    has_logits: bool

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of any of the models that the commands take.

        Shards of an ensemble count as blocks one behind the other.
        """
        if isinstance(model, ShardEnsemble):
            one, count = cls.of(model.shards[0]), len(model.shards)
            return replace(
                one,
                parameters=num_parameters(model),
                linear=count * one.linear,
                adapter_ends=count * one.adapter_ends,
                layers=count * one.layers,
            )
        config = model.config.get_text_config()
        layers, hidden = config.num_hidden_layers, config.hidden_size
        heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
        head_width = getattr(config, "head_dim", None) or hidden // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * head_width
        block = _Block(model, layers)
        output = model.get_output_embeddings()
        modules = dict(model.named_modules())
        adapted = [_ends(modules[name]) for name in linear_layers(model)]
        tokens = model.get_input_embeddings().weight
        vocabulary = config.num_labels if output is None else output.weight.shape[0]
        eager = config._attn_implementation == "eager"  # no public way to read it
        return cls(
            parameters=num_parameters(model),
            linear=sum(first * last for first, last in adapted)
            + (0 if output is None else output.weight.numel()),
            adapter_ends=sum(map(sum, adapted)),
            layers=layers,
            hidden=hidden,
            heads=heads,
            attention=heads * head_width,
            keys=keys,
            inner=block.inner,
            inner_kept=block.inner_kept(config),
            norms=block.norms,
            norm_kept=block.norm_kept,
            readers=block.readers,
            vocabulary=vocabulary,
            embedding=tokens.numel(),
            plain_scores=0 if not eager else 2 if _softcap(config) else 1,
            drops_scores=any(getattr(config, name, 0) or 0 for name in ATTENTION_DROPOUT),
            shares_prefix=output is not None and can_share(model),
            has_logits=output is not None,
        )


class _Block:
    """What stands in one of the blocks of a model's body, by its modules."""

    def __init__(self, model: Any, layers: int) -> None:
        blocks = (
            some
            for some in model.modules()
            if isinstance(some, nn.ModuleList) and len(some) == layers
        )
        modules = list(next(blocks, [model])[0].modules())
        linear = [_ends(some) for some in modules if isinstance(some, (nn.Linear, Conv1D))]
        norms = [some for some in modules if "Norm" in type(some).__name__]
        # The widest input is the second feed-forward layer's; what has its width as output feeds it
        self.inner = max((first for first, _ in linear), default=0)
        self.gated = sum(last for _, last in linear if last % max(self.inner, 1) == 0) > self.inner
        self.norms = len(norms)
        # LayerNorm keeps its input, and its reader the output. Written out in single operations (as
        # RMSNorm is) it keeps the scaled input before the weight as well.
        self.norm_kept = 2 if all(isinstance(some, nn.LayerNorm) for some in norms) else 3
        # All but the attention's output layer and the second feed-forward layer.
        self.readers = max(1, len(linear) - 2)

    def inner_kept(self, config: Any) -> int:
        """Input and output of the activation function; more where it is written out or gated."""
        name = next(
            (
                getattr(config, some)
                for some in ACTIVATION_NAMES
                if isinstance(getattr(config, some, None), str)
            ),
            "",
        )
        if self.gated:  # gate, its activation, the other factor, the product
            return 4
        if name == "relu":  # its output alone tells the gradient
            return 1
        # x, tanh(...), x / 2 and 1 + tanh(...), and the product that the next layer reads
        return 5 if name in COMPOSED else 2


def _ends(layer: Any) -> tuple[int, int]:
    """The widths of a linear layer's input and output; GPT-2's hold their weights transposed."""
    first, last = layer.weight.shape
    return (first, last) if isinstance(layer, Conv1D) else (last, first)


def _softcap(config: Any) -> bool:
    return bool(getattr(config, "attn_logit_softcapping", None))


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


Say = Callable[[str], None]

SYSTEM = Path("/")

# Where the limit, the use and the figures of a control group stand, in its second version and its
# first, and what the cache of files, which is given back, is called among those figures.
GROUPS = (
    ("sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)

ADAPTER_RANK = 16

LARGEST_PARTS = 3


def announce(plan: Plan, config: RunConfig, say: Say, *, checkpoints: bool = True) -> None:
    """Say what the run will take, or refuse it where that is more than there is.

    Args:
        checkpoints: Whether the run has a place for them.

    Raises:
        UserError: The expected peak is above the memory that is available; it names the largest
            parts, and settings that would lower the peak with what it would come to.
    """
    if not checkpoints:
        config = changed(config, [("training.checkpoint_every", "never")])
        plan = replace(plan, memory=plan.again(config))
    say(in_words(plan))
    lack = processes.from_main(_lack(plan, config))  # or some would go on without the others
    if lack and not config.training.ignore_memory_plan:
        raise UserError(lack)
    if lack:
        say("this is more memory than is available; training.ignore_memory_plan is set")


def in_words(plan: Plan) -> str:
    """The plan in one line."""
    memory = plan.memory
    seconds = plan.seconds_per_epoch
    return (
        f"a run takes about {duration(seconds)} an epoch, at most {plan.max_epochs} epochs "
        f"({duration(seconds * plan.max_epochs)}), and up to {size(memory.peak_bytes)} of memory "
        f"(when {memory.phase})"
    )


def _lack(plan: Plan, config: RunConfig) -> str:
    """The refusal; empty where the run fits.

    Every process has a model of its own; those of one run are taken to share one machine.
    """
    memory, machine = plan.memory, available_bytes() // processes.count()
    if device_of(config.training) != "cuda":  # other accelerators have no memory of their own
        there = machine + memory.held_bytes
        return _refusal(plan, config, there, "machine") if _needed(memory) > there else ""
    there = available_on_cuda() + memory.held_bytes
    if memory.peak_bytes > there:
        return _refusal(plan, config, there, "accelerator")
    if memory.host_bytes > machine:
        return (
            f"training: beside the accelerator's memory the run is expected to need "
            f"{size(memory.host_bytes)} of the machine's, and {size(machine)} is available; set "
            "training.checkpoint_every=never, or training.ignore_memory_plan=true to go on anyway"
        )
    return ""


def _needed(memory: Memory) -> int:
    """Of the machine's memory, where the model is in it."""
    return memory.peak_bytes + memory.host_bytes


def _refusal(plan: Plan, config: RunConfig, there: int, place: str) -> str:
    memory = plan.memory
    largest = sorted(memory.in_peak.items(), key=lambda part: -part[1])[:LARGEST_PARTS]
    parts = ", ".join(f"{name} {size(number)}" for name, number in largest)
    found = sorted(_smaller(plan, config), key=lambda one: one[1])
    advice = ", ".join(
        f"{setting} ({size(number)}{'' if number <= there else ', still too much'})"
        for setting, number in found
    )
    return (
        f"training: the run is expected to need {size(memory.peak_bytes)} of the {place}'s memory "
        f"when {memory.phase} ({parts}), and {size(there)} is there for it; "
        + (f"set {advice}; or " if advice else "")
        + "set training.ignore_memory_plan=true to go on anyway"
    )


def _smaller(plan: Plan, config: RunConfig) -> Iterator[tuple[str, int]]:
    """Settings that lower the peak, and what it would come to with each; the last is all of them.

    Each is tried alone, on the plan itself.
    """
    helpful: list[tuple[str, Any]] = []
    for setting, value in _candidates(config):
        number = plan.again(changed(config, [(setting, value)])).peak_bytes
        if number < plan.memory.peak_bytes:
            helpful.append((setting, value))
            yield f"{setting}={_text(value)}", number
    if len(helpful) > 1:
        yield "all of these", plan.again(changed(config, helpful)).peak_bytes


def _candidates(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Settings that take less, at the price of time, or of another course of the training."""
    training, fields = config.training, config.method.model_dump()
    if not training.lora_rank and not config.method.begins_anew:
        yield "training.lora_rank", ADAPTER_RANK
    if training.checkpoint_every != "never":
        yield "training.checkpoint_every", "never"
    if not training.gradient_checkpointing:
        yield "training.gradient_checkpointing", True
    if training.precision == "float32":
        yield "training.precision", "bfloat16"
    for name in ("batch_size", "fresh_per_step", "retain_batch_size"):
        number = fields.get(name) or 0
        if number > 1:
            yield f"method.{name}", number // 2
    yield "evaluation.memory_bytes", max(1, config.evaluation.memory_bytes // 8)
    yield "evaluation.batch_tokens", max(1, config.evaluation.batch_tokens // 4)


def changed(config: RunConfig, settings: list[tuple[str, Any]]) -> RunConfig:
    """The configuration with some settings, given as section.key, replaced."""
    for setting, value in settings:
        name, _, key = setting.partition(".")
        section = getattr(config, name).model_copy(update={key: value})
        config = replace(config, **{name: section})
    return config


def available_bytes(root: Path = SYSTEM) -> int:
    """What the processes of this machine, and of this process's control group, may still take."""
    return min([psutil.virtual_memory().available, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """What is left of the limit of each control group that this process is in."""
    for place, controller, most, used, cache in GROUPS:
        for folder in _group_folders(root / place, controller, root):
            try:
                limit = int((folder / most).read_text(encoding="ascii"))
                taken = int((folder / used).read_text(encoding="ascii"))
                lines = (folder / "memory.stat").read_text(encoding="ascii").split("\n")
                cached = dict(line.split() for line in lines if line)
                yield max(0, limit - taken + int(cached.get(cache, 0)))
            except (OSError, ValueError):  # no such group, or "max": without a limit
                continue


def _group_folders(top: Path, controller: str, root: Path) -> Iterator[Path]:
    """The group's folder and those above it; a limit of any of them holds."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = top / path.strip("/")
            yield from [some for some in [folder, *folder.parents] if some.is_relative_to(top)]


def available_on_cuda() -> int:
    """What the accelerator has free, and what torch holds of it without using it."""
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + unused


def size(number: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
