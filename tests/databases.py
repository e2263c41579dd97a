"""Databases for tests: PostgreSQL on a port of its own, SQLite, and the table of conversations in either."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

SCHEMA = """CREATE TABLE conversations (
    user_phone_number {phone} PRIMARY KEY, agent_email TEXT CHECK (agent_email <> 'gita@example.com'), status TEXT
)"""
INSERT = "INSERT INTO conversations VALUES (?, ?, ?)"


@pytest.fixture
def postgres():
    """A PostgreSQL server of its own, which Debian's packages run as the user postgres only."""
    (*_, binaries) = [None, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    if (binaries is None or os.getuid() != 0) and not os.environ.get("CI"):
        pytest.skip("needs root and Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="splashify-pg-"))
    shutil.chown(folder, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def server(program, *options):
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", str(binaries / program)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=folder)

    server("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    server("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    yield {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "login": "postgres", "schema": "postgres"}
    server("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def options_of(postgres):
    return {"host": postgres["host"], "port": postgres["port"], "user": "postgres", "dbname": "postgres"}


def connect_to(monkeypatch, **fields):
    monkeypatch.setenv("AIRFLOW_CONN_SUPPORT_DB", json.dumps(fields))


@pytest.fixture
def sqlite_db(tmp_path, monkeypatch):
    """An SQLite database, as a function that runs a statement there."""
    path = tmp_path / "support.db"
    connect_to(monkeypatch, conn_type="sqlite", host=str(path))

    def run(statement, *rows):
        with closing(sqlite3.connect(path)) as connection, connection:
            done = connection.executemany(statement, rows) if rows else connection.execute(statement)
            return done.fetchall()

    run(SCHEMA.format(phone="TEXT"))
    return run


@pytest.fixture
def postgres_db(postgres, monkeypatch):
    """The same in PostgreSQL, with numbers as numbers."""
    import psycopg2

    connect_to(monkeypatch, **postgres)

    def run(statement, *rows):
        with closing(psycopg2.connect(**options_of(postgres))) as connection, connection, connection.cursor() as cursor:
            if rows:
                return cursor.executemany(statement.replace("?", "%s"), rows)
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None

    run(SCHEMA.format(phone="BIGINT"))
    return run


@pytest.fixture(params=["sqlite_db", "postgres_db"])
def any_db(request):
    return request.getfixturevalue(request.param)
