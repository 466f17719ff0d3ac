-- The broker keeps its whole state in memory and reads these tables once, at its start. A record
-- is versioned JSON; `id` is what finds it. Instants in records are RFC 3339, spans milliseconds.
CREATE TABLE workspaces  (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE leases      (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE pilots      (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE sites       (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE idempotency (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE discards    (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE meta        (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;

-- Logs of workspaces (log = 'workspace/ID') and pilot jobs ('pilot/KEY'): append only, read by page.
CREATE TABLE events (
  log    TEXT NOT NULL,
  seq    INTEGER NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (log, seq)
) WITHOUT ROWID, STRICT;

-- Tokens that are refused before they expire.
CREATE TABLE revoked_tokens (
  id      TEXT PRIMARY KEY NOT NULL,
  expires TEXT NOT NULL,
  revoked TEXT NOT NULL
) WITHOUT ROWID, STRICT;
