"""``make bench``: everything side by side, interleaved, medians; writes RESULTS.md.

``run.py 1 4`` runs parts 1 and 4 only, and leaves the others in RESULTS.md as they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import airflow_runs
from client import AGENT, CLIENTS, KEY, number
from handover import part_6
from measure import HERE, machine, median, python, sandbox, table

from tests.airflow_server import AirflowAPI, free_port, standalone

RESULTS = HERE / "RESULTS.md"
ROUNDS = 5
WINDOW = 15.0
HEAD = """# Results

`make bench` wrote this. The ways took turns on one machine, against this package's sandbox in another process; figures
are medians of the rounds, and ratios medians of the ratios within each round ("paired"), so they need not follow from
the columns. Parts 1, 2 and 4 are run without a rate limit, to see what the code costs: with Splashify's, all of them
would wait most of the time.

"""


def part_1(folder: Path) -> str:
    """Measure requests per CPU second, and what latency costs."""
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    with sandbox(folder, 2000) as url:
        for _ in range(ROUNDS):
            for name in CLIENTS:
                taken[name].append(python("client.py", name, f"{url}/api/v1/public/assignment/", 2000))
    loop = taken["requests.Session loop"]
    rows = []
    for name, runs in taken.items():
        ratio = median([base["cpu"] / run["cpu"] for base, run in zip(loop, runs, strict=True)])
        rows.append(
            [
                name,
                f"{2000 / median([run['seconds'] for run in runs]):,.0f}",
                f"{median([run['cpu'] for run in runs]) / 2000 * 1e6:,.0f}",
                f"{ratio:.2f}",
            ]
        )
    late: dict[str, list[float]] = defaultdict(list)
    with sandbox(folder, 480, latency=0.1) as url:
        for _ in range(3):
            for name, count in (("requests.Session loop", 40), ("assign_many, 16 in flight", 480)):
                run = python("client.py", name, f"{url}/api/v1/public/assignment/", count)
                late[name].append(count / run["seconds"])
    one, many = (median(late[name]) for name in ("requests.Session loop", "assign_many, 16 in flight"))
    ours = next(float(row[3]) for row in rows if row[0] == "assign_many")
    hook = next(float(row[3]) for row in rows if row[0] == "HttpHook.run loop")
    return (
        "## 1. Requests per CPU second: one connection, no latency, 2,000 requests\n\n"
        + table(["client", "requests a second", "CPU µs a request", "× Session loop, by CPU (paired)"], rows)
        + f"\n\nTargets: `assign_many` at least 1.3 × the Session loop: **{ours:.2f}**; at least 2 × `HttpHook`: "
        f"**{ours / hook:.2f}**. It checks, paces and types the answers meanwhile, "
        "which the faster ones don't.\n\n"
        f"At 100 ms latency: {one:.1f} a second one after the other, {many:.0f} with 16 in flight: "
        f"**{many / one:.1f} ×** "
        "(target at least 14).\n"
    )


def part_2(folder: Path) -> str:
    """Measure tasks in Airflow."""
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    with (
        sandbox(folder, 2000) as url,
        _airflow(folder, 2000, 10**5, bulk=url, loop=url, http_mapped=url) as airflow,
    ):
        airflow_runs.measure(airflow, "loop")  # the first run of all pays for others
        for _ in range(5):
            for dag in ("loop", "bulk"):
                taken[dag].append(airflow_runs.measure(airflow, dag))
        taken["http_mapped"].append(airflow_runs.measure(airflow, "http_mapped"))
    rows = []
    each = {}
    for dag, name in DAGS.items():
        count = 200 if dag == "http_mapped" else 2000
        seconds, cpu = (median([run[what] for run in taken[dag]]) for what in ("seconds", "cpu"))
        each[dag] = cpu / count
        rows.append([name, f"{count:,}", f"{seconds:.1f} s", f"{cpu:.1f} s", f"{cpu / count * 1000:.1f} ms"])
    slower = median(
        [bulk["seconds"] / loop["seconds"] for bulk, loop in zip(taken["bulk"], taken["loop"], strict=True)]
    )
    heads = ["way", "conversations", "task start to end", "CPU of the tasks, with start-up", "CPU each"]
    return (
        "## 2. In Airflow (standalone, SQLite)\n\n"
        + table(heads, rows)
        + f"\n\nThe bulk operator takes **{slower:.2f} ×** the loop (paired; target at most 1.2), and "
        f"**{each['http_mapped'] / each['bulk']:.0f} ×** less CPU for each conversation than mapped tasks (target at "
        "least 100).\n"
    )


def _airflow(
    folder: Path, count: int, per_minute: int, *, retries: int = 0, **urls: str
) -> AbstractContextManager[AirflowAPI]:
    """Write a plan, and run Airflow with the benchmarks' DAGs."""
    plan = folder / "plan.csv"
    plan.write_text("user_phone_number,agent_email\n" + "".join(f"+{number(i)},{AGENT}\n" for i in range(count)))
    extra = {"requests_per_minute": per_minute}
    ours = {"conn_type": "splashify", "password": KEY, "host": f"{urls['bulk']}/api/v1", "extra": extra}
    variables = {
        "AIRFLOW__CORE__PARALLELISM": "4",
        "BENCH_PLAN": str(plan),
        "BENCH_URL": urls["loop"],
        "BENCH_RETRIES": str(retries),
    }
    http = {"conn_type": "http", "host": urls["http_mapped"]}
    return standalone(folder, HERE / "dags", variables, splashify_default=ours, bench_http=http)


