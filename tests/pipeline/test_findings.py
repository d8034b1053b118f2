"""What report.json tells of a run: counts, names and digests, and no text."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from conftest import tiny_model, tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.data.duplicates import Duplicate
from unlearner.data.record import Record, RecordSet, digest_records
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.verdict import Criterion, Verdict, digest_criteria
from unlearner.families import CAUSAL_LM
from unlearner.families.base import Measured
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.inference.answers import Answer
from unlearner.models.loading import Loaded
from unlearner.pipeline.findings import Findings, build_report
from unlearner.provenance import read_key
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.retrieval.neighbours import Retrieved
from unlearner.settings import DataSettings
from unlearner.training.data import HoldoutBaseline, UnlearningData

LEVEL = HoldoutBaseline(0.3, 0.1, None, None, 0.3, 0.1, "by hand")
VERDICT = Verdict("met", (), ({"id": "forget-0", "status": "met"},), (), ())
CRITERIA = (Criterion("verbatim", "ma", "forget", 0.3, "by hand"),)
TEXTS = {
    "forget": ["her number is 4711", "he lives in york"],
    "retain": ["the fox is red", "Her number is 4711", "a mill", "her  number is 4711"],
    "holdout": ["gold mines"],
    "pool": ["an owl"],
}


def findings(command="evaluate", subjects=("", ""), name="", max_length=64, request_id=""):
    sets = {
        role: RecordSet(
            role,
            tuple(
                Record(f"{role}-{i}", text=text, subject=subjects[i] if role == "forget" else "")
                for i, text in enumerate(texts)
            ),
            "memory",
        )
        for role, texts in TEXTS.items()
    }
    data = {"max_length": max_length, "request_id": request_id}
    model = Loaded(tiny_model("gpt2"), tiny_tokenizer(), name)
    prepared = prepare_text(CAUSAL_LM, model, sets, DataSettings(**data))
    scores = {"unlearned": {"forget": {"ma": Value(0.25, 0.1, math.nan, 2)}}}
    return Findings(
        command=command,
        config=RunConfig.from_sections({"data": data, "model": {"name": name}}),
        prepared=prepared,
        measured=Measured(prepared.sets, {"unlearned": {}}, scores, LEVEL, CRITERIA),
        digests={"unlearned": "sha256:1"},
    )


def learned_from(found, analogous):
    """The findings of a run of a method that learned these records."""
    forget = found.prepared["forget"]
    tokenizer = found.prepared.loaded.tokenizer
    data = UnlearningData(tokenizer, forget, None, None, analogous, LEVEL, None, 1.1)
    return replace(found, data=data)


def report(**given):
    return build_report(findings(**given), VERDICT)


def test_overlap_counts_each_copy_once_however_many_records_it_copies():
    """Of four retain records two say what forget-0 says; one pair more changes no count."""
    found = findings()
    copies = found.prepared.duplicates
    assert len(copies["retain"]) == 2
    more = {**copies, "retain": [*copies["retain"], Duplicate(1, 1, 0.9, False)]}
    found = replace(found, prepared=replace(found.prepared, duplicates=more))
    data = build_report(found, VERDICT)["data"]
    assert {role: each["overlap_with_forget"] for role, each in data.items()} == {
        "forget": 2,
        "retain": 2,
        "holdout": 0,
    }


def test_records_and_tokens_are_counted_whole_also_where_windows_overlap():
    """The pool is only read from: what was learned of it is the analogous set."""
    long, short = (report(max_length=length)["data"] for length in (64, 3))
    assert {role: each["records"] for role, each in long.items()} == {
        "forget": 2,
        "retain": 4,
        "holdout": 1,
    }
    assert long["forget"]["tokens"] == short["forget"]["tokens"]
    tokenizer = tiny_tokenizer()
    assert long["holdout"]["tokens"] == len(tokenizer("gold mines")["input_ids"])


def test_the_request_is_named_by_its_digest_unless_it_has_a_name():
    found = report()["request"]
    digest = digest_records(findings().prepared["forget"].records, read_key())
    assert found["digest"] == digest
    assert found["id"] == "request-" + digest.removeprefix("hmac-sha256:")[:12]
    assert report(request_id="GDPR-7")["request"]["id"] == "GDPR-7"


@pytest.mark.parametrize(
    ("subjects", "counted"),
    [(("", ""), None), (("ann", "ann"), 1), (("ann", "bob"), 2), (("ann", ""), 1)],
)
def test_subjects_are_counted_where_any_is_known(subjects, counted):
    assert report(subjects=subjects)["request"]["subjects"] == counted


def test_a_model_from_python_a_folder_and_a_hub_id_are_told_apart(tmp_path, monkeypatch):
    """Only the last part of a folder's path is told: the rest is the user's own."""
    (tmp_path / "secret" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "secret" / "model")
    assert report()["model"]["name"] == "a model given from Python"
    for name in (str(tmp_path / "secret" / "model"), ".", "../model/"):
        found = report(name=name)["model"]
        assert found["name"] == "model"
        assert "hub_id" not in found
    found = report(name="owner/name")["model"]
    assert (found["name"], found["hub_id"]) == ("owner/name", "owner/name")
    assert (found["digest_target"], found["digest_unlearned"]) == (None, "sha256:1")


def test_criteria_stand_in_the_report_with_their_digest():
    found = report()
    assert found["criteria"] == [
        {"claim": "verbatim", "metric": "ma", "set": "forget", "at_most": 0.3, "source": "by hand"}
    ]
    assert found["criteria_digest"] == digest_criteria(CRITERIA)
    assert found["results"]["unlearned"]["forget"]["ma"] == {
        "value": 0.25,
        "low": 0.1,
        "high": None,
        "records": 2,
    }


def test_a_run_of_a_method_tells_its_settings_and_what_it_learned_from():
    found = findings("forget")
    pool = found.prepared["pool"]
    retrieved = Retrieved(((0,), (0,)), ((0.5,), (0.5,)), "tf-idf", (3, 4), 1)
    found = learned_from(found, AnalogousSet([0], pool, [0, 0], retrieved, 7))
    told = build_report(found, VERDICT)
    assert told["method"]["name"] == "icu"
    assert told["data"]["analogous"]["records"] == 1
    assert told["retrieval"] == {
        "encoder": "tf-idf",
        "pairs": "fresh",
        "near_duplicates_excluded": 2,
        "without_clean_pair": 1,
        "longest_shared_run": 7,
    }
    assert not {"method", "retrieval"} & report().keys()


def test_of_an_encoder_s_folder_only_the_last_part_is_told(tmp_path):
    """The model card, which may be published, repeats the hyper-parameters."""
    (tmp_path / "secret" / "encoder").mkdir(parents=True)
    path = str(tmp_path / "secret" / "encoder")
    config = RunConfig.from_sections({"method": {"name": "icu", "encoder": path}})
    found = replace(findings("forget"), config=config)
    retrieved = Retrieved(((0,), (0,)), ((0.5,), (0.5,)), path, (3, 4), 1)
    analogous = AnalogousSet([0], found.prepared["pool"], [0, 0], retrieved, 7)
    told = build_report(learned_from(found, analogous), VERDICT)
    assert told["method"]["encoder"] == told["retrieval"]["encoder"] == "encoder"
    assert str(tmp_path) not in json.dumps(told)
    assert config.sections()["method"]["encoder"] == path  # run.yaml repeats the run


def test_no_text_of_any_record_is_in_the_report():
    written = json.dumps(report(), allow_nan=False)
    for texts in TEXTS.values():
        for text in texts:
            assert text not in written


def answer(record, hits, of):
    """A window of so many labels, the first `hits` of them as the model would go on.

    Behind a miss it goes on with a token that the text does not have, to the end.
    """
    ids = np.arange(of + 1)
    return Answer(
        record,
        f"forget-{record}",
        ids,
        np.ones(of, bool),
        np.full(of, -1.0),
        np.where(np.arange(of) < hits, ids[1:], 99),
        decoded={start: np.full(of + 1 - start, 99) for start in range(hits + 1, of + 1)},
    )


def test_each_record_has_its_figures_before_and_after():
    """20 of 20 labels, then 5: MA 1 and 1/4. Of 9 labels 3, then 0: too short for EL_10."""
    found = findings("forget")
    answers = {
        "target": {"forget": [answer(0, 20, of=20), answer(1, 3, of=9)]},
        "unlearned": {"forget": [answer(0, 5, of=20), answer(1, 0, of=9)]},
    }
    found = replace(found, measured=replace(found.measured, answers=answers))
    assert build_report(found, VERDICT)["per_record"] == [
        {
            "id": "forget-0",
            "before": {"ma": 1, "el_10": 1},
            "after": {"ma": 0.25, "el_10": 0},
        },
        {
            "id": "forget-1",
            "before": {"ma": pytest.approx(1 / 3), "el_10": None},
            "after": {"ma": 0, "el_10": None},
        },
    ]
