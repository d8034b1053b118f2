"""The last turn of a dialogue, as the model itself says it."""

from dataclasses import replace

import pytest

from conftest import tiny_model, tiny_tokenizer
from oracle import greedy
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, tokenize_set
from unlearner.inference.dialogue import last_turns, with_responses
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import Loaded

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '. ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "user", "content": "who is there"},
    {"role": "assistant", "content": "it is the person"},
    {"role": "user", "content": "in the town"},
    {"role": "assistant", "content": "no, the phone is in town"},
]


@pytest.fixture(scope="module")
def loaded():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return Loaded(tiny_model("llama"), tokenizer, "tiny")


def tokenized(rows, loaded, **layout):
    return tokenize_set(
        read_records(rows, name="dialogue:talk"), loaded.tokenizer, Layout(**layout)
    )


def answered(some, loaded, num_tokens):
    forced = Questions(continuations="none")
    answers = infer(loaded.model, loaded.tokenizer, some.windows, forced)
    return with_responses(answers, some.windows, loaded, num_tokens)


def test_the_response_is_the_models_own_behind_the_last_question(loaded):
    """Greedy, as long as it was allowed, which is longer than the dialogue's own response."""
    some = tokenized([{"messages": TALK}, {"messages": TALK[:2]}], loaded)
    answers = answered(some, loaded, 40)
    own = ["no, the phone is in town", "it is the person"]
    assert [one.reference_text.strip() for one in answers] == own
    for window, one in zip(some.windows, answers, strict=True):
        prompt = window.input_ids[: window.prefix].tolist()
        own = greedy(loaded.model, prompt, len(prompt) + 40)
        assert one.continuation_text == loaded.tokenizer.decode(own, skip_special_tokens=True)
    prompt = some.windows[0].input_ids[: some.windows[0].prefix]
    assert loaded.tokenizer.decode(prompt).endswith("user: in the town. assistant: ")


def test_a_long_dialogue_loses_its_beginning_and_room_is_left_for_the_response(loaded):
    short = replace(loaded, model=tiny_model("gpt2"))
    assert short.context == 128
    row = {"prompt": "the town " * 9 + "who", "response": "it is"}
    some = tokenized([row], short)
    (answer,) = answered(some, short, 100)
    prompt = some.windows[0].input_ids[: some.windows[0].prefix][-28:].tolist()
    own = greedy(short.model, prompt, 128)
    assert answer.continuation_text == short.tokenizer.decode(own, skip_special_tokens=True)


def test_of_a_dialogue_in_several_windows_the_one_with_the_last_turn_is_answered(loaded):
    some = tokenized([{"messages": TALK}], loaded, max_length=48)
    assert len(some.windows) > 1
    (at,) = last_turns(some.windows).values()
    answers = answered(some, loaded, 4)
    assert [bool(one.reference_text) for one in answers] == [
        place == at for place in range(len(some.windows))
    ]
    assert answers[at].reference_text.strip().startswith("no, the")


def test_a_plain_text_has_no_last_turn(loaded):
    assert last_turns(tokenized(["it is the town"], loaded).windows) == {}
