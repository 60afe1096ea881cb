"""A process that is gone ends the others with one line, in seconds.

By itself JAX notices after its heartbeat's timeout, and then aborts with a trace of C++. Here each
process keeps a connection to the first one: the system closes it when a process ends, however it
ends, and keep-alives find a machine that is gone. Each says with which exit code it leaves.
"""

import atexit
import contextlib
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

from jax_irkd.errors import once
from jax_irkd.host.interrupts import INTERRUPTED

JOINING = 20.0  # seconds until all have connected
GRACE = 30.0  # seconds that the others have to end by themselves after one left with an error
_SETTLING = 5.0  # seconds in which a loss is noticed that has broken a computation
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_watch: "Watch | None" = None


def watch(index: int, count: int, share: Callable[[bytes], bytes], host: str = "") -> None:
    """Connect this process, number `index` of `count`, and end it when another one is gone.

    `share` gives all processes what the first one hands it. `host` is where the first one is
    reached; empty takes its own name for itself. Where a connection cannot be made (a firewall)
    it is said once, and JAX's own heartbeat is left.
    """
    global _watch
    if count == 1 or _watch is not None:
        return
    own = host or os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    if index == 0:
        import secrets  # not at the top: every --help would wait for it

        with _listener() as door:
            token = secrets.token_hex(8)
            share(f"{own} {door.getsockname()[1]} {token}".encode())
            links = _accept(door, token, count)
    else:
        said, port, token = share(b"").decode().split()
        links = _connect(host or said, int(port), f"{token} {index}\n")
    if len(links) < (count - 1 if index == 0 else 1):
        once(
            "the processes cannot reach each other beside JAX: a lost one ends the others only "
            "after JAX's own heartbeat, with a long message"
        )
    _watch = Watch(index, count, links)
    atexit.register(_farewell_at_exit)


def farewell(code: int, at_once: bool = False) -> None:
    """Tell the others that this process ends with `code`; only the first call counts.

    `at_once` is for an end without JAX's, which waits for all: the others then end too.
    """
    if _watch is not None and _watch.left is None:
        _watch.leave(code, at_once)


def settle() -> bool:
    """After an error: whether there are others. One that is gone ends this process meanwhile."""
    if _watch is None or not _watch.links or _watch.left is not None:
        return False
    time.sleep(_SETTLING)
    return True


def _farewell_at_exit() -> None:
    failed = getattr(sys, "last_value", None) is not None
    farewell(1 if failed else 0)


class Watch:
    """The connections of process `index` by the others' numbers, and the thread that reads them."""

    def __init__(self, index: int, count: int, links: dict[int, socket.socket]):
        self.index, self.count, self.links = index, count, links
        self.left: int | None = None  # the exit code, once this process has said it
        threading.Thread(target=self._listen, name="peers", daemon=True).start()

    def leave(self, code: int, at_once: bool) -> None:
        self.left = code
        self._tell(f"{'lost' if at_once else 'left'} {self.index} {code}\n")
        if at_once and self.index == 0 and self.links:
            time.sleep(1)  # JAX's service ends with this process; the others go before it

    def _tell(self, line: str) -> None:
        for link in self.links.values():
            with contextlib.suppress(OSError):
                link.sendall(line.encode())

    def _listen(self) -> None:
        with selectors.DefaultSelector() as ready:
            for other, link in self.links.items():
                ready.register(link, selectors.EVENT_READ, other)
            while ready.get_map():
                for key, _ in ready.select():
                    if self._hear(key.data, key.fileobj):
                        ready.unregister(key.fileobj)

    def _hear(self, other: int, link: socket.socket) -> bool:
        """Whether `other` has left and nothing more is to be heard from it."""
        try:
            lines = link.recv(4096).decode(errors="replace").splitlines()
        except OSError:  # what the system answers for a machine that is gone
            lines = []
        if not lines:
            self._end(other, None)
        for line in lines:
            word, who, code = line.split()
            if word == "lost":
                self._end(int(who), int(code) if code.isdigit() else None)
            elif int(code) in (0, INTERRUPTED):
                return True
            else:
                timer = threading.Timer(GRACE, self._end, (int(who), int(code)))
                timer.daemon = True
                timer.start()
                return True
        return False

    def _end(self, lost: int, code: int | None) -> None:
        """End this process because `lost` did: with `code`, or without a word."""
        if self.left is not None:
            os._exit(self.left)
        if self.index == 0:
            self._tell(f"lost {lost} {code}\n")
        how = "is gone (killed, or its machine)" if code is None else f"ended with exit code {code}"
        how = "was stopped by a signal" if code == INTERRUPTED else how
        text = (
            f"error: process {lost} of {self.count} {how}; its own output may say why. What was "
            "saved is whole: start all again with the same command to continue\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        os._exit(INTERRUPTED if code is None else code)


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accept(door: socket.socket, token: str, count: int) -> dict[int, socket.socket]:
    """The connections of all others, as far as they come in time and know `token`."""
    import hmac

    links, until = {}, time.monotonic() + JOINING
    while len(links) < count - 1 and (left := until - time.monotonic()) > 0:
        door.settimeout(left)
        try:
            link, _ = door.accept()
            link.settimeout(5)
            given, index = link.recv(64).decode(errors="replace").split()
        except (OSError, ValueError):
            continue
        if hmac.compare_digest(given.encode(), token.encode()):
            links[int(index)] = _kept_alive(link)
    return links


def _connect(host: str, port: int, greeting: str) -> dict[int, socket.socket]:
    try:
        link = socket.create_connection((host, port), timeout=JOINING)
        link.sendall(greeting.encode())
    except OSError:
        return {}
    return {0: _kept_alive(link)}


def _kept_alive(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link
