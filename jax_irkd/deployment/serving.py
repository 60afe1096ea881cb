"""A running stream as a page: the live picture, its answers, and how its source is.

| path | |
| --- | --- |
| `/` | the page, for any browser |
| `/events` | server-sent events: an answer each, the JSON line of `predict --json`; and `status` |
| `/picture` | the live picture, JPEGs one after the other (multipart/x-mixed-replace) |
| `/status` | how things stand, JSON |

Every viewer gets the newest of everything at its own speed, and the stream never waits for one.
Anybody who can reach a camera's page sees what the camera sees. So it is bound to this machine
unless told otherwise, and answers elsewhere only those who know the token; a page of another site
that a browser here has open can neither read nor show it.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import threading
import urllib.parse
from collections.abc import AsyncIterator
from importlib import resources
from typing import NamedTuple

from jax_irkd.deployment.board import Board, lines_of
from jax_irkd.errors import UserError

DEFAULT = "127.0.0.1:8000"
HEARTBEAT = 1.0  # seconds between two words about the source
FASTEST = 1 / 20  # seconds between two pictures for one viewer
REPEATED = 2.0  # seconds after which a picture is sent again, so that a lost viewer is noticed
GOODBYE = 2  # seconds that viewers have to hear of the end
COOKIE = "jax_irkd_token"
FILES = {"watch.js": "text/javascript", "watch.css": "text/css", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Address(NamedTuple):
    """Where a page is served. `port` 0 takes a free one."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """HOST:PORT, PORT or HOST, an IPv6 HOST in brackets; what is left out is that of `DEFAULT`.

    Raises UserError.
    """
    asked = f":{text}" if text.isdecimal() else text
    try:
        parts, usual = urllib.parse.urlsplit(f"//{asked}"), urllib.parse.urlsplit(f"//{DEFAULT}")
        port = usual.port if parts.port is None else parts.port
        if parts.path or parts.query or parts.username is not None:
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"--serve={text} is no address; give HOST:PORT such as {DEFAULT} or [::1]:8000"
        ) from error
    return Address(parts.hostname or usual.hostname, port)


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises UserError when the address cannot be had."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family)
    except PermissionError as error:
        raise UserError(
            f"--serve={address}: port {address.port} is only for administrators; take one above "
            f"1023, {address._replace(port=8000)}"
        ) from error
    except OSError as error:
        free = address._replace(port=address.port + 1 if address.port < 65535 else 0)
        raise UserError(
            f"--serve={address} cannot be had ({error.strerror or error}); end what uses it or "
            f"take another, --serve={free} (port 0: any free one)"
        ) from error


class Bell:
    """Wakes the coroutines of one event loop, from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def hang(self) -> None:
        """In the loop that is to hear it."""
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        if self._loop:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.count += 1
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, count: int, seconds: float) -> None:
        """Until it has rung more than `count` times, `seconds` at most."""
        if self.count == count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), seconds)


