"""Whatever a server does, an exchange ends, stays small, and is answered by its own answer only."""

from __future__ import annotations

import contextlib
import gzip
import resource
import signal
import socket
import threading
import time
import zlib
from dataclasses import replace

import pytest

from splashify_provider.bounded_http import MOST_BYTES
from splashify_provider.client import ASSIGNMENT, ClientSettings, SplashifyClient
from splashify_provider.exceptions import SplashifyConnectionError, SplashifyError, UnexpectedResponseError
from splashify_provider.rate_limit import Budget
from tests.conftest import ADA, PHONE, SUCCESS, http, shown_in_frames

OTHER = "12025550102"
KEEP_ALIVE = SUCCESS.replace(b"Connection: close\r\n", b"")


@pytest.fixture
def client(raw_server):
    """Make a client of a server that answers in a given way."""

    def make(answer, timeout=0.5, tls=None, **settings):
        server = raw_server(answer, tls)
        scheme = "https" if tls else "http"
        made = SplashifyClient(
            ClientSettings(
                conn_id="crm",
                base_url=f"{scheme}://127.0.0.1:{server.port}",
                api_key="sk_live_sandbox",
                auth_scheme="Basic",
                default_region=None,
                timeout=timeout,
                max_attempts=1,
                budget=Budget("b", 1000, 1000),
                proxies={},
                **{"verify": True, **settings},
            )
        )
        return made, server

    return make


def dripping(head, drop):
    """Send a part of an answer, and go on with a drop every few milliseconds for as long as somebody listens."""

    def answer(connection):
        with contextlib.suppress(OSError):
            connection.sendall(head)
            while True:
                connection.sendall(drop)
                time.sleep(0.02)

    return answer


class TestDeadline:
    @pytest.mark.parametrize(
        ("head", "drop"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
            (b"", b"H"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        ],
    )
    def test_an_answer_that_drips_ends_with_the_deadline(self, client, head, drop):
        made, _ = client(dripping(head, drop), timeout=0.3)
        started = time.monotonic()
        with pytest.raises(SplashifyConnectionError) as raised:
            made.assign(PHONE, ADA)
        assert time.monotonic() - started < 2
        assert "sk_live" not in str(raised.value)

    def test_interim_answers_without_end_are_too_much_before_the_deadline(self, client):
        made, _ = client(lambda connection: flood(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), timeout=60)
        started = time.monotonic()
        with pytest.raises(SplashifyConnectionError):
            made.assign(PHONE, ADA)
        assert time.monotonic() - started < 30

    def test_a_whole_answer_within_the_deadline_is_waited_for(self, client):
        def answer(connection):
            for byte in KEEP_ALIVE:
                connection.sendall(bytes([byte]))
                time.sleep(0.0005)

        assert client(answer, timeout=20)[0].assign(PHONE, ADA) == "Chat Assigned Successfully"

    def test_a_handshake_that_drips_ends_with_the_deadline(self, client):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def drip():
                connection, _ = server.accept()
                dripping(b"\x16\x03\x03\x40\x00", b"\x00")(connection)

            threading.Thread(target=drip, daemon=True).start()
            made, _ = client(b"", timeout=0.3)
            settings = replace(made.settings, base_url=f"https://127.0.0.1:{server.getsockname()[1]}")
            started = time.monotonic()
            with pytest.raises(SplashifyConnectionError):
                SplashifyClient(settings).assign(PHONE, ADA)
            assert time.monotonic() - started < 2


def flood(connection, data):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(data)


class TestSize:
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 500 Oops\r\n\r\n",
        ],
    )
    def test_a_body_without_end_is_not_read_to_its_end(self, client, head):
        def answer(connection):
            with contextlib.suppress(OSError):
                connection.sendall(head)
            flood(connection, b" " * 100_000)

        with pytest.raises(UnexpectedResponseError, match="more than 1,000,000 bytes"):
            client(answer, timeout=20)[0].assign(PHONE, ADA)

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_a_bomb_does_not_go_off(self, client, encoding):
        blanks = b" " * 300_000_000
        body = gzip.compress(blanks, 9) if encoding == "gzip" else zlib.compress(blanks, 9)
        del blanks
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        made, server = client(lambda connection: connection.sendall(head + body), timeout=20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UnexpectedResponseError, match="more than 1,000,000 bytes"):
            made.assign(PHONE, ADA)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
        assert b"Accept-Encoding: identity\r\n" in server.requests[0]

    def test_headers_without_end_are_not_read_to_their_end(self, client):
        def answer(connection):
            with contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
            flood(connection, b"X: " + b"y" * 1000 + b"\r\n")

        with pytest.raises(SplashifyConnectionError):
            client(answer, timeout=20)[0].assign(PHONE, ADA)

    def test_a_large_answer_within_the_bound_is_read(self, client):
        body = b'{"result": true, "message": ""}'.ljust(MOST_BYTES)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        assert client(answer, timeout=20)[0].assign(PHONE, ADA) == ""

    @pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
    def test_a_server_that_compresses_unasked_is_understood(self, client, compress):
        body = compress(b'{"result": true, "message": "Done"}')
        encoding = b"gzip" if compress is gzip.compress else b"deflate"
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body))
        assert client(head + body)[0].assign(PHONE, ADA) == "Done"


