"""One budget for many processes, counted in Redis."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import redis

from splashify_provider import rate_limit
from splashify_provider.exceptions import RateLimitError
from splashify_provider.rate_limit import Budget, Pacer, pacer_for
from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import ADA


@pytest.fixture
def shared(redis_server):
    """Make pacers as other processes would: each with its own memory, all on one Redis."""

    def make(name="x", per_minute=5):
        return Pacer(Budget(name, per_minute, per_minute, redis_server.url))

    return make


class TestRedis:
    def test_two_processes_share_one_budget_and_other_keys_have_their_own(self, shared):
        one, two = shared(), shared()
        assert [pacer.try_acquire() for pacer in (one, two, one, two, one)] == [0] * 5
        assert 59 < two.try_acquire() <= 61.1
        assert 59 < one.try_acquire() <= 61.1
        assert shared("another").try_acquire() == 0

    def test_the_lower_of_two_budgets_holds_there_too(self, redis_server):
        wide = pacer_for(Budget("x", 100, 100, redis_server.url))
        assert [wide.try_acquire() for _ in range(8)] == [0] * 8
        pacer_for(Budget("x", 10, 10, redis_server.url))
        other = Pacer(Budget("x", 100, 100, redis_server.url))
        assert [other.try_acquire() for _ in range(2)] == [0] * 2
        assert wide.try_acquire() > 59

    def test_a_refused_request_is_counted_nowhere(self, shared, redis_server, monkeypatch):
        monkeypatch.setattr(rate_limit, "WINDOW", 0.5)
        one, two = shared(), shared()
        assert [one.try_acquire() for _ in range(5)] == [0] * 5
        refused = [two.try_acquire() for _ in range(20)]
        redis_server.stop()
        assert [two.try_acquire() for _ in range(5)] == [0] * 5  # nor in its memory
        redis_server.start()
        assert all(refused)

    def test_a_pause_holds_for_all_of_them_and_ends(self, shared):
        one, two = shared(), shared()
        assert one.try_acquire() == two.try_acquire() == 0
        one.pause(0.4)
        assert 0 < two.try_acquire() <= 0.4
        time.sleep(0.45)
        assert two.try_acquire() == 0

    def test_a_pause_that_is_too_long_to_hold_a_worker_is_handed_to_airflow_by_all_of_them(self, shared):
        shared().pause(600)
        with pytest.raises(RateLimitError, match="another 600 s"):
            shared().try_acquire()

    def test_a_pause_right_after_the_budget_was_narrowed_reaches_the_others(self, redis_server, shared):
        pacer_for(Budget("x", 100, 100, redis_server.url)).acquire()
        pacer_for(Budget("x", 50, 50, redis_server.url)).pause(20)
        assert 15 < shared().try_acquire() <= 20

    @pytest.mark.parametrize("option", ["retry=3", "encoding=nope", "credential_provider=x", "max_connections=abc"])
    def test_options_of_its_address_that_make_no_sense_stop_nobody(self, option, caplog):
        pacer = Pacer(Budget("x", 5, 5, f"redis://:pa55word@127.0.0.1:1/0?{option}"))
        assert [pacer.try_acquire() for _ in range(5)] == [0] * 5
        assert caplog.text.count("can't be used") == 1
        assert "pa55word" not in caplog.text

    def test_a_shorter_pause_does_not_end_a_longer_one(self, shared):
        one, two = shared(), shared()
        assert one.try_acquire() == two.try_acquire() == 0
        one.pause(30)
        two.pause(1)
        assert 25 < shared().try_acquire() <= 30

    def test_without_the_store_a_worker_goes_on_alone_with_one_warning_and_knows_what_it_has_sent(
        self, shared, redis_server, caplog
    ):
        pacer = shared()
        for _ in range(3):
            assert pacer.try_acquire() == 0
        redis_server.stop()
        assert [pacer.try_acquire() for _ in range(2)] == [0, 0]
        assert pacer.try_acquire() > 50
        pacer.pause(1)
        assert caplog.text.count("The rate limit storage at 127.0.0.1 can't be used") == 1

    def test_a_store_that_is_back_is_used_again(self, shared, redis_server, caplog, monkeypatch):
        monkeypatch.setattr(rate_limit, "_STORE_DOWN_FOR", 0.0)
        one, two = shared(), shared()
        assert one.try_acquire() == 0
        redis_server.stop()
        assert one.try_acquire() == 0
        redis_server.start()
        with caplog.at_level("INFO"):
            assert [one.try_acquire() for _ in range(3)] == [0] * 3
        assert "is back" in caplog.text
        assert [two.try_acquire() for _ in range(2)] == [0] * 2
        assert two.try_acquire() > 50

    def test_a_store_that_takes_no_writes_is_down_until_it_takes_them(self, shared, redis_server, caplog, monkeypatch):
        monkeypatch.setattr(rate_limit, "_STORE_DOWN_FOR", 0.0)
        client, pacer = redis.Redis.from_url(redis_server.url), shared(per_minute=20)
        client.config_set("maxmemory", 1)
        with caplog.at_level("INFO"):
            assert [pacer.try_acquire() for _ in range(4)] == [0] * 4
            assert caplog.text.count("can't be used") == 1
            assert "storage is back" not in caplog.text
            client.config_set("maxmemory", 0)
            assert [pacer.try_acquire() for _ in range(4)] == [0] * 4
        assert caplog.text.count("storage is back") == 1
        assert caplog.text.count("can't be used") == 1

    def test_a_clock_of_the_store_that_was_set_back_costs_a_window_at_most(self, shared, redis_server):
        pacer, client = shared(), redis.Redis.from_url(redis_server.url)
        assert pacer.try_acquire() == 0
        (key,) = client.keys("*sent")
        client.zadd(key, {str(number): (time.time() + 3600) * 1000 for number in range(5)})
        assert 60 < pacer.try_acquire() <= 61.1
        assert {score <= time.time() * 1000 for _, score in client.zrange(key, 0, -1, withscores=True)} == {True}

    def test_a_pause_is_no_longer_than_was_said_though_the_clock_was_set_back(self, shared, redis_server):
        client = redis.Redis.from_url(redis_server.url)
        shared().pause(20)
        (key,) = client.keys("*pause")
        client.pexpire(key, 600_000)
        assert 19 < shared().try_acquire() <= 20
        assert client.ttl(key) <= 20

    def test_a_store_that_was_emptied_is_no_outage(self, shared, redis_server, caplog):
        pacer = shared()
        assert pacer.try_acquire() == 0
        subprocess.run(["redis-cli", "-p", str(redis_server.port), "script", "flush"], check=True, capture_output=True)
        assert pacer.try_acquire() == 0
        assert caplog.text == ""

    def test_a_store_that_does_not_answer_costs_seconds_not_the_batch(self, raw_server, monkeypatch, caplog):
        monkeypatch.setattr(rate_limit, "_STORE_TIMEOUT", 0.1)
        silent = raw_server(b"")
        pacer = Pacer(Budget("x", 5, 5, f"redis://:pa55word@127.0.0.1:{silent.port}/0"))
        started = time.monotonic()
        assert [pacer.try_acquire() for _ in range(5)] == [0] * 5
        assert time.monotonic() - started < 3
        assert "can't be used" in caplog.text
        assert "pa55word" not in caplog.text

    def test_the_store_is_told_no_key_and_keeps_nothing(self, shared, redis_server, sandbox, connect):
        from splashify_provider.hooks.splashify import SplashifyHook

        connect(sandbox.base_url, extra={"rate_limit_storage": redis_server.url})
        SplashifyHook().assign("12025550101", ADA)
        client = redis.Redis.from_url(redis_server.url)
        keys = client.keys("*")
        assert keys
        assert not [key for key in keys if DEFAULT_KEY.encode() in key]
        assert all(0 < client.ttl(key) <= 122 for key in keys)  # also where nothing is sent ever again

    def test_processes_that_race_get_the_budget_and_no_more(self, redis_server):
        command = [sys.executable, "-c", RACER, redis_server.url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        racers = [subprocess.Popen(command, **pipes) for _ in range(6)]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        granted = [[int(word) for word in racer.communicate(timeout=60)[0].split()] for racer in racers]
        assert [sum(of_one_key) for of_one_key in zip(*granted, strict=True)] == [20] * 30


RACER = """
import sys
from splashify_provider.rate_limit import Budget, Pacer

