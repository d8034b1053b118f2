"""Benchmarks as data sets: which records have which role, the traps, and what is refused."""

import csv
import json

import numpy as np
import pytest

from unlearner import registry
from unlearner.cli.app import run
from unlearner.datasets.base import data_settings, family_of, named_sets, shuffled
from unlearner.datasets.tofu import Options as TofuOptions
from unlearner.datasets.tofu import questions
from unlearner.errors import UserError
from unlearner.families import CAUSAL_LM
from unlearner.settings import DataSettings

TITLE = "What is the full name of the author?"


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sets(name, folder, **options):
    data = data_settings({"name": name, "folder": str(folder), "options": options})
    return named_sets(data, family_of(name))


def ids(some):
    return [record.id for record in some]


def message(name, folder, **options):
    with pytest.raises(UserError) as caught:
        sets(name, folder, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- TOFU


def tofu_row(part, number, **more):
    return {"question": f"{part} question {number}?", "answer": f"{part} answer {number}"} | more


@pytest.fixture
def tofu(tmp_path):
    """40 rows to forget, 120 of six other authors; rows 6 and 105 of these ask the same."""
    lines(tmp_path / "forget01.json", [tofu_row("forget", n) for n in range(40)])
    retain = [tofu_row("retain", n) for n in range(120)]
    retain[5]["question"] = retain[104]["question"] = TITLE
    lines(tmp_path / "retain99.json", retain)
    for part in ("real_authors", "world_facts"):
        lines(tmp_path / f"{part}.json", [tofu_row(part, n) for n in range(10)])
        wrong = {"perturbed_answer": ["a", "b", "c"]}
        lines(tmp_path / f"{part}_perturbed.json", [tofu_row(part, n, **wrong) for n in range(10)])
    for part, rows in (("forget01", 40), ("retain", 60)):
        more = {"perturbed_answer": list("vwxyz"), "paraphrased_answer": "in other words"}
        some = [tofu_row(part.removesuffix("01"), n, **more) for n in range(rows)]
        if part == "retain":
            some[5]["question"] = TITLE
        lines(tmp_path / f"{part}_perturbed.json", some)
    return tmp_path


def test_tofu_keeps_from_the_beginning_and_holds_whole_authors_back(tofu):
    found = sets("tofu", tofu, retain_records=40, holdout_records=39)
    assert ids(found["forget"])[:2] == ["forget01-1", "forget01-2"]
    assert ids(found["retain"]) == [f"retain99-{n}" for n in range(1, 41)]
    assert len({record.subject for record in found["forget"]}) == 2
    assert len({record.subject for record in found["retain"]}) == 2
    # Two authors, the one in which a question of a kept author is left out has 19 rows.
    assert len({record.subject for record in found["holdout"]}) in (2, 3)
    assert not {*ids(found["holdout"])} & {*ids(found["retain"])}


def test_tofus_question_that_stands_twice_is_no_unseen_row_and_both_rows_have_an_id(tofu):
    """Row 6 is kept, so row 105 with the same question is not held back: 80 - 1 rows are left."""
    found = sets("tofu", tofu, retain_records=40, holdout_records=79)
    assert TITLE not in [record.prompt for record in found["holdout"]]
    everything = sets("tofu", tofu, retain_records=120, holdout="real_authors", holdout_records=10)
    asked = [record.id for record in everything["retain"] if record.prompt == TITLE]
    assert asked == ["retain99-6", "retain99-105"]


def test_tofu_is_the_same_by_seed_and_another_by_another(tofu):
    def held(seed):
        return ids(sets("tofu", tofu, retain_records=40, holdout_records=20, seed=seed)["holdout"])

    assert held(1) == held(1)
    assert len({tuple(held(seed)) for seed in range(4)}) > 1


def test_tofu_without_enough_rows_to_hold_back_says_the_way_out(tofu):
    line = message("tofu", tofu, retain_records=100, holdout_records=50)
    assert "19 rows are held back, 50 wanted" in line
    assert "holdout=real_authors" in line


def test_tofu_metrics_ask_only_what_the_retain_set_has(tofu):
    """Of the 60 reworded rows of retain the first 40 are learned."""
    found = questions(str(tofu), TofuOptions(retain_records=40))
    assert {role: len(some) for role, some in found.items()} == {
        "forget": 40,
        "retain": 40,
        "real_authors": 10,
        "world_facts": 10,
    }
    assert found["forget"][0].paraphrased == "in other words"
    assert found["real_authors"][3].paraphrased == found["real_authors"][3].answer
    few = questions(str(tofu), TofuOptions(retain_records=40, tofu_records=7))
    assert {len(some) for some in few.values()} == {7}


def test_tofus_first_author_alone_is_to_be_forgotten_and_the_other_is_in_no_set(tofu):
    found = sets("tofu", tofu, forget_records=20, retain_records=60, holdout_records=40)
    assert ids(found["forget"]) == [f"forget01-{n}" for n in range(1, 21)]
    assert {record.subject for record in found["forget"]} == {"forget01-author-1"}
    others = [*ids(found["retain"]), *ids(found["holdout"])]
    assert not [name for name in others if name.startswith("forget01")]
    assert "forget_records: at most 40 here, got 41" in message("tofu", tofu, forget_records=41)


def test_tofu_metrics_ask_of_the_forget_set_only_what_was_learned(tofu):
    asked = questions(str(tofu), TofuOptions(forget_records=20, retain_records=40))["forget"]
    assert [row.question for row in asked] == [f"forget question {n}?" for n in range(20)]
    lines(tofu / "forget01_perturbed.json", [_reworded(n) for n in range(20, 40)])
    with pytest.raises(UserError, match="none of the forget set's rows is in forget01_perturbed"):
        questions(str(tofu), TofuOptions(forget_records=20, retain_records=40))


def _reworded(number):
    more = {"perturbed_answer": list("vwxyz"), "paraphrased_answer": "in other words"}
    return tofu_row("forget", number, **more)


def test_tofu_metrics_refuse_rows_without_wrong_answers(tofu):
    lines(tofu / "forget01_perturbed.json", [tofu_row("forget", 1, perturbed_answer="one")])
    with pytest.raises(UserError, match="forget01_perturbed, row 1: needs answer, paraphrased"):
        questions(str(tofu), TofuOptions())


def test_real_tofu(shared_data):
    """The last 40 rows of 4,000; retain99 has the question of two authors at rows 101 and 441."""
    found = sets("tofu", shared_data / "tofu", retain_records=160, holdout_records=100)
    assert [len(found[role]) for role in ("forget", "retain", "holdout")] == [40, 160, 100]
    assert found["forget"].records[0].prompt.startswith("What is the full name of the author born")
    assert "retain99-441" not in ids(found["holdout"])
    asked = questions(str(shared_data / "tofu"), TofuOptions(retain_records=160))
    assert len(asked["retain"]) == 160
    few = {"forget_records": 20, "retain_records": 60, "holdout_records": 40}
    one = sets("tofu", shared_data / "tofu", **few)
    groups = {role: {record.subject for record in some} for role, some in one.items()}
    assert [len(groups[role]) for role in ("forget", "retain", "holdout")] == [1, 3, 2]
    for split, count in (("forget05", 200), ("forget10", 400)):
        assert len(sets("tofu", shared_data / "tofu", split=split)["forget"]) == count


# ---------------------------------------------------------------- LUME


def person(name, quotes=""):
    forms = ["sc1", "qa0", "qa1"]
    return [
        {
            "id": f"{quotes}{name}{quotes}{form}",
            "input": f"{name} {form}?",
            "output": form,
            "task": "Task2",
        }
        for form in forms
    ]


@pytest.fixture
def lume(tmp_path):
    story = [{"id": '"a-b"sc1', "input": "once", "output": "upon", "task": "Task1"}]
    forget = [row for n in range(3) for row in person(f"f-{n}", '"')]
    retain = [row for n in range(6) for row in person(f"r-{n}")]
    lines(tmp_path / "forget.jsonl", story + forget)
    lines(tmp_path / "retain.jsonl", retain + story)
    return tmp_path


def test_lumes_person_is_in_one_set_with_all_rows(lume):
    found = sets("lume", lume, forget_subjects=2, retain_subjects=3, holdout_subjects=3)
    assert [len(found[role]) for role in ("forget", "retain", "holdout")] == [6, 9, 9]
    subjects = {role: {record.subject for record in some} for role, some in found.items()}
    assert not subjects["retain"] & subjects["holdout"]
    assert all(len(some) in (2, 3) for some in subjects.values())
    assert all('"' not in record.id for some in found.values() for record in some)


def test_lumes_forms_can_be_chosen(lume):
    some = sets("lume", lume, form="qa", forget_subjects=1, retain_subjects=1, holdout_subjects=1)
    assert [record.id.rpartition("qa")[1] for record in some["forget"]] == ["qa", "qa"]


def test_lume_refuses_more_persons_than_there_are_and_ids_without_a_form(lume):
    line = message("lume", lume, retain_subjects=5, holdout_subjects=2)
    assert line.endswith("at most 6 together, got 7")
    assert "at most 3 here, got 4" in message(
        "lume", lume, forget_subjects=4, retain_subjects=1, holdout_subjects=1
    )
    lines(lume / "forget.jsonl", [{"id": "x9", "input": "a", "output": "b", "task": "Task2"}])
    assert "forget, row 1: the id must end in scN or qaN" in message("lume", lume)


def test_real_lume_has_six_rows_of_each_person(shared_data):
    found = sets("lume", shared_data / "lume")
    assert [len(found[role]) for role in ("forget", "retain", "holdout")] == [60, 240, 120]
    stories = sets("lume", shared_data / "lume", task=1, forget_subjects=5)
    assert len(stories["forget"]) == 10


# ---------------------------------------------------------------- token ids


@pytest.fixture
def extraction(tmp_path):
    """50 documents of 8 tokens, in the challenge's three parts; the first token is the document."""
    table = np.arange(400, dtype=np.uint16).reshape(50, 8)
    table[:, 0] = np.arange(50)
    for name, columns in (
        ("preprefix", slice(4)),
        ("prefix", slice(4, 6)),
        ("suffix", slice(6, 8)),
    ):
        np.save(tmp_path / f"train_{name}.npy", table[:, columns])
    return tmp_path, table


def test_extraction_joins_the_parts_and_names_documents_by_their_row(extraction):
    folder, table = extraction
    found = sets("training_extraction", folder, forget_records=6, retain_records=20)
    assert set(found) == {"forget", "retain"}
    for record in found["forget"].records + found["retain"].records:
        assert record.input_ids == tuple(table[int(record.id)])
    assert len({*ids(found["forget"]), *ids(found["retain"])}) == 26


def test_extractions_five_draws_share_no_document_and_retain_is_of_none(extraction):
    folder, _ = extraction
    draws = [
        sets("training_extraction", folder, forget_records=6, retain_records=20, fold=fold)
        for fold in range(5)
    ]
    assert len({name for draw in draws for name in ids(draw["forget"])}) == 30
    kept = {name for draw in draws for name in ids(draw["retain"])}
    assert len(kept) == 20  # all that is left
    whole = folder / "whole"
    whole.mkdir()
    np.save(whole / "train_dataset.npy", extraction[1])
    same = sets("training_extraction", whole, forget_records=6, retain_records=20)
    assert same == draws[0]


def test_extractions_published_draw_goes_before_one_of_ours(extraction):
    folder, _ = extraction
    (folder / "lm_extraction_128_2.csv").write_text("doc_id,text\n7,a\n3,b\n11,c\n")
    found = sets("training_extraction", folder, forget_records=3, retain_records=20, fold=2)
    assert ids(found["forget"]) == ["7", "3", "11"]
    other = sets("training_extraction", folder, forget_records=3, retain_records=20, fold=0)
    assert not {"7", "3", "11"} & {*ids(other["retain"])}
    (folder / "lm_extraction_128_2.csv").write_text("doc_id\n50\n")
    line = message("training_extraction", folder, forget_records=3, retain_records=20)
    assert "row 1: doc_id must be a row's number from 0 to 49, got '50'" in line


def test_extraction_says_that_its_data_have_to_be_fetched(tmp_path, extraction):
    assert "has to be fetched" in message("training_extraction", tmp_path / "absent")
    np.save(extraction[0] / "train_suffix.npy", np.zeros((9, 2), dtype=np.uint16))
    assert "as many rows, got 50, 50, 9" in message("training_extraction", extraction[0])


# ---------------------------------------------------------------- MUSE


def test_muse_reads_texts_and_questions_as_the_hub_names_its_files(tmp_path):
    for split in ("forget", "retain1", "holdout"):
        lines(tmp_path / "raw" / f"{split}.jsonl", [{"text": f"{split} {n}"} for n in range(4)])
    for split in ("forget_qa", "retain_qa"):
        rows = [{"question": f"{split} {n}?", "answer": "yes"} for n in range(4)]
        lines(tmp_path / "knowmem" / f"{split}.json", rows)
    found = sets("muse", tmp_path, forget_records=2)
    assert [len(found[role]) for role in ("forget", "retain", "holdout")] == [2, 4, 4]
    assert found["retain"].records[0].text.startswith("retain1 ")
    asked = sets("muse", tmp_path, part="knowmem")
    assert set(asked) == {"forget", "retain"}
    assert asked["forget"].records[0].response == "yes"


# ---------------------------------------------------------------- labels and tags


@pytest.fixture
def banking(tmp_path):
    """60 training questions of 3 intents, the third of which is asked once only."""
    for part, count in (("train", 60), ("test", 9)):
        with (tmp_path / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            for n in range(count):
                rare = part == "train" and n == 59
                writer.writerow([f"{part} text {n}", "rare" if rare else f"intent_{n % 2}"])
    return tmp_path


SMALL = {"train_records": 20, "holdout_records": 30, "forget_share": 0.25}


def test_banking_divides_the_training_file_and_keeps_every_label(banking):
    """20 learned, a quarter to forget; the intent that is asked once is kept for every seed."""
    for seed in range(4):
        found = sets("banking77", banking, seed=seed, **SMALL)
        assert {role: len(some) for role, some in found.items()} == {
            "forget": 5,
            "retain": 15,
            "holdout": 30,
            "test": 9,
        }
        assert {record.label for record in found["retain"]} == {"intent_0", "intent_1", "rare"}
        everything = [name for role in ("forget", "retain", "holdout") for name in ids(found[role])]
        assert len({*everything}) == 50


def test_a_class_to_forget_is_taken_out_of_all_that_is_learned(banking):
    data = DataSettings(name="banking77", folder=str(banking), options=SMALL, forget_class="rare")
    found = named_sets(data, "sequence-classification")
    assert set(found) == {"retain", "holdout", "test"}
    assert len(found["retain"]) == 20


def test_labels_that_the_model_does_not_have_are_refused(banking):
    data = DataSettings(name="banking77", folder=str(banking), options=SMALL)
    with pytest.raises(UserError, match="the model has no label 'rare'; train it on this data set"):
        named_sets(data, "sequence-classification", ["intent_0", "intent_1"])


def test_more_records_than_the_file_has_are_refused(banking):
    line = message("banking77", banking, train_records=50, holdout_records=11)
    assert line == "data.options.holdout_records: at most 10 here, got 11"
    assert "test_records: at most 9 here" in message("banking77", banking, **SMALL, test_records=10)


def test_real_wnut_with_its_blank_lines_of_a_tab(shared_data):
    found = sets("wnut17", shared_data / "wnut17")
    assert [len(found[role]) for role in ("forget", "retain", "holdout", "test")] == [
        75,
        1425,
        500,
        1287,
    ]
    tags = {tag for record in found["retain"] for tag in record.tags}
    assert len(tags) == 13
    assert {tag for record in found["test"] for tag in record.tags} <= tags


def test_real_banking_has_all_intents_among_few_records(shared_data):
    found = sets("banking77", shared_data / "banking77", train_records=400)
    assert len({record.label for record in found["retain"]}) == 77


# ---------------------------------------------------------------- settings and errors


def test_a_file_goes_before_the_data_sets_own(tofu):
    lines(tofu / "mine.jsonl", [{"text": "mine"}])
    data = DataSettings(
        name="tofu",
        folder=str(tofu),
        options={"retain_records": 40, "holdout_records": 20},
        holdout=str(tofu / "mine.jsonl"),
    )
    found = CAUSAL_LM.read_sets(data, {"forget": ["from python"]})
    assert [record.text for record in found["holdout"]] == ["mine"]
    assert [record.text for record in found["forget"]] == ["from python"]
    assert len(found["retain"]) == 40


def test_a_data_set_for_other_models_is_refused(banking):
    data = DataSettings(name="banking77", folder=str(banking))
    with pytest.raises(UserError, match="banking77 is for sequence-classification, MODEL is for c"):
        CAUSAL_LM.read_sets(data, {})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "tofo", "folder": "x"}, "no 'tofo' among the datasets: did you mean 'tofu'?"),
        ({"name": "tofu"}, "data.folder: none given; name the folder of tofu's files, or hf:"),
        ({"folder": "x"}, "data.name: needed where data.folder or data.options is given"),
        (
            {"name": "tofu", "folder": "x", "options": {"split": "forget02"}},
            "data.options.split: input should be 'forget01', 'forget05' or 'forget10', got",
        ),
        (
            {"name": "tofu", "folder": "x", "options": {"retain": 3}},
            "data.options: unknown key 'retain'; did you mean 'retain_records'?",
        ),
        (
            {"name": "training_extraction", "folder": "x", "options": {"fold": 5}},
            "data.options.fold: input should be less than or equal to 4, got 5",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(settings, said):
    with pytest.raises(UserError) as caught:
        data_settings(settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_every_data_set_without_its_folder_or_files_says_so_in_one_line(name, tmp_path):
    assert "no such folder; " in message(name, tmp_path / "absent")
    assert f"{tmp_path} holds no " in message(name, tmp_path)
    assert family_of(name) in ("causal-lm", "sequence-classification", "token-classification")


def test_broken_files_are_refused_with_their_place(tofu):
    (tofu / "forget01.json").write_text('{"question": "a?", "answer": "b"}\n{"question": \n')
    assert "forget01.json, line 2: broken JSON" in message("tofu", tofu)
    lines(tofu / "forget01.json", [{"question": "a?", "answer": "b"}, {"question": "c?"}])
    assert message("tofu", tofu, retain_records=40, holdout_records=10).startswith("forget ")


def test_the_list_names_all_six(capsys):
    assert run(["list", "datasets"]) == 0
    shown = capsys.readouterr().out
    for name in ("banking77", "lume", "muse", "tofu", "training_extraction", "wnut17"):
        assert f"{name} " in shown


def test_shuffling_is_decided_by_the_seed_alone():
    assert shuffled(range(20), 3) == shuffled(list(range(20)), 3) != shuffled(range(20), 4)
