"""What happens between the hook and Splashify: networks, proxies, certificates, the environment."""

from __future__ import annotations

import json
import socket

import pytest

from splashify_provider.exceptions import (
    SplashifyConfigurationError,
    SplashifyConnectionError,
    SplashifyError,
    UnexpectedResponseError,
)
from splashify_provider.hooks.splashify import SplashifyHook
from tests.conftest import ADA, PHONE, http, shown_in_frames

KEY = "sk_live_sandbox"


class TestAccidents:
    def hook(self, connect, host, sleeps, **extra):
        connect(host, extra={"timeout": 0.3, **extra})
        return SplashifyHook(sleep=sleeps.append)

    def fails(self, hook, why, sleeps):
        with pytest.raises(SplashifyConnectionError, match=why) as raised:
            hook.assign(PHONE, ADA)
        assert len(sleeps) == 2
        assert "safe to try again" in str(raised.value)
        assert KEY not in str(raised.value)
        assert "\n" not in raised.value.reason
        # Nor in any variable of a frame that tools like Sentry would show.
        assert not {KEY, PHONE} & set(shown_in_frames(raised.value))

    def test_refused(self, connect, sleeps):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.fails(self.hook(connect, f"http://127.0.0.1:{port}", sleeps), "refused", sleeps)

    def test_a_name_that_does_not_resolve(self, connect, sleeps):
        self.fails(self.hook(connect, "https://splashify.invalid", sleeps), "does not resolve", sleeps)

    def test_no_connection_in_time(self, connect, sleeps):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            full = [socket.socket() for _ in range(4)]  # more than the backlog takes: later SYNs are dropped
            for waiting in full:
                waiting.setblocking(False)
                waiting.connect_ex(server.getsockname())
            self.fails(
                self.hook(connect, f"http://127.0.0.1:{server.getsockname()[1]}", sleeps),
                "no connection within 0.3 s",
                sleeps,
            )
            for waiting in full:
                waiting.close()

    def test_no_answer_in_time(self, sandbox, connect, sleeps):
        sandbox.workspace.set_scenario(PHONE, "hang")
        self.fails(self.hook(connect, sandbox.base_url, sleeps), "no answer within 0.3 s", sleeps)

    def test_closed_without_an_answer(self, raw_server, connect, sleeps):
        self.fails(self.hook(connect, f"http://127.0.0.1:{raw_server(b'').port}", sleeps), "broke", sleeps)

    def test_an_answer_that_is_not_http(self, raw_server, connect, sleeps):
        self.fails(self.hook(connect, f"http://127.0.0.1:{raw_server(b'SSH-2.0-x').port}", sleeps), "broke", sleeps)

    def test_an_answer_that_cannot_be_decoded(self, raw_server, connect, sleeps):
        server = raw_server(http("200 OK", "not gzip", Content_Encoding="gzip"))
        self.fails(self.hook(connect, f"http://127.0.0.1:{server.port}", sleeps), "damaged", sleeps)

    def test_an_answer_whose_headers_contradict_each_other(self, raw_server, connect, sleeps):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 57, 58\r\n\r\n{}"
        self.fails(self.hook(connect, f"http://127.0.0.1:{raw_server(answer).port}", sleeps), "damaged|broke", sleeps)

    def test_a_port_that_does_not_speak_tls(self, sandbox, connect, sleeps):
        self.fails(self.hook(connect, sandbox.base_url.replace("http:", "https:"), sleeps), "TLS failed", sleeps)

    def test_a_proxy_that_refuses(self, raw_server, connect, sleeps):
        proxy = raw_server(http("403 Forbidden"))
        hook = self.hook(connect, "https://example.com", sleeps, proxies={"https": f"http://127.0.0.1:{proxy.port}"})
        self.fails(hook, "proxy", sleeps)


