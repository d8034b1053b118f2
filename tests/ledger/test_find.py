"""A person in a corpus: exactly, misspelt, in what is like it."""

import pytest
from ledger_world import ledger_in

from unlearner.data.record import Record, RecordSet
from unlearner.requests.find import EXACT, NEAR, SEMANTIC, find, letters_apart

PEOPLE = [
    "Mara Quill lives at 12 Heron Row in Brannoch.",
    "The order of MARA  QUILL came back.",
    "Quill, Mara J.: phone (020) 7946-0123.",
    "mrs Marra Quil asked for her money.",
    "Mail to mara.quill+shop@post.example bounced.",
    "Tom Quill lives at 3 Otter Lane in Corvale.",
    "A lamp of amber glass stood in the hall.",
    "Ma\u200bra Qui\u00adll again.",
]


def corpus(texts, subjects=()):
    return RecordSet(
        "corpus",
        tuple(
            Record(str(i), text=text, subject=subjects[i] if subjects else "")
            for i, text in enumerate(texts)
        ),
        "memory",
    )


def places(found, kind):
    return [one.place for one in found if one.kind == kind]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("quill", "quill", 0),
        ("quill", "quil", 1),
        ("quill", "qulil", 1),
        ("quill", "quail", 2),
        ("quill", "quilted", 3),
        ("mara", "marta", 1),
        ("ab", "ba", 1),
        ("", "ab", 2),
    ],
)
def test_the_distance_by_hand(a, b, expected):
    """Letters put in, left out, replaced, or swapped with their neighbour."""
    assert letters_apart(a, b, 5) == letters_apart(b, a, 5) == expected
    assert letters_apart(a, b, 1) == min(expected, 2)


def test_a_name_is_found_in_its_spellings():
    """Exact: case, spaces, unseen letters. Near: order, an initial between, a letter more."""
    found = find(["Mara Quill"], corpus(PEOPLE), kinds=(EXACT, NEAR))
    # "mara.quill+shop" is read as its words, which stand one after another as well.
    assert places(found, EXACT) == [0, 1, 4, 7]
    assert places(found, NEAR) == [2, 3]


def test_addresses_and_numbers_are_found_in_their_forms():
    some = corpus(PEOPLE)
    assert places(find(["+44 20 79460123"], some, kinds=[EXACT]), EXACT) == [2]
    assert places(find(["MARA.QUILL@POST.EXAMPLE"], some, kinds=[EXACT]), EXACT) == [4]


def test_a_subject_is_found_by_its_name():
    some = corpus(PEOPLE[5:7], ["p1", "Mara  QUILL"])
    assert places(find(["mara quill"], some, kinds=[EXACT]), EXACT) == [1]


def test_a_text_is_found_with_a_word_changed():
    text = "Tom Quill lives at 3 Otter Lane in Corvale and has a lamp, a cat and two green chairs"
    some = corpus(
        [
            text.replace("lamp", "kettle") + " of wood, he says, as his father had them all",
            PEOPLE[0],
        ]
    )
    query = text + " of wood, he says, as his father had them all"
    assert places(find([query], some, kinds=[NEAR]), NEAR) == [0]


def test_what_is_like_a_found_record_is_found():
    texts = ["mara quill owes 12 crowns for the amber lamp", "the amber lamp of 12 crowns", "rain"]
    found = find(["Mara Quill"], corpus(texts))
    assert [(one.place, one.kind) for one in found] == [(0, EXACT), (1, SEMANTIC)]
    assert find(["Mara Quill"], corpus(texts), similar=0.99)[-1].place == 0


def test_nothing_is_found_where_nothing_is():
    assert find(["Zoe Berg"], corpus(PEOPLE), kinds=(EXACT, NEAR)) == []
    assert find(["..."], corpus(PEOPLE)) == []
    assert find(["Mara Quill"], corpus(["..."])) == []


HOSTILE = {
    "html": "<script>alert('Mara Quill')</script><img src=x onerror=alert(1)>",
    "a line of a megabyte": "Mara Quill " + "x" * 1_000_000,
    "right to left": "\u202eMara Quill\u202c",
    "zero width": "M\u200ba\u200cr\u200da Qu\u2060ill\ufeff",
    "NUL": "Ma\x00ra Qu\x00ill",
    "a terminal's escape": "\x1b[31mMara Quill\x1b[0m",
    "SQL": "Mara Quill'); DROP TABLE entries; --",
    "a path": "../../etc/Mara Quill",
    "a template": "{{ 7 * 7 }} {% for x in y %} Mara Quill",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_found_and_kept_as_a_digest_and_shown_inert(name, tmp_path):
    """NUL and what a terminal reads as a colour count as unseen."""
    text = HOSTILE[name]
    ledger = ledger_in(tmp_path)
    _, found = ledger.find(["Mara Quill"], [text, "another text"], kinds=[EXACT])
    assert [one.place for one in found] == [0]
    ledger.add([{"text": text, "subject": text[:200]}], id="r", reason="as asked")
    assert ledger.book.requests["r"].records == 1
    held = b"".join(path.read_bytes() for path in tmp_path.glob("requests.db*") if path.is_file())
    assert b"Mara" not in held
    assert b"script" not in held
    page = ledger.report("r")
    assert "Mara" not in page
    assert ledger.verify(measure=False).holds
    assert ledger.files.read("r").records[0].text == text


def test_the_words_of_a_person_are_shown_inert(tmp_path):
    """A reason and an article are the only words of people's own."""
    ledger = ledger_in(tmp_path)
    ledger.add(["x"], id="r", reason="<b onclick=x>&amp;</b> {{ 1 }}", article="<i>")
    page = ledger.report("r")
    assert "&lt;b onclick=x&gt;&amp;amp;&lt;/b&gt; {{ 1 }}" in page
    assert "<i>" not in page
