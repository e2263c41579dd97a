"""``python -m splashify_provider.sandbox``: serve a local Splashify until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from splashify_provider.sandbox.server import SCENARIO_KEY_PREFIX, SCENARIOS, Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY, Workspace


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run the sandbox from the command line.

    :param arguments: The command line; the process's unless given.
    :return: The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m splashify_provider.sandbox",
        description="A local Splashify: its assignment API under /api/v1, an inbox page at /, its state as JSON at "
        "/sandbox/state. It answers to 127.0.0.1, [::1] and localhost, and nothing that a page of "
        "another site asks for.",
        epilog=f"Scenarios: {', '.join(SCENARIOS)}. Behind a colon, for how many requests (server_error:2). The key "
        f"{SCENARIO_KEY_PREFIX}NAME answers everything with scenario NAME. While it runs: "
        'PUT /sandbox/scenarios/PHONE_OR_KEY {"scenario": "NAME"} (null ends it), '
        'PUT /sandbox/agents/EMAIL {"active": true} adds or enables an agent (false disables them), '
        "DELETE /sandbox/agents/EMAIL removes them; their conversations stay with them.",
    )
    parser.add_argument(
        "--port", type=int, default=8765, help="TCP port on 127.0.0.1; 0 for any (default: %(default)s)"
    )
    parser.add_argument("--key", default=DEFAULT_KEY, help="the API key that is accepted (default: %(default)s)")
    parser.add_argument(
        "--rate-limit",
        type=_positive,
        default=Workspace.rate_limit,
        help="requests per window and key (default: %(default)s)",
    )
    parser.add_argument(
        "--window", type=float, default=Workspace.window, help="the window, in seconds (default: %(default)s)"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds every answer takes longer (default: 0)")
    parser.add_argument(
        "--seed",
        type=Path,
        help='JSON file: {"agents": [{"email": "ada@example.com", "active": true}], "conversations": '
        '[{"user_phone_number": "12025550101", "agent_email": null}], "scenarios": {"12025550101": "server_error:2"}}',
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="PHONE_OR_KEY=NAME",
        help="answer this phone number's (or key's) requests with a scenario; may be repeated",
    )
    options = parser.parse_args(arguments)
    try:
        sandbox = Sandbox(
            options.seed,
            port=options.port,
            latency=options.latency,
            keys=frozenset({options.key}),
            rate_limit=options.rate_limit,
            window=options.window,
        )
        for subject, _, scenario in (pair.partition("=") for pair in options.scenario):
            sandbox.workspace.set_scenario(subject, scenario)
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as error:
        parser.error(str(error))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with sandbox:  # its thread inherits the mask, so the signals wait for this one
        print(f"Splashify sandbox: inbox {sandbox.url}/   base URL {sandbox.base_url}   key {options.key}")
        print("Ctrl-C stops it.", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main())