def application(board: Board, bell: Bell, *, token: str = "", local: bool = True, cookie=COOKIE):
    """The ASGI application. With a `token` it answers nobody without it; a `local` one nobody who
    asks for another host, as a page of another site can make a browser do."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def index(request: Request) -> Response:
        return _file("index.html", "text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        return _file(name, FILES[name]) if name in FILES else Response("nothing here\n", 404)

    def _file(name: str, kind: str) -> Response:
        held = resources.files("jax_irkd.deployment").joinpath("page", name)
        return Response(held.read_bytes(), media_type=kind, headers=HEADERS)

    async def status(request: Request) -> Response:
        return JSONResponse(board.status(), headers=HEADERS)

    async def events(request: Request) -> Response:
        asked = request.headers.get("last-event-id") or request.query_params.get("since", "")
        since = int(asked) if asked.isdecimal() else board.newest
        return StreamingResponse(
            event_lines(board, bell, since), media_type="text/event-stream", headers=HEADERS
        )

    async def picture(request: Request) -> Response:
        kind = "multipart/x-mixed-replace; boundary=frame"
        return StreamingResponse(picture_parts(board, bell), media_type=kind, headers=HEADERS)

    routes = {"/": index, "/events": events, "/picture": picture, "/status": status}
    routes["/{name}"] = file
    return Starlette(
        routes=[Route(path, answer) for path, answer in routes.items()],
        middleware=[Middleware(_Gate, token=token, local=local, cookie=cookie)],
    )


async def event_lines(board: Board, bell: Bell, since: int) -> AsyncIterator[str]:
    """Answers after number `since` as they come, and every second how things stand."""
    told, due = "", 0.0
    clock = asyncio.get_running_loop().time
    yield "retry: 1000\n\n"
    while True:
        rung, closed, status = bell.count, board.closed, board.status()
        word = f"event: status\ndata: {json.dumps(status)}\n\n"
        if not closed and (clock() >= due or status["state"] != told):
            told, due = status["state"], clock() + HEARTBEAT
            yield word
        found = board.answers(since)
        for line in lines_of(found):
            yield line
        since = found[-1][0] if found else min(since, board.newest)
        if closed:  # the last word, after all answers
            yield word
            return
        await bell.wait(rung, HEARTBEAT)


async def picture_parts(board: Board, bell: Bell) -> AsyncIterator[bytes]:
    """The newest picture as often as there is a new one."""
    sent, due = 0, 0.0
    clock = asyncio.get_running_loop().time
    yield b"--frame\r\n"
    while not board.closed:
        rung = bell.count
        number, jpeg = board.picture()
        if number and (number != sent or clock() >= due):
            sent, due = number, clock() + REPEATED
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            # The next boundary goes with it: browsers show a picture when they have seen it end.
            yield head.encode() + jpeg + b"\r\n--frame\r\n"
            await asyncio.sleep(FASTEST)
        await bell.wait(rung, HEARTBEAT)


class _Gate:
    """Lets those pass who bring the token: as ?token=, as Bearer, or in the cookie that the first
    visit with ?token= sets. A `local` page also looks at the host that was asked for: the name of
    another site may have been pointed at this machine."""

    def __init__(self, app, token: str, local: bool, cookie: str):
        self.app, self.token, self.local, self.cookie = app, token, local, cookie

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            await (self._refusal(scope) or self.app)(scope, receive, send)

    def _refusal(self, scope):
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, RedirectResponse

        request = Request(scope)
        if self.local and not Address(request.url.hostname or "", 0).local:
            return PlainTextResponse("ask for 127.0.0.1 or localhost\n", 400, headers=HEADERS)
        asked = request.query_params.get("token", "")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = [asked, bearer, request.cookies.get(self.cookie, "")]
        if not any(hmac.compare_digest(text.encode(), self.token.encode()) for text in given):
            text = "This page needs its token: open the address that predict printed.\n"
            return PlainTextResponse(text, 401, headers=HEADERS)
        if request.url.path == "/" and asked:
            answer = RedirectResponse("/", 303, headers=HEADERS)
            answer.set_cookie(self.cookie, asked, httponly=True, samesite="lax")
            return answer
        return None


class Server:
    """Serves a board from a thread of its own, until it is closed.

    Binding comes first, so that a port in use is said before a network is loaded. Raises UserError
    for an address that cannot be had, and where the extra `serve` is not installed.
    """

    def __init__(self, address: Address, token: str = ""):
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--serve needs {error.name}: pip install starlette uvicorn (the extra `serve`)"
            ) from error
        self._socket = bind(address)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self.token = token or ("" if address.local else secrets.token_urlsafe(16))
        self._server = self._thread = None

    @property
    def url(self) -> str:
        """What to open; of a page that is bound to all addresses the one others reach it by."""
        address = self.address
        if address.host in ("0.0.0.0", "::"):
            address = address._replace(host=_own_address())
        return f"http://{address}/" + (f"?token={self.token}" if self.token else "")

    def start(self, board: Board) -> None:
        import uvicorn

        bell = Bell()
        board.changed = bell.ring
        # Browsers share cookies among the ports of a host.
        cookie = f"{COOKIE}_{self.address.port}"
        local = self.address.local
        app = application(board, bell, token=self.token, local=local, cookie=cookie)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            timeout_graceful_shutdown=GOODBYE,
        )
        self._server = uvicorn.Server(config)

        async def serve() -> None:
            bell.hang()
            await self._server.serve(sockets=[self._socket])
            for connection in self._server.server_state.connections:
                connection.transport.abort()  # of a viewer that has not heard the last word

        logging.getLogger("uvicorn.error").addFilter(self._is_news)

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), name="serve")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        if self._server:
            self._server.should_exit = True
            self._thread.join(timeout=GOODBYE + 2)
            logging.getLogger("uvicorn.error").removeFilter(self._is_news)
        self._socket.close()

    def _is_news(self, _: logging.LogRecord) -> bool:
        """At the end viewers that do not read are cut off, of which uvicorn prints tracebacks."""
        return not self._server.should_exit


def _own_address() -> str:
    """This machine's address in its network, or its name where it is in none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; the system chooses the way out
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()
