"""Where a person, or a text, stands in a corpus: exactly, nearly, or in what is like it.

Three searches, each of which also finds what the one before has found:

- exact: the words of the query stand in the text one after another, or the record's subject is the
  query, or an e-mail address, phone or account number of both is the same (`data/spelling.py`).
- near: each word of the query has a word beside the others that differs in one letter, or two where
  it is long (the distance of Damerau and Levenshtein, swaps of neighbours included), in any order;
  a query that is a text is also compared as `data/duplicates.py` does.
- semantic: the record is like the query, or like a record found by now, by the cosine of their
  vectors (`retrieval/neighbours.py`).

What is found is a proposal: names are shared by people. A person confirms the list.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from unlearner.data.duplicates import find_duplicates
from unlearner.data.record import RecordSet
from unlearner.data.spelling import forms, normalised, words
from unlearner.retrieval.neighbours import TF_IDF, make_vectors

EXACT, NEAR, SEMANTIC = "exact", "near", "semantic"
KINDS = (EXACT, NEAR, SEMANTIC)

LONG_WORD, SHORT_WORD = 8, 4  # letters from which two may differ, and below which none may
BETWEEN = 1  # other words that may stand among those of a name, as an initial does
MANY_WORDS = 8  # from which a query is a text, and no name

# Cosines from which a record counts as like another. By TF-IDF 0.35 found up to one more in a
# hundred of a person's records, and half of what it found was right where two thirds are here
# (`benchmarks/results/find-people.md`).
SIMILAR = {"tf-idf": 0.4}
SIMILAR_BY_ENCODER = 0.6


@dataclass(frozen=True)
class Match:
    """A record that was found.

    Attributes:
        place: Its index in the corpus.
        kind: The strictest search that finds it.
        score: 1 for exact and near, else the cosine.
    """

    place: int
    kind: str
    score: float


def find(
    queries: Sequence[str],
    corpus: RecordSet,
    *,
    kinds: Sequence[str] = KINDS,
    encoder: str = TF_IDF,
    similar: float | None = None,
) -> list[Match]:
    """The records of a corpus that any of the queries may be about, in the order of the corpus.

    Args:
        queries: Names, addresses, numbers or texts.
        kinds: The searches to make.
        encoder: See `retrieval.neighbours.make_vectors`.
        similar: The least cosine; None for one that suits the encoder.

    Raises:
        UserError: The encoder cannot be loaded.
    """
    texts = [normalised(record.content) for record in corpus]
    found: dict[int, Match] = {}
    if EXACT in kinds:
        subjects = [normalised(record.subject) for record in corpus]
        for place in _exact(queries, texts, subjects):
            found.setdefault(place, Match(place, EXACT, 1.0))
    if NEAR in kinds:
        for place in _find_near(queries, texts):
            found.setdefault(place, Match(place, NEAR, 1.0))
    if SEMANTIC in kinds:
        seeds = [*queries, *(corpus.records[place].content for place in found)]
        for place, cosine in _like(seeds, texts, encoder, similar).items():
            found.setdefault(place, Match(place, SEMANTIC, cosine))
    return [found[place] for place in sorted(found)]


def _exact(queries: Sequence[str], texts: Sequence[str], subjects: Sequence[str]) -> Iterator[int]:
    wanted = [normalised(query) for query in queries]
    phrases = [f" {' '.join(words(query))} " for query in wanted if words(query)]
    numbers = frozenset[str]().union(*map(forms, wanted))
    for place, (text, subject) in enumerate(zip(texts, subjects, strict=True)):
        spaced = f" {' '.join(words(text))} "
        said = any(phrase in spaced for phrase in phrases)
        if said or (subject and subject in wanted) or (numbers and numbers & forms(text)):
            yield place


def _find_near(queries: Sequence[str], texts: Sequence[str]) -> Iterator[int]:
    wanted = [normalised(query) for query in queries]
    long = [query for query in wanted if len(words(query)) >= MANY_WORDS]
    yield from dict.fromkeys(copy.other for copy in find_duplicates(long, texts) if long)
    names = [words(query) for query in wanted if 0 < len(words(query)) < MANY_WORDS]
    if not names:
        return
    split = [words(text) for text in texts]
    holders: dict[str, set[int]] = defaultdict(set)
    for place, some in enumerate(split):
        for word in some:
            holders[word].add(place)
    for name in names:
        alike = [_spelled_alike(word, holders) for word in name]
        places = set.intersection(*(set().union(*(holders[w] for w in some)) for some in alike))
        yield from (place for place in places if _together(alike, split[place]))


def _spelled_alike(word: str, known: Mapping[str, object]) -> set[str]:
    """The words of a vocabulary that may be this one, misspelt."""
    allowed = 0 if len(word) < SHORT_WORD else 1 if len(word) < LONG_WORD else 2
    return {
        other
        for other in known
        if other == word
        or (
            allowed
            and abs(len(other) - len(word)) <= allowed
            and letters_apart(word, other, allowed) <= allowed
        )
    }


def _together(alike: Sequence[set[str]], text: Sequence[str]) -> bool:
    """Whether each of the words stands in one window of the text, little wider than they are."""
    size = len(alike) + BETWEEN
    for start in range(max(1, len(text) - len(alike) + 1)):
        window = text[start : start + size]
        if all(any(word in some for word in window) for some in alike):
            return True
    return False


def letters_apart(a: str, b: str, most: int) -> int:
    """How many letters to put in, leave out, replace or swap with the next; `most` + 1 for more.

    The restricted distance of Damerau and Levenshtein: no letter is touched twice.
    """
    before, last, row = [], [], [*range(len(b) + 1)]
    for i, letter in enumerate(a, start=1):
        before, last, row = last, row, [i]
        for j, other in enumerate(b, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)


def _like(
    seeds: Sequence[str], texts: Sequence[str], encoder: str, similar: float | None
) -> dict[int, float]:
    """The highest cosine of each text with any seed, where it is high enough."""
    plain = [normalised(seed) for seed in seeds]
    if not any(map(words, plain)) or not any(map(words, texts)):
        return {}
    vectors = make_vectors(plain, texts, encoder)
    least = SIMILAR.get(vectors.encoder, SIMILAR_BY_ENCODER) if similar is None else similar
    highest = vectors.cosines(range(len(plain))).max(axis=0)
    return {place: float(cosine) for place, cosine in enumerate(highest) if cosine >= least}
