"""What `unlearner push` uploads, and all that it refuses, with the hub replaced by a stub."""

import inspect
import json
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from report_example import example
from unlearner.cli.app import run
from unlearner.pipeline import hub as publishing
from unlearner.pipeline.hub import file_digests
from unlearner.report.files import write_report
from unlearner.report.page import model_card

MODEL_FILES = {"model.safetensors": b"weights", "config.json": b"{}", "sub/vocab.txt": b"a"}
NAMES = {*MODEL_FILES, "README.md"}


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


class Hub:
    """HfApi's three calls; repositories are what was uploaded to them, by path."""

    def __init__(self):
        self.repositories, self.private, self.calls, self.refuses = {}, {}, [], 0

    def __call__(self, **_):
        return self

    def model_info(self, repo_id):
        self.calls.append("model_info")
        if repo_id not in self.repositories:
            raise RepositoryNotFoundError("none", response=response(404))
        siblings = [SimpleNamespace(rfilename=name) for name in self.repositories[repo_id]]
        return SimpleNamespace(private=self.private[repo_id], siblings=siblings)

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append("create_repo")
        if self.refuses:
            raise HfHubHTTPError("Forbidden\nno right to write", response=response(self.refuses))
        assert exist_ok
        self.repositories.setdefault(repo_id, {".gitattributes": b""})
        self.private.setdefault(repo_id, private)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append(f"upload_folder {folder_path.name}")
        assert commit_message
        assert not any(character in name for name in allow_patterns for character in "*?[")
        self.repositories[repo_id] |= {
            name: (folder_path / name).read_bytes() for name in allow_patterns
        }


@pytest.fixture
def hub(monkeypatch):
    """The hub, reachable and with a token."""
    made = Hub()
    monkeypatch.setattr(publishing, "HfApi", made)
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return made


@pytest.fixture
def run_dir(tmp_path):
    """What `unlearner forget` leaves, with an adapter beside the model."""
    folder = tmp_path / "run"
    for name, content in MODEL_FILES.items():
        path = folder / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"the way back")
    write(folder, "met")
    return folder


def write(folder, status, **changes):
    report = example(3)
    report["verdict"]["status"] = status
    report["model"] |= {"files": file_digests(folder / "model")} | changes
    write_report(report, folder)
    (folder / "model" / "README.md").write_text(model_card(report))


