"""Loading and saving models of every family, and what is read off a loaded one."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from unlearner import processes
from unlearner.errors import UserError
from unlearner.files import read_json, saving
from unlearner.models.adapter_folders import Adapter, find_adapters, merged
from unlearner.models.adapters import WEIGHTS_FILE
from unlearner.models.ensemble import ENSEMBLE_FILE, ShardEnsemble, make_ensemble
from unlearner.models.folders import (
    FAMILIES,
    TOKENIZER_FILES,
    WITH_LANGUAGE_MODEL,
    check_weights,
    family_by_class,
    family_of_config,
    family_with,
    holds_language_model,
    load_part,
    read_model_config,
)
from unlearner.models.layerwise_casting import (
    LARGE_MODEL,
    SHORT,
    cast_layers,
    has_cast_layers,
    widen,
)
from unlearner.models.number_format import (
    NAMED,
    NumberFormat,
    check_range,
    stored_as,
    stored_format,
)
from unlearner.models.offloading import place
from unlearner.models.quantisation import (
    dequantise,
    dequantising,
    ordinary_dtype,
    quantised_kind,
    refusal,
)
from unlearner.settings import WHOLE, Choice, Holding

Item = TypeVar("Item")


class HowLoaded(TypedDict, total=False):
    """What loading is told beside a model's name.

    Attributes:
        base: Of an adapter: its base, where it is not to be the one that the adapter names.
    """

    revision: str
    trust_remote_code: bool
    base: str


SMALL_MODEL = 10_000_000

FLOAT_BYTES = 4  # of a saved weight

# What loads the models of each family.
_LOADERS: dict[str, Any] = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}

# What a model that reads images or sound needs beside weights and tokenizer; copied as it is.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "chat_template.json",
)

# Parts of classification heads, by name.
HEAD_PARTS = {"classifier", "score", "pooler", "pre_classifier", "head", "out_proj"}


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer and the name that it was loaded by.

    Attributes:
        format: What its numbers are saved in; in memory they are float32.
        notes: What was done to it on loading, in sentences.
        files: Files that belong to it and are saved with it as they are.
        is_adapter: It was an adapter, merged into its base.
        bits: What its layers are quantised to while adapters are trained; 0 for not at all.
        holding: How its layers are held while they do not compute.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    format: NumberFormat = field(default_factory=NumberFormat)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    is_adapter: bool = False
    bits: int = 0
    holding: Holding = WHOLE

    def saved_as(self, dtype: str) -> "Loaded":
        """The same, saved in another format: one of `number_format.NAMED`, or "auto".

        Raises:
            UserError: It cannot hold the model's numbers.
        """
        chosen = self.format if dtype == "auto" else NumberFormat(NAMED[dtype])
        check_range(self.model, chosen)
        return replace(self, format=chosen)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what became of the model, with what belongs to it."""
        save(model, self.tokenizer, folder, self.format, self.files)

    def to(self, device: torch.device) -> PreTrainedModel:
        """The model, put on a device.

        Raises:
            UserError: It does not fit there.
        """
        place(self.model, device, self.holding.offload)
        return self.model

    @property
    def family(self) -> str:
        """One of `FAMILIES`, by the model's class."""
        return family_by_class(type(self.model).__name__) or FAMILIES[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a classifier's outputs, in their order."""
        return _output_names(self.model.config)

    @property
    def vocabulary(self) -> int:
        """Token ids that the model has, from 0."""
        embeddings = self.model.get_input_embeddings()
        if isinstance(embeddings, nn.Parameter):  # Perceiver takes its latent vectors for them
            return self.model.config.vocab_size
        return embeddings.num_embeddings  # type: ignore[union-attr]

    @property
    def context(self) -> int:
        """The longest token sequence that the model and the tokenizer take."""
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )  # the name differs between architectures
        limits = [self.tokenizer.model_max_length, 1_000_000]
        if positions and positions > 0:  # XLNet says -1: it has no limit
            limits.append(positions - _padding_positions(self.model))
        return int(min(limits))


