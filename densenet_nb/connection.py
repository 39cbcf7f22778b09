"""Whether a host answers, told in seconds: without a network, downloads try again for minutes."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["SECONDS", "answers", "first_host"]

SECONDS = 4
"""How long a host may take to accept a connection."""

PORTS = {"http": 80, "https": 443, "ftp": 21}


def first_host(url: str) -> tuple[str, int]:
    """Return host and port that a request for `url` goes to first: the proxy's, if there is one."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return parts.hostname, parts.port or PORTS.get(parts.scheme, 443)


def answers(host: str, port: int) -> bool:
    """Whether a connection is made in time. Looking a name up has no time limit: hence a thread."""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), SECONDS):
            connected.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return connected.is_set()
