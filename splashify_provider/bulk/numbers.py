"""Whole numbers by whole numbers, in little memory however many there are."""

from __future__ import annotations

import sqlite3

_CACHE_KB = 8192  # holds some 300,000 of them


class Numbers:
    """A mapping in SQLite, as a dict would take ten times the memory.

    What its cache can't hold goes to a temporary file without a name, which ends with the process.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # any thread may collect it
        self._execute = self._database.execute
        self._execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._execute("PRAGMA journal_mode = OFF")
        self._execute("CREATE TABLE numbers (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        self._execute("BEGIN")  # one transaction for ever: nobody else reads it

    def __del__(self) -> None:
        self._database.close()

    def get(self, key: int) -> int | None:
        """Give the value of a key, None if it has none."""
        row = self._execute("SELECT value FROM numbers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set(self, key: int, value: int) -> None:
        """Give a key its value."""
        self._execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (key, value))

    def discard(self, key: int) -> None:
        """Forget a key."""
        self._execute("DELETE FROM numbers WHERE key = ?", (key,))

    def clear(self) -> None:
        """Forget all keys."""
        self._execute("DELETE FROM numbers")
