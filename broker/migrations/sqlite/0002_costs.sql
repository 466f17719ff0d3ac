-- What suspends cost on the nodes of a site; the id is SITE/NODE.
CREATE TABLE costs (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
