"""A MODEL that is an adapter of PEFT: found, merged, saved; or refused in one line."""

import json
import shutil

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from classifier_world import SEQUENCE, TOKEN, tiny_classifier, toy_tokenizer
from conftest import tiny_model, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.models import loading
from unlearner.models.folders import family_named, read_family
from unlearner.models.loading import load_causal_lm, load_classifier

torch.set_num_threads(1)
IDS = torch.arange(2, 14)[None]
LAYERS = ["q_proj", "v_proj", "gate_proj"]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS, "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    for name in ("llama", "gemma2"):  # the second ties its embeddings
        loading.save(tiny_model(name), tiny_tokenizer(), root / name)
    return root


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def adapter(base, folder, config, *, named=None, tokens=0, tokenizer=None):
    """An adapter that does something, as a trainer saves it, and the logits with it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(folder)
    if named is not None:
        change(folder, base_model_name_or_path=named)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return logits(tuned)


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


KINDS = {
    "lora": LoraConfig(**LORA),
    "rslora": LoraConfig(**LORA, use_rslora=True),
    "dora": LoraConfig(**LORA, use_dora=True),
    "lora of all linear layers": LoraConfig(**LORA | {"target_modules": "all-linear"}),
    "lora and a whole layer": LoraConfig(**LORA, modules_to_save=["down_proj"]),
    "adalora": AdaLoraConfig(
        target_modules=LAYERS, task_type="CAUSAL_LM", total_step=10, tinit=1, tfinal=1
    ),
    "loha": LoHaConfig(r=4, target_modules=LAYERS, task_type="CAUSAL_LM"),
    "lokr": LoKrConfig(r=4, target_modules=LAYERS, task_type="CAUSAL_LM"),
    "oft": OFTConfig(oft_block_size=8, r=0, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_changes_weights_is_merged(kind, bases, tmp_path):
    expected = adapter(bases / "llama", tmp_path / "adapter", KINDS[kind])
    loaded = load_causal_lm(str(tmp_path / "adapter"))
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-4)
    assert "merged into llama" in loaded.notes[0]
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    loaded.save(loaded.model, tmp_path / "whole")
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", ["llama", "gemma2"])
@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], ["embed_tokens"], None])
def test_added_tokens_come_from_the_adapter(base, saved, bases, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<pad>", "<tool>"])
    expected = adapter(
        bases / base,
        tmp_path / "adapter",
        LoraConfig(**LORA, modules_to_save=saved),
        tokens=98,
        tokenizer=tokenizer,
    )
    loaded = load_causal_lm(str(tmp_path / "adapter"))
    assert len(loaded.tokenizer) == 98
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-4)
    loaded.save(loaded.model, tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "whole")) == 98


@pytest.mark.parametrize(
    "place",
    ["an absolute path", "beside it", "below it", "a name beside it", "gone, but said"],
)
def test_the_base_is_found(place, bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some" / "adapter"
    base = {"beside it": folder.parent / "base", "a name beside it": folder.parent / "base"}.get(
        place, folder / "base" if place == "below it" else tmp_path / "elsewhere"
    )
    shutil.copytree(bases / "llama", base)
    named = {"beside it": "../base", "below it": "base", "a name beside it": "base"}.get(place)
    named = "/gone/base" if place.startswith("gone") else named or str(base)
    expected = adapter(base, folder, LoraConfig(**LORA), named=named)
    given = {"base": str(base)} if place.startswith("gone") else {}
    loaded = load_causal_lm(str(folder), **given)
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_on_top_of_an_adapter_is_merged_as_well(bases, tmp_path):
    adapter(bases / "llama", tmp_path / "first", LoraConfig(**LORA))
    first = load_causal_lm(str(tmp_path / "first"))
    first.save(first.model, tmp_path / "whole")
    expected = adapter(
        tmp_path / "whole", tmp_path / "second", LoraConfig(**LORA), named="../first"
    )
    loaded = load_causal_lm(str(tmp_path / "second"))
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-4)
    assert len(loaded.notes) == 2


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_a_classifiers_adapter_brings_its_head(family, tmp_path):
    whole = tiny_classifier(family)
    whole.save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    auto = (
        AutoModelForSequenceClassification
        if family == SEQUENCE
        else (AutoModelForTokenClassification)
    )
    task = "SEQ_CLS" if family == SEQUENCE else "TOKEN_CLS"
    torch.manual_seed(0)
    model = auto.from_pretrained(tmp_path / "base")
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules=["query", "value"], task_type=task)
    )
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = load_classifier(str(tmp_path / "adapter"))
    assert loaded.family == read_family(str(tmp_path / "adapter")) == family
    assert family_named(str(tmp_path / "adapter")) == family
    ids = torch.arange(2, 10)[None]
    torch.testing.assert_close(
        loaded.model(ids).logits, tuned.eval()(ids).logits, rtol=1e-4, atol=1e-4
    )


def test_a_head_on_a_pretrained_encoder_has_labels_without_names(tmp_path):
    from transformers import BertModel

    whole = tiny_classifier(SEQUENCE)
    encoder = BertModel(whole.config)
    encoder.save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    tuned = get_peft_model(model, LoraConfig(target_modules=["query"], task_type="SEQ_CLS")).eval()
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = load_classifier(str(tmp_path / "adapter"))
    assert loaded.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4")
    ids = torch.arange(2, 10)[None]
    torch.testing.assert_close(loaded.model(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-4)


def names_itself(folder):
    other = shutil.copytree(folder, folder.parent / "other")
    change(folder, base_model_name_or_path="../other")
    change(other, base_model_name_or_path=f"../{folder.name}")


def pickled(folder):
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


def weights(kept):
    """What changes the adapter's weights, all together."""

    def spoil(folder):
        path = folder / "adapter_model.safetensors"
        save_file(kept(load_file(path)), path)

    return spoil


