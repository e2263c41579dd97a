-- The two tables of splashify_shift_handover, for SQLite. In PostgreSQL, make the times TIMESTAMPTZ.
CREATE TABLE roster (
    agent_email TEXT NOT NULL,
    starts_at   TEXT NOT NULL,  -- ISO 8601 with a UTC offset: 2026-11-22T06:00:00+01:00
    ends_at     TEXT NOT NULL
);
CREATE TABLE conversations (
    user_phone_number TEXT PRIMARY KEY,
    agent_email       TEXT,          -- who holds it; NULL: nobody
    status            TEXT NOT NULL  -- open or closed
);
