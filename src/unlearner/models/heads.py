"""A model in two parts: its body, and the linear map from the body's vectors to the logits.

B examples, T tokens, N labelled positions, R rows of any kind, C classes, D features.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner import functional, processes
from unlearner.data.batches import length_groups, rows_alone
from unlearner.data.labelled import Example, collate_examples
from unlearner.errors import UserError
from unlearner.functional import Tensors
from unlearner.models import sharding
from unlearner.models.ensemble import ShardEnsemble, takes

Vector = Literal["head", "first", "mean"]

# What another forward pass costs beside its tokens, in tokens.
PASS_TOKENS = 64

# Of each model that is alive, what `_read_head` has found: a loss asks for it at every step.
_KNOWN_HEAD: "WeakKeyDictionary[nn.Module, ClassifierHead]" = WeakKeyDictionary()


class ClassifierHead(NamedTuple):
    """How a classifier's logits come about.

    Attributes:
        linear: The map whose output they are.
        pooling: Of what it gives for every token of a text, which the text's logits are: those of
            the "last" token, or the "mean" over tokens. Of no account where it is given one vector.
        takes_padding: Whether a text's logits are the same beside a longer text. Convolutions
            (ConvBERT), Fourier transforms (FNet) and landmarks (Nystromformer) read padding too.
    """

    linear: nn.Linear
    pooling: Literal["last", "mean"]
    takes_padding: bool


class Encoded(NamedTuple):
    """What a classifier makes of N labelled positions, in the order of the examples."""

    logits: Tensor  # (N, C)
    features: Tensor  # (N, D)
    labels: Tensor  # (N,)


class Classifier:
    """Logits and features of a sequence or token classifier at the labelled positions.

    The features are what the last linear map of the head reads: the pooler's output of BERT, the
    dense layer's of RoBERTa, DistilBERT and ELECTRA, a word's hidden state of a tagger. Which map
    that is differs between architectures, so one is believed only after its output was seen to be
    the model's logits.

    Args:
        model: Any `AutoModelForSequenceClassification` or `AutoModelForTokenClassification`.
        vector: "head" as above; "first" and "mean" take the first token's last hidden state or the
            mean over tokens instead, for a sequence classifier.

    Raises:
        UserError: The logits are not the output of one linear map.
    """

    def __init__(self, model: nn.Module, vector: Vector = "head") -> None:
        self.model, self.vector = model, vector
        # Data-parallel training wraps it.
        self.bare = cast("PreTrainedModel", getattr(model, "module", model))
        self.tags = type(self.bare).__name__.endswith("ForTokenClassification")
        self.reads_head = vector == "head" or self.tags
        self.shards: list[Classifier] = []
        if isinstance(self.bare, ShardEnsemble):
            self.shards = [Classifier(shard, vector) for shard in self.bare.shards]
        else:
            self.head = _read_head(self.bare)
            self.linear = self.head.linear

    def __call__(self, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and features (N, D) of a batch made by `collate_examples`.

        An ensemble's features are those of its shards side by side.
        """
        if self.shards:
            logits, features = zip(*(shard(batch) for shard in self.shards), strict=True)
            return functional.average_predictions(torch.stack(logits)), torch.cat(features, -1)
        parts = self._kept_apart(batch)
        if len(parts) == 1:
            return self._forward(parts[0][1])
        logits, features = zip(*(self._forward(part) for _, part in parts), strict=True)
        order = torch.cat([places for places, _ in parts]).argsort()
        return torch.cat(logits)[order], torch.cat(features)[order]

    def _kept_apart(self, batch: Tensors) -> list[tuple[Tensor, Tensors]]:
        """Places and tensors of the rows that can go forward together; mostly that is all of them.

        Where padding would be read, rows of one length; where a text is summed up at its
        end-of-text token, rows of one number of those, for the model stacks them.
        """
        lengths = batch["attention_mask"].sum(-1)
        keys = []
        if not self.head.takes_padding:
            keys.append(lengths)
        end = end_token(self.bare)
        if end is not None:
            keys.append((batch["input_ids"] == end).sum(-1))
        if not keys:
            return [(batch["positions"][:, 0], batch)]
        _, group_B = torch.stack(keys, -1).unique(dim=0, return_inverse=True)
        return [
            rows_alone(batch, group_B == group, int(lengths[group_B == group].max()))
            for group in range(int(group_B.max()) + 1)
        ]

    def _forward(self, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and features (N, D) of rows that go through the model together."""
        seen: list[Tensor] = []
        if self.reads_head:
            hook = self.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        else:
            body = self.bare.base_model
            hook = body.register_forward_hook(lambda _, __, out: seen.append(out[0]))
        try:
            logits = self.model(**self._inputs(batch)).logits
        finally:
            hook.remove()
        pick = self._pick if self.reads_head else self._pooled
        return self._pick(logits, batch), pick(seen[-1], batch)

    def encode(self, examples: Sequence[Example], views: int = 1) -> Encoded:
        """Logits, features and labels of some examples, each `views` times, in groups of a length.

        In training every view has dropout of its own. Examples of similar length go forward
        together, so that little of the work is padding: nothing else depends on it. Of several
        processes each encodes its share, and all get the whole.
        """
        repeated = [*examples] * views
        ends = np.cumsum([0, *(len(example.labels) for example in repeated)])
        places: list[int] = []
        for number in range(processes.count()):
            for group in self._groups(repeated, number):
                places += [place for i in group for place in range(ends[i], ends[i + 1])]
        order = torch.tensor(places, device=self.bare.device).argsort()
        labels = np.concatenate([example.labels for example in repeated])
        logits, features = self._encode_share(repeated)
        return Encoded(
            processes.gather_rows(logits)[order],
            processes.gather_rows(features)[order],
            torch.from_numpy(labels).to(self.bare.device),
        )

    def _groups(self, examples: Sequence[Example], process: int) -> list[list[int]]:
        """A process's share of the examples, by index, in groups of similar length."""
        mine = processes.share(range(len(examples)), process)
        groups = length_groups([len(examples[index]) for index in mine], PASS_TOKENS)
        return [[mine[place] for place in group] for group in groups]

    def _encode_share(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Logits and features of this process's share, its groups one behind the other."""
        device, padding = self.bare.device, padding_id(self.bare)
        found = [
            self(collate_examples([examples[i] for i in group], device, padding=padding))
            for group in self._groups(examples, processes.rank())
        ]
        if not found:
            width = self.linear.in_features
            if not self.reads_head:
                width = hidden_size(self.bare)
            sizes = (self.linear.out_features, width)
            found = [tuple(torch.zeros(0, size, device=device) for size in sizes)]
        logits, features = (torch.cat(parts) for parts in zip(*found, strict=True))
        if processes.count() == 1:
            return logits, features
        return logits.float(), features.float()  # one without a share has no lower precision

    def _inputs(self, batch: Tensors) -> dict[str, Any]:
        names = ["input_ids", "attention_mask"]
        # Encoders take zeros where none are given; GPT-2 would add the embedding of word 0.
        if takes(self.bare, "token_type_ids") and batch["token_type_ids"].any():
            names.append("token_type_ids")
        inputs: dict[str, Any] = {name: batch[name] for name in names}
        return inputs | ({"use_cache": False} if takes(self.bare, "use_cache") else {})

    def _pick(self, states: Tensor, batch: Tensors) -> Tensor:
        """The rows of the labelled positions."""
        if self.tags:
            example, token = batch["positions"].unbind(-1)
            return states[example, token]
        if states.dim() == 2:
            return states
        if states.shape[1] == 1:  # Perceiver's decoder asks once for a text, whatever its length
            return states[:, 0]
        if self.head.pooling == "mean":
            return _mean_over_tokens(states, batch)
        # A decoder's head reads every token, and the answer is that of the last one which is no
        # padding by its id: a text's own end-of-text token may be the same.
        is_text_BT = batch["input_ids"] != padding_id(self.bare)
        numbers_T = torch.arange(is_text_BT.shape[1], device=is_text_BT.device)
        last = (numbers_T * is_text_BT).argmax(-1)
        return states[torch.arange(len(last), device=last.device), last]

    def _pooled(self, hidden_BTD: Tensor, batch: Tensors) -> Tensor:
        if hidden_BTD.shape[:-1] != batch["input_ids"].shape:
            raise UserError(
                f"method.vector={self.vector}: the body of {type(self.bare).__name__} does not "
                "give a vector for each token; leave it at head"
            )
        if self.vector == "first":
            return hidden_BTD[:, 0]
        return _mean_over_tokens(hidden_BTD, batch)


def _mean_over_tokens(states_BTD: Tensor, batch: Tensors) -> Tensor:
    mask_BT1 = batch["attention_mask"][..., None].to(states_BTD.dtype)
    return (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)


def end_token(model: PreTrainedModel) -> int | None:
    """The token that every text must hold: BART's and T5's kin classify by its vector."""
    by_end = model.config.is_encoder_decoder and hasattr(model, "classification_head")
    return model.config.eos_token_id if by_end else None


def _read_head(model: PreTrainedModel) -> ClassifierHead:
    """The linear map whose output the logits are, and how, found once on a few tokens.

    Raises:
        UserError: There is no such map, or the model reads more than tokens.
    """
    known = _KNOWN_HEAD.get(model)
    # Not where adapters have come or gone.
    if known is not None and any(module is known.linear for module in model.modules()):
        return known
    names = model.config.id2label or {}
    candidates = [
        cast("nn.Linear", module)  # a tuner layer is one with an adapter beside it
        for module in model.modules()
        if isinstance(module, (nn.Linear, BaseTunerLayer))
        and getattr(module, "out_features", 0) == len(names)
    ]
    outputs: dict[nn.Linear, Tensor] = {}

    def keep(module: nn.Linear, _: object, output: Tensor) -> None:
        outputs[module] = output

    hooks = [module.register_forward_hook(keep) for module in candidates]
    trained = model.training
    model.eval()
    try:
        logits = _probe(model)
    finally:
        for hook in hooks:
            hook.remove()
    try:
        padded = _probe(model, padding=PROBE_PADDING)[:, : logits.shape[1]]
    finally:
        model.train(trained)
    for module, output in reversed(outputs.items()):
        pooled: dict[Literal["last", "mean"], Tensor] = {"last": output}
        if output.shape != logits.shape:
            pooled = {"last": output[:, -1], "mean": output.mean(1)}
        for pooling, same in pooled.items():
            if _near(same, logits):
                head = ClassifierHead(module, pooling, _near(padded, logits))
                _KNOWN_HEAD[model] = head
                return head
    raise UserError(
        f"MODEL: the logits of {type(model).__name__} are not the output of one linear map, whose "
        "input the features would be; use an architecture with a linear classification head"
    )


# Tokens of padding that a model is asked with, whether it reads them.
PROBE_PADDING = 7


@torch.no_grad()
def _probe(model: PreTrainedModel, padding: int = 0) -> Tensor:
    """The logits of one short text, perhaps padded."""
    fill, end = padding_id(model), end_token(model)
    # A decoder takes the last token that is no padding for the text's end.
    special = (fill, getattr(model.config, "eos_token_id", None))  # not every architecture has one
    tokens = [token for token in range(5, 12) if token not in special][:5]
    size = model.config.get_text_config().vocab_size
    ids = [token % size for token in tokens] + ([] if end is None else [end])
    mask = [1] * len(ids) + [0] * padding
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids + [fill] * padding], device=model.device),
        "attention_mask": torch.tensor([mask], device=model.device),
    }
    if takes(model, "use_cache"):
        inputs["use_cache"] = False
    try:
        return model(**inputs).logits
    except Exception as error:  # of any kind: what it lacks differs between architectures
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"MODEL: {type(model).__name__} does not run on the tokens of a text alone ({reason}); "
            "use an architecture that does"
        ) from error


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether a classifier in training gives one text other logits each time."""
    shards = model.shards if isinstance(model, ShardEnsemble) else [model]
    one = cast("PreTrainedModel", shards[0])
    trained, device = one.training, one.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        one.train()
        try:
            return not torch.equal(_probe(one), _probe(one))
        finally:
            one.train(trained)


def _near(some: Tensor, logits: Tensor) -> bool:
    # Damaged weights give NaN, which is reported where the answers are scored.
    near = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
    return some.shape == logits.shape and torch.allclose(some, logits, **near)


def hidden_size(model: PreTrainedModel) -> int:
    """Units of the vectors that the model's blocks pass on."""
    config = model.config.get_text_config()
    return config.d_latents if config.model_type == "perceiver" else config.hidden_size


