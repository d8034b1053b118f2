"""Weights come out in the format that they came in, and what is measured is rounded to it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from command_world import FORGET_RUN, SETS, SHORT, caller
from conftest import tiny_model, tiny_tokenizer
from unlearner.errors import UserError
from unlearner.models import loading
from unlearner.models.loading import load_causal_lm
from unlearner.models.number_format import NumberFormat, stored_as, stored_format
from unlearner.provenance import digest_model

torch.set_num_threads(1)
FORMATS = ["float32", "bfloat16", "float16"]


def of_format(folder, dtype, name="llama"):
    """A model folder whose numbers are stored in a format."""
    loading.save(tiny_model(name), tiny_tokenizer(), folder, NumberFormat(getattr(torch, dtype)))
    return folder


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])  # the last two tie their embeddings
def test_what_is_read_is_written_in_its_format(dtype, name, tmp_path):
    loaded = load_causal_lm(str(of_format(tmp_path / "given", dtype, name)))
    assert loaded.format.name == dtype
    assert loaded.model.dtype == torch.float32
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}
    loaded.save(loaded.model, tmp_path / "out")
    for n, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[n])
    given, out = (load_file(tmp_path / f / "model.safetensors") for f in ("given", "out"))
    assert given.keys() == out.keys()
    assert all(torch.equal(given[n], out[n]) and given[n].dtype == out[n].dtype for n in given)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_another_format_can_be_asked_for(dtype, tmp_path):
    loaded = load_causal_lm(str(of_format(tmp_path / "given", "bfloat16"))).saved_as(dtype)
    loaded.save(loaded.model, tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }


def test_what_is_measured_is_rounded(tmp_path):
    """A change of 1e-5 is lost in bfloat16 next to 1, and what is loaded again is without it."""
    loaded = load_causal_lm(str(of_format(tmp_path / "given", "bfloat16")))
    before = digest_model(loaded.model)
    with torch.no_grad():
        loaded.model.model.norm.weight.add_(1e-5)
    loaded.save(loaded.model, tmp_path / "out")
    again = load_causal_lm(str(tmp_path / "out"))
    assert digest_model(again.model) == before != digest_model(loaded.model)


def test_single_tensors_keep_a_format_of_their_own(tmp_path):
    """As the decay of state-space layers, which files of bfloat16 hold in float32."""
    path = of_format(tmp_path / "given", "bfloat16", "mamba2") / "model.safetensors"
    weights = load_file(path)
    own = {n: t.float() + 1e-4 if n.endswith("A_log") else t for n, t in weights.items()}
    save_file(own, path, {"format": "pt"})
    loaded = load_causal_lm(str(tmp_path / "given"))
    loaded.save(loaded.model, tmp_path / "out")
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(own[n], out[n]) and own[n].dtype == out[n].dtype for n in own)
    assert digest_model(load_causal_lm(str(tmp_path / "out")).model) == digest_model(loaded.model)


def test_what_the_configuration_says_of_the_format_does_not_count(tmp_path):
    """Some trainers write float32 files beside a configuration of bfloat16."""
    folder = of_format(tmp_path / "given", "float32")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "bfloat16"}))
    assert load_causal_lm(str(folder)).format == NumberFormat(torch.float32)


def test_the_format_is_that_of_most_numbers(tmp_path):
    """Six numbers of bfloat16, four of float32; integers do not count."""
    some = {
        "a": torch.zeros(6, dtype=torch.bfloat16),
        "b": torch.zeros(4),
        "c": torch.zeros(100, dtype=torch.int64),
    }
    save_file(some, tmp_path / "x.safetensors")
    found = stored_format([tmp_path / "x.safetensors"])
    assert found == NumberFormat(torch.bfloat16, {"b": torch.float32})


def test_float16_is_refused_where_numbers_are_too_large(tmp_path):
    loaded = load_causal_lm(str(of_format(tmp_path / "given", "float32")))
    with torch.no_grad():
        loaded.model.lm_head.weight[0, 0] = 1e5
    with pytest.raises(UserError, match=r"model\.dtype: float16"):
        loaded.saved_as("float16")
    with stored_as(loaded.model, NumberFormat(torch.bfloat16)):
        assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "dtype"), [("", "bfloat16"), ("model.dtype=float32", "float32")]
)
def test_a_run_saves_and_measures_in_the_format(setting, dtype, tmp_path, monkeypatch, capsys):
    """The report's digest is of the weights that are read back from the saved files."""
    monkeypatch.chdir(tmp_path)
    of_format(tmp_path / "given", "bfloat16")
    call = caller(tmp_path, capsys, SETS, models=tmp_path)
    command = (FORGET_RUN + "--forget forget.jsonl --force").replace("good", "given")
    status, _, err, _ = call(f"{command}{SHORT} {setting}")
    assert status in (0, 3), err
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert report["model"]["format"] == dtype
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out/run/model")
    assert saved.dtype == getattr(torch, dtype)
    assert digest_model(saved.float()) == report["model"]["digest_unlearned"]
