"""Text to token windows: nothing is lost, nothing is predicted twice, the right labels count."""

from typing import ClassVar

import numpy as np
import pytest

from conftest import tiny_tokenizer
from unlearner.data import tokens
from unlearner.data.chat import ChatTemplate
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import (
    CONTINUATION_TOKENS,
    Layout,
    contents,
    spans,
    tail_text,
    text_ids,
    tokenize_set,
)
from unlearner.errors import UserError

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenized(*records, layout=None, tokenizer=None):
    some = RecordSet("forget", tuple(records), "memory")
    return tokenize_set(some, tokenizer or tiny_tokenizer(), layout or Layout())


def ids(*numbers, name="a"):
    return Record(name, input_ids=numbers)


def pieces(some):
    return [window.input_ids.tolist() for window in some.windows]


def scored_tokens(window):
    """The window's tokens that are labels that count."""
    return window.input_ids[1:][window.scored].tolist()


def render_chat(prompt, response, tokenizer):
    return ChatTemplate(tokenizer).render(Record("a", prompt=prompt, response=response))


class Slow:
    """A tokenizer without offsets; each word, and a space that nothing follows, is a token."""

    is_fast, bos_token_id, eos_token_id, chat_template = False, None, 1, None
    added_tokens_decoder: ClassVar = {}

    def __init__(self, ends=()):
        self.ends = list(ends)

    def __call__(self, text, add_special_tokens=True):
        words = text.split(" ")
        numbers = [2 + sum(map(ord, word)) if word else 0 for word in words]
        return {"input_ids": numbers + (self.ends if add_special_tokens else [])}


# Windows


def test_windows_overlap_by_one_token():
    """Seven tokens in windows of four: 1234, 4567; the 4 is the prompt of the second."""
    some = tokenized(ids(*range(1, 8)), layout=Layout(max_length=4))
    assert pieces(some) == [[1, 2, 3, 4], [4, 5, 6, 7]]


@pytest.mark.parametrize("max_length", [2, 3, 4, 7, 50])
@pytest.mark.parametrize("length", [2, 3, 4, 7, 8, 13])
def test_every_token_but_the_first_is_a_label_exactly_once(max_length, length):
    some = tokenized(ids(*range(length)), layout=Layout(max_length=max_length))
    labels = [token for window in some.windows for token in scored_tokens(window)]
    assert labels == list(range(1, length))
    assert all(2 <= len(window) <= max_length for window in some.windows)
    assert some.sequences() == [list(range(length))]
    assert some.num_tokens == length  # the shared ones count once


def test_no_window_holds_a_prompt_alone():
    """Five tokens in windows of three: 123 and 345; a third window 5 would predict nothing."""
    assert pieces(tokenized(ids(1, 2, 3, 4, 5), layout=Layout(max_length=3))) == [
        [1, 2, 3],
        [3, 4, 5],
    ]


def test_windows_know_their_record_by_index_and_id():
    some = tokenized(ids(1, 2, 3, name="x"), ids(4, 5, name="y"), layout=Layout(max_length=2))
    assert [(w.record, w.id) for w in some.windows] == [(0, "x"), (0, "x"), (1, "y")]


def test_token_ids_are_used_as_they_are():
    """No beginning or end of text is added, and nothing is decoded and encoded again."""
    some = tokenized(ids(7, 0, 1, 1, 9))
    assert pieces(some) == [[7, 0, 1, 1, 9]]
    assert some.windows[0].input_ids.dtype == np.int64


def test_end_of_text_is_appended_and_learned_but_is_no_part_of_the_text():
    (window,) = tokenized(ids(7, 8), layout=Layout(append_eos=True)).windows
    assert window.input_ids.tolist() == [7, 8, 1]
    assert (scored_tokens(window), window.end, window.stop) == ([8], 2, 2)
    assert scored_tokens(window.with_end()) == [8, 1]


def test_only_the_window_that_holds_the_end_learns_it():
    """Five tokens and the end in windows of three: 123, 345, 5e."""
    some = tokenized(ids(1, 2, 3, 4, 5), layout=Layout(append_eos=True, max_length=3)).windows
    assert [window.end for window in some] == [0, 0, 1]
    assert [scored_tokens(window.with_end()) for window in some] == [[2, 3], [4, 5], [1]]