def _output_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def _padding_positions(model: PreTrainedModel) -> int:
    """Positions that no token can have: RoBERTa and its kin count from behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def load_causal_lm(
    name: str,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    base: str = "",
    holding: Holding = WHOLE,
) -> Loaded:
    """The causal language model and tokenizer of a local folder or a hub id, in float32.

    Args:
        base: Of an adapter: its base, where it is not to be the one that the adapter names.
        holding: Whether to hold the layers of a model of 16 bits as they are stored, "auto" from
            `LARGE_MODEL` parameters on (see `layerwise_casting`; those that an adapter has changed
            are rounded, as they are where the model is saved), and whether they are to stay in the
            machine's memory when the model is put on a device (see `offloading`).

    Raises:
        UserError: There is no such model, it is of another family, its weights are pickled or
            cannot be read as ordinary numbers, or its tokenizer is missing.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    return _load(name, FAMILIES[:1], options, base, holding)


def load_classifier(
    name: str, *, revision: str = "main", trust_remote_code: bool = False, base: str = ""
) -> Loaded:
    """The sequence or token classifier and tokenizer of a local folder or hub id, in float32.

    Args:
        base: See `load_causal_lm`.

    Raises:
        UserError: There is no such model, it is of another family or of a kind of classification
            other than one label of several, its weights are pickled or cannot be read as ordinary
            numbers, or its tokenizer is missing.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    return _load(name, FAMILIES[1:], options, base)


def _load(
    name: str,
    families: tuple[str, ...],
    options: Mapping[str, Any],
    base: str = "",
    holding: Holding = WHOLE,
) -> Loaded:
    full, adapters = find_adapters(name, options["revision"], base)
    if adapters:
        options = {**options, "revision": "main"}  # that of the adapter is no revision of its base
    config = read_model_config(full, options, with_tokenizer=not adapters)
    family = family_with(config, adapters)
    if family not in families:
        needed = "a causal language model" if FAMILIES[0] in families else "a classifier"
        kind = ", ".join(config.architectures or [config.model_type])
        hint = "; `unlearner finetune` makes a classifier of an encoder"
        hint = hint if FAMILIES[0] in families and family not in FAMILIES else ""
        raise UserError(f"{name}: {needed} is needed, this is {family} ({kind}){hint}")
    labels: tuple[str, ...] = ()
    if adapters and family != FAMILIES[0] and family_of_config(config) != family:
        labels = tuple(f"LABEL_{index}" for index in range(adapters[0].num_labels()))
    if family != FAMILIES[0]:
        check_architecture(name, config)
    if family != FAMILIES[0] and not labels:
        check_head(name, config)
    # An adapter is merged into whole weights.
    at_once = holding.casting if not adapters else False
    loaded = _load_parts(full, family, options, labels, adapters, at_once)
    for adapter in adapters:
        model, note = merged(loaded.model, adapter, full)
        loaded = replace(loaded, model=model, notes=(*loaded.notes, note))
        full = adapter.name
    if adapters and _is_cast(holding.casting, loaded.format, num_parameters(loaded.model)):
        cast_layers(loaded.model, loaded.format.dtype, rounded=True)
        loaded = replace(loaded, notes=(*loaded.notes, _how_held(loaded.format, rounded=True)))
    freeze_other_parts(loaded.model)
    return replace(loaded, name=name, is_adapter=bool(adapters), holding=holding)


def _is_cast(casting: Choice, stored: NumberFormat, numbers: int) -> bool:
    large = numbers >= LARGE_MODEL if casting == "auto" else casting
    return large and stored.dtype in SHORT


def _how_held(stored: NumberFormat, *, rounded: bool = False) -> str:
    lost = ", to which its adapter's sums are rounded" if rounded else ""
    return f"its layers are held in {stored.name} and widened to float32 as they compute{lost}"


def freeze_other_parts(model: PreTrainedModel) -> None:
    """Leave what reads images or sound as it is: only the language model is trained."""
    if not type(model).__name__.endswith(WITH_LANGUAGE_MODEL):
        return
    parts = [model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()]
    model.requires_grad_(False)
    for part in parts:
        if part is not None:
            part.requires_grad_(True)


def load_with_new_head(name: str, family: str, labels: tuple[str, ...]) -> Loaded:
    """A pretrained encoder with a fresh head for these labels.

    Args:
        family: "sequence-classification" or "token-classification".

    Raises:
        UserError: There is no such model, it is a classifier already, or more than a head is
            missing.
    """
    full, adapters = find_adapters(name, "main")
    if adapters:
        raise UserError(f"{name}: is an adapter of {full}; name the pretrained encoder")
    config = read_model_config(name, {})
    check_architecture(name, config)
    if family_of_config(config) in FAMILIES[1:]:
        raise UserError(
            f"{name}: has learned a classification already, and its head could not be told from a "
            "fresh one; name the pretrained encoder"
        )
    return _load_parts(name, family, {}, labels)


def check_architecture(name: str, config: PreTrainedConfig) -> None:
    """Refuse a classifier that cannot be measured or trained on texts of any length.

    Raises:
        UserError: It is one of those.
    """
    if config.model_type == "reformer":
        raise UserError(
            f"{name}: Reformer hashes its attention at random, so that a text has other logits "
            "each time, and is trained on multiples of its chunks alone; use a classifier of "
            "another architecture"
        )


def check_head(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model that does not give one of several labels, each with a name of its own.

    Raises:
        UserError: It is for regression or several labels at once, has one, or two of one name, or
            the names are not numbered as its outputs are.
    """
    names, kind = _output_names(config), config.problem_type
    numbers = sorted(config.id2label or {})
    if numbers != [*range(len(numbers))]:
        raise UserError(
            f"{name}: id2label in config.json numbers the outputs {numbers[0]} to {numbers[-1]}; "
            f"number all {len(numbers)} from 0 to {len(numbers) - 1}, in the order of the head"
        )
    if len(names) < 2 or kind in ("regression", "multi_label_classification"):
        raise UserError(
            f"{name}: a classifier that gives one of several labels is needed, this one has "
            f"{len(names)} outputs for {kind or 'regression'}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{name}: id2label in config.json names two outputs alike; correct it")


def pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model without a padding token the tokenizer's: a decoder seeks the last token."""
    if getattr(model.config.get_text_config(), "pad_token_id", None) is None:
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = 0 if padding is None else padding


def _load_parts(
    name: str,
    family: str,
    options: Mapping[str, Any],
    new_labels: Sequence[str] = (),
    adapters: Sequence[Adapter] = (),
    casting: Choice = False,
) -> Loaded:
    """The tokenizer and the model, whole but for a head where that is to be for new labels."""
    tokenizer = _load_tokenizer(name, family, options, adapters)
    if (Path(name) / ENSEMBLE_FILE).exists():
        ensemble = _load_ensemble(Path(name), family)
        return Loaded(ensemble, tokenizer, name, _stored(Path(name) / "shard-0"))
    model, notes = _load_weights(name, family, options, new_labels, casting)
    if family != FAMILIES[0]:
        pad(model, tokenizer)
    folder = _folder(name, options)
    files = tuple(folder / file for file in PROCESSOR_FILES if (folder / file).is_file())
    stored = _stored(folder)
    if notes:  # what the numbers were stored in is no format to save ordinary ones in
        stored = NumberFormat(ordinary_dtype(model.config))
    if has_cast_layers(model):
        notes.append(_how_held(stored))
    whole = type(model).__name__.endswith(WITH_LANGUAGE_MODEL)
    if whole:
        notes.append(
            f"{type(model).__name__}: its language model is used, the rest is left as it is"
        )
    loaded = Loaded(model, tokenizer, name, stored, tuple(notes), files if whole else ())
    load_part(partial(_tokenize_once, tokenizer), name, "tokenizer", {})
    load_part(partial(_run_once, loaded), name, "configuration", {})
    return loaded


def _tokenize_once(tokenizer: PreTrainedTokenizerBase, _: str) -> None:
    """Ask for a character that no vocabulary has: one without its own unknown token fails."""
    tokenizer("a \ue000")


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


def _folder(name: str, options: Mapping[str, Any]) -> Path:
    """Where the files of a model lie once it was loaded."""
    if Path(name).exists():
        return Path(name)
    found = cached_file(name, "config.json", revision=options.get("revision"))
    return Path(str(found)).parent


def _stored(folder: Path) -> NumberFormat:
    return stored_format(sorted({*folder.glob("*.safetensors")} - {folder / WEIGHTS_FILE}))


