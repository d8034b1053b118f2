"""The pages: for this machine and the token alone, read-only, inert, and never down."""

import hashlib
import http.client
import os
import random
import re
import socket
import threading
import time
from html.parser import HTMLParser

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from ledger_world import ledger_in, pretend_run  # noqa: E402

from unlearner.requests import server as serving  # noqa: E402
from unlearner.requests.server import HEADERS  # noqa: E402


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A served ledger: its port, its token, and the files that must stay as they are."""
    ledger = ledger_in(tmp_path)
    ledger.add(["of mara"], id="r-1", received="2020-01-31", reason="<script>alert(1)</script>")
    ledger.add(["of tom"], id="r-2")
    pretend_run(ledger, "r-2", tmp_path / "none")
    made, said = [], []

    class Stoppable(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            made.append(self)

        def install_signal_handlers(self):
            pass

    monkeypatch.setattr(uvicorn, "Server", Stoppable)
    thread = threading.Thread(target=serving.serve, args=(ledger, 0, said.append), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not (made and made[0].started) and time.monotonic() < deadline:
        time.sleep(0.01)
    port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)", said[0]).groups()
    yield int(port), token, tmp_path
    made[0].should_exit = True
    thread.join(timeout=60)


def ask(port, path="/", token="", method="GET", **headers):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    own = {"Host": f"127.0.0.1:{port}"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, headers=own | headers)
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


def state_of(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("requests.db*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if name in ("href", "src", "action")]


def test_the_token_opens_the_pages_and_goes_out_of_the_address(served):
    port, token, _ = served
    status, headers, _ = ask(port, f"/?token={token}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    status, _, page = ask(port, Cookie=cookie.partition(";")[0])
    assert status == 200
    assert "r-1" in page
    assert "late" in page
    assert token not in page


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 10_000])
def test_a_wrong_token_opens_nothing(token, served):
    port, right, _ = served
    for answer in (
        ask(port, "/", token.encode("latin-1").decode("latin-1") if token else ""),
        ask(port, f"/?token={'x' * len(token)}"),
        ask(port, "/request/r-1", right[:-1]),
        ask(port, Cookie="unlearner-token=" + "x" * min(100, len(token))),
    ):
        assert answer[0] == 401
        assert "r-1" not in answer[2]


@pytest.mark.parametrize("path", ["/", "/request/r-1", "/report", "/nothing", "/?token=x"])
def test_every_answer_has_the_headers(path, served):
    port, token, _ = served
    for given in (token, ""):
        _, headers, _ = ask(port, path, given)
        assert {name: headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "", "127.0.0.1:1", "[::1]"])
def test_another_host_is_refused(host, served):
    """A page elsewhere whose name points to this machine sends its own name."""
    port, token, _ = served
    assert ask(port, "/", token, Host=host)[0] in (400, 421)


def test_it_listens_on_this_machine_alone(served):
    port, _, _ = served
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", port))  # free: nobody listens on all addresses
    assert others


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]
)
def test_it_only_reads(method, served):
    port, token, folder = served
    before = state_of(folder)
    assert ask(port, "/request/r-1", token, method)[0] in (400, 404, 405)
    assert state_of(folder) == before


def test_pages_hold_no_script_and_lead_nowhere_else(served):
    port, token, _ = served
    for path in ("/", "/request/r-1", "/request/r-2", "/report", "/report?since=2021-01-01"):
        status, _, page = ask(port, path, token)
        assert status == 200
        found = Tags(page)
        assert not {"script", "iframe", "object", "form", "img"} & {*found.tags}
        assert not [name for name in found.attributes if name.startswith("on")]
        assert all(
            link.startswith(("/", "#")) and not link.startswith("//") for link in found.links
        )
        assert "of mara" not in page
    assert "&lt;script&gt;" in ask(port, "/request/r-1", token)[2]


def test_a_page_that_is_not_there_is_told(served):
    port, token, _ = served
    for path in ("/request/r-9", "/report?since=soon", "/none"):
        assert ask(port, path, token)[0] == 404


HOSTILE = [
    "/../../../../etc/passwd",
    "/request/..%2f..%2f..%2fetc%2fpasswd",
    "/request/%2e%2e/%2e%2e/etc/passwd",
    "/request/....//....//etc/passwd",
    "/request/requests.db",
    "/requests.db",
    "/requests.db.work/r-1/records.jsonl",
    "/request/%00",
    "/request/r-1%00.html",
    "/request/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "/request/'%20OR%201=1--",
    "/request/{{7*7}}",
    "/request/" + "a" * 5000,
    "/report?since=" + "9" * 5000,
    "/report?since=%ff%fe",
    "/report?since=2020-01-01&since=x",
    "/%c0%ae%c0%ae/",
    "//evil.example/",
    "/request/r-1/../../../",
    "/request/%F0%9F%92%A9",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_addresses_lead_to_nothing(path, served):
    port, token, folder = served
    before = state_of(folder)
    status, _, text = ask(port, path, token)
    assert status in (200, 400, 404)
    assert "root:" not in text
    assert "of mara" not in text
    assert "<script>" not in text
    assert "\x00" not in text
    assert state_of(folder) == before
    assert ask(port, "/", token)[0] == 200


def test_random_requests_leave_it_running(served):
    """Lines of random bytes, and lines that are nearly right."""
    port, token, folder = served
    before, draw = state_of(folder), random.Random(0)
    parts = [
        b"GET",
        b"POST",
        b"/",
        b"/request/r-1",
        b"HTTP/1.1",
        b"HTTP/9",
        b"\r\n",
        b"Host: ",
        b"127.0.0.1",
        b"Cookie: unlearner-token=",
        b"Authorization: Bearer ",
        token.encode(),
        b"Content-Length: 99",
        b"Transfer-Encoding: chunked",
        b"\x00",
        b"\xff",
        b"?token=",
        b" ",
        b"%",
    ]
    for number in range(int(os.environ.get("UNLEARNER_SERVER_FUZZ", "100"))):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            count = draw.randrange(1, 30)
            noise = b"".join(draw.choice(parts) for _ in range(count))
            noise = draw.randbytes(200) if number % 3 == 0 else noise
            connection.sendall(noise + (b"\r\n\r\n" if number % 2 else b""))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert b"HTTP/1.1 500" not in answer
    assert ask(port, "/", token)[0] == 200
    assert state_of(folder) == before


def test_without_the_libraries_the_way_to_them_is_told(tmp_path, monkeypatch):
    import sys

    from unlearner.errors import UserError

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"unlearner\[serve\]"):
        serving.serve(ledger_in(tmp_path), 0, print)
