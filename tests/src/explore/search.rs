//! The search: breadth first, so that the first counterexample is one of the shortest.

use std::collections::HashSet;
use std::fmt;

use protocol::time::Span;
use serde::Serialize;

use super::act::Act;
use super::small::Small;
use crate::simulation::Break;

/// Where the stories begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// The guests of all requests run.
    Running,
    /// The pilots wait for the requests, which come at any time.
    Waiting,
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Where the stories begin.
    pub begin: Begin,
    /// Requests.
    pub workspaces: u32,
    /// Things that go wrong in one story.
    pub faults: u32,
    /// Steps of a story.
    pub depth: usize,
    /// Virtual time of a story.
    pub horizon: Span,
    /// States that are looked at; more are left out, and said to be.
    pub states: usize,
    /// Of the stories that the bounds end, one in so many is told to its end in a calm world.
    pub calm_one_in: u64,
    /// A rule that is broken on purpose.
    pub breaks: Option<Break>,
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps that were taken, those into known states too.
    pub steps: usize,
    /// The longest story.
    pub depth: usize,
    /// Stories that the bounds ended.
    pub ends: usize,
    /// Of those, the ones that were told to their end in a calm world.
    pub calm: usize,
    /// True when there was nothing left to look at within faults, depth and horizon.
    pub complete: bool,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states by {} steps, up to {} in a story; {} stories ended by the bounds, {} of them \
             gone on with in a calm world; {}",
            self.states,
            self.steps,
            self.depth,
            self.ends,
            self.calm,
            if self.complete {
                "all there are within the bounds"
            } else {
                "more states were left out"
            }
        )
    }
}

/// A story in which a promise breaks.
#[derive(Clone, Debug, thiserror::Error, Serialize)]
#[error("promise broken after {steps} steps: {what}\nthe story:\n{story}")]
pub struct Counterexample {
    /// Which promise, and how.
    pub what: String,
    /// Steps from the beginning, each a thing that happens.
    pub steps: usize,
    /// All that happened, in sentences.
    pub story: String,
}

/// A state on the way, and how it was reached.
struct Node {
    world: Small,
    path: usize,
}

/// How all states were reached: the one before, and what happened.
struct Paths(Vec<(usize, Act)>);

const START: usize = usize::MAX;

impl Paths {
    fn to(&self, mut at: usize) -> Vec<Act> {
        let mut acts = Vec::new();
        while at != START {
            let (before, act) = self.0[at];
            acts.push(act);
            at = before;
        }
        acts.reverse();
        acts
    }
}

/// Explores all stories within the bounds.
///
/// # Errors
/// A promise is broken in one of them; no shorter story breaks one.
pub fn explore(bounds: Bounds) -> Result<Explored, Box<Counterexample>> {
    let start = Small::new(&bounds).map_err(|what| tell(&bounds, &[], &what, false))?;
    let mut done = Explored {
        complete: true,
        ..Explored::default()
    };
    let mut seen = HashSet::from([start.digest()]);
    let mut paths = Paths(Vec::new());
    let mut level = vec![Node {
        world: start,
        path: START,
    }];
    for depth in 0..=bounds.depth {
        done.depth = depth;
        let mut next = Vec::new();
        for Node { world, path } in level {
            let acts = world.acts(bounds.horizon);
            if acts.is_empty() || depth == bounds.depth {
                done.ends += 1;
                if world.digest().is_multiple_of(bounds.calm_one_in) {
                    done.calm += 1;
                    world
                        .calms()
                        .map_err(|what| tell(&bounds, &paths.to(path), &what, true))?;
                }
                continue;
            }
            for act in acts {
                let mut after = world.clone();
                done.steps += 1;
                if let Err(what) = after.act(act) {
                    let mut story = paths.to(path);
                    story.push(act);
                    return Err(tell(&bounds, &story, &what, false));
                }
                if seen.len() >= bounds.states {
                    done.complete = false;
                    continue;
                }
                if seen.insert(after.digest()) {
                    paths.0.push((path, act));
                    next.push(Node {
                        world: after,
                        path: paths.0.len() - 1,
                    });
                }
            }
        }
        if next.is_empty() {
            break;
        }
        level = next;
    }
    done.states = seen.len();
    Ok(done)
}

/// Plays a story again and writes down what happens.
fn tell(bounds: &Bounds, acts: &[Act], what: &str, calm: bool) -> Box<Counterexample> {
    let mut lines = Vec::new();
    if let Ok(mut world) = Small::new(bounds) {
        world.log = Some(Vec::new());
        let mut held = Ok(());
        for act in acts {
            held = held.and_then(|()| world.act(*act));
        }
        lines = world.log.unwrap_or_default();
        if calm && held.is_ok() {
            lines.push("        from here on nothing goes wrong".into());
        }
    }
    let story = lines.iter().map(|line| format!("  {line}\n")).collect();
    Box::new(Counterexample {
        what: what.to_owned(),
        steps: acts.len(),
        story,
    })
}
