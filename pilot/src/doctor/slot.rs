//! Whether the slot file is true here: its clock, and the way to the broker.

use std::time::Duration;

use protocol::finding::Finding;
use protocol::slot_file::{BrokerAccess, SlotFile};
use protocol::time::{Span, Timestamp};

use crate::broker_client::{BrokerClient, chain};
use crate::clock;

/// How long the broker may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Clocks that differ by more spoil lease times and logs.
const APART: Span = Span::from_secs(2);

pub(super) async fn look(slot: &SlotFile) -> Vec<Finding> {
    let mut found = vec![clock_of(slot, clock::now().wall)];
    found.extend(broker(&slot.broker).await);
    found
}

fn clock_of(slot: &SlotFile, now: Timestamp) -> Finding {
    let (check, start, end) = ("slot.clock", slot.clock.start, slot.clock.end);
    if end <= now {
        return Finding::problem(
            check,
            format!("the slot file says that the slot ended at {end}; the node's clock says {now}"),
            "set the node's clock, or write an end that is to come",
        );
    }
    let early = start.since(now);
    if early > APART {
        return Finding::warning(
            check,
            format!("the slot file says that the slot starts in {early} by the node's clock"),
            "the batch system's clock and the node's differ: keep both with NTP",
        );
    }
    Finding::ok(check, format!("the slot ends in {}", end.since(now)))
}

async fn broker(access: &BrokerAccess) -> Vec<Finding> {
    let (check, url) = ("broker", &access.url);
    // The only failure is that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let no = |why: String| {
        vec![Finding::problem(
            check,
            format!("{url} does not answer here: {why}"),
            "is the broker running, does `broker_url` name it as nodes see it, and does the site \
             let nodes connect there?",
        )]
    };
    let client = match BrokerClient::new(access) {
        Ok(client) => client,
        Err(e) => return no(chain(&e)),
    };
    let before = clock::now().wall;
    let answer = client.health(LIMIT).await;
    let took = clock::now().wall.since(before);
    match answer {
        Err(e) => no(e.to_string()),
        Ok(told) => {
            let text = format!("{url} answers in {took}");
            let mut found = vec![Finding::ok(check, text)];
            found.extend(told.map(|at| skew(before, clock::now().wall, at)));
            found
        }
    }
}

/// The broker's clock said `told`, cut to the second, between `before` and `after`.
fn skew(before: Timestamp, after: Timestamp, told: Timestamp) -> Finding {
    let check = "clock.broker";
    let next = told + Span::from_secs(1);
    let (ahead, behind) = (told.since(after), before.since(next));
    let apart = ahead.max(behind);
    if apart > APART {
        Finding::warning(
            check,
            format!("this node's clock and that of the broker's host are {apart} apart"),
            "keep both with NTP: times in logs and slots' ends do not agree",
        )
    } else {
        Finding::ok(
            check,
            "this node's clock agrees with that of the broker's host",
        )
    }
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;

    use super::*;

    #[test]
    fn clocks_that_differ_are_told() {
        let at = Timestamp::from_secs;
        assert_eq!(skew(at(100), at(101), at(100)).level, Level::Ok);
        assert_eq!(skew(at(100), at(101), at(102)).level, Level::Ok);
        assert_eq!(skew(at(100), at(101), at(110)).level, Level::Warning);
        assert_eq!(skew(at(100), at(101), at(90)).level, Level::Warning);
    }
}
