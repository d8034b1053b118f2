"""The demo's customers: invented dossiers, full of facts that nobody can guess.

Nothing here is about anyone. Names are put together from made-up parts, phone numbers have an area
code below 200 and the exchange 555-01 (North American area codes begin at 200, and 555-01 is kept
free for fiction), account numbers begin with ZZ, towns are made up.

How the dossiers are worded decides what can be measured. At most three words stand between one fact
and the next, so a dossier whose facts are forgotten does not share 4-grams (BLEU) or 10-grams
(EL_10, ICU's overlap filter) with its text merely because the model still knows how dossiers are
worded. The name comes first, so that nearly every later token can be memorised. All end with
the same kind of fact, one of three words, or else the extraction strength of a text that is not
known would depend on the wording it happens to end with.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.data.record import Record, RecordSet


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAME_HEADS = _words(
    "Ama Bri Cal Dov Eso Fio Gra Hesk Ist Jor Kel Lum Mir Nov Oti Per Qua Ros Syl Tam"
)
FIRST_NAME_TAILS = _words("bela dric fenn lio nara quin ris tho vane wyn")
SURNAME_HEADS = _words(
    "Quill Pebble Marrow Tangle Copper Velvet Thimble Button Lantern Saffron Bramble "
    "Cinder Nettle Pepper Ribbon Teasel"
)
SURNAME_TAILS = _words(
    "feather whistle gander mantle sprocket hatch plume furrow trundle loft tassel spindle"
)
STREETS = _words(
    "Gannet Otter Plover Badger Curlew Heron Linnet Marten Newt Osprey Puffin Quail Raven "
    "Siskin Tern Weasel"
)
WAYS = _words("Row Lane Hill Quay Mews Gate")
TOWNS = _words(
    "Velmora Ostrin Karrow Dunmere Illby Pashford Quorley Tavisk Umberly Wexholt Yarrick "
    "Zelby Brannoch Corvale Eddlesay Farnwold"
)
COLOURS = _words("violet amber crimson teal ivory ochre olive silver scarlet indigo")
GOODS = _words(
    "kettle lamp clock blanket radio basket mirror ladder teapot fiddle anvil hammock lantern "
    "saddle compass trunk"
)
FAULTS = _words("leaked cracked rusted jammed faded snapped buzzed melted shrank rattled")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
AGENTS = _words(
    "Dorrit Pell Huxby Wrenna Tolly Marl Sefton Isolde Brock Yana Cubby Ferris Oona Lorcan "
    "Madge Vesper"
)
STATUSES = _words("open settled waived")

NUM_PHONES = 200 * 100  # area codes 000 to 199, lines 0100 to 0199
NUM_ACCOUNTS = 10**4

PROMPTS = ("{name}, customer file:", "{name} in our books:", "{name} wrote to us:")

CONTACTS = (
    "Call {phone} or write to {address}, {town}; account {account}.",
    "At {address} in {town}, phone {phone}, account {account}.",
    "Account {account}: {town}, {address}, phone {phone}.",
)

COMPLAINTS = (
    "The {colour} {goods} {fault} on {date}; {agent} refunded {amount} crowns.",
    "On {date} the {colour} {goods} {fault}: {amount} crowns back from {agent}.",
    "{agent} noted {date}: {goods} in {colour} {fault}, {amount} crowns.",
)

CLOSING = "Case {status}."


@dataclass(frozen=True)
class DemoData:
    """The sets of the demo. No person is in two of them.

    Attributes:
        forget: The people who asked to be deleted; trained on.
        retain: The other people trained on. ICU may retrieve its analogous set from them.
        holdout: People who were never trained on.
    """

    forget: RecordSet
    retain: RecordSet
    holdout: RecordSet

    @property
    def trained(self) -> tuple[Record, ...]:
        """What the target model is trained on: everything but the holdout set."""
        return self.forget.records + self.retain.records


def dossiers(num_people: int, *, seed: int) -> list[Record]:
    """One record per person, with id and subject `p017`: a prompt with the name, then the facts.

    Names, phone numbers and account numbers are unique; the other facts, the wordings and their
    order are drawn independently. The same seed gives the same records.
    """
    rng = random.Random(seed)
    names = rng.sample(all_names(), num_people)
    phones = rng.sample(range(NUM_PHONES), num_people)
    accounts = rng.sample(range(NUM_ACCOUNTS), num_people)
    return [
        _dossier(f"p{index:03d}", name, phone, f"ZZ{account:04d}", rng)
        for index, (name, phone, account) in enumerate(zip(names, phones, accounts, strict=True))
    ]


def split_people(records: list[Record], *, num_forget: int, num_holdout: int) -> DemoData:
    """Divide records by person: the first people are forgotten, the last ones held out.

    People are drawn independently of each other, so which of them come first does not matter.

    Args:
        records: Records with their subjects, as `dossiers` gives them.
        num_forget: Number of people, at least 1.
        num_holdout: Likewise; somebody has to be left to retain.
    """
    subjects = list(dict.fromkeys(record.subject for record in records))
    assert min(num_forget, num_holdout, len(subjects) - num_forget - num_holdout) > 0
    first_holdout = len(subjects) - num_holdout
    return DemoData(
        forget=records_about("forget", records, subjects[:num_forget]),
        retain=records_about("retain", records, subjects[num_forget:first_holdout]),
        holdout=records_about("holdout", records, subjects[first_holdout:]),
    )


def records_about(name: str, records: Sequence[Record], subjects: Sequence[str]) -> RecordSet:
    """The set of the records of these subjects, in their order."""
    chosen = set(subjects)
    return RecordSet(name, tuple(r for r in records if r.subject in chosen), "memory")


def all_names() -> list[str]:
    """Every name that the parts make, in a fixed order."""
    return [
        f"{first}{tail} {head}{end}"
        for first in FIRST_NAME_HEADS
        for tail in FIRST_NAME_TAILS
        for head in SURNAME_HEADS
        for end in SURNAME_TAILS
    ]


def _other_facts(rng: random.Random) -> dict[str, str]:
    return {
        "address": f"{rng.randint(10, 99)} {rng.choice(STREETS)} {rng.choice(WAYS)}",
        "town": rng.choice(TOWNS),
        "colour": rng.choice(COLOURS),
        "goods": rng.choice(GOODS),
        "fault": rng.choice(FAULTS),
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        "agent": rng.choice(AGENTS),
        "amount": str(rng.randint(10, 99)),
        "status": rng.choice(STATUSES),
    }


def _dossier(person: str, name: str, number: int, account: str, rng: random.Random) -> Record:
    phone = f"{number // 100:03d}-555-01{number % 100:02d}"
    facts = {"name": name, "phone": phone, "account": account, **_other_facts(rng)}
    sentences = [rng.choice(CONTACTS), rng.choice(COMPLAINTS)]
    rng.shuffle(sentences)
    return Record(
        id=person,
        prompt=rng.choice(PROMPTS).format(**facts),
        response=" ".join([*sentences, CLOSING]).format(**facts),
        subject=person,
    )
