-- The tables of the example DAGs, for SQLite. In PostgreSQL, make the times TIMESTAMPTZ.
-- splashify_shift_handover reads roster and conversations, splashify_oncall_handover conversations,
-- splashify_owner_routing all of them.
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
CREATE TABLE agents (
    agent_email TEXT PRIMARY KEY,
    languages   TEXT,     -- en,pt-BR
    capacity    NUMERIC   -- share of the conversations: 2 takes twice as many as 1; NULL: 1
);
CREATE TABLE customers (
    user_phone_number TEXT PRIMARY KEY,  -- written as in conversations
    owner_email       TEXT,
    backup_email      TEXT,
    language          TEXT
);
