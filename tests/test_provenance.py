"""Digests that tell everything apart and tell nothing away."""

import itertools
import os
import stat

import pytest
import torch

from conftest import tiny_model
from unlearner import provenance
from unlearner.data.record import Record, digest_records
from unlearner.errors import UserError
from unlearner.provenance import digest_model, read_key

KEY = b"k" * 64


def digest(*records, key=KEY):
    return digest_records(records, key)


# Records


def test_a_digest_depends_on_the_key():
    """Without the key nobody can try likely texts."""
    record = Record("1", text="her number is 4711")
    assert digest(record) == digest(record)
    assert digest(record) != digest(record, key=b"l" * 64)


def test_every_field_the_borders_of_fields_and_records_and_their_order_count():
    one, two = Record("1", text="ab"), Record("2", text="c")
    different = [
        (),
        (one,),
        (one, one),
        (one, two),
        (two, one),
        (Record("1a", text="b"),),
        (Record("1", text="ab", subject="s"),),
        (Record("1", prompt="a", response="bc"),),
        (Record("1", prompt="ab", response="c"),),
        (Record("1", prompt="abc"),),
        (Record("1", response="abc"),),
        (Record("1", text="1,2"),),
        (Record("1", input_ids=(1, 2)),),
        (Record("1", input_ids=(12,)),),
        (Record("1", input_ids=(2, 1)),),
    ]
    digests = [digest(*records) for records in different]
    for first, second in itertools.combinations(digests, 2):
        assert first != second


def test_a_digest_names_its_kind_and_holds_no_text():
    found = digest(Record("1", text="4711"))
    kind, _, value = found.partition(":")
    assert kind == "hmac-sha256"
    assert len(value) == 64
    assert not set(value) - set("0123456789abcdef")


def test_any_text_that_python_can_hold_has_a_digest():
    """Half a surrogate pair cannot be encoded strictly; it differs from its replacement too."""
    assert digest(Record("1", text="\ud83d")) != digest(Record("1", text="?"))


# The key


@pytest.fixture
def key_file(tmp_path, monkeypatch):
    path = tmp_path / "made" / "key"
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(path))
    return path


def test_the_key_is_made_once_for_its_owner_only_and_used_again(key_file):
    old = os.umask(0)
    try:
        key = read_key()
    finally:
        os.umask(old)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert len(key) == 64  # 32 random bytes in hex
    assert read_key() == key == key_file.read_bytes().strip()


def test_two_machines_have_different_keys(key_file):
    first = read_key()
    key_file.unlink()
    assert read_key() != first


def test_a_run_that_starts_while_another_makes_the_key_uses_that_key(key_file, monkeypatch):
    real = provenance.write_whole

    def late(*given, **options):
        real(*given, **options)  # the other run's, between our look and our making
        first.append(key_file.read_bytes())
        real(given[0], "another " * 9, **options)

    first = []
    monkeypatch.setattr(provenance, "write_whole", late)
    assert read_key() == key_file.read_bytes().strip() == first[0].strip()
    assert [path.name for path in key_file.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 31 + b"\n\n\n"])
def test_a_short_key_is_refused(key_file, content):
    key_file.parent.mkdir()
    key_file.write_bytes(content)
    with pytest.raises(UserError, match=r"key: a key has at least 32 characters; remove the file"):
        read_key()


@pytest.mark.parametrize("broken", ["folder", "not-ascii", "below-a-file"])
def test_a_key_that_cannot_be_read_or_made_is_refused(key_file, broken):
    if broken == "below-a-file":
        key_file.parent.write_text("")
    elif broken == "folder":
        key_file.mkdir(parents=True)
    else:
        key_file.parent.mkdir()
        key_file.write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="set UNLEARNER_KEY_FILE to a file that can"):
        read_key()


def test_the_key_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.delenv("UNLEARNER_KEY_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert provenance.key_path() == tmp_path / "unlearner" / "key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert provenance.key_path() == tmp_path / "home" / ".config" / "unlearner" / "key"


# Models


def test_one_weight_changes_a_models_digest():
    model = tiny_model("gpt_neo")
    before = digest_model(model)
    assert before == digest_model(tiny_model("gpt_neo"))
    weight = next(model.parameters())
    with torch.no_grad():
        weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(9.0))
    assert digest_model(model) != before


class Holder(torch.nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_held_in_sixteen_bits_have_the_digest_of_the_same_in_float32(dtype):
    one = torch.tensor([[1.0, -0.3]]).to(dtype)
    digests = [digest_model(Holder(a=some)) for some in (one, one.float(), one.double())]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.int8, torch.bool])
def test_weights_of_any_type_have_a_digest_of_name_shape_type_and_bytes(dtype):
    def digests(**tensors):
        return digest_model(Holder(**tensors))

    ones = torch.ones(2, 3, dtype=dtype)
    other = ones.clone()
    other[1, 2] = 0
    found = {
        digests(a=ones),
        digests(b=ones),
        digests(a=other),
        digests(a=ones.T.contiguous()),
        digests(a=ones, b=ones),
        digests(a=ones.float()),
    }
    assert len(found) == 6
    assert digests(a=ones.T) == digests(a=ones.T.contiguous())  # how it lies in memory is no matter


def test_empty_and_single_weights_have_a_digest():
    assert digest_model(Holder(a=torch.empty(0, 3))) != digest_model(Holder(a=torch.empty(3, 0)))
    assert digest_model(Holder(a=torch.tensor(1.0))) != digest_model(Holder(a=torch.tensor(2.0)))


# The rest


def test_the_environment_names_versions_hardware_and_seed():
    found = provenance.environment(torch.device("cpu"), 7)
    assert found["seed"] == 7
    assert found["processes"] == 1
    assert found["hardware"]["device"] == "cpu"
    assert {"python", "unlearner", "torch", "transformers"} <= found["versions"].keys()


def test_peak_memory_is_in_bytes():
    """A process that has imported torch has held more than 100 MB and less than 1 TB."""
    assert 1e8 < provenance.peak_memory_bytes(torch.device("cpu")) < 1e12
