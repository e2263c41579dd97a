"""A sandbox that counts, for each conversation, how often it was assigned: ``GET /sandbox/state`` has it too late."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path

from splashify_provider.sandbox.server import Sandbox

seed, rate_limit, window, latency = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with Sandbox(seed, rate_limit=rate_limit, window=window, latency=latency) as sandbox:
    assigned: Counter[str] = Counter()
    assign = sandbox.workspace.assign

    def count(phone: str, agent: str) -> tuple[int, str]:
        """Count, and assign."""
        assigned[phone] += 1
        return assign(phone, agent)

    sandbox.workspace.assign = count  # type: ignore[method-assign]
    print(sandbox.url, flush=True)
    signal.sigwait({signal.SIGTERM})
    result = {
        "assigned": len(assigned),
        "twice": sum(times > 1 for times in assigned.values()),
        "429": sandbox.workspace.answers[429],
    }
    seed.with_name("result.json").write_text(json.dumps(result))
