"""Low-rank adapters: nothing changes at first, the target is the model with them off, merging."""

import copy
import json

import pytest
import torch
from peft import PeftModel
from test_icu import LOW, tokenized, unlearning_data
from test_resume import SETTINGS, STEPPING, class_methods
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from classifier_world import SEQUENCE, TOKEN, mean_loss, tiny_classifier, tiny_data, tiny_trainer
from conftest import MIXTURES, tiny_model
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.inference.reference import TargetDistribution
from unlearner.methods.base import load_method
from unlearner.methods.icu import ICU
from unlearner.models import adapters
from unlearner.models.heads import output_head
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.losses import frozen_copy, teach
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)
TOKENS = torch.arange(3, 11)[None]


def drawn(model, rank=2, alpha=None):
    """A model with adapters that do something."""
    torch.manual_seed(1)
    handle = adapters.attach(model, rank, alpha)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    return handle


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


class Tiny(nn.Module):
    """One layer, W = [[1, 0], [0, 1]]."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.layer.weight)
        self.config = {}

    def forward(self, x):
        return self.layer(x)


def test_one_layer_by_hand():
    """r = 1, alpha = 3: A = [1, 2], B = [1, -1]'. For x = (1, 1): A x = 3, B 3 = (3, -3), scaled
    by 3 / 1 and added to W x = (1, 1): (10, -8). Merged W = [[1 + 3, 6], [-3, 1 - 6]].
    """
    model = Tiny()
    handle = adapters.attach(model, 1, 3.0)
    with torch.no_grad():
        model.layer.lora_A.default.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.layer.lora_B.default.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    assert model(torch.ones(1, 2)).tolist() == [[10.0, -8.0]]
    assert adapters.merge(handle).layer.weight.tolist() == [[4.0, 6.0], [-3.0, -5.0]]


def test_without_alpha_the_scale_is_two():
    model = Tiny()
    adapters.attach(model, 1, None)
    assert model.layer.scaling["default"] == 2.0


def test_every_linear_layer_but_the_output_has_one_and_nothing_else_is_trained(architecture):
    model = tiny_model(architecture)
    total = sum(parameter.numel() for parameter in model.parameters())
    before = logits(model)
    adapters.attach(model, 2, None)
    assert torch.equal(logits(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name or "embed_out" in name for name in trained)
    assert sum(p.numel() for p in adapters.trained_weights(model).values()) < total / 4
    assert output_head(model) is None or torch.equal(
        output_head(model).linear.weight, model.get_output_embeddings().weight
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_the_experts_of_a_mixture_have_adapters_too(name):
    model = tiny_model(name)
    before, names = logits(model), {*dict(model.named_parameters())}
    handle = drawn(model)
    learned = logits(model)
    assert not torch.allclose(learned, before, atol=1e-3)
    with adapters.without_adapters(model):
        assert torch.equal(logits(model), before)
    model(torch.arange(2, 66)[None]).logits.sum().backward()
    of_experts = [p for n, p in model.named_parameters() if "experts" in n and p.requires_grad]
    assert len(of_experts) == 2 * 2 * 2  # two tensors a layer, two layers, two factors
    assert all(bool(parameter.grad.any()) for parameter in of_experts)
    merged = adapters.merge(handle)
    torch.testing.assert_close(logits(merged), learned, rtol=1e-4, atol=1e-4)
    assert {*dict(merged.named_parameters())} == names


def test_a_classifiers_head_has_one_too():
    names = adapters.linear_layers(tiny_classifier())
    assert "classifier" in names
    assert len(names) == 2 * 6 + 2  # two layers of six maps, the pooler's and the head's


def test_off_they_leave_the_target_and_on_again_what_was_learned(architecture):
    model = tiny_model(architecture)
    before = logits(model)
    drawn(model)
    after = logits(model)
    assert not torch.allclose(after, before, atol=1e-3)
    model.train()
    with adapters.without_adapters(model):
        assert torch.equal(logits(model), before)
        assert not model.training
    assert model.training
    assert torch.equal(logits(model.eval()), after)
    assert all(p.requires_grad for n, p in model.named_parameters() if "lora_" in n)


def test_the_merged_model_is_an_ordinary_one_with_the_adapters_logits(architecture, tmp_path):
    model = tiny_model(architecture)
    plain = sorted(model.state_dict())
    handle = drawn(model)
    expected = logits(model)
    merged = adapters.merge(handle)
    assert merged is model
    assert sorted(merged.state_dict()) == plain
    assert all(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert torch.allclose(logits(loaded.eval()), expected, atol=1e-5)
    assert not list((tmp_path / "model").glob("adapter*"))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "classifier"])
def test_peft_reads_the_saved_adapter(kind, tmp_path):
    model = tiny_classifier() if kind == "classifier" else tiny_model(kind)
    model.save_pretrained(tmp_path / "base")
    handle = drawn(model)
    expected = logits(model)
    adapters.save_adapter(handle, "base", tmp_path / "adapter")
    auto = AutoModelForSequenceClassification if kind == "classifier" else AutoModelForCausalLM
    again = PeftModel.from_pretrained(
        auto.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
    )
    assert torch.allclose(logits(again.eval()), expected, atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "base")


# In methods


def test_the_frozen_head_is_no_copy_where_nothing_trains_it():
    model, windows = tiny_model("llama"), tokenized("kept", (9, 5), 0).windows
    assert TargetDistribution.of(model, windows).head.linear is not model.lm_head
    adapters.attach(model, 2, None)
    assert TargetDistribution.of(model, windows).head.linear is model.lm_head


def test_the_teacher_is_the_model_itself_with_the_adapters_off():
    model = tiny_classifier()
    expected = teach(copy.deepcopy(model), tiny_data().forget.examples)
    drawn(model)
    assert frozen_copy(model) is model
    assert torch.equal(teach(model, tiny_data().forget.examples), expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_icu_with_adapters_moves_them_alone_and_saves_one_model(tokenizer, recompute):
    model = tiny_model("gpt_neo")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    some = tiny_trainer(lora_rank=4, gradient_checkpointing=recompute)
    forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
    method = ICU(max_epochs=1, learning_rate=1e-2, batch_size=3, fresh_per_step=2)
    done = some.finish(method.unlearn(model, unlearning_data(tokenizer, forget, pool, LOW), some))
    after = done.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in adapters.linear_layers(done)}


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
@pytest.mark.parametrize(
    "name", [name for name in class_methods() if name not in ("retrain", "sisa", "l1_sparse")]
)
def test_every_method_for_classifiers_trains_adapters(name, family):
    method = load_method(name)(**SETTINGS.get(name, STEPPING) | {"learning_rate": 5e-3})
    model, data = tiny_classifier(family), tiny_data(family)
    before = mean_loss(model, data.forget), mean_loss(model, data.retain)
    some = tiny_trainer(lora_rank=4)
    done = some.finish(method.unlearn(model, data, some))
    assert done is model
    assert not adapters.has_adapters(done)
    assert (mean_loss(done, data.forget), mean_loss(done, data.retain)) != before


# Where they cannot be


@pytest.mark.parametrize("name", ["retrain", "sisa"])
def test_a_method_that_begins_anew_has_nothing_to_put_them_on(name):
    sections = {"method": {"name": name}, "training": {"lora_rank": 4}}
    with pytest.raises(
        UserError, match=rf"training\.lora_rank: method {name} makes the model anew"
    ):
        RunConfig.from_sections(sections, family=SEQUENCE)


def test_a_kept_adapter_lies_beside_the_model_and_gives_it_from_the_target(tmp_path, tokenizer):
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "target")
    some = Trainer(
        TrainingSettings(device="cpu", lora_rank=2, keep_adapter=True), Log(tmp_path / "log.jsonl")
    )
    forget, pool = tokenized("forget", (14, 9), 3), tokenized("pool", (10, 16), 4)
    method = ICU(max_epochs=1, learning_rate=1e-2, batch_size=3, fresh_per_step=2)
    data = unlearning_data(tokenizer, forget, pool, LOW)
    done = some.finish(method.unlearn(model, data, some), "target")
    target = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    again = PeftModel.from_pretrained(target, str(tmp_path / "adapter")).eval()
    assert torch.allclose(logits(again), logits(done), atol=1e-5)
