"""Loading and saving models, and the way from input tokens to logits.

Shapes: B windows, T tokens, N label positions, V vocabulary, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from unlearner import processes
from unlearner.errors import UserError
from unlearner.models.ensemble import ENSEMBLE_FILE, KINDS, ShardEnsemble, make_ensemble

SMALL_MODEL = 10_000_000

FAMILIES = ("causal-lm", "sequence-classification", "token-classification")


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer and the name it was asked for by."""

    model: Any
    tokenizer: Any
    name: str

    @property
    def family(self) -> str:
        """One of `FAMILIES`, by the model's class."""
        kind = type(self.model).__name__
        return next((name for name in FAMILIES[1:] if kind.endswith(_suffix(name))), FAMILIES[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a classifier's outputs, in their order."""
        names = self.model.config.id2label
        return tuple(str(names[index]) for index in range(self.model.config.num_labels))

    @property
    def context(self) -> int:
        """The longest token sequence that the model and the tokenizer take."""
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )  # the name differs between architectures
        positions = positions and positions - _padding_positions(self.model)
        limits = [positions, self.tokenizer.model_max_length]
        return int(min(limit for limit in [*limits, 1_000_000] if limit))


def _padding_positions(model: Any) -> int:
    """Positions that no token can have: RoBERTa and its kin count from behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def load_causal_lm(name: str, *, revision: str = "main", trust_remote_code: bool = False) -> Loaded:
    """The causal language model and tokenizer of a local folder or a hub id, in float32.

    Raises:
        UserError: There is no such model, it is of another family, its weights are pickled, or its
            tokenizer is missing.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = read_model_config(name, options)
    family = family_of(config)
    if family != "causal-lm":
        hint = "`unlearner finetune` makes a classifier of an encoder"
        raise UserError(
            f"{name}: a causal language model is needed, this is {family} "
            f"({', '.join(config.architectures or [config.model_type])})"
            f"{'' if family in FAMILIES else f'; {hint}'}"
        )
    tokenizer = load_part(AutoTokenizer, name, "tokenizer", options)
    weights = options | {"use_safetensors": True, "dtype": torch.float32}
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = load_part(AutoModelForCausalLM, name, "weights", weights | told)
    check_complete(name, found)
    return Loaded(model.eval(), tokenizer, str(name))


def read_model_config(name: str, options: dict[str, Any]) -> Any:
    """The configuration of a local folder or a hub id, after a look at the folder's files.

    Raises:
        UserError: There is no such model, its weights are pickled, or its tokenizer is missing.
    """
    folder = Path(name)
    if folder.exists():
        check_folder(folder)
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: no such folder; give a model's folder, or a hub id owner/name")
    return load_part(AutoConfig, name, "configuration", options)


def family_named(name: str, revision: str = "main") -> str:
    """The family of a local folder or hub id; "causal-lm" where its config.json does not say."""
    try:
        path = Path(name) / "config.json"
        if name and not Path(name).exists():
            path = Path(hf_hub_download(name, "config.json", revision=revision))
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = str((config.get("architectures") or [""])[0])
    except (OSError, ValueError, AttributeError):
        return FAMILIES[0]  # what is wrong with it is said when it is loaded
    return next((f for f in FAMILIES[1:] if architecture.endswith(_suffix(f))), FAMILIES[0])


def _suffix(family: str) -> str:
    """How the classes of a family end: ForSequenceClassification."""
    return "For" + "".join(word.title() for word in family.split("-"))


def family_of(config: Any) -> str:
    """The family of a model by the class that its configuration names."""
    architecture = (config.architectures or [""])[0]
    if architecture.endswith(("ForCausalLM", "LMHeadModel")) and not config.is_encoder_decoder:
        return "causal-lm"
    for family in FAMILIES[1:]:
        if architecture.endswith(_suffix(family)):
            return family
    if not architecture:
        return "a model whose config.json names no architecture"
    return "an encoder or another model without a language-model head"


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be loaded before anything slow is imported or read."""
    if not folder.is_dir():
        raise UserError(f"{folder}: a model is a folder made by save_pretrained, this is a file")
    files = {path.name for path in folder.iterdir()}
    if "config.json" not in files:
        raise UserError(f"{folder}: no config.json; a model folder made by save_pretrained has one")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not valid JSON ({error})") from None
    if ENSEMBLE_FILE not in files:
        check_weights(folder)
    if not files & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}:
        raise UserError(
            f"{folder}: no tokenizer; save it beside the model with tokenizer.save_pretrained"
        )


def check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors weights."""
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if any(name.endswith(".safetensors") for name in files):
        return
    pickled = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth")))
    if pickled:
        raise UserError(
            f"{folder / pickled[0]}: pickled weights can run code and are refused; load them "
            "where you trust them and call model.save_pretrained(..., safe_serialization=True)"
        )
    raise UserError(f"{folder}: no .safetensors weights; save the model with save_pretrained")


def load_part(loader: Any, name: str, what: str, options: dict[str, Any]) -> Any:
    # transformers raises errors of every kind for one cause: the name or the files are no good
    try:
        return loader.from_pretrained(name, **options)
    except Exception as error:
        hint = "give a local folder, or a hub id and a network"
        if "trust_remote_code" in str(error):
            hint = "set model.trust_remote_code=true if you trust the code that comes with it"
        elif Path(name).exists():
            hint = "its files may be incomplete: save or download it again"
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{name}: cannot load its {what}: {reason}; {hint}") from error


def check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Refuse weights that transformers would fill up with random numbers."""
    wrong = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if wrong:
        raise UserError(
            f"{name}: {len(wrong)} of its weights are missing or have another shape than its "
            f"config.json asks for, {wrong[0]} first; save or download the model again"
        )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary save_pretrained folder: safetensors, configuration, tokenizer."""
    if processes.is_main():
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
    processes.wait()


def eos_ids(model: Any) -> frozenset[int]:
    """The tokens at which generation stops."""
    value = model.generation_config.eos_token_id if model.generation_config else None
    value = model.config.get_text_config().eos_token_id if value is None else value
    return frozenset([] if value is None else [value] if isinstance(value, int) else value)


def limit_threads(model: Any) -> None:
    """Compute a small model on one thread: a second one waits for the first more than it works.

    Two epochs of a model of 0.26M parameters on 200 records took 7 s of processor time on one
    thread, and 203 s on two beside another busy process.
    """
    if model.device.type == "cpu" and num_parameters(model) < SMALL_MODEL:
        torch.set_num_threads(1)


def num_parameters(model: Any) -> int:
    """Parameters of the model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_ensemble(folder: str | Path, family: str) -> ShardEnsemble:
    """The ensemble in a folder that `save_pretrained` has written, in float32.

    Raises:
        UserError: The list of shards cannot be read, or a shard's weights are missing or pickled.
    """
    path = Path(folder) / ENSEMBLE_FILE
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save the ensemble again") from None
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{path}: shards must name folders beside this file, got {names}")
    shards = [_load_shard(Path(folder) / name, KINDS[family][1]) for name in names]
    return make_ensemble(shards, family)


def _load_shard(folder: Path, loader: Any) -> Any:
    check_weights(folder)
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    shard, found = load_part(loader, str(folder), "weights", options)
    check_complete(str(folder), found)
    return shard


CLASSES: dict[str, Any] = {
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}

HEAD_PARTS = ("classifier", "score", "pooler", "pre_classifier", "head", "out_proj")


def load_classifier(
    name: str, *, revision: str = "main", trust_remote_code: bool = False
) -> Loaded:
    """The sequence or token classifier and tokenizer of a local folder or hub id, in float32.

    Raises:
        UserError: There is no such model, it is of another family or of a kind of classification
            other than one label of several, its weights are pickled, or its tokenizer is missing.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = read_model_config(name, options)
    family = family_of(config)
    if family not in CLASSES:
        raise UserError(
            f"{name}: a classifier is needed, this is {family} "
            f"({', '.join(config.architectures or [config.model_type])})"
        )
    check_head(name, config)
    loaded, found = _load(name, family, options | {"ignore_mismatched_sizes": True})
    check_complete(name, found)
    return loaded


def check_head(name: str, config: Any) -> None:
    """Refuse a model that does not give one of several labels, each with a name of its own.

    Raises:
        UserError: It is for regression or several labels at once, has one, or two of one name.
    """
    kind = getattr(config, "problem_type", None)
    if config.num_labels < 2 or kind in ("regression", "multi_label_classification"):
        raise UserError(
            f"{name}: a classifier that gives one of several labels is needed, this one has "
            f"{config.num_labels} outputs for {kind or 'regression'}"
        )
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if len(set(names)) < len(names):
        raise UserError(f"{name}: id2label in config.json names two outputs alike; mend it")


def pad(model: Any, tokenizer: Any) -> None:
    """Tell a model without a padding token the tokenizer's: a decoder looks for the last token."""
    if model.config.get_text_config().pad_token_id is None:
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = 0 if padding is None else padding


def load_with_new_head(name: str, family: str, labels: tuple[str, ...]) -> Loaded:
    """A pretrained encoder with a fresh head for these labels.

    Args:
        family: "sequence-classification" or "token-classification".

    Raises:
        UserError: There is no such model, it is a classifier already, or more than a head is
            missing.
    """
    if family_of(read_model_config(name, {})) in CLASSES:
        raise UserError(
            f"{name}: has learned a classification already, and its head could not be told from a "
            "fresh one; name the pretrained encoder"
        )
    numbered = dict(enumerate(labels))
    options = {
        "id2label": numbered,
        "label2id": {label: index for index, label in numbered.items()},
        "ignore_mismatched_sizes": True,
    }
    loaded, found = _load(name, family, options)
    body = [key for key in found["missing_keys"] if not _is_head(key)]
    check_complete(name, {**found, "missing_keys": body, "mismatched_keys": []})
    return loaded


def _load(name: str, family: str, options: dict[str, Any]) -> tuple[Loaded, dict[str, Any]]:
    shared = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    # GPT-2 and RoBERTa tokenizers take words one by one only when they know that texts begin so.
    tokenizer = load_part(AutoTokenizer, name, "tokenizer", shared)
    if family == "token-classification" and getattr(tokenizer, "add_prefix_space", None) is False:
        shared = shared | {"add_prefix_space": True}
        tokenizer = load_part(AutoTokenizer, name, "tokenizer", shared)
    if (Path(name) / ENSEMBLE_FILE).exists():
        nothing_wrong: dict[str, Any] = {"missing_keys": [], "mismatched_keys": []}
        return Loaded(load_ensemble(name, family), tokenizer, str(name)), nothing_wrong
    weights = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, found = load_part(CLASSES[family], name, "weights", options | weights)
    pad(model, tokenizer)
    return Loaded(model.eval(), tokenizer, str(name)), found


def _is_head(key: str) -> bool:
    return any(part in HEAD_PARTS for part in key.split("."))
