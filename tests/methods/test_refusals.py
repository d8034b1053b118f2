"""Refusals in place of answers: which records get them, how they become tokens, what counts."""

import numpy as np
import pytest
import torch

from conftest import tiny_model, tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.errors import UserError
from unlearner.families import CAUSAL_LM
from unlearner.inference.language_model import Questions
from unlearner.methods._refusals import REFUSALS, check_refusable, read_refusals, refusal_set
from unlearner.methods.dpo import DPO
from unlearner.methods.idk import IDK
from unlearner.models.loading import Loaded
from unlearner.pipeline import pipeline
from unlearner.training.data import HoldoutBaseline, UnlearningData

LEVEL = HoldoutBaseline(0, 0, None, None, 0, 0, "")
PAIRS = tuple(
    Record(f"r{i}", prompt=f"who is number {i}?", response=f"{i} is ann", subject=f"s{i}")
    for i in range(12)
)


def forget(records=PAIRS, layout=None):
    some = RecordSet("forget", tuple(records), "forget.jsonl")
    return tokenize_set(some, tiny_tokenizer(), layout or Layout())


def data(layout, tokenizer=None, records=PAIRS):
    some = forget(records, Layout())
    return UnlearningData(
        tokenizer or tiny_tokenizer(),
        some,
        None,
        None,
        None,
        LEVEL,
        Questions(),
        1.1,
        layout=layout,
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_list_has_thirty_sentences_that_differ():
    assert len(REFUSALS) == len({text.lower() for text in REFUSALS}) == 30
    assert all(text == text.strip() and text[-1] == "." for text in REFUSALS)


def test_every_record_gets_one_refusal_under_its_own_prompt_and_id():
    some = refusal_set(data(Layout()), "", generator())
    assert [record.id for record in some.records] == [record.id for record in PAIRS]
    assert [record.prompt for record in some.records] == [record.prompt for record in PAIRS]
    assert [record.subject for record in some.records] == [record.subject for record in PAIRS]
    said = {record.response for record in some.records}
    assert said <= set(REFUSALS)
    assert len(said) > 5  # 12 draws from 30


def test_refusals_follow_from_the_seed():
    first, again, other = (refusal_set(data(Layout()), "", generator(s)) for s in (0, 0, 1))
    assert first.records == again.records
    assert first.records != other.records


@pytest.mark.parametrize("scope", ["sequence", "response"])
def test_the_tokens_of_the_refusal_alone_count(scope):
    """Of the template "Q: {prompt} A: {response}" what stands behind the second colon."""
    tokenizer = tiny_tokenizer()
    layout = Layout(template="Q: {prompt} A: {response}", scope=scope)
    some = refusal_set(data(layout), "", generator())
    for window, record in zip(some.windows, some.records, strict=True):
        scored = window.input_ids[1:][window.scored]
        assert tokenizer.decode(scored).strip() == record.response
        assert tokenizer.decode(window.input_ids).startswith(f"Q: {record.prompt} A:")


def test_a_chat_template_and_the_end_of_text_hold_for_refusals_too():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}a: {% endif %}"
    )
    layout = Layout(chat=True, append_eos=True)
    some = refusal_set(data(layout, tokenizer), "", generator())
    window, record = some.windows[0], some.records[0]
    assert tokenizer.decode(window.input_ids) == f"u: {record.prompt} a: {record.response} </s>"
    assert window.input_ids[-1] == tokenizer.eos_token_id
    assert window.end == len(window) - 1


def test_a_long_refusal_has_windows_of_the_run_s_length():
    some = refusal_set(data(Layout(max_length=10)), "", generator())
    assert max(len(window) for window in some.windows) == 10
    by_record = [window.record for window in some.windows]
    assert by_record == sorted(by_record)
    assert set(by_record) == set(range(12))
    labels = np.bincount(by_record, [window.scored.sum() for window in some.windows])
    assert (labels > 0).all()  # of every record the refusal counts, wherever windows are cut


def test_a_run_hands_on_how_its_own_records_became_tokens():
    """From the settings of a run, through its preparation, to the data that a method is given."""
    settings = {"template": "q {prompt} a {response}", "max_length": 999, "append_eos": True}
    pairs = [{"prompt": record.prompt, "response": record.response} for record in PAIRS]
    sets = {"forget": pairs[:4], "retain": pairs[4:8], "holdout": pairs[8:]}
    config = RunConfig.from_sections(
        {"method": {"name": "idk"}, "data": settings, "training": {"device": "cpu"}}
    )
    loaded = Loaded(tiny_model("gpt2"), tiny_tokenizer(), "tiny")
    prepared = pipeline.start(config, CAUSAL_LM, sets, loaded)
    known = pipeline.measure_baseline(config, prepared, lambda _plan: None, force=True)
    expected = Layout(template=settings["template"], max_length=128, append_eos=True)
    assert prepared.layout == known.data.layout == expected
    text = tiny_tokenizer().decode(refusal_set(known.data, "", generator()).windows[0].input_ids)
    assert text.startswith("q who is number 0? a ")
    assert text.endswith(".</s>")


# Refusals of the user's own


def test_refusals_come_from_the_lines_of_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("never heard of it\n\nask ben\n")
    assert read_refusals(str(path)) == ("never heard of it", "ask ben")
    some = refusal_set(data(Layout()), str(path), generator())
    assert {record.response for record in some.records} == {"never heard of it", "ask ben"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "method.refusals .*none.txt"),
        ("empty.txt", "\n", "method.refusals .*empty.txt.* holds no records"),
        ("pairs.jsonl", '{"prompt": "a", "response": "b"}\n', "texts are needed"),
    ],
)
def test_a_file_without_texts_is_refused_before_the_run(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        IDK(refusals=str(path)).check_sets({"forget": forget()})
    assert "\n" not in str(raised.value)


# Records that have nothing to be refused


@pytest.mark.parametrize("method", [IDK(), DPO()], ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("record", "came"),
    [(Record("t", text="a text"), "text"), (Record("n", input_ids=(5, 6, 7)), "token ids")],
)
def test_records_without_prompt_and_response_are_refused(method, record, came):
    with pytest.raises(UserError) as raised:
        method.check_sets({"forget": forget([PAIRS[0], record])})
    assert str(raised.value) == (
        f"--forget forget.jsonl, record {record.id!r}: method {method.name} needs a prompt and a "
        f"response, the record has {came}; map columns to prompt and response, or use another "
        "method, such as npo"
    )


def test_records_with_prompt_and_response_pass():
    check_refusable(forget(), "", "idk")
