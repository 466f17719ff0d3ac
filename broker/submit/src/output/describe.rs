//! The tables and descriptions of workspaces, events, sites, pilots and slots.

use protocol::api::{
    EventView, Explanation, PilotState, PilotView, SiteView, SlotView, WorkspaceView,
};
use protocol::codes::ReasonCode;
use protocol::resources::Resources;
use protocol::slot::PilotPhase;
use protocol::time::Timestamp;

use super::table::{draw, pairs};
use super::words::{ago, bytes, clock, instant, mib, printable, span, times};
use super::{Cell, Output, Tone};

/// A table of workspaces.
pub fn workspaces(items: &[WorkspaceView], now: Timestamp, output: &Output) -> String {
    let rows = items.iter().map(|w| {
        vec![
            Cell::from(&w.id),
            Cell::from(&w.spec.name),
            Cell::state(w.state),
            Cell::from(format!("{} of {}", span(w.run), span(w.spec.run_time))),
            Cell::from(w.node.as_ref().map_or("-", |n| n.as_str())),
            Cell::from(span(now.since(w.since))),
            Cell::from(w.reason.as_ref().map_or("", |r| r.text.as_str())),
        ]
    });
    let head = ["id", "name", "state", "ran", "node", "for", "reason"];
    draw(output, &head, rows.collect())
}

/// All about a workspace.
pub fn workspace(w: &WorkspaceView, now: Timestamp) -> String {
    let mut lines = vec![
        ("workspace", w.id.to_string()),
        ("name", w.spec.name.clone()),
        ("owner", w.owner.to_string()),
        ("state", w.state.to_string()),
        (
            "since",
            format!("{} ({})", instant(w.since), ago(w.since, now)),
        ),
    ];
    let reason = w.reason.as_ref();
    lines.extend(reason.map(|r| {
        // "other" is no code that anybody could look up.
        let text = if r.code == ReasonCode::Other {
            r.text.clone()
        } else {
            format!("{} [{}]", r.text, r.code)
        };
        ("reason", text)
    }));
    if let Some(slot) = &w.slot {
        let node = w.node.as_ref().map_or("an unknown node", |n| n.as_str());
        lines.push(("slot", format!("{slot} on {node}, lease {}", w.generation)));
    }
    lines.push((
        "ran",
        format!("{} of {}", span(w.run), span(w.spec.run_time)),
    ));
    lines.push((
        "so far",
        format!(
            "suspended {}, restarted {}",
            times(w.suspends),
            times(w.restarts)
        ),
    ));
    if let Some(every) = w.spec.policy.checkpoint_every {
        lines.push(("checkpoints", format!("one every {every} of guest time")));
    }
    if let Some(saved) = &w.saved {
        let size = bytes(saved.bytes);
        let (id, site, at) = (&saved.id, &saved.site, instant(saved.at));
        lines.push(("saved", format!("{id} at {site}, {size}, {at}")));
    }
    lines.push(("accepted", instant(w.accepted)));
    lines.push(("needs", resources(&w.spec.resources)));
    for artefact in w.spec.image.artefacts() {
        let digest = artefact.digest.as_deref().unwrap_or("no digest");
        lines.push(("image", format!("{} ({digest})", artefact.url)));
    }
    pairs(&lines)
}

fn resources(r: &Resources) -> String {
    let s = if r.cores == 1 { "" } else { "s" };
    let (memory, disk) = (mib(r.memory_mib), mib(r.disk_mib));
    format!("{} core{s}, {memory} memory, {disk} disk", r.cores)
}

/// An event on a line: time of day, state, sentence.
pub fn event(e: &EventView, output: &Output) -> String {
    let (word, tone) = match e.state {
        Some(state) => (state.as_str(), Tone::of(state)),
        None => ("", Tone::Plain),
    };
    let word = output.toned(&format!("{word:<11}"), tone);
    let text = printable(&e.text).replace('\n', " ");
    format!("{}  {word}  {text}", clock(e.at))
}

/// The sentences.
pub fn explanation(e: &Explanation) -> String {
    e.sentences.iter().map(|s| printable(s) + "\n").collect()
}

