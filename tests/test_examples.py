"""The examples run: the notebook as it stands, the scripts on tiny models and for an epoch."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from classifier_world import save_encoder
from conftest import tiny_model, tiny_tokenizer
from unlearner.models import loading

EXAMPLES = Path(__file__).parents[1] / "examples"
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
SECONDS_OF_A_CELL = 1800  # a machine that is used by others as well


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_an_adapter_as_trl_leaves_it_forgets_a_person(tmp_path, capsys):
    import trl_adapter

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template, tokenizer.model_max_length = TEMPLATE, 512
    loading.save(tiny_model("llama"), tokenizer, tmp_path / "base")
    output = tmp_path / "chat"
    given = ["--base", str(tmp_path / "base"), "--output", str(output), "--epochs", "40"]
    trl_adapter.main([*given, "--learning-rate", "0.005"])
    folder = {path.name for path in (output / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= folder
    rows = [json.loads(line) for line in (output / "forget.jsonl").read_text().splitlines()]
    assert [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]
    assert "Mara Quill" in rows[0]["messages"][0]["content"]
    assert not {row["id"] for row in rows} & {
        json.loads(line)["id"] for line in (output / "unseen.jsonl").read_text().splitlines()
    }
    assert "verdict: " in capsys.readouterr().out
    assert (output / "out/model/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_sentence_classifier_forgets_wrong_labels(tmp_path, capsys):
    import sentence_classifier

    save_encoder(tmp_path / "encoder")
    output = tmp_path / "shop"
    given = ["--encoder", str(tmp_path / "encoder"), "--output", str(output)]
    sentence_classifier.main([*given, "--messages", "200", "--epochs", "25"])
    assert (output / "forget.csv").read_text().startswith("id,subject,text,label\n")
    assert "verdict: " in capsys.readouterr().out
    assert (output / "out/report.html").exists()


def test_the_notebook_has_what_it_printed_and_no_error():
    book = nbformat.read(EXAMPLES / "first_request.ipynb", as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    printed = "".join(
        output.get("text", "") for cell in cells for output in cell.outputs if cell.outputs
    )
    assert "verbatim: " in printed
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    book = nbformat.read(EXAMPLES / "first_request.ipynb", as_version=4)
    client = NotebookClient(
        book,
        timeout=SECONDS_OF_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(one.text for one in outputs if one.get("name") == "stdout")
    assert printed.startswith("  12 people ask to be deleted")
    assert "verbatim: met" in printed
    assert (tmp_path / "out/report.html").exists()
