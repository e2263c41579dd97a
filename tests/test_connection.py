from __future__ import annotations

import json
import logging

import pytest
from airflow.providers.common.compat.sdk import Connection

from splashify_provider.connection import settings_from_connection
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.get_provider_info import get_provider_info
from tests.conftest import shown_in_frames


def read(arguments=None, **fields):
    fields = {"conn_id": "crm", "conn_type": "splashify", "password": "sk_live_x", **fields}
    if isinstance(fields.get("extra"), dict):
        fields["extra"] = json.dumps(fields["extra"])
    return settings_from_connection(Connection(**fields), arguments or {}, logging.getLogger("crm").warning)


def refused(**fields):
    with pytest.raises(SplashifyConfigurationError, match="Connection 'crm'.*Nothing was sent") as raised:
        read(**fields)
    assert "sk_live_x" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://apis.splashifypro.com/api/v1"),
        ({"host": "  "}, "https://apis.splashifypro.com/api/v1"),
        ({"host": "https://example.com/api/v1"}, "https://example.com/api/v1"),
        ({"host": "https://example.com/api/v1/"}, "https://example.com/api/v1"),
        ({"host": "https://example.com/api/v1//"}, "https://example.com/api/v1"),
        ({"host": " HTTPS://Example.com/api "}, "https://example.com/api"),
        ({"host": "https://example.com"}, "https://example.com"),
        ({"host": "example.com/api/v1"}, "https://example.com/api/v1"),
        ({"host": "https://example.com:8443/api"}, "https://example.com:8443/api"),
        ({"host": "https://example.com/api", "port": 8443}, "https://example.com:8443/api"),
        ({"host": "http://127.0.0.1:8000/api/v1"}, "http://127.0.0.1:8000/api/v1"),
        ({"host": "http://localhost:8000"}, "http://localhost:8000"),
        ({"host": "http://[::1]:8000/api"}, "http://[::1]:8000/api"),
        ({"host": "127.0.0.1", "port": 8000, "schema": "http"}, "http://127.0.0.1:8000"),
        ({"host": "127.0.0.1", "port": 8000, "schema": "HTTP"}, "http://127.0.0.1:8000"),
    ],
)
def test_the_base_url_is_read_however_it_is_written(fields, url):
    assert read(**fields).base_url == url


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("splashify://:sk_live_x@example.com", "https://example.com"),
        ("splashify://:sk_live_x@https%3A%2F%2Fexample.com%2Fapi%2Fv1", "https://example.com/api/v1"),
        ("splashify://https://:sk_live_x@example.com:8443/api%2Fv1", "https://example.com:8443/api/v1"),
        ("splashify://http://:sk_live_x@127.0.0.1:8000/api/v1", "http://127.0.0.1:8000/api/v1"),
        ("splashify://:sk_live_x@", "https://apis.splashifypro.com/api/v1"),
    ],
)
def test_a_connection_given_as_a_uri_gives_the_same_address(uri, url, monkeypatch):
    from airflow.providers.common.compat.sdk import BaseHook

    monkeypatch.setenv("AIRFLOW_CONN_CRM", uri)
    settings = settings_from_connection(BaseHook.get_connection("crm"), {}, logging.getLogger().warning)
    assert settings.base_url == url
    assert settings.api_key == "sk_live_x"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("http://apis.splashifypro.com/api/v1", "must be https"),
        ("http://192.168.1.5:8000", "must be https"),
        ("http://0.0.0.0:8000", "must be https"),
        ("http://localhost.example.com", "must be https"),
        ("http://127.0.0.1.example.com", "must be https"),
        ("http://127.0.0.1@example.com", "no user"),
        ("https://user:secret@example.com", "no user"),
        ("https://example.com/api?x=1", "no user, password, query"),
        ("https://example.com/api#x", "fragment"),
        ("ftp://example.com", "must look like"),
        ("https://", "must look like"),
        ("https://example.com:port", "malformed"),
        ("https://[::1", "malformed"),
        ("https://exa mple.com", "blanks"),
        ("https://localhost\\x", "backslashes"),
        ("sk_live_x", "must look like"),
        ("https://example.com/\nHost: evil", "blanks"),
        ("https://example.com/api/v1/public/assignment/", "must end before"),
    ],
)
def test_a_base_url_that_would_leak_or_miss_is_refused(host, why):
    text = refused(host=host)
    assert why in text
    assert "secret" not in text


