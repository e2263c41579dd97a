from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
import requests

from splashify_provider.sandbox.__main__ import main


def test_it_serves_what_the_options_say_until_interrupted(tmp_path):
    seed = tmp_path / "seed.json"
    seed.write_text(
        json.dumps(
            {
                "agents": [{"email": "eve@example.com"}],
                "conversations": [{"user_phone_number": "919876543210"}, {"user_phone_number": "919876543211"}],
                "scenarios": {"919876543211": "bad_gateway"},
            }
        )
    )
    options = ["--port", "0", "--key", "sk_live_mine", "--rate-limit", "3", "--seed", str(seed)]
    options += ["--scenario", "919876543210=unavailable:1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "splashify_provider.sandbox", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        base_url = re.search(r"base URL (\S+)", process.stdout.readline())[1]

        def post(phone):
            return requests.post(
                f"{base_url}/public/assignment/",
                headers={"Authorization": "Basic sk_live_mine"},
                json={"user_phone_number": phone, "agent_email": "eve@example.com"},
                timeout=5,
            ).status_code

        assert [post(f"91987654321{end}") for end in "0010"] == [503, 200, 502, 429]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--seed", "/no/such/file"], "No such file"),
        (["--scenario", "+12025550101=server_error"], "not digits only"),
        (["--scenario", "919876543210=nonsense"], "There is no scenario 'nonsense'"),
        (["--port", "70000"], "port"),
        (["--rate-limit", "0"], "must be 1 or more"),
    ],
)
def test_a_bad_option_is_explained(options, why, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*options] if "--port" in options else [*options, "--port", "0"])
    assert raised.value.code == 2
    assert why in capsys.readouterr().err


def test_help_names_the_scenarios_and_what_changes_agents(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for each in ("rate_limited_header", "PUT /sandbox/agents/EMAIL", "DELETE /sandbox/agents/EMAIL"):
        assert each in " ".join(shown.split())
