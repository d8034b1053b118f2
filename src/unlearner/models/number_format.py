"""The format that a model's numbers are stored in: read off its files, and written again.

Training and measuring are in float32 whatever it is. What is saved is rounded to it, and what a
report tells is measured on the saved files, behind the rounding.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner.errors import UserError

# As files of safetensors and settings name them.
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NumberFormat:
    """How numbers are stored.

    Attributes:
        dtype: Of most of them.
        others: Tensors that are stored in another format, by name.
    """

    dtype: torch.dtype = torch.float32
    others: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As `model.dtype` takes it."""
        return str(self.dtype).removeprefix("torch.")


def stored_format(files: Iterable[Path]) -> NumberFormat:
    """The format of safetensors files: what most of their numbers have.

    Numbers in a format of fewer bits, which are read as what they are, come out in bfloat16, and
    longer ones in float32.
    """
    counts: Counter[torch.dtype] = Counter()
    formats: dict[str, torch.dtype] = {}
    for name, kind, count in (tensor for path in files for tensor in _stored_tensors(path)):
        if kind.startswith(("F", "BF")):
            short = torch.bfloat16 if kind.startswith("F8") else torch.float32
            formats[name] = STORED.get(kind, short)
            counts[formats[name]] += count
    if not counts:
        return NumberFormat()
    dtype = counts.most_common(1)[0][0]
    return NumberFormat(dtype, {name: own for name, own in formats.items() if own != dtype})


def _stored_tensors(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, format and number of entries of each tensor of a safetensors file."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            some = file.get_slice(name)
            yield name, some.get_dtype(), int(torch.Size(some.get_shape()).numel())


def check_range(model: PreTrainedModel, chosen: NumberFormat) -> None:
    """Refuse a format that cannot hold the numbers of a model.

    Raises:
        UserError: A weight is larger than any float16.
    """
    if chosen.dtype != torch.float16:
        return
    limit = torch.finfo(torch.float16).max
    if any(bool((weight.abs() > limit).any()) for weight in model.parameters()):
        raise UserError(
            f"model.dtype: float16 holds numbers up to {limit:.0f}, the model has larger ones; "
            "use bfloat16 or float32"
        )


@contextmanager
def stored_as(model: PreTrainedModel, chosen: NumberFormat) -> Iterator[None]:
    """The model with its numbers rounded to a format while the block runs.

    Raises:
        UserError: Numbers of it that have become too large for float16.
    """
    check_range(model, chosen)
    whole = [(tensor, tensor.data) for _, tensor in _named_floats(model)]
    lasting = _kept_in_float32(model, chosen.dtype)
    try:
        for name, tensor in _named_floats(model):
            dtype = torch.float32 if lasting and lasting.search(name) else chosen.dtype
            tensor.data = tensor.data.to(chosen.others.get(name, dtype))
        yield
    finally:
        for tensor, data in whole:
            tensor.data = data


def _named_floats(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of real numbers, each once."""
    for named in (model.named_parameters(), model.named_buffers()):
        for name, tensor in named:
            if tensor.is_floating_point():
                yield name, tensor


def _kept_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> re.Pattern[str] | None:
    """Names of what transformers leaves in float32 in such a model."""
    names = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        names |= set(model._keep_in_fp32_modules or ())
    if not names or dtype == torch.float32:
        return None
    return re.compile("|".join(rf"(?:^|\.)(?:{name})(?:$|\.)" for name in sorted(names)))
