//! `run` and `follow`: a line for each thing that happens, a status line on a terminal, until
//! the workspace has ended. A broker that is away is waited for.

use std::future::{Future, pending};
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use protocol::api::{EventView, Page, SlotView, WorkspaceView};
use protocol::codes::exit;
use protocol::ids::{EventSeq, SubmitKey, WorkspaceId};
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceState;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::patience::Patience;
use crate::cli::One;
use crate::client::{Client, ClientError};
use crate::clock;
use crate::failure::{DETACHED, Failure};
use crate::output::{Detail, Output, Tone, describe, words};
use crate::resolve;

/// How long the broker may hold one question for events.
const HOLD: Duration = Duration::from_secs(10);
/// The least pause after an empty answer, for a broker that does not hold the question.
pub(super) const IDLE_PAUSE: Duration = Duration::from_millis(200);
/// How often the status line is drawn, and how often its facts are asked for.
const DRAW: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(3);

/// `follow`
pub async fn command(client: &Client, output: &Output, args: &One) -> Result<i32, Failure> {
    let view = resolve::workspace(client, &args.id).await?;
    follow(client, output, &view, &mut Interrupts::new()?).await
}

/// Follows a workspace from its first event to its end and returns the exit code of its end.
pub async fn follow(
    client: &Client,
    output: &Output,
    first: &WorkspaceView,
    interrupts: &mut Interrupts,
) -> Result<i32, Failure> {
    let id = &first.id;
    let client = client.once();
    let mut status = StatusLine::new(output, first.clone());
    let mut patience = Patience::default();
    let mut after = EventSeq(0);
    let mut events = next_events(&client, id, after, Duration::ZERO);
    let mut facts = status.ask(&client, Duration::ZERO);
    let mut draw = tokio::time::interval(DRAW);
    loop {
        tokio::select! {
            answer = &mut events => {
                status.clear();
                let (page, view) = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        let pause = patience.failed(error, output)?;
                        events = next_events(&client, id, after, pause);
                        continue;
                    }
                };
                patience.answered(output);
                for event in &page.items {
                    print(output, event)?;
                    after = after.max(event.seq);
                }
                if let Some(view) = view {
                    return ended(output, &view);
                }
                let pause = if page.items.is_empty() { IDLE_PAUSE } else { Duration::ZERO };
                events = next_events(&client, id, after, pause);
                status.draw();
            }
            known = &mut facts => {
                status.learn(known);
                facts = status.ask(&client, ASK);
            }
            _ = draw.tick() => status.draw(),
            () = interrupts.next() => {
                status.clear();
                let name = &first.spec.name;
                output.note(&format!(
                    "detached; `{name}` goes on; follow it again with: pilot-submit follow {id}"
                ));
                return Ok(DETACHED);
            }
        }
    }
}

/// Ctrl-C and SIGTERM, from the moment that this is made.
pub struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Takes the two signals over.
    ///
    /// # Errors
    /// The process can't handle them.
    pub fn new() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|source| Failure::Runtime { source });
        Ok(Self {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

type Asked<'c, T> = Pin<Box<dyn Future<Output = T> + 'c>>;
type News = (Page<EventView>, Option<WorkspaceView>);

/// Asks for the next events, after a pause; with them comes the workspace when it has ended.
fn next_events<'c>(
    client: &'c Client,
    id: &'c WorkspaceId,
    after: EventSeq,
    pause: Duration,
) -> Asked<'c, Result<News, ClientError>> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        let page = client.events(id, after, Some(200), HOLD).await?;
        let over = page
            .items
            .iter()
            .any(|e| e.state.is_some_and(WorkspaceState::is_final));
        if page.next.is_some() || !(over || page.items.is_empty()) {
            return Ok((page, None));
        }
        let view = client.workspace(id).await?;
        if !view.state.is_final() {
            return Ok((page, None));
        }
        // The last events may have come between the two questions.
        let rest = match over {
            true => page,
            false => client.events(id, after, Some(200), Duration::ZERO).await?,
        };
        Ok((rest, Some(view)))
    })
}

fn print(output: &Output, event: &EventView) -> Result<(), Failure> {
    match output.detail {
        Detail::Json => output.json(&json!({ "event": event }))?,
        Detail::Quiet => {}
        Detail::Human => output.line(&describe::event(event, output))?,
    }
    Ok(())
}

