//! The store in an SQLite file: write-ahead log, every commit on the disk before it is answered.

use std::path::Path;
use std::time::Duration;

use broker_core::records::{EventRecord, Log, Meta};
use broker_core::{Changes, Records};
use protocol::ids::EventSeq;
use protocol::time::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::StoreError;
use super::rows::{Row, Table, batch, decode, event, log_name, records};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a statement waits for another process's lock (`token revoke`, a backup).
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// The writing side. There is one.
#[derive(Debug)]
pub struct Store {
    writer: SqliteConnection,
}

/// The reading side; clones share a few connections.
#[derive(Clone, Debug)]
pub struct Reader {
    pool: SqlitePool,
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

impl Store {
    /// Opens the database in `state_dir`, makes it if there is none, brings it to this version's
    /// form.
    ///
    /// # Errors
    /// It can't be opened, is no database, or was written by a newer version.
    pub async fn open(state_dir: &Path) -> Result<(Self, Reader), StoreError> {
        let path = state_dir.join("broker.sqlite");
        let open = |source| StoreError::Open {
            path: path.clone(),
            source,
        };
        let mut writer = options(&path)
            .create_if_missing(true)
            .connect()
            .await
            .map_err(open)?;
        MIGRATIONS
            .run(&mut writer)
            .await
            .map_err(|source| StoreError::Migrate {
                path: path.clone(),
                source,
            })?;
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options(&path).read_only(true))
            .await
            .map_err(open)?;
        Ok((Self { writer }, Reader { pool }))
    }

    /// Everything that was applied so far. A store that is new gets `new_meta`, which is kept.
    ///
    /// # Errors
    /// The database can't be read, or a record is damaged.
    pub async fn load(&mut self, new_meta: impl FnOnce() -> Meta) -> Result<Records, StoreError> {
        // One read transaction, so that all tables are of the same moment.
        let mut tx = self.writer.begin().await.map_err(StoreError::Read)?;
        let mut tables = Vec::new();
        for table in [
            Table::Workspaces,
            Table::Leases,
            Table::Pilots,
            Table::Sites,
            Table::Costs,
            Table::Idempotency,
            Table::Discards,
            Table::Meta,
        ] {
            let rows: Vec<Row> = sqlx::query_as(table.all())
                .fetch_all(&mut *tx)
                .await
                .map_err(StoreError::Read)?;
            tables.push((table, rows));
        }
        drop(tx);
        let mut take = |table| {
            let rows = tables.iter_mut().find(|(t, _)| *t == table);
            rows.map(|(_, rows)| std::mem::take(rows))
                .unwrap_or_default()
        };
        let meta: Vec<Meta> = decode(Table::Meta.name(), take(Table::Meta))?;
        let meta = match meta.into_iter().next() {
            Some(meta) => meta,
            None => {
                let meta = new_meta();
                let changes = Changes {
                    meta: Some(meta.clone()),
                    ..Changes::default()
                };
                self.apply(&changes).await?;
                meta
            }
        };
        records(take, meta)
    }

    /// Writes all changes in one transaction. When this returns without an error they are on the
    /// disk; with an error none of them is in the database.
    ///
    /// # Errors
    /// The disk is full, the database is locked, or another failure of it.
    pub async fn apply(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let batch = batch(changes)?;
        let mut tx = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(StoreError::Write)?;
        for (table, rows) in &batch.puts {
            let query = sqlx::query(table.put()).bind(rows);
            query.execute(&mut *tx).await.map_err(StoreError::Write)?;
        }
        for (table, ids) in &batch.deletes {
            let query = sqlx::query(table.delete()).bind(ids);
            query.execute(&mut *tx).await.map_err(StoreError::Write)?;
        }
        if let Some(events) = &batch.events {
            sqlx::query(
                "INSERT INTO events (log, seq, record) \
                 SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)",
            )
            .bind(events)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::Write)?;
        }
        if let Some(logs) = &batch.logs {
            sqlx::query("DELETE FROM events WHERE log IN (SELECT value FROM json_each(?1))")
                .bind(logs)
                .execute(&mut *tx)
                .await
                .map_err(StoreError::Write)?;
        }
        tx.commit().await.map_err(StoreError::Write)
    }

    #[cfg(test)]
    pub(crate) async fn limit_pages(&mut self, pages: u32) {
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(sql).execute(&mut self.writer).await.unwrap();
    }
}

impl Reader {
    /// Events of a log after number `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database can't be read, or a record is damaged.
    pub async fn events(
        &self,
        log: &Log,
        after: EventSeq,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let after = i64::try_from(after.0).unwrap_or(i64::MAX);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT log, record FROM events WHERE log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
        )
        .bind(log_name(log))
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::Read)?;
        rows.into_iter().map(event).collect()
    }

    /// True when the token was revoked. Asked at every call: a revocation works at once, also one
    /// that another process wrote.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn is_revoked(&self, token_id: &str) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM revoked_tokens WHERE id = ?1)")
            .bind(token_id)
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::Read)
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Revokes a token, from any process; forgets those that have expired anyway.
///
/// # Errors
/// The database can't be opened or written.
pub async fn revoke(
    state_dir: &Path,
    token_id: &str,
    expires: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut store, reader) = Store::open(state_dir).await?;
    reader.close().await;
    let mut tx = store
        .writer
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(StoreError::Write)?;
    let expired: Vec<Row> = sqlx::query_as("SELECT id, expires FROM revoked_tokens")
        .fetch_all(&mut *tx)
        .await
        .map_err(StoreError::Read)?;
    for (id, expires) in expired {
        if Timestamp::parse(&expires).is_ok_and(|t| t < now) {
            let query = sqlx::query("DELETE FROM revoked_tokens WHERE id = ?1").bind(id);
            query.execute(&mut *tx).await.map_err(StoreError::Write)?;
        }
    }
    sqlx::query("INSERT OR IGNORE INTO revoked_tokens (id, expires, revoked) VALUES (?1, ?2, ?3)")
        .bind(token_id)
        .bind(expires.to_string())
        .bind(now.to_string())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::Write)?;
    tx.commit().await.map_err(StoreError::Write)?;
    store.writer.close().await.map_err(StoreError::Write)
}