/// A table of sites.
pub fn sites(items: &[SiteView], output: &Output) -> String {
    let rows = items.iter().map(|s| {
        let state = match (s.draining, &s.held_back) {
            (true, _) => Cell::toned("draining", Tone::Warn),
            (false, Some(reason)) => Cell::toned(format!("held back: {reason}"), Tone::Warn),
            (false, None) => {
                let why = s.why.strip_prefix("no pilot submitted: ").unwrap_or(&s.why);
                let text = match why {
                    "" => "open".to_owned(),
                    why => format!("open: {why}"),
                };
                Cell::toned(text, Tone::Good)
            }
        };
        let overrun = match s.overrun.is_zero() {
            true => Cell::from("none"),
            false => Cell::toned(s.overrun, Tone::Bad),
        };
        let left = match s.courtesy.leftovers {
            0 => Cell::from("none"),
            n => Cell::toned(n, Tone::Bad),
        };
        vec![
            Cell::from(&s.name),
            Cell::from(&s.lrm),
            Cell::from(s.queued),
            Cell::from(s.running),
            Cell::from(resources(&s.slot)),
            Cell::from(span(s.walltime)),
            overrun,
            left,
            state,
        ]
    });
    let head = [
        "site",
        "lrm",
        "queued",
        "running",
        "largest slot",
        "walltime",
        "overrun",
        "left",
        "state",
    ];
    draw(output, &head, rows.collect())
}

/// A table of pilot jobs.
pub fn pilots(items: &[PilotView], now: Timestamp, output: &Output) -> String {
    let rows = items.iter().map(|p| {
        vec![
            Cell::from(&p.submit_key),
            Cell::from(&p.site),
            Cell::from(p.nodes.to_string()),
            Cell::from(p.lrm_job_id.as_ref().map_or("-", |j| j.as_str())),
            pilot_state(p.state),
            Cell::from(span(now.since(p.created))),
            Cell::from(p.reason.as_ref().map_or("", |r| r.text.as_str())),
        ]
    });
    let head = [
        "pilot job",
        "site",
        "nodes",
        "lrm job",
        "state",
        "age",
        "reason",
    ];
    draw(output, &head, rows.collect())
}

fn pilot_state(state: PilotState) -> Cell {
    match state {
        PilotState::Submitting => Cell::from("submitting"),
        PilotState::Queued => Cell::from("queued"),
        PilotState::Started => Cell::toned("started", Tone::Active),
        PilotState::Active => Cell::toned("active", Tone::Active),
        PilotState::Lost => Cell::toned("lost", Tone::Bad),
        PilotState::Ended => Cell::toned("ended", Tone::Faint),
    }
}

/// How much of a slot is free. Of one that is over nothing is.
fn free(free: &str, all: &str, ended: bool) -> Cell {
    Cell::from(if ended {
        format!("- of {all}")
    } else {
        format!("{free} of {all}")
    })
}

