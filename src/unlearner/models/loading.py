"""Loading and saving models of every family, and what is read off a loaded one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unlearner import processes
from unlearner.errors import UserError
from unlearner.files import read_json, saving
from unlearner.models.ensemble import ENSEMBLE_FILE, ShardEnsemble, make_ensemble
from unlearner.models.folder import check_files, memory_for

Item = TypeVar("Item")

SMALL_MODEL = 10_000_000

FLOAT_BYTES = 4  # of a saved weight

# Of each family: what loads its models, and how the names of their classes end.
_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "causal-lm": (AutoModelForCausalLM, ("ForCausalLM", "LMHeadModel")),
    "sequence-classification": (AutoModelForSequenceClassification, ("ForSequenceClassification",)),
    "token-classification": (AutoModelForTokenClassification, ("ForTokenClassification",)),
}
FAMILIES = tuple(_KINDS)

# Parts of classification heads, by name.
HEAD_PARTS = {"classifier", "score", "pooler", "pre_classifier", "head", "out_proj"}


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer and the name that it was loaded by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    def to(self, device: torch.device) -> PreTrainedModel:
        """The model, put on a device."""
        return self.model.to(device)  # type: ignore[arg-type] - its decorator hides what it takes

    @property
    def family(self) -> str:
        """One of `FAMILIES`, by the model's class."""
        return _family_by_class(type(self.model).__name__) or FAMILIES[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a classifier's outputs, in their order."""
        return _output_names(self.model.config)

    @property
    def vocabulary(self) -> int:
        """Token ids that the model has, from 0."""
        return self.model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]

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


def _family_by_class(name: str) -> str | None:
    return next((family for family, (_, ends) in _KINDS.items() if name.endswith(ends)), None)


def _output_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def _padding_positions(model: PreTrainedModel) -> int:
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
    return _load(name, FAMILIES[:1], options)


def load_classifier(
    name: str, *, revision: str = "main", trust_remote_code: bool = False
) -> Loaded:
    """The sequence or token classifier and tokenizer of a local folder or hub id, in float32.

    Raises:
        UserError: There is no such model, it is of another family or of a kind of classification
            other than one label of several, its weights are pickled, or its tokenizer is missing.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    return _load(name, FAMILIES[1:], options)


def _load(name: str, families: tuple[str, ...], options: Mapping[str, object]) -> Loaded:
    config = read_model_config(name, options)
    family = family_of_config(config)
    if family not in families:
        needed = "a causal language model" if FAMILIES[0] in families else "a classifier"
        kind = ", ".join(config.architectures or [config.model_type])
        hint = "; `unlearner finetune` makes a classifier of an encoder"
        hint = hint if FAMILIES[0] in families and family not in FAMILIES else ""
        raise UserError(f"{name}: {needed} is needed, this is {family} ({kind}){hint}")
    if family != FAMILIES[0]:
        check_head(name, config)
    return _load_parts(name, family, options)


def load_with_new_head(name: str, family: str, labels: tuple[str, ...]) -> Loaded:
    """A pretrained encoder with a fresh head for these labels.

    Args:
        family: "sequence-classification" or "token-classification".

    Raises:
        UserError: There is no such model, it is a classifier already, or more than a head is
            missing.
    """
    if family_of_config(read_model_config(name, {})) in FAMILIES[1:]:
        raise UserError(
            f"{name}: has learned a classification already, and its head could not be told from a "
            "fresh one; name the pretrained encoder"
        )
    return _load_parts(name, family, {}, labels)


def read_model_config(name: str, options: Mapping[str, object]) -> PreTrainedConfig:
    """The configuration of a local folder or a hub id, after a look at the folder's files.

    Args:
        options: `revision` and `trust_remote_code`, as transformers takes them.

    Raises:
        UserError: There is no such model, its weights are pickled, or its tokenizer is missing.
    """
    folder = Path(name)
    if folder.exists():
        _check_model_folder(folder)
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: no such folder; give a model's folder, or a hub id owner/name")
    return _load_part(AutoConfig.from_pretrained, name, "configuration", options)


def family_named(name: str, revision: str = "main") -> str:
    """The family of a local folder or hub id; "causal-lm" where its config.json does not say."""
    try:
        path = Path(name) / "config.json"
        if name and not Path(name).exists():
            path = Path(hf_hub_download(name, "config.json", revision=revision))
        config = read_json(path)
        architecture = str((config.get("architectures") or [""])[0])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return FAMILIES[0]  # what is wrong with it is reported when it is loaded
    return _family_by_class(architecture) or FAMILIES[0]


def family_of_config(config: PreTrainedConfig) -> str:
    """The family of a model by the class that its configuration names; what it is if of none."""
    architecture = (config.architectures or [""])[0]
    family = _family_by_class(architecture)
    if family in FAMILIES[1:] or (family and not config.is_encoder_decoder):
        return family
    if not architecture:
        return "a model whose config.json names no architecture"
    return "an encoder or another model without a language-model head"


def _check_model_folder(folder: Path) -> None:
    """Refuse a folder that cannot be loaded before anything slow is imported or read."""
    if not folder.is_dir():
        raise UserError(f"{folder}: a model is a folder made by save_pretrained, this is a file")
    files = {path.name for path in folder.iterdir()}
    if "config.json" not in files:
        raise UserError(f"{folder}: no config.json; a model folder made by save_pretrained has one")
    check_files(folder)
    if ENSEMBLE_FILE not in files:
        _check_weights(folder)
    if not files & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}:
        raise UserError(
            f"{folder}: no tokenizer; save it beside the model with tokenizer.save_pretrained"
        )


def _check_weights(folder: Path) -> None:
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


def check_head(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model that does not give one of several labels, each with a name of its own.

    Raises:
        UserError: It is for regression or several labels at once, has one, or two of one name.
    """
    names, kind = _output_names(config), config.problem_type
    if len(names) < 2 or kind in ("regression", "multi_label_classification"):
        raise UserError(
            f"{name}: a classifier that gives one of several labels is needed, this one has "
            f"{len(names)} outputs for {kind or 'regression'}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{name}: id2label in config.json names two outputs alike; correct it")


def pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model without a padding token the tokenizer's: a decoder seeks the last token."""
    if model.config.get_text_config().pad_token_id is None:
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = 0 if padding is None else padding


def _load_part(
    load: Callable[..., Item], name: str, what: str, options: Mapping[str, object]
) -> Item:
    # transformers raises errors of every kind for one cause: the name or the files are no good
    try:
        with memory_for(Path(name)):
            return load(name, **options)
    except Exception as error:
        hint = "give a local folder, or a hub id and a network"
        if "trust_remote_code" in str(error):
            hint = "set model.trust_remote_code=true if you trust the code that comes with it"
        elif Path(name).exists():
            hint = "its files may be incomplete: save or download it again"
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{name}: cannot load its {what}: {reason}; {hint}") from error


def _load_parts(
    name: str, family: str, options: Mapping[str, object], new_labels: Sequence[str] = ()
) -> Loaded:
    """The tokenizer and the model, whole but for a head where that is to be for new labels."""
    load = AutoTokenizer.from_pretrained
    tokenizer = _load_part(load, name, "tokenizer", options)
    # GPT-2 and RoBERTa tokenizers take words one by one only when they know that texts begin so.
    if family == "token-classification" and getattr(tokenizer, "add_prefix_space", None) is False:
        tokenizer = _load_part(load, name, "tokenizer", {**options, "add_prefix_space": True})
    if (Path(name) / ENSEMBLE_FILE).exists():
        return Loaded(_load_ensemble(Path(name), family), tokenizer, name)
    model = _load_weights(name, family, options, new_labels)
    if family != FAMILIES[0]:
        pad(model, tokenizer)
    loaded = Loaded(model, tokenizer, name)
    _load_part(partial(_run_once, loaded), name, "configuration", {})
    return loaded


@torch.no_grad()
def _run_once(loaded: Loaded, _: str) -> None:
    """Run a model on a few tokens, where a configuration that is not its own shows first."""
    model = loaded.model
    if loaded.context < 1:
        raise ValueError(f"no sequence is as short as {loaded.context} tokens")
    ends: list[int] = []
    # A classifier has no second one.
    for config in (model.config.get_text_config(), getattr(model, "generation_config", None)):
        end = getattr(config, "eos_token_id", None)
        ends += end if isinstance(end, list) else [] if end is None else [end]
    known = [end for end in torch.tensor(ends, dtype=torch.long).tolist() if end >= 0]
    tokens = [0, 1, *(end for end in known if end < loaded.vocabulary)]
    model(input_ids=torch.tensor([tokens], device=model.device))


def _load_weights(
    name: str, family: str, options: Mapping[str, object], new_labels: Sequence[str] = ()
) -> PreTrainedModel:
    given = {
        **options,
        "use_safetensors": True,
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if new_labels:
        given["id2label"] = dict(enumerate(new_labels))
        given["label2id"] = {label: index for index, label in enumerate(new_labels)}
    model, found = _load_part(_KINDS[family][0].from_pretrained, name, "weights", given)
    wrong = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if new_labels:
        wrong = [key for key in found["missing_keys"] if not HEAD_PARTS & set(key.split("."))]
    if wrong:  # transformers has filled them up with random numbers
        raise UserError(
            f"{name}: {len(wrong)} of its weights are missing or have another shape than its "
            f"config.json asks for, {min(wrong)} first; save or download the model again"
        )
    return model.eval()


def _load_ensemble(folder: Path, family: str) -> ShardEnsemble:
    """The ensemble in a folder that `save_pretrained` has written, in float32."""
    path = folder / ENSEMBLE_FILE
    try:
        names = [str(name) for name in read_json(path)["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save the ensemble again") from None
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{path}: shards must name folders beside this file, got {names}")
    for name in names:
        _check_weights(folder / name)
    shards = [_load_weights(str(folder / name), family, {}) for name in names]
    return make_ensemble(shards, family)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary save_pretrained folder: safetensors, configuration, tokenizer."""
    if processes.is_main():
        needed = sum(weight.nbytes for weight in model.parameters())
        with saving("the model", folder, needed):
            model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
    processes.wait()


def limit_threads(model: PreTrainedModel) -> None:
    """Compute a small model on one thread: a second one waits for the first more than it works.

    Two epochs of a model of 0.26M parameters on 200 records took 7 s of processor time on one
    thread, and 203 s on two beside another busy process.
    """
    if model.device.type == "cpu" and num_parameters(model) < SMALL_MODEL:
        torch.set_num_threads(1)


def num_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
