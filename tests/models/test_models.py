"""Loading, output heads and what surrounds them."""

import json

import pytest
import torch

from conftest import tiny_model, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.models import folders, loading


def test_a_small_model_is_computed_on_one_thread(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    model = tiny_model("gpt2")
    loading.limit_threads(model)
    monkeypatch.setattr(loading, "SMALL_MODEL", loading.num_parameters(model))
    loading.limit_threads(model)
    assert asked == [1]


def test_shared_weights_are_counted_once():
    """GPT-2 ties its output head to its embedding: 96 x 32 numbers are not counted twice."""
    model = tiny_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    stored = {p.data_ptr(): p.numel() for p in model.state_dict().values()}
    parameters = {p.data_ptr() for p in model.parameters()}
    assert loading.num_parameters(model) == sum(stored[pointer] for pointer in parameters)


@pytest.mark.parametrize(
    ("architectures", "family"),
    [
        (["LlamaForCausalLM"], "causal-lm"),
        (["GPT2LMHeadModel"], "causal-lm"),
        (["BertForSequenceClassification"], "sequence-classification"),
        (["BertForTokenClassification"], "token-classification"),
    ],
)
def test_the_family_is_read_from_the_architecture(architectures, family):
    from transformers import PretrainedConfig

    assert folders.family_of_config(PretrainedConfig(architectures=architectures)) == family


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ('{"architectures": ["BertForSequenceClassification"]}', "sequence-classification"),
        ('{"architectures": ["BertForTokenClassification"]}', "token-classification"),
        ('{"architectures": ["BertModel"]}', "causal-lm"),
        ('{"architectures": null}', "causal-lm"),
        ("[1]", "causal-lm"),
        ("{", "causal-lm"),
    ],
)
def test_the_family_of_a_folder_or_hub_id_is_that_of_its_configuration(
    config, family, tmp_path, monkeypatch
):
    """What is wrong with one is not said here, but where the model is loaded."""
    path = tmp_path / "config.json"
    path.write_text(config)
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        return str(path)

    monkeypatch.setattr(folders, "hf_hub_download", download)
    assert folders.family_named(str(tmp_path)) == family
    assert asked == []
    assert folders.family_named("owner/name", "v2") == family
    assert asked == [("owner/name", "config.json", "v2")]


def test_the_family_of_what_cannot_be_found_is_left_to_loading():
    for name in ("", "nobody/nothing", "no/such/model", "a b"):
        assert folders.family_named(name) == "causal-lm"


def test_a_saved_model_loads_with_plain_transformers(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_model("llama")
    loading.save(model, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_without_a_limit_is_read(tmp_path):
    """transformers writes 10^30 for it, a number that is no token's."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = int(1e30)
    loading.save(tiny_model("llama"), tokenizer, tmp_path)
    assert "10000000000000000" in (tmp_path / "tokenizer_config.json").read_text()
    assert loading.load_causal_lm(str(tmp_path)).tokenizer.model_max_length == int(1e30)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda content: content["model"]["vocab"].update(odd=10**7)),
        ("tokenizer.json", lambda content: content["added_tokens"][0].update(id=10**7)),
        (
            "tokenizer_config.json",
            lambda content: content.update(added_tokens_decoder={"10000000": {"content": "odd"}}),
        ),
        ("vocab.json", lambda content: content.update(odd=10**7)),
        ("added_tokens.json", lambda content: content.update(odd=10**7)),
    ],
)
def test_a_token_beyond_any_vocabulary_is_refused(tmp_path, name, change):
    """Vocabularies are saved id by id up to the last."""
    loading.save(tiny_model("llama"), tiny_tokenizer(), tmp_path)
    path = tmp_path / name
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"the token id 10000000 is larger than any vocabulary"):
        loading.load_causal_lm(str(tmp_path))
