"""A MODEL that is an adapter of PEFT: its base is found, and the adapter merged into it.

Also an adapter on top of another one. What cannot be written into the base's weights is refused.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from unlearner.errors import UserError
from unlearner.files import read_json
from unlearner.models.adapters import CONFIG_FILE, PREFIX, WEIGHTS_FILE

# Adapters on top of each other at most: more are a circle.
MAX_DEPTH = 8

# Of what peft calls the task of a classifier's adapter, the family.
TASKS = {"SEQ_CLS": "sequence-classification", "TOKEN_CLS": "token-classification"}


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder and its `adapter_config.json`."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The family of a classifier's adapter; empty where it is of another model."""
        return TASKS.get(str(self.config.get("task_type")), "")

    @property
    def kind(self) -> str:
        """As peft names it."""
        named = "DORA" if self.config.get("use_dora") else self.config.get("peft_type")
        return str(named or "unnamed")

    def num_labels(self) -> int:
        """Outputs of the head that a classifier's adapter brings; 0 where it brings none."""
        heads = [
            tensor.shape[0]
            for name, tensor in load_peft_weights(str(self.folder), device="cpu").items()
            if name.endswith(".weight") and {"classifier", "score"} & set(name.split("."))
        ]
        return min(heads, default=0)


def find_adapters(name: str, revision: str, base: str = "") -> tuple[str, list[Adapter]]:
    """The name of the full model that a MODEL stands on, and the adapters to merge, in order.

    Args:
        base: The base of an adapter, where it is not to be the one that the adapter names.

    Raises:
        UserError: An adapter's files cannot be used, or its base cannot be found.
    """
    adapters: list[Adapter] = []
    while (found := _adapter(name, revision)) is not None:
        adapters.insert(0, found)
        if len(adapters) > MAX_DEPTH:
            raise UserError(
                f"{name}: its adapters name each other as their base; say which model is the base, "
                "model.base=FOLDER"
            )
        name, revision, base = base or _base(found), "main", ""
    return name, adapters


def _adapter(name: str, revision: str) -> Adapter | None:
    """The adapter of a local folder or a hub id; None where it is a full model.

    Raises:
        UserError: Its files cannot be used, or there are full weights beside it.
    """
    folder = Path(name)
    if not name or (not folder.exists() and (name.startswith(("/", ".", "~")))):
        return None
    if not folder.exists():
        return _adapter_of_hub(name, revision)
    if not (folder / CONFIG_FILE).is_file():
        return None
    files = {path.name for path in folder.iterdir()}
    full = {some for some in files if some.endswith(".safetensors")} - {WEIGHTS_FILE}
    if full:
        raise UserError(
            f"{folder}: holds an adapter ({CONFIG_FILE}) beside full weights, and nothing says "
            "whether it belongs on top of them; move the adapter's files to a folder of their own, "
            "and name that folder where it does"
        )
    if WEIGHTS_FILE not in files:
        pickled = [some for some in files if some.startswith("adapter_model.")]
        what = "pickled weights can run code and are refused" if pickled else "is not there"
        raise UserError(
            f"{folder / (pickled[0] if pickled else WEIGHTS_FILE)}: {what}; save the adapter again "
            "with model.save_pretrained"
        )
    return Adapter(name, folder, _read(folder / CONFIG_FILE))


def _adapter_of_hub(name: str, revision: str) -> Adapter | None:
    options: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    try:
        if not cached_file(name, CONFIG_FILE, revision=revision, **options):
            return None
        if cached_file(name, "config.json", revision=revision, **options):
            raise UserError(
                f"{name}: holds an adapter ({CONFIG_FILE}) beside a full model's config.json; "
                "download it and name the folder of the one that is meant"
            )
        folder = snapshot_download(name, revision=revision, ignore_patterns=["*.bin", "*.pt"])
    except (OSError, ValueError):
        return None  # what is wrong with the name is reported when it is loaded
    return _adapter(folder, revision)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); save the adapter again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must be an object of JSON; save the adapter again")
    return config


def _base(adapter: Adapter) -> str:
    """The base that an adapter names: a folder here or beside it, or a hub id.

    Raises:
        UserError: It names none, or a folder that is not there.
    """
    path, named = adapter.folder / CONFIG_FILE, adapter.config.get("base_model_name_or_path")
    if not named or not isinstance(named, str):
        raise UserError(f"{path}: names no base model; say which it is, model.base=FOLDER")
    here = adapter.folder.resolve()
    for place in (Path(named).expanduser(), here / named, here.parent / named):
        if place.is_dir() and place.resolve() != here:
            return str(place)
    if named.startswith(("/", ".", "~")) or named.count("/") > 1 or "\\" in named:
        raise UserError(
            f"{adapter.name}: is an adapter, and its base {named[:200]!r} is not on this machine; "
            "say where it is, model.base=FOLDER"
        )
    return named