def _load_tokenizer(
    name: str, family: str, options: Mapping[str, Any], adapters: Sequence[Adapter]
) -> PreTrainedTokenizerBase:
    """The model's, or that of the last adapter that brings one."""
    load, template = AutoTokenizer.from_pretrained, None
    for adapter in adapters:
        files = {path.name for path in adapter.folder.iterdir()}
        if files & TOKENIZER_FILES:
            name, options, template = str(adapter.folder), {}, None
        elif "chat_template.jinja" in files:
            template = (adapter.folder / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = load_part(load, name, "tokenizer", options)
    # GPT-2 and RoBERTa tokenizers take words one by one only when they know that texts begin so.
    if family == "token-classification" and getattr(tokenizer, "add_prefix_space", None) is False:
        tokenizer = load_part(load, name, "tokenizer", {**options, "add_prefix_space": True})
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def _load_weights(
    name: str,
    family: str,
    options: Mapping[str, object],
    new_labels: Sequence[str] = (),
    casting: Choice = False,
) -> tuple[PreTrainedModel, list[str]]:
    """The model in float32, and what was done to its weights."""
    config = load_part(AutoConfig.from_pretrained, name, "configuration", options)
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
    if getattr(config, "rescale_every", 0):
        # RWKV would divide its weights when it is run, and save them divided.
        given["rescale_every"] = 0
    load, kind = _LOADERS[family], quantised_kind(config)
    if family == FAMILIES[0] and holds_language_model(config):
        load = AutoModelForImageTextToText
    if kind:
        model, found = _load_dequantised(load, name, config, given)
    else:
        model, found = _load_ordinary(load.from_pretrained, name, given, casting)
    wrong = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if new_labels:
        wrong = [key for key in found["missing_keys"] if _is_of_body(key, model)]
    if wrong:  # transformers has filled them up with random numbers
        raise UserError(
            f"{name}: {len(wrong)} of its weights are missing or have another shape than its "
            f"config.json asks for, {min(wrong)} first; save or download the model again"
        )
    notes = [f"its weights were quantised ({kind}): turned into ordinary numbers"] if kind else []
    return model.eval(), notes


def _load_ordinary(
    load: Any, name: str, options: Mapping[str, object], casting: Choice
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model, its layers held as they are stored where that is wanted, and what was missing."""
    stored = _short_format(name, options, casting)
    if stored is not None and not stored.others:
        # Else through float32, which takes twice the memory for a moment.
        short = {**options, "dtype": stored.dtype}
        model, found = load_part(load, name, "weights", short)
        if _holds_layers(model, stored):
            return model, found
        del model
    model, found = load_part(load, name, "weights", options)  # type: ignore[arg-type]
    stored = _short_format(name, options, casting)  # a hub id's files may be there only now
    if stored is not None and not _holds_layers(model, stored):
        widen(model)
    return model, found


def _short_format(name: str, options: Mapping[str, object], casting: Choice) -> NumberFormat | None:
    """What layers are to be held in; None where they are not, or where no file says so."""
    if not casting:
        return None
    try:
        folder = _folder(name, options)
        stored = _stored(folder)
        numbers = sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2
    except (OSError, SafetensorError):  # what is wrong is told where the weights are loaded
        return None
    return stored if _is_cast(casting, stored, numbers) else None


@torch.no_grad()
def _holds_layers(model: PreTrainedModel, stored: NumberFormat) -> bool:
    """Hold a model's layers as they are stored, and whether it can be run so."""
    # Some read a layer's weights themselves. What else is wrong with one is told by `_run_once`.
    with suppress(Exception):
        cast_layers(model, stored.dtype)
        model(input_ids=torch.zeros(1, 2, dtype=torch.long))
        return True
    return False


def _is_of_body(weight: str, model: PreTrainedModel) -> bool:
    """Whether a classifier's weight was to be learned before, and is no part of the head."""
    body = f"{model.base_model_prefix}."
    parts = HEAD_PARTS | ({"decoder"} if model.config.model_type == "perceiver" else set())
    return weight.startswith(body) and not parts & set(weight.split("."))


def _load_dequantised(
    load: Any, name: str, config: PreTrainedConfig, options: Mapping[str, object]
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model of a quantised checkpoint with ordinary numbers, and what was found missing."""
    way = dequantising(name, config)
    given = {**options, "dtype": ordinary_dtype(config)}
    given |= {"quantization_config": way} if way else {}
    try:
        model, found = load.from_pretrained(name, **given)
        return dequantise(model), found
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise refusal(name, quantised_kind(config), reason) from error


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
        check_weights(folder / name)
    shards = [_load_weights(str(folder / name), family, {})[0] for name in names]
    return make_ensemble(shards, family)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    chosen: NumberFormat | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Write an ordinary save_pretrained folder: safetensors, configuration, tokenizer.

    Args:
        chosen: The format of its numbers; None for that in memory.
        files: To be copied beside them as they are.
    """
    if processes.is_main():
        needed = sum(weight.nbytes for weight in model.parameters())
        with saving("the model", folder, needed):
            with stored_as(model, chosen) if chosen else nullcontext():
                model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
            for path in files:
                shutil.copyfile(path, folder / path.name)
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
