"""The HTTP session: what it trusts, what it refuses, and in words what went wrong below HTTP."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from splashify_provider import __version__
from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyConnectionError, SplashifyError
from splashify_provider.redaction import hide, quote

if TYPE_CHECKING:
    from splashify_provider.hooks.settings import Settings


def make_session(settings: Settings, connections: int) -> requests.Session:
    """Build the session that every call of a hook uses.

    :param settings: The connection's.
    :param connections: How many to keep open at most.
    :return: A session that is authenticated and kept alive.
    """
    session = requests.Session()
    session.auth = _RawKey(settings.auth_scheme, settings.api_key)
    session.headers["User-Agent"] = f"airflow-provider-splashify/{__version__}"
    # What the environment says of proxies and CA bundles is read once, here. After that it is not
    # trusted: no netrc file replaces the key, and no call pays for the look-up.
    environment = session.merge_environment_settings(settings.url, dict(settings.proxies), None, settings.verify, None)
    session.trust_env = False
    session.proxies = settings.allowed_proxies(environment["proxies"])
    session.verify = environment["verify"]
    session.mount(settings.url, HTTPAdapter(pool_maxsize=connections))
    return session


def connection_error(error: Exception, settings: Settings, conn_id: str) -> SplashifyError:
    """Name what kept an answer from arriving.

    :param error: What requests, urllib3 or the system raised.
    :param settings: The connection's.
    :param conn_id: The Airflow connection to name.
    :return: A configuration error if the address or its settings can't be used, else a connection error.
    """
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        what = "the proxy can't be reached or refuses. Check the proxies of the connection or the environment"
    elif isinstance(error, requests.exceptions.SSLError):
        untrusted = re.search(r"certificate verify failed: ([^(\[]+)", text)
        what = (
            f"its certificate is not trusted ({untrusted[1].strip()}). Check Base URL and verify"
            if untrusted
            else "TLS failed. Check that host and port of the Base URL speak https"
        )
    elif isinstance(error, requests.exceptions.ConnectTimeout):
        what = f"no connection within {settings.timeouts[0]:g} s. Check that this worker may reach it"
    elif isinstance(error, requests.exceptions.ReadTimeout):
        what = f"no answer within {settings.timeouts[1]:g} s"
    elif isinstance(error, requests.RequestException) and "NameResolutionError" in text:
        what = "the name does not resolve. Check the Base URL, and this worker's DNS"
    elif isinstance(error, requests.RequestException) and "refused" in text:
        what = "the connection is refused. Check host and port of the Base URL"
    elif isinstance(error, (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        what = "the connection broke before the whole answer had arrived"
    elif isinstance(error, (requests.exceptions.ContentDecodingError, requests.exceptions.InvalidHeader)):
        what = "the answer is damaged"  # our own headers are checked before
    else:  # a CA bundle, a host or a proxy that can't be used
        return SplashifyConfigurationError(
            f"Connection {conn_id!r} can't be used: {quote(hide(text, settings.api_key))}. "
            "Check its Base URL, verify and proxies."
        )
    return SplashifyConnectionError(
        f"No answer from {settings.host}: {what}. It is safe to try again: assigning to the same agent twice "
        "changes nothing."
    )


def mask_secret(secret: str) -> None:
    """Have Airflow replace a secret in task logs, by whichever door this version has.

    :param secret: The secret.
    """
    for module in ("airflow.sdk.log", "airflow.utils.log.secrets_masker"):  # Airflow 3, Airflow 2
        with suppress(ImportError, AttributeError):
            import_module(module).mask_secret(secret)
            return


class _RawKey(AuthBase):
    """Authorization as Splashify wants it: the scheme and the raw key, not base64.

    An auth object, because requests lets a netrc file replace a plain header.
    """

    def __init__(self, scheme: str, api_key: str) -> None:
        self._value = f"{scheme} {api_key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request
