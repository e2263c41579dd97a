from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import traceback
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

# Before anything imports Airflow.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="splashify-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

import pytest  # noqa: E402

from splashify_provider import rate_limit  # noqa: E402
from splashify_provider.bulk import decisions, sender  # noqa: E402
from splashify_provider.hooks.splashify import SplashifyHook  # noqa: E402
from splashify_provider.sandbox.server import Sandbox  # noqa: E402
from splashify_provider.sandbox.workspace import DEFAULT_KEY  # noqa: E402
from tests.airflow_server import airflow_environment  # noqa: E402

pytest_plugins = ["tests.databases"]

ADA, BEN, DAN = "ada@example.com", "ben@example.com", "dan@example.com"  # Dan is disabled
PHONE = "12025550101"
CLOSED = "12025550111"


@pytest.fixture
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def connect(monkeypatch):
    """Define the connection ``splashify_default`` (or another) from its fields."""

    def define(host="", password=DEFAULT_KEY, conn_id="splashify_default", **fields):
        document = {"conn_type": "splashify", "host": host, "password": password, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(document))

    return define


@pytest.fixture(autouse=True)
def _fresh_budgets(monkeypatch):
    """What one test has sent is not held against the next."""
    monkeypatch.setattr(rate_limit, "_limiters", {})


@pytest.fixture
def sleeps(monkeypatch):
    """The seconds a hook has slept, without having slept them: pacing believes that they have passed."""
    slept: list[float] = []
    limiter = partial(rate_limit.RateLimiter, clock=lambda: time.monotonic() + sum(slept))
    monkeypatch.setattr(rate_limit, "RateLimiter", limiter)
    return slept


@pytest.fixture
def hook(sandbox, connect, sleeps):
    connect(sandbox.base_url)
    return SplashifyHook(sleep=sleeps.append)


def number(index):
    """Give the phone number of a conversation of :func:`team`."""
    return f"1202555{index:04d}"


def rows(*indexes, agent=ADA):
    """Give rows of a batch."""
    return [{"user_phone_number": "+" + number(index), "agent_email": agent} for index in indexes]


def counts(outcomes):
    """Count the outcomes of a batch."""
    return Counter(outcome.outcome for outcome in outcomes)


def shown_in_frames(error, *needles):
    """Give those of the key and the number of the tests that tools such as Sentry would show of an error."""
    shown, errors = "", [error]
    while errors:
        error = errors.pop()
        errors += [each for each in (error.__cause__, error.__context__) if each]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:  # what a test holds is its own
                shown += "".join(repr(value) for value in frame.f_locals.values())
    return [needle for needle in needles or (DEFAULT_KEY, PHONE) if needle in shown]


def requests_to(sandbox):
    return sum(sandbox.workspace.answers.values())


def team(size=1000, **scenarios):
    """Describe a workspace with so many open conversations."""
    return {
        "agents": [{"email": ADA}, {"email": BEN}, {"email": DAN, "active": False}],
        "conversations": [{"user_phone_number": number(index)} for index in range(size)],
        "scenarios": {number(int(name[1:])): scenario for name, scenario in scenarios.items()},
    }


@pytest.fixture
def workspace(connect, monkeypatch):
    """Start a sandbox with many conversations, and give a hook for it and everything that was posted."""
    monkeypatch.setattr(decisions, "retry_delay", lambda *_: 0.01)
    monkeypatch.setattr(sender, "retry_delay", lambda *_: 0.01)
    started = []

    def start(seed=None, *, per_minute=100_000, extra=None, **options):
        sandbox = Sandbox(seed or team(), **{"rate_limit": 10**9, **options})
        started.append(sandbox.__enter__())
        posted = []
        assign = sandbox.workspace.assign
        sandbox.workspace.assign = lambda phone, agent: posted.append((phone, agent)) or assign(phone, agent)
        connect(sandbox.base_url, extra={"requests_per_minute": per_minute, "timeout": 5, **(extra or {})})
        return SplashifyHook(), sandbox, posted

    yield start
    for sandbox in started:
        sandbox.__exit__(None, None, None)


@pytest.fixture
def support(workspace):
    """Make a table of conversations with these holders, and Splashify with the same."""
    from tests.task_groups.simulation import Support

    return lambda *holders: Support(workspace, holders)


class RedisServer:
    """Debian's redis-server on a port of its own."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            ["redis-server", *options], stdout=subprocess.DEVNULL, cwd=os.environ["AIRFLOW_HOME"]
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError("redis-server did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis_server():
    if shutil.which("redis-server") is None and not os.environ.get("CI"):
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = RedisServer()
    yield server
    server.stop()


class Log:
    """Everything that is logged: by libraries, by Airflow 2's task logger, and by Airflow 3's, which prints."""

    def __init__(self, caplog, capsys) -> None:
        self._caplog, self._capsys, self._printed = caplog, capsys, ""

    @property
    def text(self) -> str:
        captured = self._capsys.readouterr()
        self._printed += captured.out + captured.err
        return self._caplog.text + self._printed


@pytest.fixture
def log(caplog, capsys):
    tasks = logging.getLogger("airflow.task")
    tasks.addHandler(caplog.handler)
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", "airflow.task"):
        yield Log(caplog, capsys)
    tasks.removeHandler(caplog.handler)


def airflow_cli(home, dags, **connections):
    """Give a function that runs ``airflow`` commands in such an environment."""
    environment = airflow_environment(home, dags, **connections)

    def airflow(*command):
        return subprocess.run(["airflow", *command], env=environment, capture_output=True, text=True, check=False)

    assert airflow("db", "migrate").returncode == 0
    return airflow


class RawServer:
    """Answers every connection's requests with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes | Callable[[socket.socket], object], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self._answer, self._tls = answer, tls
        self._keeps_alive = callable(answer)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                while request := self._request(stream):
                    self.requests.append(request)
                    if callable(self._answer):
                        self._answer(connection)
                    else:
                        connection.sendall(self._answer)
                    if not self._keeps_alive:
                        return
        except OSError:
            pass  # the client gave up, which is what some tests are about

    def _request(self, stream) -> bytes:
        head = b""
        while line := stream.readline():
            head += line
            if line == b"\r\n":
                break
        lengths = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
        return head + (stream.read(int(lengths[0].split(b":")[1])) if lengths else b"")

    def close(self) -> None:
        self._socket.close()


def http(status: str, body: str = "", **headers: str) -> bytes:
    """Write an HTTP answer as bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "", body])).encode()


SUCCESS = http("200 OK", '{"result": true, "message": "Chat Assigned Successfully"}')


@pytest.fixture
def raw_server():
    """Start servers that answer with given bytes."""
    started = []

    def start(answer=SUCCESS, tls=None):
        started.append(RawServer(answer, tls))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def browser_page():
    """A page of a headless chromium that reaches nothing but this machine."""
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync"]
    options += ["--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1;localhost"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of our own for 127.0.0.1, and a server context with it."""
    import datetime
    import ipaddress
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "splashify tests")])
    today = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return str(path), context
