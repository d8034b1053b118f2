"""Generated records: varied sentences, quickly drawn by seed, and a tokenizer for them.

Four words in five are common English ones, the others names from a long tail of made-up ones, both
with Zipf's frequencies: rare words and new pairs of words keep coming, as they do in real text.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

NUM_FORGET = 100
NUM_COPIES = 10  # of forget records in the pool, word for word, and as many but for the last word
NUM_NAMES = 60_000
LEAST_WORDS, MOST_WORDS = 10, 36  # of a record
NAMES_SHARE = 0.2  # of the words
ZIPF_SHIFT = 8  # the word of rank r is drawn with probability ~ 1 / (r + shift)
AT_ONCE = 50_000  # records drawn at a time
VOCABULARY = 8000  # tokens of the tokenizer

COMMON = """
the of and to a in is was for that on with as by it at from his her he she were are be this had
has have not but or which an they their one been who all when there more about into would after
other some only year also time first new two people over can where many most may than then them
could made these part during between used him such will under while later both well each city
world work school family house life state number name group early known called following since
until day three second against long area home country company water place war book film song music
game team season played career member several town river road line station building church village
century history national international university college student teacher doctor nurse writer
artist singer player actor director president minister king queen mother father son daughter
brother sister friend child woman man born died married moved lived worked studied taught wrote
read said told asked found built opened closed bought sold won lost began ended met left returned
north south east west old young small large great little good best better high low next last same
different important possible public local free full open short late hard easy red blue green white
black morning evening night week month summer winter spring autumn letter phone street garden
kitchen window door table car train bus ship bridge island mountain forest field farm market shop
"""
SYLLABLES = [a + b for a in "bdfghklmnprstvz" for b in "aeiou"]


def names(rng: np.random.Generator) -> list[str]:
    """Made-up words of two to four syllables, some of them with a capital."""
    chosen = rng.integers(len(SYLLABLES), size=(NUM_NAMES, 4))
    counts = rng.integers(2, 5, size=NUM_NAMES)
    words = ["".join(SYLLABLES[s] for s in row[:n]) for row, n in zip(chosen, counts, strict=True)]
    return [word.capitalize() if i % 2 else word for i, word in enumerate(words)]


def texts(count: int, seed: int) -> Iterator[str]:
    """So many records of 10 to 36 words each."""
    common = COMMON.split()
    words = np.array([*common, *names(np.random.default_rng(0))], dtype=object)
    weights = np.concatenate(
        ((1 - NAMES_SHARE) * _zipf(len(common)), NAMES_SHARE * _zipf(NUM_NAMES))
    )
    limits = np.cumsum(weights)
    rng = np.random.default_rng(seed)
    for start in range(0, count, AT_ONCE):
        lengths = rng.integers(LEAST_WORDS, MOST_WORDS + 1, size=min(AT_ONCE, count - start))
        drawn = words[np.searchsorted(limits, rng.random(lengths.sum()) * limits[-1])]
        for text in np.split(drawn, np.cumsum(lengths)[:-1]):
            yield " ".join(text).capitalize() + "."


def _zipf(count: int) -> np.ndarray:
    weights = 1 / (np.arange(count) + ZIPF_SHIFT)
    return weights / weights.sum()


def write_files(folder: Path, size: int) -> None:
    """`forget.jsonl`, and `pool.jsonl` of so many records with copies of forget records in it."""
    forget = list(texts(NUM_FORGET, seed=1))
    copies = {i * size // (2 * NUM_COPIES): text for i, text in enumerate(_copies(forget))}
    _write(folder / "forget.jsonl", forget)
    _write(folder / "pool.jsonl", (copies.get(i, t) for i, t in enumerate(texts(size, seed=2))))


def _copies(forget: list[str]) -> Iterator[str]:
    long = [text for text in forget if text.count(" ") >= 25]
    yield from forget[:NUM_COPIES]
    for text in long[-NUM_COPIES:]:  # n shingles each, n - 1 of them shared
        yield text.rsplit(" ", 1)[0] + " else."


def _write(path: Path, some: Iterator[str] | list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in some)


def train_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 8,000 tokens, trained on 20,000 such records."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts(20_000, seed=3), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