def padding_id(model: PreTrainedModel) -> int:
    """The token that fills up a batch; some models find a text's end by it."""
    # Perceiver's configuration has no such entry.
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    return 0 if padding is None else int(padding)


# Logits that are alive at a time where no gradient is wanted. Below 32 MiB the C library uses the
# same pages again; above it every part would be given new ones.
LOGITS_BYTES = 24 << 20

# Of each model that is alive, what `output_head` has found: a loss needs it at every step.
_KNOWN_HEADS: "WeakKeyDictionary[nn.Module, OutputHead | None]" = WeakKeyDictionary()

# Of each frozen head that is alive, the same in half precision.
_ROUNDED_HEADS: "WeakKeyDictionary[nn.Module, OutputHead]" = WeakKeyDictionary()


class OutputHead(nn.Module):
    """The map from last hidden states to logits, apart from the model's body.

    Logits are then computed at the positions that are needed and no others, and the target model's
    distribution can be kept as hidden states: N x D numbers instead of N x V.
    """

    def __init__(self, linear: nn.Module, scale: float, softcap: float | None) -> None:
        super().__init__()
        self.linear, self.scale, self.softcap = linear, scale, softcap

    @property
    def is_linear(self) -> bool:
        """The logits are the linear map's own output, which its backward does not read."""
        return self.scale == 1.0 and self.softcap is None

    @property
    def num_tokens(self) -> int:
        """Logits of one position."""
        return int(self.linear.weight.shape[0])  # type: ignore[union-attr]

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def frozen(self) -> "OutputHead":
        """The same map, which training neither changes nor divides: a copy if it would."""
        trained = any(parameter.requires_grad for parameter in self.parameters())
        if not trained and not sharding.wanted():
            return self  # as where adapters are trained
        return copy.deepcopy(self).requires_grad_(False)

    def rounded(self, dtype: torch.dtype) -> "OutputHead":
        """A frozen head with weights as autocast rounds them, which it would do at every call.

        Made once, and kept as long as this one.
        """
        own, known = cast("Tensor", self.linear.weight), _ROUNDED_HEADS.get(self)
        kept = None if known is None else cast("Tensor", known.linear.weight)
        if kept is None or (kept.dtype, kept.device) != (dtype, own.device):
            known = copy.deepcopy(self).requires_grad_(False).to(dtype)
            _ROUNDED_HEADS[self] = known
        assert known is not None
        return known