@pytest.mark.parametrize("password", [" sk_live_x", "sk_live_x\n", "\tsk_live_x \r\n"])
def test_blanks_around_the_key_are_dropped(password):
    assert read(password=password).api_key == "sk_live_x"


@pytest.mark.parametrize(
    "password", ["sk_live_x€", "sk_live_ x", "Basic sk_live_x", "sk_live_x\nX-Evil: 1", "sk_live_x\x00", "ключ"]
)
def test_a_key_with_characters_that_no_key_has_is_refused_without_showing_it(password):
    assert "Paste only the key itself" in refused(password=password)


@pytest.mark.parametrize("password", [None, "", "  \n"])
def test_a_missing_key_is_refused(password):
    assert "has no API key" in refused(password=password)


DEFAULTS = {
    "default_region": None,
    "timeout": 30.0,
    "max_attempts": 3,
    "auth_scheme": "Basic",
    "proxies": {},
    "verify": None,
}


@pytest.mark.parametrize(
    ("extra", "arguments", "expected"),
    [
        ({}, {}, {}),
        (
            {"timeout": 5, "max_attempts": 2, "default_region": "IN"},
            {},
            {"timeout": 5, "max_attempts": 2, "default_region": "IN"},
        ),
        ({"timeout": 5}, {"timeout": 60}, {"timeout": 60}),
        ({"timeout": "5.5", "max_attempts": "4"}, {}, {"timeout": 5.5, "max_attempts": 4}),
        ({"max_attempts": 2}, {"max_attempts": 5}, {"max_attempts": 5}),
        ({"default_region": "IN"}, {"default_region": "GB"}, {"default_region": "GB"}),
        ({"default_region": "IN"}, {"default_region": None}, {"default_region": "IN"}),
        # blank is unset, in an extra and in a form's empty field
        (
            dict.fromkeys(("timeout", "max_attempts", "default_region", "auth_scheme", "proxies", "verify"), ""),
            {},
            {},
        ),
        (
            dict.fromkeys(("timeout", "max_attempts", "default_region", "auth_scheme", "proxies", "verify")),
            {},
            {},
        ),
        ({"timeout": "  ", "proxies": {}}, {}, {}),
        ({"timeout": 5}, {"timeout": ""}, {"timeout": 5}),
        ({"default_region": " in "}, {"default_region": " "}, {"default_region": "IN"}),
        ({"auth_scheme": "bearer"}, {}, {"auth_scheme": "Bearer"}),
        ({"proxies": {"https": "http://proxy:3128"}}, {}, {"proxies": {"https": "http://proxy:3128"}}),
        ({"proxies": '{"https": "http://proxy:3128"}'}, {}, {"proxies": {"https": "http://proxy:3128"}}),
        ({"verify": False}, {}, {"verify": False}),
        ({"verify": "False"}, {}, {"verify": False}),
        ({"verify": "true"}, {}, {"verify": True}),
        ({"verify": __file__}, {}, {"verify": __file__}),
    ],
)
def test_argument_beats_extra_beats_default_and_blank_is_unset(extra, arguments, expected):
    settings = read(arguments, extra=extra)
    assert {name: getattr(settings, name) for name in DEFAULTS} == {**DEFAULTS, **expected}


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"timeout": 0}, "timeout must be a number from 0.1 to 600"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "nan"}, "timeout"),
        ({"timeout": [1, 2]}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"default_region": "INDIA"}, "default_region must be two letters"),
        ({"default_region": 91}, "default_region"),
        ({"default_region": ["IN"]}, "default_region"),
        ({"default_region": True}, "default_region"),
        ({"auth_scheme": "Basic sk_live_x"}, "auth_scheme must be Basic or Bearer"),
        ({"proxies": {"https": "http://user:secret@[bad"}}, "proxies must be"),
        ({"proxies": {"https": "http://user:secret@proxy:99999"}}, "proxies must be"),
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1 to 10"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"auth_scheme": "Digest"}, "auth_scheme must be Basic or Bearer"),
        ({"proxies": "proxy:3128"}, "proxies must be a JSON object"),
        ({"proxies": {"https": 3128}}, "proxies must be a JSON object"),
        ({"verify": "/no/such/bundle.pem"}, "verify must be"),
        ("not json", "Extra must be a JSON object"),
        ("[1, 2]", "Extra must be a JSON object"),
    ],
)
def test_a_bad_extra_is_named_with_what_it_should_be(extra, why):
    assert why in refused(extra=extra)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"host": "https://*.example.com"}, "can't be used"),
        ({"host": "https://a..b"}, "can't be used"),
        ({"host": f"https://{'a' * 70}.example.com"}, "can't be used"),
        ({"host": "https://example.com:99999"}, "malformed"),
        ({"host": "https://example.com", "port": 99999}, "malformed"),
        ({"host": "https://example.com", "port": -1}, "malformed"),
        ({"host": "https://example.com/\x00"}, "control characters"),
        ({"extra": {"verify": "/etc/ssl\x00/ca.pem"}}, "verify"),
        ({"extra": '{"a": ' * 5000 + "1" + "}" * 5000}, "can't be read|JSON object"),
        ({"extra": {"proxies": "[" * 50_000}}, "proxies must be"),
        ({"extra": {"timeout": "9" * 5000}}, "timeout"),
        ({"extra": '{"timeout": ' + "9" * 5000 + "}"}, "timeout|can't be read|JSON object"),
        ({"extra": {"x": "y" * 100_001}}, "more than 100,000 characters"),
        ({"extra": {"rate_limit_storage": "redis://[::1"}}, "rate_limit_storage"),
    ],
)
def test_odd_values_are_configuration_errors_not_the_libraries_own(fields, why):
    try:
        Connection(conn_id="crm", **fields, **({} if "extra" not in fields else {"conn_type": "splashify"}))
    except (ValueError, RecursionError):
        pytest.skip("this Airflow makes no such connection; the hook's test has what it raises")
    except TypeError:  # an extra that is still to be written as JSON
        pass
    with pytest.raises(SplashifyConfigurationError, match=f"Connection 'crm'.*({why}).*Nothing was sent") as raised:
        read(**fields)
    assert shown_in_frames(raised.value, "sk_live_x") == []