class TestOneAnswerEach:
    @pytest.mark.parametrize(
        "interim",
        [
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 199 What\r\n\r\n",
        ],
    )
    def test_the_answer_after_an_interim_one_is_not_the_next_requests(self, client, interim):
        made, server = client(lambda connection: connection.sendall(interim + KEEP_ALIVE))
        for phone in (PHONE, OTHER):
            with pytest.raises(SplashifyConnectionError):
                made.assign(phone, ADA)
        assert len(server.requests) == 2

    def test_an_answer_that_comes_late_after_an_interim_one_is_nobodys(self, client):
        def answer(connection):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                connection.sendall(KEEP_ALIVE)

        made, _ = client(answer)
        for phone in (PHONE, OTHER, PHONE):
            with pytest.raises(SplashifyConnectionError):
                made.assign(phone, ADA)

    @pytest.mark.parametrize("more", [b"x", KEEP_ALIVE, http("400 Bad Request", '{"message": "Agent not found"}')])
    @pytest.mark.parametrize(
        "first",
        [
            KEEP_ALIVE,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"result": true}\r\n0\r\n\r\n',
        ],
    )
    def test_bytes_left_over_make_it_a_connection_error_and_are_not_read_by_the_next(self, client, first, more):
        made, server = client(lambda connection: connection.sendall(first + more))
        for phone in (PHONE, OTHER):
            with pytest.raises(SplashifyConnectionError):
                made.assign(phone, ADA)
        assert len(server.requests) == 2

    def test_bytes_left_over_in_a_tls_record_are_not_read_by_the_next(self, client, certificate):
        """The reader takes 8,192 bytes at a time: what follows them is neither in its buffer nor in the socket's."""

        def answer(connection):
            padding = 8192 - len(KEEP_ALIVE) - len(b"X: \r\n")
            first = KEEP_ALIVE.replace(b"\r\n", b"\r\nX: " + b"y" * padding + b"\r\n", 1)
            assert len(first) == 8192
            connection.sendall(first + http("400 Bad Request", '{"message": "Agent not found"}'))

        made, server = client(answer, tls=certificate[1], verify=certificate[0])
        for phone in (PHONE, OTHER):
            with pytest.raises(SplashifyConnectionError):
                made.assign(phone, ADA)
        assert len(server.requests) == 2

    def test_bytes_that_come_between_two_requests_are_read_by_neither(self, client):
        def answer(connection):
            connection.sendall(KEEP_ALIVE)
            with contextlib.suppress(OSError):
                time.sleep(0.02)
                connection.sendall(http("400 Bad Request", '{"message": "Agent not found"}'))

        made, _ = client(answer)
        for _ in range(3):
            assert made.assign(PHONE, ADA)
            time.sleep(0.06)

    def test_a_continue_that_nobody_asked_for_is_passed_over(self, client):
        made, _ = client(lambda connection: connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + KEEP_ALIVE))
        assert made.assign(PHONE, ADA)
        assert made.assign(OTHER, ADA)

    def test_a_connection_is_kept_for_the_next_request(self, client):
        connections = set()

        def answer(connection):
            connections.add(connection.getpeername())
            connection.sendall(KEEP_ALIVE)

        made, server = client(answer)
        for _ in range(5):
            made.assign(PHONE, ADA)
        assert len(server.requests) == 5
        assert len(connections) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            b'HTTP/1.1 200 OK\r\nContent-Length: 58\r\n\r\n{"result": true}',
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"result": true}\r\n',
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"result": true}',
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        ],
    )
    def test_a_truncated_answer_is_none(self, client, answer):
        with pytest.raises(SplashifyConnectionError):
            client(answer)[0].assign(PHONE, ADA)

    def test_malformed_headers_are_refused_and_not_logged(self, client, log):
        answer = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n12025550101 sk_live_sandbox\r\n\r\n{"result": true}'
        with pytest.raises(SplashifyConnectionError):
            client(answer)[0].assign(PHONE, ADA)
        assert PHONE not in log.text
        assert "sk_live_sandbox" not in log.text


class Stop(BaseException):
    """What Airflow raises out of a signal's handler, wherever the task is."""


class TestFrames:
    @pytest.mark.parametrize(
        "answer",
        [
            dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b" "),
            dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
            lambda _: time.sleep(0.5),
        ],
    )
    def test_a_stop_inside_an_exchange_leaves_no_key_in_its_frames(self, client, answer):
        def stop(*_):
            raise Stop

        made, _ = client(answer, timeout=20)
        before = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            with pytest.raises(Stop) as raised:
                made.assign(PHONE, ADA)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert shown_in_frames(raised.value, "sk_live_sandbox") == []

    @pytest.mark.parametrize("answer", [b"", http("500 Oops"), http("400 Bad Request", "{}"), http("200 OK", "{}")])
    def test_no_error_has_the_key_in_its_frames_or_its_context(self, client, answer):
        with pytest.raises(SplashifyError) as raised:
            client(answer)[0].exchange("POST", ASSIGNMENT, {})
        assert shown_in_frames(raised.value, "sk_live_sandbox") == []


class TestAnyEndpoint:
    def test_another_endpoint_is_one_call(self, client):
        body = '{"result": true, "data": {"customers": []}}'
        made, server = client(http("200 OK", body))
        answer = made.exchange("POST", "/public/apis/users/?offset=0&limit=100", {"filters": []}, not_done="x")
        assert answer["data"] == {"customers": []}
        assert server.requests[0].startswith(b"POST /public/apis/users/?offset=0&limit=100 HTTP/1.1\r\n")

    def test_without_a_body_and_without_a_slash(self, client):
        made, server = client(http("403 Forbidden", '{"success": false, "error": "plan_required"}'))
        with pytest.raises(SplashifyError, match="the team was not read"):
            made.exchange("GET", "/app/team", not_done="the team was not read")
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"GET /app/team HTTP/1.1\r\n")
        assert body == b""
        assert b"Authorization: Basic sk_live_sandbox" in head
