"""A process that was forked while other threads of its parent used the limiter goes on by itself."""

from __future__ import annotations

import os
import subprocess
import sys

FORKER = """
import gc, os, sys, threading, time
from redis import Redis
from splashify_provider import rate_limit
from splashify_provider.rate_limit import Budget, limiter_for

budget = Budget("x", 10**6, 10**6, sys.argv[1])
limiter, admin = limiter_for(budget), Redis.from_url(sys.argv[1])
limiter.try_acquire()
pool = limiter._store._script.registered_client.connection_pool

def goes_on():
    "Fork. Return whether the child counts a request over a connection of its own."
    before = {client["id"] for client in admin.client_list()}
    child = os.fork()
    if not child:
        limiter_for(budget).try_acquire()
        gc.collect()
        os._exit(str(limiter._store._script.registered_client.client_id()) in before)
    deadline = time.monotonic() + 3
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    return ended == (child, 0)

def hold(lock):
    with lock:
        held.set()
        done.wait()

for name, lock in {"registry": rate_limit._limiters_lock, "limiter": limiter._lock, "pool": pool._lock}.items():
    held, done = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold, args=(lock,))
    holder.start()
    held.wait()
    print(name, goes_on())
    done.set()
    holder.join()

def ask():
    while True:
        limiter_for(budget).try_acquire()

sys.setswitchinterval(1e-5)
for _ in range(8):
    threading.Thread(target=ask, daemon=True).start()
print("contention", sum(goes_on() for _ in range(7)), flush=True)
os._exit(0)
"""


def test_a_fork_has_locks_and_connections_of_its_own(redis_server):
    command = [sys.executable, "-W", "ignore", "-c", FORKER, redis_server.url]
    # Not measured: a tracer has locks of its own, which a fork doesn't survive.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.split("\n") == ["registry True", "limiter True", "pool True", "contention 7", ""], result