def output_head(model: PreTrainedModel) -> OutputHead | None:
    """The model's output head, or None where its logits are not reproduced by one.

    What stands between the linear map and the logits differs between architectures, so the head is
    believed only after it has given the model's own logits on a few tokens.
    """
    if model not in _KNOWN_HEADS:
        _KNOWN_HEADS[model] = _find_head(model)
    return _KNOWN_HEADS[model]


def _find_head(model: PreTrainedModel) -> OutputHead | None:
    linear = model.get_output_embeddings()
    if linear is None:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None)  # Cohere multiplies, Granite divides
    scale = scale if isinstance(scale, float) else 1 / (getattr(config, "logits_scaling", 1) or 1)
    head = OutputHead(linear, float(scale), getattr(config, "final_logit_softcapping", None))
    probe = torch.arange(1, 9, device=sharding.device_of(model))[None] % config.vocab_size

    def apart() -> Tensor | None:
        hidden = model.base_model(input_ids=probe, use_cache=False)[0]
        try:
            return head(hidden)
        except RuntimeError:  # the hidden states have another width than the head takes
            return None

    with torch.no_grad():
        found = sharding.inside(model, apart)
        logits = model(input_ids=probe, use_cache=False).logits
    if found is None:
        return None
    same = found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-4, atol=1e-5)
    return head if same else None


def logits_in_parts(states_RD: Tensor, head: OutputHead | None) -> Iterator[Tensor]:
    """The logits of a few rows at a time, in order; the states are the logits without a head."""
    if head is None:
        yield states_RD
        return
    for states in states_RD.split(max(1, LOGITS_BYTES // (4 * head.num_tokens))):
        yield head(states)


def argmax(logits: Tensor) -> Tensor:
    """The index of the largest entry along the last axis, the first of several."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        # torch 2.13 takes 11 times as long as numpy for 50,257 entries
        return torch.from_numpy(logits.detach().numpy().argmax(-1))
    return logits.argmax(-1)
