"""An Airflow connection to the client's settings: argument beats extra beats default, blank means unset."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult, urlsplit

import requests
from phonenumbers import SUPPORTED_REGIONS

from splashify_provider.client import ASSIGNMENT, DEFAULT_BASE_URL, ClientSettings, host_of, is_loopback
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.rate_limit import MEMORY, Budget
from splashify_provider.redaction import redact, without_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.common.compat.sdk import Connection

_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}
_LONGEST_EXTRA = 100_000  # characters


def mask_secret(secret: str) -> None:
    """Have Airflow replace a secret in task logs, by whichever door this version has.

    :param secret: The secret.
    """
    for module in ("airflow.sdk.log", "airflow.utils.log.secrets_masker"):  # Airflow 3, Airflow 2
        with suppress(ImportError, AttributeError):
            import_module(module).mask_secret(secret)
            return


@without_frames(SplashifyConfigurationError)
def settings_from_connection(
    connection: Connection, arguments: Mapping[str, Any], warn: Callable[..., object]
) -> ClientSettings:
    """Read and check a ``splashify`` connection.

    :param connection: The Airflow connection.
    :param arguments: What the caller gave; wins over the connection's extras.
    :param warn: Logs a warning; called with a format and its arguments where extras are unknown.
    :return: The settings.
    :raises SplashifyConfigurationError: Naming the connection, the field and what it should be.
    """
    try:
        return _Reader(connection, arguments, warn).read()
    except SplashifyConfigurationError:
        raise
    except Exception as error:  # whatever odd values do to the libraries that read them
        raise SplashifyConfigurationError(
            f"Connection {connection.conn_id!r}: it can't be read ({type(error).__name__}: "
            f"{redact(error, str(connection.password or ''))}). Nothing was sent.\nCorrect the connection."
        ) from None


class _Reader:
    def __init__(self, connection: Connection, arguments: Mapping[str, Any], warn: Callable[..., object]) -> None:
        self._connection = connection
        if connection.conn_type not in (None, "", "generic", "splashify"):
            self._refuse(
                f"it is of type {redact(connection.conn_type)!r}, not splashify, so its password is another system's"
            )
        if len(connection.extra or "") > _LONGEST_EXTRA:
            self._refuse(f"Extra has more than {_LONGEST_EXTRA:,} characters")
        extra = connection.extra_dejson
        if not isinstance(extra, dict) or (not extra and (connection.extra or "").strip() not in ("", "{}", "null")):
            self._refuse("Extra must be a JSON object")
        known = get_provider_info()["connection-types"][0]["conn-fields"]
        if unknown := sorted(set(extra) - set(known)):
            warn(
                "Connection %r has extras that mean nothing here and are ignored: %s. Known are: %s.",
                connection.conn_id,
                ", ".join(redact(name) for name in unknown),
                ", ".join(sorted(known)),
            )
        given = {name: value for name, value in arguments.items() if value is not None and str(value).strip()}
        self._values = {**extra, **given}

    def read(self) -> ClientSettings:
        base_url, api_key = self._base_url(), self._api_key()
        return ClientSettings(
            conn_id=str(self._connection.conn_id),
            base_url=base_url,
            api_key=api_key,
            auth_scheme=self._auth_scheme(),
            default_region=self._default_region(),
            timeout=self._number("timeout", default=30.0, minimum=0.1, maximum=600),
            max_attempts=int(self._number("max_attempts", default=3, minimum=1, maximum=10, whole=True)),
            budget=self._budget(base_url, api_key),
            proxies=self._proxies(),
            verify=self._verify(),
        )

    def _refuse(self, problem: str) -> NoReturn:
        if key := str(self._connection.password or "").strip():  # it may have been pasted into another field, too
            problem = problem.replace(key, "***")
        raise SplashifyConfigurationError(
            f"Connection {self._connection.conn_id!r}: {problem}. Nothing was sent.\n"
            "Correct the connection (or the argument that overrides it)."
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
            self._refuse(f"{name} must be {kind} from {minimum:g} to {maximum:g}, not {redact(value)!r}")
        return number

    def _api_key(self) -> str:
        key = str(self._connection.password or "").strip()
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
                f"default_region must be two letters of ISO 3166-1, such as IN, GB or US, not {redact(region)!r}"
            )
        return None if region is None else str(region).upper()

    def _auth_scheme(self) -> str:
        scheme = str(self._value("auth_scheme") or "Basic").capitalize()
        if scheme not in ("Basic", "Bearer"):
            self._refuse("auth_scheme must be Basic or Bearer")
        return scheme

    def _budget(self, base_url: str, api_key: str) -> Budget:
        per_minute = int(self._number("requests_per_minute", default=90, minimum=1, maximum=100_000, whole=True))
        burst = int(self._number("burst", default=per_minute, minimum=1, maximum=100_000, whole=True))
        name = hashlib.sha256(f"{base_url}\n{api_key}".encode()).hexdigest()[:32]
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
            except (ValueError, RecursionError):
                proxies = None
        if not isinstance(proxies, dict) or not all(
            isinstance(value, str) and host_of(value) for value in proxies.values()
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
            self._refuse(f"verify must be true, false or the path of a CA bundle; {redact(verify)!r} is none of them")
        return str(verify)

    def _base_url(self) -> str:
        parts, port = self._parts()
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.hostname.startswith("sk_"):
            self._refuse(f"the Base URL (host) must look like {DEFAULT_BASE_URL}")
        if parts.username or parts.password or parts.query or parts.fragment:
            self._refuse("the Base URL (host) must have no user, password, query or fragment; the key is the password")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            self._refuse(
                f"the Base URL (host) must be https://: plain http to {redact(parts.hostname)} would send the API key "
                "for anyone to read. Only loopback (http://127.0.0.1:8000) may do without TLS"
            )
        path = parts.path.rstrip("/")
        if path.endswith(ASSIGNMENT.rstrip("/")):
            self._refuse(f"the Base URL (host) must end before {ASSIGNMENT}, as in {DEFAULT_BASE_URL}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        url = f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"
        try:
            requests.Request("POST", url + ASSIGNMENT).prepare()
            host.encode("idna")
        except (requests.RequestException, ValueError) as error:
            self._refuse(f"the Base URL (host) can't be used ({redact(error)})")
        return url

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
            usable = port is None or 0 < port < 65536
        except (TypeError, ValueError):
            usable = False
        if not usable:
            self._refuse(f"the Base URL (host) is malformed; it must look like {DEFAULT_BASE_URL}")
        if schema not in ("", "http", "https") and parts.path in ("", "/"):
            parts = parts._replace(path="/" + schema.lstrip("/"))
        return parts, port
