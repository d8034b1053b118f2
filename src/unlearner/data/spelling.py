"""Spellings of the same text, name, e-mail address, phone or account number, made one.

Texts are compared in Unicode's compatibility form (NFKC), without case, accents and characters that
are not seen: zero-width spaces, marks of direction, NUL. Numbers are compared without what people
put between their digits.
"""

import re
import unicodedata

# Of a number's last digits, which country codes and leading zeros stand before.
PHONE_DIGITS = 8
LEAST_PHONE = 7

EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
AT, DOT = re.compile(r"\s*[\[({]\s*at\s*[\])}]\s*"), re.compile(r"\s*[\[({]\s*dot\s*[\])}]\s*")
PHONE = re.compile(r"(?<!\w)[+(]?\d(?:[ ().\-/]{0,3}\d){6,}(?!\w)")
ACCOUNT = re.compile(r"(?<!\w)[a-z]{1,4}[ \-]?\d(?:[ \-]?[0-9a-z]{0,3}\d)*(?!\w)")
LEAST_ACCOUNT = 5
# Two letters, a space and a number are no account number where the letters are one of these words,
# or the number is a year.
SPACED = re.compile(r"([a-z]+) (\d+)")
SHORT_WORDS = "a am an as at by im in is no of on or so to um up us vs we"
YEAR = re.compile(r"(19|20)\d\d")

TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what colours the text behind it

WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """The text without case, accents, unseen characters and runs of white space."""
    seen = "".join(map(_visible, unicodedata.normalize("NFKC", TERMINAL.sub("", text))))
    plain = unicodedata.normalize("NFKD", seen.casefold())
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFKC", bare).split())


def _visible(character: str) -> str:
    """White space as a space, and nothing for what has no width of its own."""
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def words(text: str) -> list[str]:
    """The words of a normalised text, in their order."""
    return WORD.findall(text)


def forms(text: str) -> frozenset[str]:
    """E-mail addresses, phone and account numbers of a normalised text, in one spelling each.

    An address loses what follows a plus sign, a phone number all but its last eight digits, an
    account number what stands between its letters and digits.
    """
    plain = DOT.sub(".", AT.sub("@", text))
    found = set()
    for address in EMAIL.findall(plain):
        name, _, host = address.partition("@")
        found.add(f"email:{name.partition('+')[0]}@{host}")
    for number in PHONE.findall(plain):
        digits = re.sub(r"\D", "", number.replace("(0)", "")).lstrip("0")
        if len(digits) >= LEAST_PHONE:
            found.add(f"phone:{digits[-PHONE_DIGITS:]}")
    for account in ACCOUNT.findall(plain):
        code = re.sub(r"[ \-]", "", account)
        if len(code) >= LEAST_ACCOUNT and not _is_prose(account):
            found.add(f"account:{code}")
    return frozenset(found)


def _is_prose(account: str) -> bool:
    """Whether it is a word before a number, as in "of 250" or "may 2024"."""
    spaced = SPACED.match(account)
    if spaced is None:
        return False
    word, number = spaced.groups()
    return len(word) > 2 or word in SHORT_WORDS.split() or bool(YEAR.fullmatch(number))
