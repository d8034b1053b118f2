"""A model's folder, looked at before transformers reads it, which believes whatever it finds.

A pipe in place of a file is waited for without end, and a configuration that asks for a million
layers is built layer by layer, whatever its weights are.
"""

import json
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from unlearner.errors import UserError, quoted
from unlearner.files import LARGE, SMALL, kind_of_file, read_json

# What is read of a folder, by the end of its name.
READ = (".json", ".safetensors", ".model", ".txt", ".jinja")

# Those that grow with the vocabulary.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")

# Numbers of parts that are built one by one: never more than there are tensors, of which few say
# nothing.
PARTS = re.compile(r"layers?$|layer_num$|blocks?$|depths?$|experts$|num_labels$|attention_types$")
FEW_PARTS = 1000

HEADER_BYTES = 100_000_000  # at most, by safetensors' own rule

MOST_TOKENS = 10_000_000

# Files of a tokenizer that hold its ids by name and nothing else.
VOCABULARY_FILES = ("vocab.json", "added_tokens.json")

GIB = 2**30


# Of each field of config.json that decides what a model is, what it must be, in words too.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": (
        lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        'a list of class names such as ["BertForSequenceClassification"]',
    ),
    "model_type": (lambda value: isinstance(value, str), 'text such as "bert"'),
    "id2label": (
        lambda value: (
            isinstance(value, dict)
            and all(re.fullmatch("[0-9]{1,9}", key) for key in value)
            and all(isinstance(name, str | int | float) for name in value.values())
        ),
        'an object of output numbers and names such as {"0": "no", "1": "yes"}',
    ),
    "label2id": (lambda value: isinstance(value, dict), 'an object such as {"no": 0, "yes": 1}'),
}


def check_files(folder: Path) -> None:
    """Refuse a folder in which something else than a file of a usual size stands for a file.

    Raises:
        UserError: There is one; or config.json is no JSON object, or does not fit the weights.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in READ:
            continue
        try:
            status = path.stat()
        except OSError as error:
            why = "a link to nothing" if path.is_symlink() else error.strerror
            raise UserError(f"{path}: cannot be read ({why}); save the model again") from None
        if kind := kind_of_file(status.st_mode):
            raise UserError(f"{path}: is {kind}, not a file; save the model again")
        most = LARGE if path.name in VOCABULARIES or path.suffix == ".model" else 4 * SMALL
        if path.suffix != ".safetensors" and status.st_size > most:
            raise UserError(
                f"{path}: has {status.st_size:,} bytes, at most {most:,} are read; save the model "
                "again"
            )
    path = folder / "config.json"
    try:
        config = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); save the model again") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); save the model again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold an object; save the model with save_pretrained")
    _check_vocabulary(folder)
    _check_names(path, config)
    _check_parts(path, config, max(FEW_PARTS, _num_tensors(folder)))


def _check_vocabulary(folder: Path) -> None:
    """Refuse token ids far beyond any vocabulary: the tokenizer is saved id by id up to the last.

    A file that cannot be read is refused by the library that reads it.
    """
    for name in (*VOCABULARY_FILES, "tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        with suppress(OSError, ValueError):
            content = read_json(path, LARGE)
            ids = _values(content) if name in VOCABULARY_FILES else _token_ids(content)
            if any(number >= MOST_TOKENS for number in ids):
                raise UserError(
                    f"{path}: the token id {quoted(max(ids))} is larger than any vocabulary; save "
                    "the tokenizer again"
                )


def _values(vocabulary: object) -> list[int]:
    """The ids of tokens by name."""
    found = vocabulary.values() if isinstance(vocabulary, dict) else ()
    return [number for number in found if isinstance(number, int)]


def _token_ids(content: object) -> list[int]:
    """The ids that a tokenizer's file or configuration gives to tokens, if it has the usual shape.

    The configuration may hold other large numbers: without a limit to a text's length it has 10^30.
    """
    if not isinstance(content, dict):
        return []
    model, added = content.get("model"), content.get("added_tokens")
    ids: list[object] = [*_values(model.get("vocab") if isinstance(model, dict) else None)]
    if isinstance(added, list):
        ids += [token.get("id") for token in added if isinstance(token, dict)]
    decoder = content.get("added_tokens_decoder")
    ids += [int(key) for key in decoder if key.isdecimal()] if isinstance(decoder, dict) else []
    return [number for number in ids if isinstance(number, int)]


def _check_names(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what libraries read without a look at what it is."""
    for name, (is_right, what) in FIELDS.items():
        if config.get(name) is not None and not is_right(config[name]):
            raise UserError(f"{path}: {name} must be {what}; correct it, or leave it out")


def _check_parts(path: Path, config: Mapping[str, Any], most: int) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _check_parts(path, value, most)
        elif PARTS.search(name) and any(number > most for number in _numbers_in(value)):
            raise UserError(
                f"{path}: {name} is {quoted(value)}, more than the weights are made of; save or "
                "download the model again"
            )


def _numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, list):
        for one in value:
            yield from _numbers_in(one)
    elif isinstance(value, int | float):
        yield value


def _num_tensors(folder: Path) -> int:
    """Tensors in the weights, as far as they can be read."""
    found = 0
    for path in folder.rglob("*.safetensors"):
        with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length <= HEADER_BYTES:
                found += len(json.loads(file.read(length)))
    return found


@contextmanager
def memory_for(folder: Path) -> Iterator[None]:
    """On Linux the block may take what weights of this folder's size can need, and no more.

    A shape in a configuration is believed before it is compared with the weights.
    """
    if sys.platform != "linux" or not folder.is_dir() or torch.cuda.is_initialized():
        yield
        return
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    most = psutil.Process().memory_info().data + 16 * weights + 4 * GIB
    if limits[0] != resource.RLIM_INFINITY:
        most = min(most, limits[0])
    resource.setrlimit(resource.RLIMIT_DATA, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
