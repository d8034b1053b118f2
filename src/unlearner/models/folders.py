"""What a MODEL is, found out from its files before its weights are read."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig

from unlearner.errors import UserError
from unlearner.files import read_json
from unlearner.models.adapter_folders import Adapter, find_adapters
from unlearner.models.adapters import WEIGHTS_FILE
from unlearner.models.ensemble import ENSEMBLE_FILE
from unlearner.models.folder_files import check_files, memory_for
from unlearner.output import CHECKPOINTS

Item = TypeVar("Item")

# How the names of the classes of each family's models end.
CLASS_NAMES = {
    "causal-lm": ("ForCausalLM", "LMHeadModel"),
    "sequence-classification": ("ForSequenceClassification",),
    "token-classification": ("ForTokenClassification",),
}
FAMILIES = tuple(CLASS_NAMES)

# How the class of a model is named that holds a language model beside what reads images or sound.
WITH_LANGUAGE_MODEL = "ForConditionalGeneration"

TOKENIZER_FILES = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}


def family_by_class(name: str) -> str | None:
    return next((family for family, ends in CLASS_NAMES.items() if name.endswith(ends)), None)


def read_family(name: str, *, base: str = "", **options: Any) -> str:
    """The family of a local folder or a hub id, after a look at its files; what it is if of none.

    Args:
        base: See `load_causal_lm`.
        options: `revision` and `trust_remote_code`, as transformers takes them.

    Raises:
        UserError: As `read_model_config`.
    """
    full, adapters = find_adapters(name, options.get("revision", "main"), base)
    given = {} if adapters else options
    return family_with(read_model_config(full, given, with_tokenizer=not adapters), adapters)


def read_model_config(
    name: str, options: Mapping[str, object], *, with_tokenizer: bool = True
) -> PreTrainedConfig:
    """The configuration of a local folder or a hub id, after a look at the folder's files.

    Args:
        options: `revision` and `trust_remote_code`, as transformers takes them.
        with_tokenizer: Of an adapter's base False: the adapter may have brought the tokenizer.

    Raises:
        UserError: There is no such model, its weights are pickled, or its tokenizer is missing.
    """
    folder = Path(name)
    if folder.exists():
        check_model_folder(folder, with_tokenizer=with_tokenizer)
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: no such folder; give a model's folder, or a hub id owner/name")
    return load_part(AutoConfig.from_pretrained, name, "configuration", options)


def family_named(name: str, revision: str = "main", base: str = "") -> str:
    """The family of a local folder or hub id; "causal-lm" where its config.json does not say."""
    try:
        if name and Path(name).exists():
            name, adapters = find_adapters(name, revision, base)
            named = [adapter.family for adapter in adapters if adapter.family]
            if named:
                return named[-1]
        path = Path(name) / "config.json"
        if name and not Path(name).exists():
            path = Path(hf_hub_download(name, "config.json", revision=revision))
        config = read_json(path)
        architecture = str((config.get("architectures") or [""])[0])
    except (OSError, ValueError, AttributeError, TypeError, LookupError, UserError):
        return FAMILIES[0]  # what is wrong with it is reported when it is loaded
    return family_by_class(architecture) or FAMILIES[0]


def family_of_config(config: PreTrainedConfig) -> str:
    """The family of a model by the class that its configuration names; what it is if of none."""
    architecture = (config.architectures or [""])[0]
    family = family_by_class(architecture)
    if family in FAMILIES[1:] or (family and not config.is_encoder_decoder):
        return family
    if holds_language_model(config):
        return FAMILIES[0]
    if not architecture:
        return "a model whose config.json names no architecture"
    return "an encoder or another model without a language-model head"


def holds_language_model(config: PreTrainedConfig) -> bool:
    """Whether it is a decoder of text beside what reads images or sound: no encoder of text."""
    architecture = (config.architectures or [""])[0]
    return (
        str(architecture).endswith(WITH_LANGUAGE_MODEL)
        and not config.is_encoder_decoder
        and type(config) in AutoModelForImageTextToText._model_mapping
        and not config.get_text_config(decoder=True).is_encoder_decoder
    )


def check_model_folder(folder: Path, *, with_tokenizer: bool = True) -> None:
    """Refuse a folder that cannot be loaded before anything slow is imported or read.

    Raises:
        UserError: It is no folder of a model, or a part of one is missing.
    """
    gguf = "GGUF files are quantised weights of llama.cpp; give the folder in the format of"
    gguf += " save_pretrained that they were made from"
    if not folder.is_dir():
        what = gguf if folder.suffix.lower() == ".gguf" else "this is a file"
        raise UserError(f"{folder}: a model is a folder made by save_pretrained, {what}")
    files = {path.name for path in folder.iterdir()}
    if "config.json" not in files:
        if (folder / CHECKPOINTS).is_dir() and not files & {"model", "report.json"}:
            raise UserError(
                f"{folder}: is the output of a run that is not finished, it holds {CHECKPOINTS}/ "
                "alone; go on with the command that began it, --output "
                f"{folder} --resume"
            )
        if (folder / "model" / "config.json").is_file():
            raise UserError(f"{folder}: is the output of a run; its model is {folder / 'model'}")
        if any(name.lower().endswith(".gguf") for name in files):
            raise UserError(f"{folder}: no config.json; {gguf}")
        raise UserError(f"{folder}: no config.json; a model folder made by save_pretrained has one")
    check_files(folder)
    if ENSEMBLE_FILE not in files:
        check_weights(folder)
    pieces = files & {"tokenizer.model", "spiece.model"} and "tokenizer.json" not in files
    if pieces and find_spec("sentencepiece") is None:
        raise UserError(
            f"{folder}: its tokenizer is one of sentencepiece; pip install sentencepiece protobuf"
        )
    if with_tokenizer and not files & TOKENIZER_FILES:
        raise UserError(
            f"{folder}: no tokenizer; save it beside the model with tokenizer.save_pretrained"
        )


def check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors weights."""
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    files.discard(WEIGHTS_FILE)
    if any(name.endswith(".safetensors") for name in files):
        return
    pickled = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth")))
    if pickled:
        raise UserError(
            f"{folder / pickled[0]}: pickled weights can run code and are refused; load them "
            "where you trust them and call model.save_pretrained(..., safe_serialization=True)"
        )
    raise UserError(f"{folder}: no .safetensors weights; save the model with save_pretrained")


def family_with(config: PreTrainedConfig, adapters: Sequence[Adapter]) -> str:
    """The family of the model, which an adapter may say of a pretrained base."""
    named = [adapter.family for adapter in adapters if adapter.family]
    return named[-1] if named else family_of_config(config)


def load_part(
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