@torch.no_grad()
def merged(model: PreTrainedModel, adapter: Adapter, base: str) -> tuple[PreTrainedModel, str]:
    """The base with the adapter's change of its weights, and what was done in one sentence.

    Believed only where it gives the logits of the base with the adapter beside it.

    Raises:
        UserError: The adapter does not fit the base, or is no change of weights.
    """
    names = {*model.state_dict()}
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tuned, size = _put_on(model, adapter)
        missing = [str(one.message) for one in said if "missing adapter keys" in str(one.message)]
        if missing:
            raise _refused(adapter, base, "weights of it are missing, or the base is another one")
        expected = _logits(tuned)
        whole = cast("PreTrainedModel", tuned.merge_and_unload(safe_merge=True))  # type: ignore[operator]
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refused(adapter, base, reason) from error
    if hasattr(whole, "peft_config"):  # or saving would write an adapter
        del whole.peft_config
    _untie_if_changed(whole)
    found = _logits(whole)
    same = names == {*whole.state_dict()} and found.shape == expected.shape
    if not same or not _same_update(found, expected):
        raise _refused(adapter, base, "what it does is no change of the base's weights")
    rank = f", rank {adapter.config['r']}" if isinstance(adapter.config.get("r"), int) else ""
    grown = f", with its {size} tokens" if size else ""
    return whole.eval().requires_grad_(True), (
        f"{Path(adapter.name).name} is an adapter ({adapter.kind}{rank}): merged into "
        f"{Path(base).name if Path(base).exists() else base}{grown}"
    )


def _put_on(model: PreTrainedModel, adapter: Adapter) -> tuple[PeftModel, int]:
    """The base with the adapter in it, and to how many tokens it was resized; 0 if it was not."""
    config = PeftConfig.from_pretrained(str(adapter.folder))
    if config.is_prompt_learning:
        raise UserError(
            f"{adapter.name}: {adapter.kind} learns tokens or states in front of a prompt, no "
            "change of the model's weights; adapters such as LoRA can be merged and unlearned"
        )
    weights = load_peft_weights(str(adapter.folder), device="cpu")
    ends, size = {*_embedding_weights(model)}, _num_tokens(model, weights)
    if size == cast("nn.Embedding", model.get_input_embeddings()).num_embeddings:
        size = 0
    if size:
        model.resize_token_embeddings(size, mean_resizing=False)
    tuned = PeftModel.from_pretrained(
        model, str(adapter.folder), config=config, torch_device="cpu"
    ).eval()
    own = {*get_peft_model_state_dict(tuned, save_embedding_layers=False)}
    # What peft writes a second time of the embeddings that it saves.
    again = (".modules_to_save.", ".original_module.")
    given = {name for name in weights if not any(part in name for part in again)}
    if len(given) > len(own | (ends & given)):
        raise ValueError(f"it has {len(given)} weights, the base has places for {len(own)}")
    return tuned, size


def _embedding_weights(model: nn.Module) -> dict[str, str]:
    """The names that peft gives the weights of the input and output embeddings."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    return {
        f"{PREFIX}.model.{name}.weight": name
        for name, module in model.named_modules()
        if any(module is end for end in ends)
    }


def _num_tokens(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> int:
    """Tokens of the embeddings that an adapter brings along; 0 where it brings none."""
    for full, name in _embedding_weights(model).items():
        if full in weights:
            return weights[full].shape[0]
        factor = weights.get(f"{PREFIX}.model.{name}.lora_embedding_A")
        if factor is not None:
            return factor.shape[1]
    return 0


def _untie_if_changed(model: PreTrainedModel) -> None:
    """Where input and output embeddings have become two, the configuration has to say so."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    config = model.config.get_text_config(decoder=True)
    if last is None or not getattr(config, "tie_word_embeddings", False):
        return
    if first.weight is last.weight:  # type: ignore[union-attr]
        return
    if torch.equal(first.weight, last.weight):  # type: ignore[union-attr, arg-type]
        last.weight = first.weight  # type: ignore[union-attr]
        return
    for part in (model.config, config):
        part.tie_word_embeddings = False


def _logits(model: nn.Module) -> Tensor:
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = (5 + 7 * torch.arange(12)[None]) % size
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _same_update(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().nan_to_num().max())
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _refused(adapter: Adapter, base: str, reason: str) -> UserError:
    return UserError(
        f"{adapter.name}: its adapter ({adapter.kind}) cannot be merged into {base}: {reason}; "
        "name the base that it was trained on, model.base=FOLDER, or merge it yourself with "
        "merge_and_unload and save_pretrained"
    )