def part_3(folder: Path) -> str:
    """Measure what is left of the key's limit, alone and with four processes."""
    redis_port = free_port()
    redis = subprocess.Popen(
        ["redis-server", "--port", redis_port, "--save", "", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    ways = {
        "assign_many, one process, 250": ("assign_many", 1, 250, "memory://"),
        "assign_many, four processes, 400, Redis": ("assign_many", 4, 100, f"redis://127.0.0.1:{redis_port}/0"),
        "assign_many, four processes, 400, no Redis": ("assign_many", 4, 100, "memory://"),
        "Session loop, urllib3 retries, one process, 250": ("loop", 1, 250, "-"),
        "Session loop, urllib3 retries, four processes, 400": ("loop", 4, 100, "-"),
    }
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    try:
        for _ in range(2):
            for name, (way, processes, count, storage) in ways.items():
                taken[name].append(_at_the_limit(folder, way, processes, count, storage))
    finally:
        redis.terminate()
        redis.wait()
    rows = [
        [
            name,
            f"{median([run['wall'] for run in runs]):.1f} s",
            f"{median([run['ratio'] for run in runs]):.3f}",
            ", ".join(str(run["429"]) for run in runs),
            ", ".join(str(run["never"]) for run in runs),
            ", ".join(str(run["twice"]) for run in runs),
        ]
        for name, runs in taken.items()
    ]
    heads = ["way", "wall time", "÷ the least possible", "429s in each run", "never assigned", "sent twice"]
    return (
        f"## 3. At the limit: 100 requests in any {WINDOW:.0f} s (the vendor's are 60)\n\n"
        + table(heads, rows)
        + "\n\nThe least possible: whole windows before the last request may go (250: 2, 400: 3). Targets: 1.05 in one "
        "process, 1.10 in four with Redis; 429s 0 and 0, and few without Redis (they cost little time "
        "here, but hit whatever else uses the key, too); never assigned 0; sent twice 0.\n\n"
        + _tasks_at_the_limit(folder)
    )


def _tasks_at_the_limit(folder: Path) -> str:
    rows = []
    with ExitStack() as stack:
        folders = {dag: folder / dag for dag in DAGS}
        for each in folders.values():
            each.mkdir()
        servers = {dag: stack.enter_context(sandbox(folders[dag], 200, rate_limit=100)) for dag in DAGS}
        with _airflow(folder, 200, 100, retries=5, **servers) as airflow:
            runs = {dag: airflow_runs.run(airflow, dag) for dag in DAGS}
    for dag, run in runs.items():
        result = json.loads((folders[dag] / "result.json").read_text())
        rows.append(
            [
                DAGS[dag],
                run.dag_run["state"],
                f"{run.seconds:.0f} s",
                f"{run.seconds / 60:.2f}",
                result["429"],
                200 - result["assigned"],
                result["twice"],
            ]
        )
    heads = ["way", "run", "wall time", "÷ the least possible", "429s", "never assigned", "sent twice"]
    return (
        "As tasks in Airflow, 200 at 100 in any 60 s, which is the vendor's limit; `retries=5`, a minute apart. One "
        "run of each, whose time has start-up and scheduling in it:\n\n" + table(heads, rows) + "\n"
    )


def _at_the_limit(folder: Path, way: str, processes: int, count: int, storage: str) -> dict[str, float]:
    total = processes * count
    with sandbox(folder, total, rate_limit=100, window=WINDOW) as url:
        moment = time.time() + 8
        workers = [
            subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), way, url, str(part * count), str(count), str(moment),
                 str(WINDOW), storage],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for part in range(processes)
        ]  # fmt: skip
        done = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
    result = json.loads((folder / "result.json").read_text())
    wall = max(run["ended"] for run in done) - min(run["began"] for run in done)
    return {
        "wall": wall,
        "ratio": wall / ((total - 1) // 100 * WINDOW),
        "429": result["429"],
        "never": total - result["assigned"],
        "twice": result["twice"],
    }


def part_4(folder: Path) -> str:
    """Measure memory."""
    rows = []
    with sandbox(folder, 100_000) as url:
        for count in (1_000, 10_000, 100_000):
            run = python("memory.py", count, url)
            rows.append(
                [f"{count:,}", f"{run['baseline']:.0f}", f"{run['peak']:.0f}", f"{run['peak'] - run['baseline']:.0f}"]
            )
    return (
        "## 4. Memory: assignments from a CSV file, with report and checkpoint\n\n"
        + table(["assignments", "after imports, MB", "most, MB", "difference, MB"], rows)
        + "\n\nTarget: within 60 MB for 100,000, which a key sends in 18 hours.\n"
    )


def part_5(_: Path) -> str:
    """Measure what parsing a DAG pays."""
    modules = {
        "splashify_provider.operators.splashify": "this package's operators",
        "airflow.providers.http.operators.http": "`HttpOperator`",
    }
    taken: dict[str, list[float]] = defaultdict(list)
    for _round in range(7):
        for module in modules:
            taken[module].append(python("parse.py", module)["ms"])
    rows = [[modules[module], f"{median(values):.0f} ms"] for module, values in taken.items()]
    return (
        "## 5. DAG parse: what an import adds to `import airflow.sdk`\n\n"
        + table(["import", "adds"], rows)
        + "\n\nTarget: at most 20 ms.\n"
    )


DAGS = {
    "bulk": "bulk operator",
    "loop": "`@task` with a requests.Session loop",
    "http_mapped": "`HttpOperator`, mapped",
}
PARTS = {"1": part_1, "2": part_2, "3": part_3, "4": part_4, "5": part_5, "6": part_6}


def main() -> None:
    """Run the parts that are named, or all."""
    if shutil.which("redis-server") is None:
        sys.exit("redis-server is missing (Debian: apt-get install redis-server)")
    described = machine()  # first: what is missing shall not end an hour of measuring
    text = RESULTS.read_text() if RESULTS.exists() else ""
    sections = dict(re.findall(r"^(?=## (\d))(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for part in sys.argv[1:] or PARTS:
        print(f"Part {part} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            sections[part] = PARTS[part](Path(folder))
        RESULTS.write_text(
            HEAD + described + "\n\n" + "\n".join(sections[key].rstrip() + "\n" for key in sorted(sections))
        )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
