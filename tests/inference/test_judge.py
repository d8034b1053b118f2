"""A judge on this machine, and every way not to be one."""

import json
import logging
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from command_world import FORGET, RUN, SHORT
from page_reader import Page
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT
from unlearner.errors import UserError
from unlearner.inference import judge
from unlearner.inference.answers import Answer
from unlearner.inference.judge import JudgeEndpoint, check_judge, read_rating, with_ratings
from unlearner.settings import JudgeSettings

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
KEY = "sk-quite-secret-4711"


class Endpoint(HTTPServer):
    """Rates copies 0 and the rest 7; keeps what it was asked, and may be told to misbehave."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.keys, self.answers = [], set(), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = json.loads(body["messages"][1]["content"])
        self.server.asked.append((self.path, body["model"], texts))
        self.server.keys.add(self.headers.get("Authorization"))
        given = self.server.answers.pop(0) if self.server.answers else None
        if isinstance(given, int):
            self.send_response(given)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(
                b'{"error": "' + self.headers.get("Authorization", "").encode() + b'"}'
            )
            return
        content = "0" if texts["original"] == texts["continuation"] else "7"
        content = content if given is None else given
        answer = {"choices": [{"message": {"content": content}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        """Nothing is written to the terminal."""


@pytest.fixture
def endpoint():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("UNLEARNER_JUDGE_KEY", KEY)


def answer(continuation, reference="b c"):
    ids = np.array([5, 6, 7, 8])
    return Answer(
        record=0,
        id="r",
        input_ids=ids,
        scored=np.ones(3, dtype=bool),
        log_probs=np.zeros(3, dtype=np.float32),
        argmax=ids[1:],
        prefix=2,
        reference_text=reference,
        continuation_text=continuation,
    )


@pytest.mark.usefixtures("key")
def test_a_run_has_the_ratings_of_its_continuations_and_the_key_is_nowhere(call, endpoint):
    """Two models, six records each; one answer is no number and is counted, not rated."""
    endpoint.answers = ["I would say 7"]
    more = f"evaluation.judge.url={endpoint.url} evaluation.judge.model=rater-1"
    status, out, err, left = call(f"{RUN}{more}{SHORT.replace(' --quiet', '')}")
    assert status == NOT_MET
    report = json.loads(Path("out/run/report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    before, after = (report["results"][m]["forget"]["judge"] for m in ("target", "unlearned"))
    assert (before["records"], after["records"]) == (5, 6)
    assert before["value"] in {7 * n / 5 for n in range(6)}
    assert "judge" not in report["results"]["target"]["retain"]
    told = {"model": "rater-1", "host": "127.0.0.1", "remote": False}
    assert report["evaluation"]["judge"] == {**told, "failures": {"target": 1, "unlearned": 0}}
    assert len(endpoint.asked) == 12
    path, model, texts = endpoint.asked[0]
    assert (path, model) == ("/v1/chat/completions", "rater-1")
    assert texts["beginning"] + texts["original"] == FORGET[0]
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert "not this machine" not in err
    assert "is sent to" not in err
    shown = Page(Path("out/run/report.html").read_text("utf-8")).shown
    assert "rater-1 at 127.0.0.1 rates how it continues the records" in shown
    assert "1 answer of it was no number and does not count" in shown
    written = [Path(name).read_bytes() for name in left if Path(name).is_file()]
    assert not any(KEY.encode() in content for content in written)
    assert KEY not in out + err
    assert "UNLEARNER_JUDGE_KEY" not in Path("out/run/run.yaml").read_text("utf-8")


def test_check_asks_no_judge(call, endpoint):
    line = RUN.replace("forget $models", "check $models").replace("--output out/run ", "")
    more = f"evaluation.judge.url={endpoint.url} evaluation.judge.model=m evaluation.resamples=20"
    assert call(line + more)[0] == MET
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "url", ["http://judge.example/v1", "https://10.0.0.7:8000", "http://[::2]"]
)
def test_another_machine_is_refused_before_anything_is_sent(call, url):
    more = f"evaluation.judge.url={url} evaluation.judge.model=m"
    status, out, err, left = call(f"{RUN}{more}{SHORT}")
    assert (status, out) == (WRONG_INPUT, "")
    assert "is not this machine" in err
    assert "--allow-remote-judge" in err
    assert err.count("\n") == 1
    assert not any(name.startswith("out") for name in left)


def test_another_machine_is_warned_of_where_it_is_allowed(caplog):
    settings = JudgeSettings(url="http://judge.example/v1", model="m", allow_remote=True)
    with caplog.at_level(logging.WARNING):
        check_judge(settings)
    assert "records to be forgotten is sent to judge.example" in caplog.text
    caplog.clear()
    check_judge(JudgeSettings(url="http://[::1]:8000/v1", model="m"))
    assert caplog.text == ""


def test_the_option_is_a_setting_of_the_run(call):
    """It is refused for another reason, once the address was accepted."""
    more = "--allow-remote-judge evaluation.judge.url=http://judge.example/v1 "
    status, _, err, _ = call(f"{RUN}{more}{SHORT}")
    assert status == WRONG_INPUT
    assert "evaluation.judge.model: none given" in err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/v1", "must be the address of an OpenAI-compatible endpoint"),
        ("127.0.0.1:8000", "must be the address of an OpenAI-compatible endpoint"),
        ("http://127.0.0.1:80000/v1", "must be the address of an OpenAI-compatible endpoint"),
        ("http://me:secret@127.0.0.1/v1", "must hold no name, password or query"),
        ("http://127.0.0.1/v1?api-key=secret", "must hold no name, password or query"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_shown(url, message):
    with pytest.raises(UserError, match=message) as refused:
        JudgeEndpoint.of(JudgeSettings(url=url, model="m"))
    assert "secret" not in str(refused.value)


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("UNLEARNER_JUDGE_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(UserError, match="must be one line of ASCII") as refused:
        check_judge(JudgeSettings(url="http://127.0.0.1/v1", model="m"))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "rating"),
    [("7", 7), (" 10\n", 10), ("0", 0), ("11", None), ("-1", None), ("7.5", None), ("07", None)],
)
def test_an_answer_is_one_whole_number_or_a_failure(content, rating):
    found = read_rating(json.dumps({"choices": [{"message": {"content": content}}]}).encode())
    assert math.isnan(found) if rating is None else found == rating


@pytest.mark.parametrize(
    "body",
    [b"", b"7", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 7}}]}', b"\xff"],
)
def test_anything_but_a_chat_completion_is_a_failure(body):
    assert math.isnan(read_rating(body))


@pytest.mark.usefixtures("key")
def test_errors_and_redirections_are_failures_and_the_other_address_is_not_asked(
    endpoint, tokenizer
):
    endpoint.answers = [500, 307, 302, None]
    asked = JudgeEndpoint.of(JudgeSettings(url=endpoint.url, model="m"))
    rated = [one.judged for one in with_ratings([answer("x y")] * 4, asked, tokenizer)]
    assert [math.isnan(one) for one in rated] == [True, True, True, False]
    assert len(endpoint.asked) == 4


def test_a_dead_endpoint_is_asked_a_few_times_and_no_more(monkeypatch, tokenizer):
    tried = []

    def rate(_, *texts):
        tried.append(texts)
        return math.nan

    monkeypatch.setattr(judge.JudgeEndpoint, "rate", rate)
    asked = JudgeEndpoint.of(JudgeSettings(url="http://127.0.0.1:9/v1", model="m"))
    found = with_ratings([answer("x y")] * 20, asked, tokenizer)
    assert len(tried) == judge.PATIENCE
    assert judge.count_failures(found) == 20


def test_a_proxy_is_not_asked_on_the_way_to_this_machine(endpoint, monkeypatch, tokenizer):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    asked = JudgeEndpoint.of(JudgeSettings(url=endpoint.url + "/chat/completions/", model="m"))
    (found,) = with_ratings([answer("b c")], asked, tokenizer)
    assert found.judged == 0  # copied
    assert endpoint.asked[0][0] == "/v1/chat/completions"
