"""An Airflow connection to validated settings: argument beats extra beats default, blank means unset."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from phonenumbers import SUPPORTED_REGIONS

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.rate_limit import MEMORY, Budget
from splashify_provider.redaction import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.common.compat.sdk import Connection

DEFAULT_BASE_URL = "https://apis.splashifypro.com/api/v1"
ENDPOINT = "/public/assignment/"  # with its trailing slash: without, the API answers 301

_CONNECT_TIMEOUT = 10.0
_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}


@dataclass(frozen=True)
class Settings:
    """What the hook needs to know, checked.

    :param url: The endpoint to POST to.
    :param api_key: The raw key. Not part of the repr.
    :param auth_scheme: ``Basic`` or ``Bearer``.
    :param default_region: Whose national phone numbers are understood, or None.
    :param timeouts: Seconds to wait for a connection, and for an answer.
    :param max_attempts: How often one request is tried.
    :param budget: What may be sent in which time, and where that is counted.
    :param proxies: By scheme, as requests takes them. Not part of the repr: they may carry a password.
    :param verify: Whether to check the server's certificate, or against which CA bundle; None leaves it to the
        environment.
    """

    url: str
    api_key: str = field(repr=False)
    auth_scheme: str
    default_region: str | None
    timeouts: tuple[float, float]
    max_attempts: int
    budget: Budget
    proxies: Mapping[str, str] = field(repr=False)
    verify: bool | str | None

    @property
    def host(self) -> str:
        """The host to name in errors."""
        return urlsplit(self.url).netloc

    def allowed_proxies(self, proxies: Mapping[str, str]) -> dict[str, str]:
        """Keep plain http on this machine: to loopback directly, or through a proxy that is on it too.

        :param proxies: The connection's proxies and the environment's.
        :return: Those that may be used.
        """
        if self.url.startswith("https:"):
            return dict(proxies)
        return {key: proxy for key, proxy in proxies.items() if _is_loopback(_host(proxy))}


def settings_from_connection(
    connection: Connection, arguments: Mapping[str, Any], warn: Callable[..., object]
) -> Settings:
    """Read and check a ``splashify`` connection.

    :param connection: The Airflow connection.
    :param arguments: What the caller gave; wins over the connection's extras.
    :param warn: Logs a warning; called with a format and its arguments where extras are unknown.
    :return: The settings.
    :raises SplashifyConfigurationError: Naming the connection, the field and what it should be.
    """
    return _Reader(connection, arguments, warn).read()


class _Reader:
    def __init__(self, connection: Connection, arguments: Mapping[str, Any], warn: Callable[..., object]) -> None:
        self._connection = connection
        if connection.conn_type not in (None, "", "generic", "splashify"):
            self._refuse(
                f"it is of type {quote(connection.conn_type)!r}, not splashify, so its password is another system's"
            )
        extra = connection.extra_dejson
        if not isinstance(extra, dict) or (not extra and (connection.extra or "").strip() not in ("", "{}", "null")):
            self._refuse("Extra must be a JSON object")
        known = get_provider_info()["connection-types"][0]["conn-fields"]
        if unknown := sorted(set(extra) - set(known)):
            warn(
                "Connection %r has extras that mean nothing here and are ignored: %s. Known are: %s.",
                connection.conn_id,
                ", ".join(quote(name) for name in unknown),
                ", ".join(sorted(known)),
            )
        given = {name: value for name, value in arguments.items() if value is not None and str(value).strip()}
        self._values = {**extra, **given}

    def read(self) -> Settings:
        timeout = self._number("timeout", default=30.0, minimum=0.1, maximum=600)
        url, api_key = self._url(), self._api_key()
        return Settings(
            url=url,
            api_key=api_key,
            auth_scheme=self._auth_scheme(),
            default_region=self._default_region(),
            timeouts=(min(timeout, _CONNECT_TIMEOUT), timeout),
            max_attempts=int(self._number("max_attempts", default=3, minimum=1, maximum=10, whole=True)),
            budget=self._budget(url, api_key),
            proxies=self._proxies(),
            verify=self._verify(),
        )

    def _refuse(self, problem: str) -> NoReturn:
        raise SplashifyConfigurationError(
            f"Connection {self._connection.conn_id!r}: {problem}. Nothing was sent; correct the connection (or the "
            "argument that overrides it)."
        )

    def _value(self, name: str) -> Any:
        value = self._values.get(name)
        if isinstance(value, str):
            value = value.strip()
        return None if value in ("", {}, []) else value

    def _number(self, name: str, *, default: float, minimum: float, maximum: float, whole: bool = False) -> float:
        value = self._value(name)
        if value is None:
            return default
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not minimum <= number <= maximum or (whole and number != int(number)):
            kind = "a whole number" if whole else "a number"
            self._refuse(f"{name} must be {kind} from {minimum:g} to {maximum:g}, not {quote(value)!r}")
        return number

    def _api_key(self) -> str:
        key = (self._connection.password or "").strip()
        if not key:
            self._refuse(
                "it has no API key (the connection's password); Splashify makes one under Settings → Developer"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            self._refuse(
                "the API key (the connection's password) has characters that no key has: blanks, line breaks or "
                "non-ASCII ones. Paste only the key itself, without Basic or Bearer"
            )
        return key

    def _default_region(self) -> str | None:
        region = self._value("default_region")
        if region is not None and str(region).upper() not in SUPPORTED_REGIONS:
            self._refuse(
                f"default_region must be two letters of ISO 3166-1, such as IN, GB or US, not {quote(region)!r}"
            )
        return None if region is None else str(region).upper()

    def _auth_scheme(self) -> str:
        scheme = str(self._value("auth_scheme") or "Basic").capitalize()
        if scheme not in ("Basic", "Bearer"):
            self._refuse("auth_scheme must be Basic or Bearer")
        return scheme

    def _budget(self, url: str, api_key: str) -> Budget:
        per_minute = int(self._number("requests_per_minute", default=90, minimum=1, maximum=100_000, whole=True))
        burst = int(self._number("burst", default=per_minute, minimum=1, maximum=100_000, whole=True))
        name = hashlib.sha256(f"{url}\n{api_key}".encode()).hexdigest()[:32]
        return Budget(name, per_minute, min(burst, per_minute), self._rate_limit_storage())

    def _rate_limit_storage(self) -> str:
        storage = self._value("rate_limit_storage")
        if storage is None or storage == MEMORY:
            return MEMORY
        try:
            parts = urlsplit(str(storage))
            usable = parts.scheme in ("redis", "rediss") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = False
        if not usable or not re.fullmatch("/?[0-9]*", parts.path):
            # Not quoted: it may carry a password.
            self._refuse("rate_limit_storage must be memory://, redis://host:6379/0 or rediss://host:6379/0")
        if find_spec("redis") is None:
            self._refuse(
                "rate_limit_storage is Redis, but Python's redis package is not installed here: pip install "
                "'airflow-provider-splashify[redis]'"
            )
        return str(storage)

    def _proxies(self) -> dict[str, str]:
        proxies = self._value("proxies") or {}
        if isinstance(proxies, str):
            try:
                proxies = json.loads(proxies)
            except ValueError:
                proxies = None
        if not isinstance(proxies, dict) or not all(
            isinstance(value, str) and _host(value) for value in proxies.values()
        ):
            self._refuse('proxies must be a JSON object such as {"https": "http://proxy.example.com:3128"}')
        return proxies

    def _verify(self) -> bool | str | None:
        verify = self._value("verify")
        if verify is None or isinstance(verify, bool):
            return verify
        if str(verify).lower() in _TRUE | _FALSE:
            return str(verify).lower() in _TRUE
        if not os.path.exists(str(verify)):
            self._refuse(f"verify must be true, false or the path of a CA bundle; {quote(verify)!r} is none of them")
        return str(verify)

    def _url(self) -> str:
        parts, port = self._parts()
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.hostname.startswith("sk_"):
            self._refuse(f"the Base URL (host) must look like {DEFAULT_BASE_URL}")
        if parts.username or parts.password or parts.query or parts.fragment:
            self._refuse("the Base URL (host) must have no user, password, query or fragment; the key is the password")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            self._refuse(
                f"the Base URL (host) must be https://: plain http to {parts.hostname} would send the API key for "
                "anyone to read. Only loopback (http://127.0.0.1:8000) may do without TLS"
            )
        path = parts.path.rstrip("/")
        if path.endswith(ENDPOINT.rstrip("/")):
            self._refuse(f"the Base URL (host) must end before {ENDPOINT}, as in {DEFAULT_BASE_URL}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}{ENDPOINT}"

    def _parts(self) -> tuple[SplitResult, int | None]:
        """Split the base URL, which a connection given as a URI spreads over host, port and schema."""
        connection = self._connection
        host, schema = (connection.host or "").strip(), (connection.schema or "").strip()
        schema = schema.lower() if schema.lower() in ("http", "https") else schema
        if not host:
            host = DEFAULT_BASE_URL
        scheme = schema if schema in ("http", "https") else "https"
        url = host if "://" in host else f"{scheme}://{host}"
        if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
            self._refuse("the Base URL (host) contains blanks, backslashes or control characters")
        try:
            parts = urlsplit(url)
            port = parts.port or connection.port
        except ValueError:
            self._refuse(f"the Base URL (host) is malformed; it must look like {DEFAULT_BASE_URL}")
        if schema not in ("", "http", "https") and parts.path in ("", "/"):
            parts = parts._replace(path="/" + schema.lstrip("/"))
        return parts, port


def _host(url: str) -> str | None:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts.hostname if parts.port != 0 else None
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