/// A table of slots.
pub fn slots(items: &[SlotView], now: Timestamp, output: &Output) -> String {
    let rows = items.iter().map(|s| {
        let ended = s.state == PilotState::Ended;
        let state = match (ended || s.state == PilotState::Lost, s.status.phase) {
            (true, _) => pilot_state(s.state),
            (false, PilotPhase::Open) => Cell::toned("open", Tone::Active),
            (false, PilotPhase::Closing) => Cell::toned("closing", Tone::Warn),
            (false, PilotPhase::Evicting) => Cell::toned("evicting", Tone::Warn),
            (false, PilotPhase::Leaving) => Cell::toned("leaving", Tone::Warn),
        };
        let end = match ended || s.status.end <= now {
            true => instant(s.status.end),
            false => format!("in {}", span(s.status.end.since(now))),
        };
        let guests = match s.workspaces.as_slice() {
            [] => "-".to_owned(),
            ids => ids
                .iter()
                .map(|id| id.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        };
        let u = &s.used;
        let overrun = match u.overrun.is_zero() {
            true => Cell::from("none"),
            false => Cell::toned(u.overrun, Tone::Bad),
        };
        vec![
            Cell::from(&s.submit_key),
            Cell::from(&s.site),
            Cell::from(&s.node),
            state,
            Cell::from(end),
            free(
                &s.free.cores.to_string(),
                &s.resources.cores.to_string(),
                ended,
            ),
            free(&mib(s.free.memory_mib), &mib(s.resources.memory_mib), ended),
            Cell::from(guests),
            Cell::from(u.boot),
            Cell::from(span(u.run)),
            Cell::from(u.suspend),
            Cell::from(span(u.idle)),
            overrun,
        ]
    });
    let head = [
        "slot",
        "site",
        "node",
        "state",
        "ends",
        "free cores",
        "free memory",
        "guests",
        "boot",
        "run",
        "suspend",
        "idle",
        "overrun",
    ];
    draw(output, &head, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Detail;
    use serde::de::DeserializeOwned;

    const WORKSPACE: &str = include_str!("../../tests/fixtures/workspace.json");

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-21T08:20:00Z").unwrap()
    }

    fn output(colour: bool) -> Output {
        Output {
            detail: Detail::Human,
            colour,
            wrap: false,
            live: false,
        }
    }

    fn one<T: DeserializeOwned>(json: &str) -> Vec<T> {
        vec![serde_json::from_str(json).unwrap()]
    }

    #[test]
    fn a_table_of_workspaces() {
        insta::assert_snapshot!(workspaces(&one(WORKSPACE), now(), &output(false)), @r"
        ID       NAME     STATE    RAN           NODE  FOR  REASON
        ws-0001  counter  running  1m 32s of 3m  n2    29s  resumed after the end of slot siteA-7
        ");
        insta::assert_snapshot!(workspaces(&[], now(), &output(false)), @"ID  NAME  STATE  RAN  NODE  FOR  REASON");
    }

    #[test]
    fn states_are_coloured_where_colours_are_wanted() {
        let coloured = workspaces(&one(WORKSPACE), now(), &output(true));
        assert!(coloured.contains("\x1b["), "{coloured:?}");
        let plain = workspaces(&one(WORKSPACE), now(), &output(false));
        assert!(!plain.contains('\x1b'), "{plain:?}");
    }

    #[test]
    fn a_reason_without_a_code_of_its_own_shows_none() {
        let mut view: WorkspaceView = serde_json::from_str(WORKSPACE).unwrap();
        let said = |view: &WorkspaceView| workspace(view, now()).contains(']');
        assert!(said(&view));
        view.reason.as_mut().unwrap().code = ReasonCode::Other;
        assert!(!said(&view));
    }

    #[test]
    fn all_about_a_workspace() {
        let view: WorkspaceView = serde_json::from_str(WORKSPACE).unwrap();
        insta::assert_snapshot!(workspace(&view, now()), @r"
        workspace  ws-0001
        name       counter
        owner      ada
        state      running
        since      2026-11-21 08:19:30Z (29s ago)
        reason     resumed after the end of slot siteA-7 [slot_ending]
        slot       siteA-8 on n2, lease 2
        ran        1m 32s of 3m
        so far     suspended once, restarted 0 times
        saved      ws-0001.g1 at siteA, 128 MiB, 2026-11-21 08:10:00Z
        accepted   2026-11-21 08:00:00Z
        needs      1 core, 128 MiB memory, 1.5 GiB disk
        image      /img/vmlinux (no digest)
        image      https://img.example.org/d.img (blake3:0000000000000000000000000000000000000000000000000000000000000000)
        ");
    }

    #[test]
    fn a_workspace_with_checkpoints_says_so() {
        let mut w: WorkspaceView = serde_json::from_str(WORKSPACE).unwrap();
        assert!(!workspace(&w, now()).contains("checkpoints"));
        w.spec.policy.checkpoint_every = Some(protocol::time::Span::from_mins(10));
        let text = workspace(&w, now());
        assert!(
            text.contains("\ncheckpoints  one every 10m of guest time\n"),
            "{text}"
        );
    }

    #[test]
    fn tables_of_the_infrastructure() {
        let site = include_str!("../../tests/fixtures/site.json");
        insta::assert_snapshot!(sites(&one(site), &output(false)), @r"
        SITE   LRM  QUEUED  RUNNING  LARGEST SLOT                        WALLTIME  OVERRUN  LEFT  STATE
        siteA  sim  2       1        4 cores, 8 GiB memory, 20 GiB disk  1h        none     1     held back: back-off after 3 failed submits
        ");
        let mut idle: SiteView = serde_json::from_str(site).unwrap();
        idle.held_back = None;
        idle.why = "no pilot submitted: no request waits".into();
        let drawn = sites(&[idle], &output(false));
        assert!(drawn.ends_with("1     open: no request waits"), "{drawn}");
        let pilot = include_str!("../../tests/fixtures/pilot.json");
        insta::assert_snapshot!(pilots(&one(pilot), now(), &output(false)), @r"
        PILOT JOB  SITE   NODES  LRM JOB  STATE   AGE  REASON
        siteA-8    siteA  1      8        active  5m
        ");
        let slot = include_str!("../../tests/fixtures/slot.json");
        insta::assert_snapshot!(slots(&one(slot), now(), &output(false)), @r"
        SLOT     SITE   NODE  STATE  ENDS    FREE CORES  FREE MEMORY       GUESTS   BOOT   RUN  SUSPEND  IDLE  OVERRUN
        siteA-8  siteA  n2    open   in 10m  3 of 4      7.8 GiB of 8 GiB  ws-0001  250ms  1m   0s       1s    none
        ");
    }

    #[test]
    fn what_a_guest_or_broker_says_can_not_steer_the_terminal() {
        let json = r#"{"seq":1,"at":"2026-11-21T08:20:00Z","kind":"x","text":"a\u001b[2J\nb"}"#;
        let event_line = event(&serde_json::from_str(json).unwrap(), &output(false));
        assert_eq!(event_line, "08:20:00               a [2J b");
    }
}
