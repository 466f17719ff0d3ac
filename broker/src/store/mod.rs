//! The store: what the broker must not forget.
//!
//! Owner of the writing side is the owner task, through [`Store::load`] and [`Store::apply`]:
//! one transaction for each batch of decisions, durable when it returns. Everybody may read logs
//! and revocations through [`Reader`]. SQLite is the only back end yet; nothing outside this
//! folder knows that.

mod rows;
mod sqlite;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use sqlite::{Reader, Store, revoke};

/// The store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened or brought to this version's form.
    #[error("cannot open the database `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// A newer version of this program has changed the form of the tables.
    #[error("cannot migrate the database `{}`", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
    /// Reading failed.
    #[error("cannot read the database")]
    Read(#[source] sqlx::Error),
    /// A transaction was not committed; nothing of it is in the database.
    #[error("cannot write the database")]
    Write(#[source] sqlx::Error),
    /// A row is not what this program wrote.
    #[error("the record `{id}` in `{table}` can't be read")]
    Damaged {
        /// Its table.
        table: &'static str,
        /// Its id.
        id: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A record can't be written as JSON.
    #[error("a record for `{table}` can't be written as JSON")]
    Encode {
        /// Its table.
        table: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}
