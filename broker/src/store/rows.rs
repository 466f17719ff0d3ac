//! Between the core's records and rows: each record is one row of JSON in its table.

use broker_core::records::{EventRecord, Log, Meta};
use broker_core::{Changes, Forgotten, Records};
use protocol::ids::{IdempotencyKey, UserName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

macro_rules! put {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (id, record) SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true \
             ON CONFLICT (id) DO UPDATE SET record = excluded.record"
        )
    };
}
macro_rules! delete {
    ($table:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE id IN (SELECT value FROM json_each(?1))"
        )
    };
}
macro_rules! all {
    ($table:literal) => {
        concat!("SELECT id, record FROM ", $table, " ORDER BY id")
    };
}

/// The tables of records, by the names in the migrations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Table {
    Workspaces,
    Leases,
    Pilots,
    Sites,
    Costs,
    Idempotency,
    Discards,
    Meta,
}

impl Table {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Workspaces => "workspaces",
            Self::Leases => "leases",
            Self::Pilots => "pilots",
            Self::Sites => "sites",
            Self::Costs => "costs",
            Self::Idempotency => "idempotency",
            Self::Discards => "discards",
            Self::Meta => "meta",
        }
    }

    /// Puts rows: the parameter is a JSON array of `[id, record]`.
    pub(super) const fn put(self) -> &'static str {
        match self {
            Self::Workspaces => put!("workspaces"),
            Self::Leases => put!("leases"),
            Self::Pilots => put!("pilots"),
            Self::Sites => put!("sites"),
            Self::Costs => put!("costs"),
            Self::Idempotency => put!("idempotency"),
            Self::Discards => put!("discards"),
            Self::Meta => put!("meta"),
        }
    }

    /// Deletes rows: the parameter is a JSON array of ids.
    pub(super) const fn delete(self) -> &'static str {
        match self {
            Self::Workspaces => delete!("workspaces"),
            Self::Leases => delete!("leases"),
            Self::Pilots => delete!("pilots"),
            Self::Sites => delete!("sites"),
            Self::Costs => delete!("costs"),
            Self::Idempotency => delete!("idempotency"),
            Self::Discards => delete!("discards"),
            Self::Meta => delete!("meta"),
        }
    }

    /// Reads all rows.
    pub(super) const fn all(self) -> &'static str {
        match self {
            Self::Workspaces => all!("workspaces"),
            Self::Leases => all!("leases"),
            Self::Pilots => all!("pilots"),
            Self::Sites => all!("sites"),
            Self::Costs => all!("costs"),
            Self::Idempotency => all!("idempotency"),
            Self::Discards => all!("discards"),
            Self::Meta => all!("meta"),
        }
    }
}

/// What one transaction writes.
#[derive(Default, Debug)]
pub(super) struct Batch {
    /// For each table the rows to put, as one JSON array.
    pub(super) puts: Vec<(Table, String)>,
    /// For each table the ids to delete, as one JSON array.
    pub(super) deletes: Vec<(Table, String)>,
    /// Rows to append to the logs: a JSON array of `[log, seq, record]`.
    pub(super) events: Option<String>,
    /// Logs to delete, as one JSON array of their names.
    pub(super) logs: Option<String>,
}