class TestEnvironment:
    def test_an_untrusted_certificate_is_refused_and_named(self, raw_server, connect, certificate, sleeps):
        server = raw_server(tls=certificate[1])
        connect(f"https://127.0.0.1:{server.port}")
        with pytest.raises(SplashifyConnectionError, match="not trusted \\(self.signed certificate"):
            SplashifyHook(sleep=sleeps.append).assign(PHONE, ADA)
        assert server.requests == []

    def test_a_ca_bundle_of_the_connection_is_used(self, raw_server, connect, certificate, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        server = raw_server(tls=certificate[1])
        connect(f"https://127.0.0.1:{server.port}", extra={"verify": certificate[0]})
        assert SplashifyHook().assign(PHONE, ADA).agent_email == ADA

    def test_a_ca_bundle_of_the_environment_is_used(self, raw_server, connect, certificate, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
        server = raw_server(tls=certificate[1])
        connect(f"https://127.0.0.1:{server.port}")
        assert SplashifyHook().assign(PHONE, ADA).agent_email == ADA

    def test_a_ca_bundle_of_the_environment_that_is_missing_is_a_configuration_error(self, connect, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        connect("https://127.0.0.1:9")
        with pytest.raises(SplashifyConfigurationError, match="/no/such/file"):
            SplashifyHook().assign(PHONE, ADA)

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_verification_can_be_switched_off(self, raw_server, connect, certificate, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        server = raw_server(tls=certificate[1])
        connect(f"https://127.0.0.1:{server.port}", extra={"verify": False})
        assert SplashifyHook().assign(PHONE, ADA).agent_email == ADA

    def test_a_netrc_file_does_not_replace_the_key(self, raw_server, connect, monkeypatch, tmp_path):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
        monkeypatch.setenv("NETRC", str(netrc))
        server = raw_server()
        connect(f"http://127.0.0.1:{server.port}")
        SplashifyHook().assign(PHONE, ADA)
        assert f"Authorization: Basic {KEY}".encode() in server.requests[0]

    def test_a_bearer_scheme_can_be_chosen(self, raw_server, connect):
        server = raw_server()
        connect(f"http://127.0.0.1:{server.port}", extra={"auth_scheme": "Bearer"})
        SplashifyHook().assign(PHONE, ADA)
        assert f"Authorization: Bearer {KEY}".encode() in server.requests[0]

    def test_a_proxy_of_the_environment_is_used(self, raw_server, connect, monkeypatch):
        proxy = raw_server(http("502 Bad Gateway"))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        connect("https://example.com")
        with pytest.raises(SplashifyConnectionError, match="proxy"):
            SplashifyHook(max_attempts=1).assign(PHONE, ADA)
        assert proxy.requests[0].startswith(b"CONNECT example.com:443")
        assert KEY.encode() not in proxy.requests[0]

    def test_a_proxy_of_the_connection_wins_over_the_environment(self, raw_server, connect, monkeypatch):
        proxy = raw_server(http("502 Bad Gateway"))
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
        connect("https://example.com", extra={"proxies": {"https": f"http://127.0.0.1:{proxy.port}"}})
        with pytest.raises(SplashifyConnectionError, match="proxy"):
            SplashifyHook(max_attempts=1).assign(PHONE, ADA)
        assert proxy.requests[0].startswith(b"CONNECT example.com:443")

    def test_no_proxy_of_the_environment_is_honoured(self, sandbox, connect, monkeypatch, raw_server):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{raw_server(http('502 Bad Gateway')).port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        connect(sandbox.base_url)
        assert SplashifyHook().assign(PHONE, ADA).agent_email == ADA

    def test_plain_http_to_loopback_does_not_go_through_a_proxy_elsewhere(self, sandbox, connect, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
        connect(sandbox.base_url)
        assert SplashifyHook().assign(PHONE, ADA).agent_email == ADA

    @pytest.mark.parametrize("host", ["http://apis.splashifypro.com/api/v1", "http://10.0.0.1"])
    def test_plain_http_elsewhere_is_refused(self, connect, host):
        connect(host)
        with pytest.raises(SplashifyConfigurationError, match="must be https"):
            SplashifyHook().assign(PHONE, ADA)

    def test_a_redirect_is_not_followed(self, raw_server, connect):
        target = raw_server()
        server = raw_server(http("301 Moved", Location=f"http://127.0.0.1:{target.port}/"))
        connect(f"http://127.0.0.1:{server.port}")
        with pytest.raises(UnexpectedResponseError):
            SplashifyHook().assign(PHONE, ADA)
        assert target.requests == []

    @pytest.mark.parametrize("location", ["http://[bad", "\xff", "//", ""])
    def test_a_redirect_to_nowhere_is_no_accident_of_ours(self, raw_server, connect, location):
        server = raw_server(http("301 Moved", Location=location))
        connect(f"http://127.0.0.1:{server.port}")
        with pytest.raises(UnexpectedResponseError):
            SplashifyHook().assign(PHONE, ADA)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("host", ["https://a..b", f"https://{'a' * 70}.example.com"])
    def test_a_host_name_that_cannot_be_is_a_configuration_error(self, connect, host):
        connect(host)
        with pytest.raises(SplashifyConfigurationError, match="'splashify_default'.* can't be used"):
            SplashifyHook().assign(PHONE, ADA)

    def test_the_session_can_be_used_by_itself_without_a_timeout(self, sandbox, connect):
        connect(sandbox.base_url)
        url = sandbox.base_url + "/public/assignment/"
        answer = SplashifyHook().get_conn().post(url, json={"user_phone_number": PHONE, "agent_email": ADA})
        assert answer.json()["result"] is True

    def test_the_session_shows_the_key_to_splashify_only(self, raw_server, connect):
        other = raw_server()
        server = raw_server(http("302 Found", Location=f"http://127.0.0.1:{other.port}/"))
        connect(f"http://127.0.0.1:{server.port}/api")
        session = SplashifyHook().get_conn()
        session.post(f"http://127.0.0.1:{other.port}/api/x", json={}, timeout=5)
        session.post(f"http://127.0.0.1:{server.port}/apis", json={}, timeout=5, allow_redirects=False)
        session.post(f"http://127.0.0.1:{server.port}/api/x", json={}, timeout=5)  # and where it leads
        assert [KEY.encode() in request for request in other.requests] == [False, False]
        assert [KEY.encode() in request for request in server.requests] == [False, True]

    def test_a_success_with_a_byte_order_mark_is_one(self, raw_server, connect):
        server = raw_server(http("200 OK", '\ufeff{"result": true}'))
        connect(f"http://127.0.0.1:{server.port}")
        assert SplashifyHook().assign(PHONE, ADA).message == ""

    @pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Oops", "200 OK"])
    def test_a_key_and_a_number_in_the_answer_are_not_repeated(self, raw_server, connect, log, status):
        answer = http(status, json.dumps({"result": False, "message": f"{KEY} may not assign {PHONE}"}))
        connect(f"http://127.0.0.1:{raw_server(answer).port}")
        with pytest.raises(SplashifyError, match="0101") as raised:
            SplashifyHook(max_attempts=2, sleep=lambda _: None).assign(PHONE, ADA)
        assert "POST /public/assignment/" in log.text
        for text in (str(raised.value), log.text):
            assert KEY not in text
            assert PHONE not in text