pacers = [Pacer(Budget(str(number), 20, 20, sys.argv[1])) for number in range(30)]
for pacer in pacers:
    assert pacer.try_acquire() == 0  # it is connected
print("ready", flush=True)
sys.stdin.readline()
for pacer in pacers:
    print(1 + sum(pacer.try_acquire() == 0 for _ in range(20)))
"""


WORKER = """
import json, os, sys
from collections import Counter
from splashify_provider import rate_limit
from splashify_provider.hooks.splashify import SplashifyHook

rate_limit.WINDOW, rate_limit._MARGIN = float(sys.argv[1]), 1.1  # a busy machine delays by tenths of a second
start, count = int(sys.argv[2]), int(sys.argv[3])
numbers = range(start, start + count)
rows = [{"user_phone_number": f"+1202555{i:04d}", "agent_email": "ada@example.com"} for i in numbers]
print(json.dumps(Counter(outcome.outcome for outcome in SplashifyHook().assign_many(rows))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [True, False])
def test_four_processes_on_one_key_assign_everything(redis_server, is_shared, monkeypatch):
    window, numbers = 4.0, range(200)
    seed = {
        "agents": [{"email": ADA}],
        "conversations": [{"user_phone_number": f"1202555{number:04d}"} for number in numbers],
    }
    with Sandbox(seed, rate_limit=50, window=window) as sandbox:
        # A tenth less than allowed, as by default: what is sent evenly may still arrive in a lump.
        extra = {"requests_per_minute": 45, "rate_limit_storage": redis_server.url if is_shared else "memory://"}
        connection = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SPLASHIFY_DEFAULT", json.dumps(connection))
        command = [sys.executable, "-c", WORKER, str(window)]
        workers = [
            subprocess.Popen([*command, str(start), "50"], stdout=subprocess.PIPE, text=True)
            for start in range(0, 200, 50)
        ]
        results = [json.loads(worker.communicate(timeout=120)[0].splitlines()[-1]) for worker in workers]
        assert results == [{"assigned": 50}] * 4
        assert {chat.agent_email for chat in sandbox.workspace.conversations.values()} == {ADA}
        assert sandbox.workspace.answers[200] == 200
        if is_shared:
            assert sandbox.workspace.answers[429] == 0