/// The rows of a step's changes.
pub(super) fn batch(changes: &Changes) -> Result<Batch, StoreError> {
    let mut batch = Batch::default();
    put(
        &mut batch,
        Table::Workspaces,
        changes.workspaces.iter().map(|(id, r)| (id.as_str(), r)),
    )?;
    let leases = changes
        .leases
        .iter()
        .map(|(id, r)| (id.as_str(), r.as_ref()));
    put_or_delete(&mut batch, Table::Leases, leases)?;
    put(
        &mut batch,
        Table::Pilots,
        changes.pilots.iter().map(|(id, r)| (id.as_str(), r)),
    )?;
    put(
        &mut batch,
        Table::Sites,
        changes.sites.iter().map(|(id, r)| (id.as_str(), r)),
    )?;
    let costs: Vec<_> = (changes.costs.iter())
        .map(|((site, node), r)| (format!("{site}/{node}"), r.as_ref()))
        .collect();
    put_or_delete(
        &mut batch,
        Table::Costs,
        costs.iter().map(|(id, r)| (id.as_str(), *r)),
    )?;
    let idempotency: Vec<_> = changes
        .idempotency
        .iter()
        .map(|((owner, key), r)| (pair(owner, key), r))
        .collect();
    put(
        &mut batch,
        Table::Idempotency,
        idempotency.iter().map(|(id, r)| (id.as_str(), *r)),
    )?;
    let discards = changes
        .discards
        .iter()
        .map(|(id, r)| (id.as_str(), r.as_ref()));
    put_or_delete(&mut batch, Table::Discards, discards)?;
    put(
        &mut batch,
        Table::Meta,
        changes.meta.iter().map(|r| (META_ID, r)),
    )?;
    if !changes.events.is_empty() {
        let rows = changes
            .events
            .iter()
            .map(|e| Ok((log_name(&e.log), e.seq.0, encode("events", e)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        batch.events = Some(encode("events", &rows)?);
    }
    forget(&mut batch, &changes.forgotten)?;
    Ok(batch)
}

fn forget(batch: &mut Batch, forgotten: &Forgotten) -> Result<(), StoreError> {
    let workspaces: Vec<&str> = forgotten.workspaces.iter().map(|id| id.as_str()).collect();
    let pilots: Vec<&str> = forgotten.pilots.iter().map(|key| key.as_str()).collect();
    let keys: Vec<String> = (forgotten.idempotency.iter())
        .map(|(owner, key)| pair(owner, key))
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for (table, ids) in [
        (Table::Workspaces, workspaces),
        (Table::Pilots, pilots),
        (Table::Idempotency, keys),
    ] {
        if !ids.is_empty() {
            batch.deletes.push((table, encode(table.name(), &ids)?));
        }
    }
    let logs: Vec<String> = forgotten.logs().map(|log| log_name(&log)).collect();
    if !logs.is_empty() {
        batch.logs = Some(encode("events", &logs)?);
    }
    Ok(())
}

/// The id of the only row of `meta`.
const META_ID: &str = "broker";

/// One text for owner and key: a user's name has no `/`.
fn pair(owner: &UserName, key: &IdempotencyKey) -> String {
    format!("{owner}/{key}")
}

/// The name of a log in the table of events.
pub(super) fn log_name(log: &Log) -> String {
    match log {
        Log::Workspace(id) => format!("workspace/{id}"),
        Log::Pilot(key) => format!("pilot/{key}"),
    }
}

fn encode<T: Serialize>(table: &'static str, record: &T) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|source| StoreError::Encode { table, source })
}

fn put<'a, T: Serialize + 'a>(
    batch: &mut Batch,
    table: Table,
    rows: impl Iterator<Item = (&'a str, &'a T)>,
) -> Result<(), StoreError> {
    put_or_delete(batch, table, rows.map(|(id, r)| (id, Some(r))))
}

fn put_or_delete<'a, T: Serialize + 'a>(
    batch: &mut Batch,
    table: Table,
    rows: impl Iterator<Item = (&'a str, Option<&'a T>)>,
) -> Result<(), StoreError> {
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    for (id, record) in rows {
        match record {
            Some(record) => puts.push((id, encode(table.name(), record)?)),
            None => deletes.push(id),
        }
    }
    if !puts.is_empty() {
        batch.puts.push((table, encode(table.name(), &puts)?));
    }
    if !deletes.is_empty() {
        batch.deletes.push((table, encode(table.name(), &deletes)?));
    }
    Ok(())
}

/// A row as it is read.
pub(super) type Row = (String, String);

pub(super) fn decode<T: DeserializeOwned>(
    table: &'static str,
    rows: Vec<Row>,
) -> Result<Vec<T>, StoreError> {
    rows.into_iter()
        .map(|(id, record)| {
            serde_json::from_str(&record).map_err(|source| StoreError::Damaged {
                table,
                id,
                source,
            })
        })
        .collect()
}

/// The records of a store that has a row in `meta`.
pub(super) fn records(
    mut rows: impl FnMut(Table) -> Vec<Row>,
    meta: Meta,
) -> Result<Records, StoreError> {
    let mut take = |table: Table| (table.name(), rows(table));
    let (t, r) = take(Table::Workspaces);
    let workspaces = decode(t, r)?;
    let (t, r) = take(Table::Leases);
    let leases = decode(t, r)?;
    let (t, r) = take(Table::Pilots);
    let pilots = decode(t, r)?;
    let (t, r) = take(Table::Sites);
    let sites = decode(t, r)?;
    let (t, r) = take(Table::Costs);
    let costs = decode(t, r)?;
    let (t, r) = take(Table::Idempotency);
    let idempotency = decode(t, r)?;
    let (t, r) = take(Table::Discards);
    let discards = decode(t, r)?;
    Ok(Records {
        workspaces,
        leases,
        pilots,
        sites,
        costs,
        idempotency,
        discards,
        meta,
    })
}

/// One event as it is read.
pub(super) fn event((log, record): Row) -> Result<EventRecord, StoreError> {
    serde_json::from_str(&record).map_err(|source| StoreError::Damaged {
        table: "events",
        id: log,
        source,
    })
}