def half(given):
    return {name: some for name, some in given.items() if ".0." in name}


def more(given):
    return given | {name.replace(".0.", ".7."): some.clone() for name, some in given.items()}


def not_a_number(given):
    return {name: some * torch.nan for name, some in given.items()}


def truncated(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def named(base):
    return lambda folder: change(folder, base_model_name_or_path=base)


def config_text(text):
    return lambda folder: (folder / "adapter_config.json").write_text(text)


# What spoils a good adapter, and what the one line says of it.
REFUSED = {
    "base gone": (named("/nowhere/base"), "model.base="),
    "base of Windows": (named("C:\\models\\base"), "model.base="),
    "base empty": (named(""), "model.base="),
    "base no text": (named(["a"]), "model.base="),
    "base null": (named(None), "model.base="),
    "its own base": (names_itself, "name each other"),
    "beside full weights": (
        lambda folder: save_file({"w": torch.zeros(1)}, folder / "model.safetensors"),
        "beside full weights",
    ),
    "pickled": (pickled, "pickled"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "is not there",
    ),
    "broken": (config_text("{"), "not valid JSON"),
    "a list": (config_text("[1]"), "object of JSON"),
    "deep": (config_text("[" * 100_000), "not valid JSON"),
    "an unknown kind": (lambda folder: change(folder, peft_type="TELEPATHY"), "TELEPATHY"),
    "truncated": (truncated, "cannot be merged"),
    "another rank": (lambda folder: change(folder, r=2), "cannot be merged"),
    "half of it": (weights(half), "weights of it are missing"),
    "more than the base": (weights(more), "places for"),
    "not a number": (weights(not_a_number), "cannot be merged"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(how, bases, tmp_path):
    folder = tmp_path / "adapter"
    adapter(bases / "llama", folder, LoraConfig(**LORA))
    spoil, words = REFUSED[how]
    spoil(folder)
    with pytest.raises(UserError) as refused:
        load_causal_lm(str(folder))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_adapter_of_another_model_is_refused(bases, tmp_path):
    adapter(bases / "gemma2", tmp_path / "adapter", LoraConfig(**LORA))
    change(tmp_path / "adapter", base_model_name_or_path=str(bases / "llama"))
    loading.save(tiny_model("gpt2"), tiny_tokenizer(), tmp_path / "gpt2")
    with pytest.raises(UserError, match="cannot be merged into"):
        load_causal_lm(str(tmp_path / "adapter"), base=str(tmp_path / "gpt2"))


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        LoraConfig(**LORA, alora_invocation_tokens=[5, 6]),
        LoraConfig(**LORA, lora_bias=True),
    ],
    ids=["prompt tuning", "activated lora", "a bias where the base has none"],
)
def test_what_is_no_change_of_weights_is_refused(config, bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases / "llama", dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"no change of|cannot be merged"):
        load_causal_lm(str(tmp_path / "adapter"))


def test_layers_that_an_adapter_repeats_are_refused(bases, tmp_path):
    config = LoraConfig(**LORA, layer_replication=[[0, 2], [1, 2]])
    adapter(bases / "llama", tmp_path / "adapter", config)
    with pytest.raises(UserError, match="cannot be merged"):
        load_causal_lm(str(tmp_path / "adapter"))