/// The last line, and the exit code of the end.
fn ended(output: &Output, view: &WorkspaceView) -> Result<i32, Failure> {
    match output.detail {
        Detail::Json => output.json(&json!({ "workspace": view }))?,
        Detail::Quiet => {}
        Detail::Human => {
            let state = output.toned(view.state.as_str(), Tone::of(view.state));
            let reason = view.reason.as_ref().map_or("", |r| r.text.as_str());
            output.line(&format!(
                "{} is {state}: {}; it ran {}, was suspended {} and restarted {}",
                view.spec.name,
                words::printable(reason),
                words::span(view.run),
                words::times(view.suspends),
                words::times(view.restarts),
            ))?;
        }
    }
    Ok(match view.state {
        WorkspaceState::Done => exit::OK,
        WorkspaceState::Cancelled => exit::CANCELLED,
        _ => exit::FAILED,
    })
}

/// The line at the bottom of a terminal: where the guest is, how long it ran, when its slot ends.
struct StatusLine {
    live: bool,
    shown: bool,
    width: usize,
    view: WorkspaceView,
    heard: tokio::time::Instant,
    slot_end: Option<(SubmitKey, Timestamp)>,
}

/// What the status line asks for.
type Facts = Option<(WorkspaceView, Option<SlotView>)>;

impl StatusLine {
    fn new(output: &Output, view: WorkspaceView) -> Self {
        Self {
            live: output.live,
            shown: false,
            width: output.terminal_width(),
            view,
            heard: clock::mono(),
            slot_end: None,
        }
    }

    /// Asks for the facts after a pause; never answers where no line is drawn. An error is told
    /// by the question for events, not by this one.
    fn ask<'c>(&self, client: &'c Client, pause: Duration) -> Asked<'c, Facts> {
        if !self.live {
            return Box::pin(pending());
        }
        let id = self.view.id.clone();
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            let view = client.workspace(&id).await.ok()?;
            let slot = match &view.slot {
                Some(key) => client.slot(key).await.ok().flatten(),
                None => None,
            };
            Some((view, slot))
        })
    }

    fn learn(&mut self, facts: Facts) {
        let Some((view, slot)) = facts else { return };
        self.slot_end = slot.map(|s| (s.submit_key, s.status.end));
        self.view = view;
        self.heard = clock::mono();
    }

    fn draw(&mut self) {
        if !self.live {
            return;
        }
        let text: String = self.text(clock::now()).chars().take(self.width).collect();
        self.shown = true;
        let mut err = std::io::stderr().lock();
        drop(write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush()));
    }

    fn clear(&mut self) {
        if self.shown {
            let mut err = std::io::stderr().lock();
            drop(write!(err, "\r\x1b[2K").and_then(|()| err.flush()));
        }
        self.shown = false;
    }

    fn text(&self, now: Timestamp) -> String {
        let v = &self.view;
        let mut run = v.run;
        if v.state == WorkspaceState::Running {
            run += protocol::time::Span::from_duration(self.heard.elapsed());
        }
        let run = run.min(v.spec.run_time);
        let mut text = format!(
            "{}: {}, ran {} of {}",
            v.spec.name,
            v.state,
            words::span(run),
            words::span(v.spec.run_time)
        );
        if let Some(node) = &v.node {
            text += &format!(", on {node}");
        }
        if let (Some(slot), Some((key, end))) = (&v.slot, &self.slot_end)
            && slot == key
        {
            text += &format!(", slot ends in {}", words::span(end.since(now)));
        }
        words::printable(&text)
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_status_line_counts_on_by_itself() {
        let output = Output {
            detail: Detail::Human,
            colour: false,
            wrap: false,
            live: true,
        };
        let view = include_str!("../../tests/fixtures/workspace.json");
        let slot = include_str!("../../tests/fixtures/slot.json");
        let (view, slot): (WorkspaceView, SlotView) = (
            serde_json::from_str(view).unwrap(),
            serde_json::from_str(slot).unwrap(),
        );
        let now = Timestamp::parse("2026-11-21T08:20:00Z").unwrap();
        let mut status = StatusLine::new(&output, view.clone());
        assert_eq!(
            status.text(now),
            "counter: running, ran 1m 32s of 3m, on n2"
        );
        status.learn(Some((view.clone(), Some(slot))));
        tokio::time::advance(Duration::from_secs(10)).await;
        let later = now + protocol::time::Span::from_secs(10);
        assert_eq!(
            status.text(later),
            "counter: running, ran 1m 42s of 3m, on n2, slot ends in 9m 50s"
        );
        status.learn(None);
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert!(
            status.text(later).contains("ran 3m of 3m"),
            "never more than is needed"
        );
        let elsewhere = WorkspaceView {
            state: WorkspaceState::Queued,
            slot: None,
            node: None,
            ..view
        };
        status.learn(Some((elsewhere, None)));
        assert_eq!(status.text(later), "counter: queued, ran 1m 32s of 3m");
    }
}