def refused(capsys, *arguments):
    """The one line of a refusal."""
    assert run(["push", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", ["model_info", "create_repo", "upload_folder"])
def test_the_stub_takes_what_the_hub_s_own_interface_takes(name):
    own = set(inspect.signature(getattr(Hub, name)).parameters)
    assert own <= set(inspect.signature(getattr(HfApi, name)).parameters)


# What goes out


def test_the_model_goes_to_a_private_repository_and_its_address_is_printed(hub, run_dir, capsys):
    assert run(["push", str(run_dir), "owner/name"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/owner/name\n"
    assert hub.private == {"owner/name": True}
    sent = hub.repositories["owner/name"]
    assert set(sent) == {*NAMES, ".gitattributes"}
    assert {name: sent[name] for name in MODEL_FILES} == MODEL_FILES
    card = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert card["library_name"] == "transformers"
    assert card["pipeline_tag"] == "text-generation"
    assert "unlearning" in card["tags"]


def test_the_provenance_stays_at_home(hub, run_dir):
    """It tells how many records were learned, and holds their digests."""
    (run_dir / "model" / "provenance.json").write_text("{}")
    assert run(["push", str(run_dir), "owner/name"]) == 0
    assert "provenance.json" not in hub.repositories["owner/name"]


def test_it_is_public_only_on_request(hub, run_dir):
    assert run(["push", str(run_dir), "owner/name", "--public"]) == 0
    assert hub.private == {"owner/name": False}


def test_the_report_goes_out_only_on_request_and_before_the_model(hub, run_dir):
    """Were it the other way round, a push that broke in between could not be done again."""
    assert run(["push", str(run_dir), "owner/name", "--with-report"]) == 0
    sent = set(hub.repositories["owner/name"]) - {".gitattributes"}
    assert sent == {*NAMES, "report.json", "report.html", "report.md"}
    assert hub.calls[-2:] == ["upload_folder run", "upload_folder model"]


def test_a_model_card_may_be_edited(hub, run_dir):
    (run_dir / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run(["push", str(run_dir), "owner/name"]) == 0
    assert hub.repositories["owner/name"]["README.md"] == b"---\nlicense: mit\n---\n"


def test_an_empty_repository_of_the_same_kind_is_filled(hub, run_dir):
    hub.repositories["owner/name"], hub.private["owner/name"] = {"README.md": b"old"}, True
    assert run(["push", str(run_dir), "owner/name"]) == 0
    assert set(hub.repositories["owner/name"]) == NAMES
    assert hub.repositories["owner/name"]["README.md"] != b"old"


# What is refused


@pytest.mark.parametrize("status", ["not met", "not measured", "not informative"])
def test_a_verdict_that_is_not_met_is_pushed_only_when_told_to(status, hub, run_dir, capsys):
    write(run_dir, status)
    line = refused(capsys, run_dir, "owner/name")
    assert f"the verdict is '{status}', not 'met'" in line
    assert "--even-if-not-met" in line
    assert hub.calls == []
    assert run(["push", str(run_dir), "owner/name", "--even-if-not-met"]) == 0


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "adapter/adapter_config.json",
        "pytorch_model.bin",
        ".hidden",
        "model-00001-of-00002.safetensors",
        "sub/README.md",
    ],
)
def test_a_file_that_the_run_did_not_write_is_refused(name, hub, run_dir, capsys):
    (run_dir / "model" / name).parent.mkdir(exist_ok=True)
    (run_dir / "model" / name).write_bytes(b"")
    line = refused(capsys, run_dir, "owner/name")
    assert f"{run_dir / 'model' / name}: the run did not write it" in line
    assert hub.calls == []


def test_a_link_to_a_folder_is_a_file_that_the_run_did_not_write(hub, run_dir, capsys):
    (run_dir / "model" / "adapter").symlink_to(run_dir / "adapter")
    assert "model/adapter: the run did not write it" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


@pytest.mark.parametrize("name", sorted(MODEL_FILES))
def test_a_file_that_was_changed_or_lost_is_refused(name, hub, run_dir, capsys):
    """The report would not be about what is pushed."""
    path = run_dir / "model" / name
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{path}: was changed since the run" in refused(capsys, run_dir, "owner/name")
    path.unlink()
    assert f"{path}: missing, though the run wrote it" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


def test_a_model_without_its_card_is_refused(hub, run_dir, capsys):
    (run_dir / "model" / "README.md").unlink()
    assert "README.md: missing" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


def test_a_folder_that_is_not_one_of_a_run_is_refused(hub, run_dir, tmp_path, capsys):
    assert "model: no such folder; give one" in refused(capsys, tmp_path / "none", "owner/name")
    report = json.loads((run_dir / "report.json").read_text())
    del report["model"]["files"]
    (run_dir / "report.json").write_text(json.dumps(report))
    assert "does not list the files" in refused(capsys, run_dir, "owner/name")
    (run_dir / "report.json").unlink()
    assert "report.json: no such file" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


def test_a_missing_page_of_the_report_is_refused_where_it_is_wanted(hub, run_dir, capsys):
    (run_dir / "report.html").unlink()
    line = refused(capsys, run_dir, "owner/name", "--with-report")
    assert f"`unlearner report {run_dir}` writes it" in line
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "owner/na me", "-owner/name", "o/a--b", "o/a.git"]
)
def test_what_is_no_repository_is_refused(name, hub, run_dir, capsys):
    assert "is no repository of the hub" in refused(capsys, run_dir, "--", name)
    assert hub.calls == []


def test_offline_mode_is_respected(hub, run_dir, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


def test_without_a_token_the_way_to_one_is_told(hub, run_dir, monkeypatch, capsys):
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    assert "`hf auth login` or set HF_TOKEN" in refused(capsys, run_dir, "owner/name")
    assert hub.calls == []


@pytest.mark.parametrize(
    ("is_private", "option", "says"),
    [
        (False, "--private", "is public, which a push does not change; say --public"),
        (True, "--public", "is private, which a push does not change; say --private"),
    ],
)
def test_a_repository_that_others_may_see_more_or_less_of_is_refused(
    is_private, option, says, hub, run_dir, capsys
):
    """`create_repo` would take an existing one as it is, and a private push would be public."""
    hub.repositories["owner/name"], hub.private["owner/name"] = {}, is_private
    assert says in refused(capsys, run_dir, "owner/name", option)
    assert hub.calls == ["model_info"]


@pytest.mark.parametrize("name", ["model.safetensors", "old/pytorch_model.bin", "x.gguf"])
def test_weights_that_are_there_already_would_stay_in_the_history(name, hub, run_dir, capsys):
    hub.repositories["owner/name"], hub.private["owner/name"] = {name: b""}, True
    line = refused(capsys, run_dir, "owner/name")
    assert f"owner/name: holds {name} already" in line
    assert hub.calls == ["model_info"]


def test_a_refusal_of_the_hub_is_one_line(hub, run_dir, capsys):
    hub.refuses = 403
    line = refused(capsys, run_dir, "owner/name")
    assert "the hub refused (Forbidden no right to write); see `hf auth whoami`" in line


def test_a_failure_of_the_hub_is_not_the_user_s_fault(hub, run_dir, capsys):
    hub.refuses = 503
    assert run(["push", str(run_dir), "owner/name"]) == 1
    assert capsys.readouterr().err.startswith("unlearner: HfHubHTTPError: ")


# What `forget` leaves to be pushed


def test_a_run_of_forget_can_be_pushed_and_its_card_has_no_local_path(hub, call, tmp_path):
    from command_world import RUN, SHORT

    status, _, err, _ = call(f"{RUN}--force {SHORT}")
    assert status in (0, 3), err
    folder = tmp_path / "out" / "run"
    assert run(["push", str(folder), "owner/name", "--even-if-not-met"]) == 0
    sent = hub.repositories["owner/name"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} < set(sent)
    card = sent["README.md"].decode()
    assert "base_model" not in card.split("---\n")[1]
    for name, content in sent.items():
        assert str(tmp_path).encode() not in content, name
        assert str(tmp_path.parent).encode() not in content, name
