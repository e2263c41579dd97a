"""``make airflow``: the demo's team in a real Airflow, with its UI and the sandbox's inbox page, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from datetime import datetime, timezone

import oncall
import psutil
import run
import seed

from splashify_provider.sandbox.server import Sandbox

PORT = int(os.environ.get("AIRFLOW_PORT", "8080"))
SANDBOX_PORT = int(os.environ.get("SANDBOX_PORT", "8765"))


def interrupt(*_: object) -> None:
    """Stop on SIGTERM as on Ctrl-C, also where a shell has told its children to ignore the latter."""
    raise KeyboardInterrupt


def is_healthy(url: str) -> bool:
    """Tell whether Airflow's web server and scheduler are up."""
    with suppress(OSError), urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
        return b'"scheduler":{"status":"healthy"' in answer.read().replace(b" ", b"")
    return False


def stop(airflow: subprocess.Popen[bytes]) -> None:
    """End Airflow and everything it has started: a session, in which running tasks are process groups of their own."""
    for end, patience in ((psutil.Process.terminate, 15), (psutil.Process.kill, 5)):
        members = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == airflow.pid:
                    end(process)
                    members.append(process)
        psutil.wait_procs(members, timeout=patience)


def main() -> None:
    """Run Airflow and the sandbox until interrupted."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, interrupt)
    shutil.rmtree(run.HOME, ignore_errors=True)
    (run.HOME / "airflow").mkdir(parents=True)
    url = f"http://127.0.0.1:{PORT}"
    team = seed.make_team(datetime.now(timezone.utc))
    with Sandbox(team.sandbox, port=SANDBOX_PORT) as sandbox, oncall.OnCall(team.roster) as scheduler:
        environment = {
            **run.prepare(sandbox, team, **scheduler.connections),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(PORT),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        }
        print("Starting Airflow (half a minute or so) ...", flush=True)
        with (run.HOME / "airflow.log").open("w") as log:
            process = subprocess.Popen(
                ["airflow", "standalone"],  # noqa: S607 - the one of this environment
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while not is_healthy(url):
                if process.poll() is not None:
                    sys.exit("Airflow did not start; see .demo/airflow.log")
                time.sleep(1)
            print(
                f"\n    Airflow   {url}/dags/{run.DAG_ID}\n    Inboxes   {sandbox.url}/\n\n"
                "Its DAGs are armed copies (dry_run is False), and paused: unpause this one, trigger it, and watch\n"
                f"the inboxes. {team.disabled} is on the roster but disabled in Splashify: the next in line gets her\n"
                "conversations, and the log of handover.summary says so. Disable or remove everybody on duty on the\n"
                "inbox page, and it says what to do.\n"
                "Ctrl-C stops everything.",
                flush=True,
            )
            process.wait()
            sys.exit("Airflow has stopped by itself; see .demo/airflow.log")
        except KeyboardInterrupt:
            print("\nStopping ...", flush=True)
        finally:
            stop(process)
    print("Stopped.")


if __name__ == "__main__":
    main()