@pytest.mark.parametrize("field", ["timeout", "default_region", "verify", "burst"])
def test_a_key_that_was_pasted_into_another_field_is_not_shown(field):
    assert "***" in refused(extra={field: "sk_live_x"})


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "sk_live_x y"},
        {"host": "ftp://example.com"},
        {"extra": {"timeout": 0}},
        {"extra": {"proxies": {"https": "http://u:sk_live_x@[bad"}}},
        {"extra": {"rate_limit_storage": "redis://:sk_live_x@redis/zero"}},
    ],
)
def test_a_refused_connection_leaves_no_key_in_the_errors_frames(fields):
    with pytest.raises(SplashifyConfigurationError) as raised:
        read(**fields)
    assert shown_in_frames(raised.value, "sk_live_x") == []


class TestBudget:
    @pytest.mark.parametrize(
        ("extra", "arguments", "expected"),
        [
            ({}, {}, (90, 90, "memory://")),
            (dict.fromkeys(("requests_per_minute", "burst", "rate_limit_storage"), " "), {}, (90, 90, "memory://")),
            ({"requests_per_minute": 30}, {}, (30, 30, "memory://")),
            ({"requests_per_minute": "30", "burst": "5"}, {}, (30, 5, "memory://")),
            ({"requests_per_minute": 30}, {"requests_per_minute": 60, "burst": 1}, (60, 1, "memory://")),
            ({"requests_per_minute": 30, "burst": 100}, {}, (30, 30, "memory://")),
            ({"rate_limit_storage": "memory://"}, {}, (90, 90, "memory://")),
            ({"rate_limit_storage": " redis://redis:6379/0 "}, {}, (90, 90, "redis://redis:6379/0")),
            ({"rate_limit_storage": "rediss://:pa55@redis"}, {}, (90, 90, "rediss://:pa55@redis")),
            ({"rate_limit_storage": "redis://a"}, {"rate_limit_storage": "memory://"}, (90, 90, "memory://")),
        ],
    )
    def test_argument_beats_extra_beats_default_and_blank_is_unset(self, extra, arguments, expected):
        budget = read(arguments, extra=extra).budget
        assert (budget.requests_per_minute, budget.burst, budget.storage) == expected

    @pytest.mark.parametrize(
        ("extra", "why"),
        [
            ({"requests_per_minute": 0}, "requests_per_minute must be a whole number from 1 to 100000"),
            ({"requests_per_minute": 1.5}, "requests_per_minute"),
            ({"requests_per_minute": "many"}, "requests_per_minute"),
            ({"burst": 0}, "burst must be a whole number"),
            ({"burst": True}, "burst"),
            ({"rate_limit_storage": "memcached://cache:11211"}, "rate_limit_storage must be memory://, redis://"),
            ({"rate_limit_storage": "redis://"}, "rate_limit_storage"),
            ({"rate_limit_storage": "redis://redis:port"}, "rate_limit_storage"),
            ({"rate_limit_storage": "redis://:pa55word@redis/zero"}, "rate_limit_storage"),
            ({"rate_limit_storage": "redis:6379"}, "rate_limit_storage"),
            ({"rate_limit_storage": 6379}, "rate_limit_storage"),
        ],
    )
    def test_a_bad_value_is_named_with_what_it_should_be(self, extra, why):
        text = refused(extra=extra)
        assert why in text
        assert "pa55word" not in text

    def test_redis_without_its_package_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr("splashify_provider.connection.find_spec", lambda _: None)
        assert "airflow-provider-splashify[redis]" in refused(extra={"rate_limit_storage": "redis://redis"})

    def test_one_key_at_one_address_is_one_budget_which_names_neither(self):
        names = {
            read(password=password, host=host).budget.name
            for password in ("sk_live_x", "sk_live_y", " sk_live_x\n")
            for host in ("https://example.com/api", "https://example.com/api/", "https://example.org/api")
        }
        assert len(names) == 4
        assert not [name for name in names if "sk_live" in name or "example" in name]

    def test_a_password_of_the_storage_is_not_shown(self):
        assert "pa55word" not in repr(read(extra={"rate_limit_storage": "redis://:pa55word@redis"}))


@pytest.mark.parametrize("conn_type", ["aws", "http", "postgres"])
def test_another_systems_connection_is_refused(conn_type):
    assert "another system's" in refused(conn_type=conn_type)


def test_an_unknown_extra_is_named_in_a_warning(caplog):
    with caplog.at_level("WARNING"):
        read(extra={"Authorization": "sk_live_x", "timeout": 5, "regoin": "IN"})
    assert "ignored: Authorization, regoin" in caplog.text
    assert "default_region" in caplog.text
    assert "sk_live_x" not in caplog.text


def test_every_extra_of_the_form_is_known_to_the_settings(caplog):
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    with caplog.at_level("WARNING"):
        read(extra=dict.fromkeys(fields))
    assert not caplog.records


def test_the_repr_shows_no_secret():
    settings = read(extra={"proxies": {"https": "http://user:secret@proxy:3128"}})
    assert "sk_live_x" not in repr(settings)
    assert "secret" not in repr(settings)
