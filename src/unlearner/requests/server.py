"""A page for people without a terminal: requests, deadlines, states and records of erasure.

It listens on this machine alone and shows nothing without the token, which is made anew at every
start and printed once. It only reads, so that no page elsewhere can make a browser change anything,
and holds no text of records. A page of another site cannot read it either: the Host header has to
be one of this machine's own names, and a browser sends the cookie of the token to no other site.
"""

import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from unlearner.errors import UserError, one_message
from unlearner.report.writing import html_page
from unlearner.requests.erasure import SHEETS, request_rows
from unlearner.requests.ledger import Ledger
from unlearner.requests.store import now

LOOPBACK = "127.0.0.1"
COOKIE = "unlearner-token"
LARGEST_PORT = 65_535

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

Scope = Any  # a mapping, as ASGI has it
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Guard:
    """What stands before every page: host, token, and headers on whatever is answered.

    Args:
        app: The pages.
        token: That opens them.
        port: Which the Host header has to name.
    """

    def __init__(self, app: Any, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [pair for pair in message["headers"] if pair[0].decode() not in HEADERS]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if headers.get(b"host", b"").decode("latin-1").lower() not in self.hosts:
            answer = PlainTextResponse("this page is for this machine alone", 421)
        elif asked and self._is_token(asked):  # out of the address, and of the browser's history
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
        elif asked or not self._is_token(_presented(headers)):
            answer = PlainTextResponse("the token that was printed at the start is needed", 401)
        else:
            answer = self.app
        await answer(scope, receive, guarded)

    def _is_token(self, text: str) -> bool:
        """Whether it is the token, found out in a time that tells nothing."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def _presented(headers: Mapping[bytes, bytes]) -> str:
    """The token that a browser or a program sends along."""
    bearer = headers.get(b"authorization", b"").decode("latin-1")
    if bearer.startswith("Bearer "):
        return bearer.removeprefix("Bearer ")
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def pages(ledger: Ledger) -> Any:
    """The application: a list of all requests, and the record of erasure of one or of a time."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    def answered(make: Callable[[], str]) -> Response:
        try:
            return HTMLResponse(make())
        except UserError as error:
            return PlainTextResponse(one_message(str(error)), 404)

    def overview(_: Request) -> Response:
        return answered(lambda: list_page(ledger))

    def one(request: Request) -> Response:
        return answered(lambda: ledger.report(request.path_params["name"]))

    def period(request: Request) -> Response:
        asked = {name: request.query_params.get(name, "") for name in ("since", "until")}
        return answered(lambda: ledger.report(**asked))

    async def failed(_: Request, error: Exception) -> Response:
        return PlainTextResponse(f"the page could not be made ({type(error).__name__})", 500)

    routes = [Route("/", overview), Route("/request/{name}", one), Route("/report", period)]
    return Starlette(routes=routes, exception_handlers={Exception: failed})


def list_page(ledger: Ledger) -> str:
    """All requests, those that are due first before the others."""
    book = ledger.book
    rows = request_rows(book, datetime.now(UTC).date())
    return html_page("requests.html.j2", SHEETS, rows=rows, head=book.head, made=now())


def serve(ledger: Ledger, port: int, tell: Callable[[str], None]) -> None:
    """Show the pages until the process is stopped.

    Args:
        port: To listen on; 0 for one that is free.
        tell: Gets the address with the token, once.

    Raises:
        UserError: The libraries are not there, the port is taken, or there is no ledger.
    """
    try:
        import uvicorn

        shown = pages(ledger)
    except ImportError:
        raise UserError(
            "requests serve: starlette and uvicorn are needed; install unlearner[serve]"
        ) from None
    ledger.store.entries()  # there is a ledger
    if not 0 <= port <= LARGEST_PORT:
        raise UserError(f"--port {port}: must be 0 to {LARGEST_PORT}; 0 takes one that is free")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"--port {port}: cannot be listened on ({error}); 0 takes one that is free"
        ) from None
    own, token = listening.getsockname()[1], secrets.token_urlsafe(32)
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(shown, token, own),
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_keep_alive=5,
            lifespan="off",
        )
    )
    tell(f"http://{LOOPBACK}:{own}/?token={token}")
    server.run(sockets=[listening])