def test_without_an_end_of_text_token_none_can_be_appended():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"data\.append_eos: the tokenizer has no end"):
        tokenized(ids(7, 8), layout=Layout(append_eos=True), tokenizer=tokenizer)


def test_a_record_of_one_token_is_refused_by_its_id():
    with pytest.raises(UserError, match="record 'b': 1 token; at least 2"):
        tokenized(ids(1, 2), ids(3, name="b"))


# What counts: the scope


def response_text(record, layout, tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer()
    (window,) = tokenized(record, layout=layout, tokenizer=tokenizer).windows
    return tokenizer.decode(scored_tokens(window))


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{prompt} {response}", " bob"),  # a byte-level token holds the space before its word
        ("Q: {prompt}\nA: {response}\n.", " bob"),
        ("{prompt}{response}", "bob"),
    ],
)
def test_response_scope_counts_the_response_alone(template, wanted):
    record = Record("a", prompt="who is it?", response="bob")
    layout = Layout(template=template, scope="response")
    assert response_text(record, layout).strip() == wanted.strip()


def test_sequence_scope_counts_the_prompt_too():
    record = Record("a", prompt="who?", response="bob")
    layout = Layout(template="{prompt}{response}", scope="sequence")
    (window,) = tokenized(record, layout=layout).windows
    assert window.scored.all()
    assert window.first_counts


def test_no_scope_counts_a_template():
    """[user]who?</s>[assistant]bob</s>: in tokens of one character what is left is `who?` `bob`."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    record, found = Record("a", prompt="who?", response="bob"), {}
    for scope in ("sequence", "response"):
        layout = Layout(chat=True, scope=scope)
        (window,) = tokenized(record, layout=layout, tokenizer=tokenizer).windows
        counted = spans(window.scored, first_counts=window.first_counts)
        found[scope] = [tokenizer.decode(window.input_ids[a:b]) for a, b in counted]
    assert found == {"sequence": ["who?", "bob"], "response": ["bob"]}


def test_spans_are_the_runs_of_tokens_that_count():
    """Token 0 is no label: it counts with token 1 or not at all."""
    scored = np.array([True, False, True, True, False])
    assert spans(scored, first_counts=True) == [(0, 2), (3, 5)]
    assert spans(scored, first_counts=False) == [(1, 2), (3, 5)]
    assert spans(np.array([False, True]), first_counts=True) == [(2, 3)]
    assert spans(np.array([False, False]), first_counts=True) == []


def test_a_record_without_a_prompt_is_all_response():
    some = tokenized(
        Record("a", text="who is it"), ids(3, 4, 5, name="b"), layout=Layout(scope="response")
    )
    assert all(window.scored.all() for window in some.windows)


HOSTILE = ["{prompt}", "{response}", "{prompt} {response}", "{0} {} {{}}", "%s {prompt.__class__}"]


@pytest.mark.parametrize("prompt", HOSTILE)
@pytest.mark.parametrize("response", HOSTILE)
def test_braces_in_a_record_are_text(prompt, response):
    """The template "Q{prompt}A{response}." has its own braces filled once, and no others."""
    layout = Layout(template="Q{prompt}A{response}.")
    joined = layout.join(prompt, response)
    assert joined.text == "Q" + prompt + "A" + response + "."
    cut = [joined.text[a:b] for a, b in (*joined.prompts, *joined.responses)]
    assert cut == [prompt, response]


@pytest.mark.parametrize("prompt", [*HOSTILE, "b", "bb b", "[user]", "</s>"])
@pytest.mark.parametrize("response", [*HOSTILE, "b", "[assistant]b", "b</s>[user]b"])
def test_a_chat_finds_its_turns_whatever_they_say(prompt, response):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT.replace("{{ m.content }}", "{{ m.content | trim }}")
    chat = render_chat(f" {prompt}", f"{response} ", tokenizer)
    assert chat.text == f"[user]{prompt}</s>[assistant]{response}</s>"
    cut = [chat.text[a:b] for a, b in (*chat.prompts, *chat.responses)]
    assert cut == [prompt, response]


def test_a_system_prompt_of_the_template_is_part_of_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "who? bob" + CHAT
    chat = render_chat("who?", "bob", tokenizer)
    assert chat.prompts == ((14, 18),)  # behind "who? bob[user]"
    assert chat.responses == ((33, 36),)  # and "who?</s>[assistant]"


def test_a_template_that_drops_the_answer_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "[user]{{ messages[0].content }}[assistant]"
    record = Record("a", prompt="who?", response="bob")
    with pytest.raises(UserError, match="record 'a': nothing of its response is left"):
        tokenized(record, layout=Layout(chat=True), tokenizer=tokenizer)


def test_a_response_repeated_in_the_prompt_is_found_by_place_not_by_text():
    """b b b | b: the first three are the prompt's."""
    record = Record("a", prompt="b b b", response="b")
    (window,) = tokenized(record, layout=Layout(scope="response")).windows
    assert window.scored.tolist() == [False] * (len(window) - 2) + [True]


