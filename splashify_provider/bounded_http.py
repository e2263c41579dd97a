"""HTTP whose answers end: a deadline, a largest size, and nothing before an answer or behind it.

``requests`` and ``http.client`` bound each wait of a socket, not the whole of an exchange, and take what follows an
interim answer (``103 Early Hints``) for the answer to the next request.
"""

from __future__ import annotations

import io
import re
import socket
import time
import zlib
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HeaderParsingError, HTTPError, ReadTimeoutError
from urllib3.util.response import assert_header_parsing

if TYPE_CHECKING:
    from urllib3 import Timeout

MOST_BYTES = 1_000_000  # of an answer's body, decoded
_DEFAULT_DEADLINE = 60.0  # seconds, for a request whose caller gave no timeout
_MOST_BYTES_RECEIVED = 2 * MOST_BYTES  # of a whole answer, headers and chunk sizes included


def read_body(response: requests.Response) -> bytes:
    """Read an answer's body, and hand back its connection.

    :param response: The answer, whose body has not been read.
    :return: The body; one byte more than MOST_BYTES where it is larger, and then its connection is closed.
    :raises HTTPException: If the body ends early, or more follows it.
    :raises urllib3.exceptions.HTTPError: If it can't be received before the deadline.
    :raises zlib.error: If it can't be decompressed.
    """
    try:
        body: bytes = response.raw.read(MOST_BYTES + 1, decode_content=False)
    except ValueError:  # http.client's own, for a negative chunk size
        response.close()
        raise HTTPException("a damaged answer") from None
    is_whole = len(body) <= MOST_BYTES and not response.raw.length_remaining
    if is_whole:
        response.raw.release_conn()
    else:
        response.close()
        if len(body) <= MOST_BYTES:
            raise HTTPException("a truncated answer")
    if response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):  # though not asked for
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MOST_BYTES + 1)
    return body


class BoundedAdapter(HTTPAdapter):
    """HTTP whose answers are read through :class:`_BoundedResponse`."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool that requests finds, with connections of our kind.

        :param args: As of requests.
        :param kwargs: As of requests.
        :return: The pool.
        """
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _bounded(pool.ConnectionCls)
        return pool


@lru_cache(maxsize=16)
def _bounded(kind: Any) -> Any:
    if getattr(kind, "response_class", None) is _BoundedResponse:
        return kind
    return type(f"Bounded{kind.__name__}", (kind,), {"response_class": _BoundedResponse})


class _BoundedResponse(HTTPResponse):
    """An answer with a deadline, a largest size, and nothing before it or behind it."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._stream = _BoundedStream(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._stream)
        self._is_given_up = False

    def begin(self) -> None:
        super().begin()
        if self.status < requests.codes.ok:  # http.client would take the real answer for the next request's
            raise HTTPException(f"an unexpected interim answer ({self.status})")
        try:
            assert_header_parsing(self.msg)  # urllib3 would log what the server sent, and go on
        except (HeaderParsingError, TypeError):
            raise HTTPException("malformed headers") from None
        if not isinstance(self._socket, socket.socket):  # TLS inside a proxy's TLS can't be asked what it has decrypted
            self.will_close = True

    def close(self) -> None:
        self._is_given_up = True
        super().close()

    def _close_conn(self) -> None:
        """End reading. http.client calls this when it has read the whole answer, or gives it up."""
        is_more = not self._is_given_up and self._stream.is_ended_with_more(self.fp)
        super()._close_conn()  # type: ignore[misc]  # private, and the only place that knows
        if is_more:
            raise HTTPException("more than one answer")


class _BoundedStream(io.RawIOBase):
    """What a socket receives, for as long as its time-out says in all, and no more than a largest size."""

    def __init__(self, raw: Any, sock: socket.socket) -> None:
        self._raw, self._socket = raw, sock
        self._left = _MOST_BYTES_RECEIVED
        self._deadline = time.monotonic() + (sock.gettimeout() or _DEFAULT_DEADLINE)
        self._is_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._is_ended:
            return None
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(seconds)
        count: int = self._raw.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise HTTPException("too large an answer")
        return count

    def is_ended_with_more(self, buffered: io.BufferedReader) -> bool:
        """End the stream, and check whether bytes have arrived that nobody has read."""
        self._is_ended = True  # so that looking doesn't wait for more
        in_tls_record = getattr(self._socket, "pending", lambda: 0)()  # decrypted, which waiting for the socket misses
        return bool(buffered.peek(1)) or in_tls_record > 0

    def close(self) -> None:
        super().close()
        self._raw.close()


_UNTRUSTED = re.compile(r"certificate verify failed: ([^(\[]+)")


def what_broke(error: Exception, timeout: Timeout) -> str | None:
    """Name what kept an answer from arriving.

    :param error: What requests, urllib3, http.client or zlib raised.
    :param timeout: How long connecting might take, and the whole of it.
    :return: The problem and what to check, in words; None if it is not one of the network's but of the address, a CA
        bundle or a proxy, which can't be used.
    """
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy can't be reached or refuses. Check the proxies of the connection or the environment"
    if isinstance(error, requests.exceptions.SSLError):
        if untrusted := _UNTRUSTED.search(text):
            return f"its certificate is not trusted ({untrusted[1].strip()}). Check Base URL and verify"
        return "TLS failed. Check that host and port of the Base URL speak https"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {timeout.connect_timeout:g} s. Check that this worker may reach it"
    if isinstance(error, (requests.exceptions.ReadTimeout, ReadTimeoutError)):
        return f"no answer within {timeout.total:g} s, or not a whole one"
    if isinstance(error, requests.RequestException) and "NameResolutionError" in text:
        return "the name does not resolve. Check the Base URL, and this worker's DNS"
    if isinstance(error, requests.RequestException) and "refused" in text:
        return "the connection is refused. Check host and port of the Base URL"
    if isinstance(error, (requests.exceptions.ContentDecodingError, requests.exceptions.InvalidHeader, zlib.error)):
        return "the answer is damaged"  # our own headers are checked before
    if isinstance(error, (requests.ConnectionError, HTTPError, HTTPException)) and not isinstance(error, ValueError):
        return "the connection broke before the whole answer had arrived, or the answer is damaged"
    return None
