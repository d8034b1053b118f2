"""One text, name, address or number in several spellings."""

import pytest

from unlearner.data.spelling import forms, normalised, words


@pytest.mark.parametrize(
    "text",
    [
        "José  Nuñez",
        "JOSÉ NUÑEZ",
        "Jose\u0301 Nun\u0303ez",
        "Jo\u200bse\u0301\u00a0Nu\u00f1ez\u200f",
        "\u202eJosé\nNuñez\u202c",
        "Jos\x00é\tNuñez",
        "\uff2a\uff4f\uff53\u00e9 Nuñez",
    ],
)
def test_spellings_of_a_name_are_one(text):
    """Case, composed and combining accents, zero-width, direction, NUL, full-width letters."""
    assert normalised(text) == "jose nunez"


def test_other_names_stay_others():
    assert normalised("Mara Quill") != normalised("Marta Quill")
    assert words(normalised("O'Neil, Mara-Lou")) == ["o", "neil", "mara", "lou"]


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (
            [
                "mara.quill@post.example",
                "Mara.Quill+shop@POST.example",
                "mara.quill [at] post (dot) example",
            ],
            "email:mara.quill@post.example",
        ),
        (
            ["+44 20 7946 0123", "(020) 7946-0123", "0044 (0)20 79460123", "020.7946.0123"],
            "phone:79460123",
        ),
        (["ZZ0421", "zz 0421", "ZZ-04-21"], "account:zz0421"),
        (
            ["DE89 3704 0044 0532 0130 00", "de89370400440532013000"],
            "account:de89370400440532013000",
        ),
    ],
)
def test_spellings_of_a_number_or_an_address_are_one(texts, form):
    """A phone number's last eight digits count: 2079460123 and 442079460123 end in 79460123."""
    for text in texts:
        assert form in forms(normalised(f"write to {text}, please")), text


def test_short_numbers_are_no_phone_numbers():
    assert forms(normalised("in 2024 she paid 12.50 for 3 lamps")) == frozenset()