def test_windows_inside_a_long_prompt_have_no_label_that_counts():
    record = Record("a", prompt="abcdefghijklmnopqr", response="x")
    some = tokenized(record, layout=Layout(scope="response", max_length=4))
    counts = [int(window.scored.sum()) for window in some.windows]
    assert len(counts) > 3
    assert counts[0] == 0
    assert sum(counts) == counts[-1] == 1


@pytest.mark.parametrize("ends", [[], [1]])
def test_without_offsets_the_response_begins_where_the_tokens_of_the_prompt_end(ends):
    """Prompt "a b " ends in a token for the space that "a b c" does not have; nor its end mark.

    Tokens a b c [end]: the prompt's own are a b, so c counts, and the end mark behind it does not.
    """
    record = Record("a", prompt="a b", response="c")
    (window,) = tokenized(record, layout=Layout(scope="response"), tokenizer=Slow(ends)).windows
    assert window.scored.tolist() == [False, True] + [False] * len(ends)


# Chat


def test_the_chat_template_writes_the_text_and_its_own_special_tokens():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    record = Record("a", prompt="who?", response="bob")
    layout = Layout(chat=True, scope="response")
    (window,) = tokenized(record, layout=layout, tokenizer=tokenizer).windows
    plain = tokenizer("[user]who?</s>[assistant]bob</s>", add_special_tokens=False)["input_ids"]
    assert window.input_ids.tolist() == plain
    assert tokenizer.decode(scored_tokens(window)) == "bob"
    assert tokenizer.decode(scored_tokens(window.with_end())) == "bob</s>"


