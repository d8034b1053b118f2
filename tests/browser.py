"""A chromium without a window, asked over a pipe: what a page says, loads, and how wide it is."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
SECONDS = 120
# For bash; dash knows file numbers of one digit alone.
AT_3_AND_4 = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'


@dataclass
class Visit:
    """What came of a page at one width.

    Attributes:
        errors: What stands in the console as an error, and what was thrown.
        requests: Every address that was asked for.
        overflow: Pixels by which the page is wider than the window.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    overflow: int = 0


class Browser:
    """One page of a running chromium."""

    def __init__(self, send, receive):
        self._send, self._receive, self._buffer = send, receive, b""
        self._number, self._session = 0, None
        self.visit_now = Visit()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def visit(self, address, width, height=900):
        """Open a page in a window of so many pixels."""
        self.visit_now = found = Visit()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=address)
        self._until(lambda message: message.get("method") == "Page.loadEventFired")
        measured = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        answer = self.call("Runtime.evaluate", expression=measured)
        found.overflow = answer["result"]["value"]
        return found

    def picture(self, path):
        """What the window shows, as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        number = self._number
        answer = self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def _until(self, wanted):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(line)
                self._note(message)
                if wanted(message):
                    return message
            self._buffer += os.read(self._receive, 2**20)
        raise TimeoutError("chromium did not answer")

    def _note(self, message):
        what, given = message.get("method"), message.get("params", {})
        found = self.visit_now
        if what == "Network.requestWillBeSent":
            found.requests.append(given["request"]["url"])
        elif what == "Runtime.exceptionThrown":
            found.errors.append(given["exceptionDetails"]["text"])
        elif what == "Runtime.consoleAPICalled" and given["type"] == "error":
            found.errors.append(str(given["args"]))
        elif what == "Log.entryAdded" and given["entry"]["level"] == "error":
            found.errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")


@contextmanager
def opened():
    """A browser; it reads its orders from its fourth file and answers on its fifth."""
    orders, send = os.pipe()
    receive, answers = os.pipe()
    # A child of the browser may still write while the folder is removed.
    folder = tempfile.TemporaryDirectory(prefix="unlearner-browser-", ignore_cleanup_errors=True)
    with folder as profile:
        files = [str(orders), str(answers)]
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            ["bash", "-c", AT_3_AND_4, *files, *command],
            pass_fds=(orders, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(orders)
        os.close(answers)
        try:
            yield Browser(send, receive)
        finally:
            os.close(send)
            os.close(receive)
            process.kill()
            process.wait()
