"""Every command on models of the kinds that users bring, from folder to saved model."""

import io
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_world import FORGET_RUN, SETS, SHORT, caller
from conftest import tiny_model, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.models import folders, loading
from unlearner.models.number_format import NumberFormat
from unlearner.provenance import digest_model

torch.set_num_threads(1)
DONE = (0, 3)
CHECK = "check $models/given --forget forget.jsonl --holdout holdout.jsonl --retain retain.jsonl"
EVALUATE = (
    "evaluate $models/{} --forget forget.jsonl --holdout holdout.jsonl --retain retain.jsonl "
    "--target $models/given --output out/evaluated --quiet evaluation.resamples=20"
)


@pytest.fixture
def brought(tmp_path, monkeypatch, capsys):
    """The function that runs a line on the model folders of a test."""
    monkeypatch.chdir(tmp_path)
    return caller(tmp_path, capsys, SETS, models=tmp_path)


def forget(call, settings=""):
    command = (FORGET_RUN + "--forget forget.jsonl --force").replace("good", "given")
    status, _, err, _ = call(f"{command}{SHORT} {settings}")
    assert status in DONE, err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_5_text", "granitemoehybrid", "rwkv"])
def test_hybrids_go_through_check_forget_and_evaluate(name, brought, tmp_path):
    folder = tmp_path / "given"
    loading.save(tiny_model(name), tiny_tokenizer(), folder, NumberFormat(torch.bfloat16))
    few = "evaluation.prompt_start=0.9"  # continuations take most of the time
    status, out, err, _ = brought(f"{CHECK} {few}")
    assert status in DONE, err
    assert "MA" in out.upper()
    forget(brought, few)
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert any("one row at a time" in note for note in report["model"].get("notes", [])) == (
        name == "rwkv"
    )
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out/run/model")
    assert saved.dtype == torch.bfloat16
    status, _, err, _ = brought(f"{EVALUATE.format('out/run/model')} {few}")
    assert status in DONE, err


def test_rwkv_saves_its_weights_and_not_those_divided_for_evaluation(tmp_path):
    model = tiny_model("rwkv")
    model.config.rescale_every = 1
    loading.save(model, tiny_tokenizer(), tmp_path / "given")
    loaded = loading.load_causal_lm(str(tmp_path / "given"))
    loaded.model(torch.arange(2, 9)[None])
    loaded.save(loaded.model, tmp_path / "out")
    given, out = (load_file(tmp_path / f / "model.safetensors") for f in ("given", "out"))
    assert all(torch.equal(given[name], out[name]) for name in given)


@pytest.mark.parametrize("setting", ["", "training.lora_rank=2"])
def test_an_adapter_goes_through_every_command(setting, brought, tmp_path):
    """The base is of bfloat16, and so is what comes out: an ordinary model."""
    base = tmp_path / "base"
    loading.save(tiny_model("llama"), tiny_tokenizer(), base, NumberFormat(torch.bfloat16))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    for name in ("given", "retrained"):
        torch.manual_seed(len(name))
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        tuned.save_pretrained(tmp_path / name)
        path = tmp_path / name / "adapter_config.json"
        moved = {"base_model_name_or_path": "/moved/base"}
        path.write_text(json.dumps(json.loads(path.read_text()) | moved))
    status, _, err, _ = brought(CHECK)
    assert (status, err.count("\n")) == (2, 1)
    assert "model.base=FOLDER" in err
    said = "model.base=base"
    status, _, err, _ = brought(f"{CHECK} {said}")
    assert status in DONE, err
    forget(brought, f"--retrained $models/retrained {setting} {said}")
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert "merged into base" in report["model"]["notes"][0]
    assert "retrained" in report["results"]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out/run/model")
    assert type(saved).__name__ == "LlamaForCausalLM"
    assert saved.dtype == torch.bfloat16
    assert digest_model(saved.float()) == report["model"]["digest_unlearned"]
    command = EVALUATE.format("out/run/model")
    status, _, err, _ = brought(command)
    assert (status, "model.base=FOLDER" in err) == (2, True)  # of --target
    status, _, err, _ = brought(f"{command} {said}")
    assert status in DONE, err
    report = json.loads((tmp_path / "out/evaluated/report.json").read_text())
    assert report["model"]["notes"] == ["is no adapter, model.base is not used for it"]


def test_an_adapter_is_taught_more(brought, tmp_path):
    loading.save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(model, config).save_pretrained(tmp_path / "given")
    command = "finetune $models/given --records forget.jsonl --output out/run --quiet epochs=1"
    status, _, err, _ = brought(f"{command} model.dtype=float16")
    assert status == 0, err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out/run").dtype == torch.float16
    status, _, err, _ = brought(command.replace("out/run", "out/again") + " model.name=x")
    assert (status, err.count("\n")) == (2, 1)


def test_a_target_with_an_added_token_is_compared(brought, tmp_path):
    """Another tool gave it a token for padding, and embeddings of 128 rows."""
    loading.save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "unlearned")
    model, tokenizer = tiny_model("llama", seed=1), tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    model.resize_token_embeddings(128, mean_resizing=False)
    loading.save(model, tokenizer, tmp_path / "given")
    status, _, err, _ = brought(EVALUATE.format("unlearned"))
    assert status in DONE, err
    report = json.loads((tmp_path / "out/evaluated/report.json").read_text())
    assert "kl_to_target" in report["results"]["unlearned"]["retain"]


def test_a_tokenizer_of_sentencepiece_alone_is_read(tmp_path):
    """As Llama 2 and Mistral came at first; what is saved has a tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the phone number of the person is in the town"] * 50),
        model_writer=content,
        vocab_size=40,
        model_type="bpe",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=False,
    )
    folder = tmp_path / "given"
    tiny_model("llama").save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(content.getvalue())
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    loaded = loading.load_causal_lm(str(folder))
    ids = loaded.tokenizer.encode("the phone")
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == "the phone"
    loaded.save(loaded.model, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("the phone") == ids


def test_without_sentencepiece_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "find_spec", lambda _: None)
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match="pip install sentencepiece"):
        loading.load_causal_lm(str(tmp_path))


@pytest.mark.slow
def test_an_adapter_of_a_real_model_comes_out_as_the_model_that_was_measured(
    smollm2, brought, tmp_path
):
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2), config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 1e-3)
    tuned.save_pretrained(tmp_path / "given")
    forget(brought, "data.chat=false model.dtype=bfloat16")
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out/run/model")
    assert saved.dtype == torch.bfloat16
    assert digest_model(saved.float()) == report["model"]["digest_unlearned"]
    assert report["model"]["digest_unlearned"] != report["model"]["digest_target"]
    assert "merged into SmolLM2" in report["model"]["notes"][0]