def test_words_that_only_ask_for_an_answer_cost_the_response_no_label():
    """Some templates ask with "[assistant]<think>" and write a given answer without it."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT.replace("%}[assistant]{%", "%}[assistant]think{%")
    record = Record("a", prompt="who?", response="bobby")
    layout = Layout(chat=True, scope="response")
    assert response_text(record, layout, tokenizer) == "bobby"


def test_chat_needs_a_template_of_the_tokenizer():
    record = Record("a", prompt="who?", response="bob")
    with pytest.raises(UserError, match="the tokenizer has no chat template; use data"):
        tokenized(record, layout=Layout(chat=True))


# Where the compared continuation begins


@pytest.mark.parametrize(
    ("length", "prefix"), [(200, 150), (100, 50), (99, 50), (10, 5), (3, 2), (2, 1)]
)
def test_a_text_is_continued_from_its_last_50_tokens_or_its_middle(length, prefix):
    """T - min(50, T // 2): 200 - 50, 99 - 49, 10 - 5, 3 - 1."""
    (window,) = tokenized(ids(*range(length))).windows
    assert CONTINUATION_TOKENS == 50
    assert window.prefix == prefix


def test_a_prompt_is_continued_where_its_response_begins():
    record = Record("a", prompt="who?", response="bobby")
    tokenizer = tiny_tokenizer()
    (window,) = tokenized(record, tokenizer=tokenizer).windows
    assert tokenizer.decode(window.input_ids[window.prefix :]).strip() == "bobby"


def test_every_window_is_continued_from_inside():
    """Also those that hold none of the prompt, or nothing but the prompt."""
    record = Record("a", prompt="abcdefgh", response="ijklmnopqrst")
    for max_length in (2, 3, 5, 9):
        for window in tokenized(record, layout=Layout(max_length=max_length)).windows:
            assert 1 <= window.prefix < len(window)


# Sets


def test_a_subset_is_numbered_anew_in_the_order_given():
    some = tokenized(
        ids(1, 2, 3, name="x"),
        ids(4, 5, name="y"),
        ids(6, 7, 8, name="z"),
        layout=Layout(max_length=2),
    )
    part = some.subset([2, 0])
    assert [record.id for record in part.records] == ["z", "x"]
    assert [(w.record, w.id) for w in part.windows] == [(0, "z"), (0, "z"), (1, "x"), (1, "x")]
    assert part.sequences() == [[6, 7, 8], [1, 2, 3]]
    assert some.sequences() == [[1, 2, 3], [4, 5], [6, 7, 8]]


def test_text_ids_leave_out_what_a_template_adds():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    asked = Record("q", prompt="who?", response="bob")
    some = tokenized(asked, ids(4, 5), layout=Layout(chat=True), tokenizer=tokenizer)
    assert [tokenizer.decode(text) for text in text_ids(some, tokenizer)[:1]] == ["who? bob"]
    assert text_ids(some, tokenizer)[1] is some.windows[1].input_ids


def test_arrays_are_the_tokens_of_the_records_and_copy_no_single_window():
    some = tokenized(ids(1, 2, 3), ids(4, 5, name="b"), layout=Layout(max_length=2))
    assert [tokens.tolist() for tokens in some.arrays()] == some.sequences() == [[1, 2, 3], [4, 5]]
    assert some.arrays()[1] is some.windows[2].input_ids


def test_contents_are_the_texts_and_those_of_token_ids_decoded():
    tokenizer = tiny_tokenizer()
    numbers = tokenizer("abcdefgh", add_special_tokens=False)["input_ids"]
    asked = Record("q", prompt="who?", response="bob")
    some = tokenized(
        Record("a", text="Of  Old"), ids(*numbers, name="b"), asked, layout=Layout(max_length=4)
    )
    assert contents(some, tokenizer) == ["Of  Old", "abcdefgh", "who? bob"]
    assert contents(some.subset([0, 2]), tokenizer) == ["Of  Old", "who? bob"]


@pytest.mark.parametrize("append_eos", [False, True])
def test_texts_tokenized_together_have_the_tokens_that_each_has_alone(monkeypatch, append_eos):
    """Two at a time, of other lengths: no padding; the third batch has a prompt and token ids."""
    monkeypatch.setattr(tokens, "AT_ONCE", 2)
    tokenizer = tiny_tokenizer()
    words = ["the phone", "of a person in the town", "ab", "number is 12", "in", "what?"]
    given = [Record(str(i), text=word) for i, word in enumerate(words)]
    given[4:4] = [Record("q", prompt="who?", response="bob"), ids(5, 6, name="n")]
    end = [tokenizer.eos_token_id] if append_eos else []
    alone = {record.id: tokenizer(record.text)["input_ids"] for record in given if record.text}
    alone |= {"q": tokenizer("who? bob")["input_ids"], "n": [5, 6]}
    found = tokenized(*given, layout=Layout(append_eos=append_eos), tokenizer=tokenizer)
    assert found.sequences() == [[*alone[record.id], *end] for record in given]


def test_windows_of_some_records_come_in_the_order_of_the_set():
    some = tokenized(ids(1, 2, 3), ids(4, 5, name="b"), layout=Layout(max_length=2))
    found = some.windows_of([1, 0])
    assert [window.input_ids.tolist() for window in found] == [[1, 2], [2, 3], [4, 5]]
    assert some.windows_of([]) == []


def test_the_tail_is_the_text_of_the_last_tokens():
    tokenizer = tiny_tokenizer()
    tokens = tokenizer("abcdefgh", add_special_tokens=False)["input_ids"]
    assert tail_text([*tokens, 1], tokenizer, num_tokens=4) == "fgh"  # </s> is one of the four
