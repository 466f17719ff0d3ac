//! How runs end: the beats of a profile, walltime, writing off, and what becomes of the job.

use protocol::lrm::JobEnd;
use protocol::time::{Span, Timestamp};

use super::Model;
use super::job::{Doom, Due, JobPhase};
use super::types::{Answer, Effect, NodeState, RunNumber, Timer};
use crate::sim::profiles::{Beat, Cause, Ending, Fate, Launch, Signal, Target};

/// A kill that has not been heard to work is sent again this often.
const KILL_AGAIN: Span = Span::from_secs(1);

impl Model {
    /// Puts all runs of a run's job on the way to their end.
    pub(super) fn begin_ending(&mut self, now: Timestamp, number: RunNumber, cause: Cause) {
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        if !run.attached {
            return;
        }
        for number in self.runs_of(run.job) {
            self.begin_ending_run(now, number, cause);
        }
    }

    /// Puts a run on the way to its end. A run that is on it already goes on as it was, unless
    /// the new way is shorter; a cancel decides what becomes of the job in any case.
    pub(super) fn begin_ending_run(&mut self, now: Timestamp, number: RunNumber, cause: Cause) {
        let ending = self.config.profile().ending(cause);
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        if ending.fate == Fate::RunsOn || !run.attached || run.gone.is_some() {
            return;
        }
        let lost = self.nodes[&run.node].state == NodeState::Lost;
        if lost && cause != Cause::NodeLost {
            // Nobody there hears of it; the wish is remembered for when the node is back.
            if cause == Cause::Cancel
                && let Some(doom) = self.runs.get_mut(&number).and_then(|r| r.doom.as_mut())
            {
                doom.cause = cause;
            }
            return;
        }
        let mut doom = self.doom(now, cause, &ending);
        if let Some(old) = self.runs.get(&number).and_then(|r| r.doom.as_ref()) {
            let sooner = match (old.kill_at(), doom.kill_at()) {
                (Some(old), Some(new)) => new < old,
                (None, Some(_)) => true,
                (Some(_) | None, None) => false,
            };
            if cause != Cause::NodeLost && !sooner {
                if cause == Cause::Cancel
                    && let Some(old) = self.runs.get_mut(&number).and_then(|r| r.doom.as_mut())
                {
                    old.cause = cause;
                }
                return;
            }
            doom.sent = old.sent;
            if old.cause == Cause::Cancel {
                doom.cause = Cause::Cancel;
            }
        }
        self.set_doom(number, Some(doom));
    }

    fn doom(&mut self, now: Timestamp, cause: Cause, ending: &Ending) -> Doom {
        let mut beats = self.resolve(now, &ending.beats);
        let mut written_off = ending.written_off.map(|d| now + self.draw_delay(d));
        if cause == Cause::NodeLost
            && let Some(timeout) = self.config.node_timeout
        {
            written_off = written_off.map(|_| now + timeout);
            for beat in &mut beats {
                beat.at = now + timeout;
            }
        }
        Doom {
            cause,
            beats,
            sent: 0,
            listed_running: ending.listed_running,
            shown_end: ending.shown_end.map(|d| now + self.draw_delay(d)),
            written_off,
        }
    }

    fn resolve(&mut self, now: Timestamp, beats: &[Beat]) -> std::collections::VecDeque<Due> {
        let mut at = now;
        beats
            .iter()
            .map(|beat| {
                at = at + self.draw_delay(beat.after);
                Due {
                    at,
                    who: beat.who,
                    signal: beat.signal,
                }
            })
            .collect()
    }

    /// Gives a run a way to its end (or none), with the timers that belong to it.
    pub(super) fn set_doom(&mut self, number: RunNumber, doom: Option<Doom>) {
        self.changed = true;
        self.drop_doom_timers(number);
        if let Some(doom) = &doom {
            if let Some(first) = doom.beats.front() {
                self.timers.insert((first.at, Timer::Beat(number)));
            }
            if let Some(at) = doom.written_off {
                self.timers.insert((at, Timer::WriteOff(number)));
            }
        }
        if let Some(run) = self.runs.get_mut(&number) {
            run.doom = doom;
        }
    }

    fn drop_doom_timers(&mut self, number: RunNumber) {
        let Some(doom) = self.runs.get(&number).and_then(|r| r.doom.as_ref()) else {
            return;
        };
        if let Some(first) = doom.beats.front() {
            self.timers.remove(&(first.at, Timer::Beat(number)));
        }
        if let Some(at) = doom.written_off {
            self.timers.remove(&(at, Timer::WriteOff(number)));
        }
    }

    /// What strays get when their node is back.
    pub(super) fn doom_stray(&mut self, now: Timestamp, number: RunNumber) {
        let on_return = self.config.profile().on_return;
        let doom = Doom {
            cause: Cause::NodeLost,
            beats: self.resolve(now, &on_return),
            sent: 0,
            listed_running: 0,
            shown_end: None,
            written_off: None,
        };
        self.set_doom(number, Some(doom));
    }

    pub(super) fn fire_beat(
        &mut self,
        at: Timestamp,
        now: Timestamp,
        number: RunNumber,
        effects: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.get_mut(&number) else {
            return;
        };
        let Some(doom) = run.doom.as_mut() else {
            return;
        };
        let Some(due) = doom.beats.pop_front_if(|due| due.at == at) else {
            return;
        };
        let reached = due.who != Target::Steps || run.launch == Launch::Step;
        if reached {
            effects.push(Effect::Signal {
                run: number,
                target: due.who,
                signal: due.signal,
            });
        }
        doom.sent += 1;
        if doom.beats.is_empty() && due.signal == Signal::Kill {
            let at = now + KILL_AGAIN;
            doom.beats.push_back(Due { at, ..due });
        }
        if let Some(next) = doom.beats.front() {
            self.timers.insert((next.at, Timer::Beat(number)));
        }
        if due.signal == Signal::Kill
            && let Some(code) = run.unheard_exit
        {
            self.finish(now, number, JobEnd::Exited(code), effects);
        }
    }

    pub(super) fn fire_end(&mut self, at: Timestamp, now: Timestamp, number: RunNumber) {
        if let Some(run) = self.runs.get(&number)
            && run.end == at
            && self.nodes[&run.node].state != NodeState::Lost
        {
            self.begin_ending_run(now, number, Cause::Walltime);
        }
    }

    pub(super) fn fire_write_off(
        &mut self,
        at: Timestamp,
        number: RunNumber,
        effects: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        let Some(doom) = run
            .doom
            .as_ref()
            .filter(|d| run.attached && d.written_off == Some(at))
        else {
            return;
        };
        let cause = doom.cause;
        let gone = run.unheard_exit.is_some();
        let others = self.runs_of(run.job);
        self.settle(at, number, cause);
        self.detach(number);
        for other in others.into_iter().filter(|n| *n != number) {
            self.write_off_with(at, other);
        }
        if gone {
            self.remove_run(number);
        } else if self.runs[&number]
            .doom
            .as_ref()
            .is_some_and(|d| d.beats.is_empty())
        {
            effects.push(Effect::Forget { run: number });
        }
    }

    /// A run's job was written off because of another of its nodes: its processes are strays, and
    /// are killed where the LRM reaches them.
    fn write_off_with(&mut self, at: Timestamp, number: RunNumber) {
        self.detach(number);
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        let lost = self.nodes[&run.node].state == NodeState::Lost;
        if run.gone.is_some() || run.unheard_exit.is_some() {
            self.remove_run(number);
        } else if run.doom.is_none() && !lost {
            self.doom_stray(at, number);
        }
    }

    /// A run's first process has ended by what the owner says.
    pub(super) fn exited(
        &mut self,
        now: Timestamp,
        number: RunNumber,
        end: JobEnd,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(run) = self.runs.get_mut(&number) else {
            return Answer::Done;
        };
        if run.gone.is_some() {
            return Answer::Done;
        }
        if self.nodes[&run.node].state == NodeState::Lost {
            if run.attached {
                run.unheard_exit = Some(match end {
                    JobEnd::Exited(code) => code,
                    JobEnd::Cancelled
                    | JobEnd::Walltime
                    | JobEnd::Preempted
                    | JobEnd::NodeLost
                    | JobEnd::LaunchFailed
                    | JobEnd::Other(_) => 255,
                });
            } else {
                self.remove_run(number);
            }
            return Answer::Done;
        }
        self.finish(now, number, end, effects);
        Answer::Done
    }

    /// The LRM hears that a run's first process is gone.
    pub(super) fn finish(
        &mut self,
        now: Timestamp,
        number: RunNumber,
        end: JobEnd,
        effects: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        effects.push(Effect::CleanUp {
            run: number,
            leftovers: self.config.profile().leftovers,
        });
        if run.attached {
            let job = run.job;
            let runs = self.runs_of(job);
            let (gone, live): (Vec<_>, Vec<_>) =
                runs.into_iter().partition(|n| self.runs[n].gone.is_some());
            // A pilot that leaves at its walltime, before the LRM's late signal, left by itself.
            let cause = run
                .doom
                .as_ref()
                .filter(|d| d.cause != Cause::Walltime || d.sent > 0)
                .map(|d| d.cause);
            if live.iter().any(|n| *n != number) {
                self.set_doom(number, None);
                let timer = self.runs.get_mut(&number).map(|run| {
                    run.gone = Some((end, cause));
                    (run.end, Timer::End(number))
                });
                timer.map(|timer| self.timers.remove(&timer));
                return;
            }
            let (end, cause) = self.together(&gone, end, cause);
            match (end, cause) {
                (JobEnd::LaunchFailed, _) => self.over(now, job, JobEnd::LaunchFailed),
                (_, Some(cause)) => self.settle(now, number, cause),
                (end, None) => self.over(now, job, end),
            }
            self.detach(number);
            for other in gone {
                self.remove_run(other);
            }
        }
        self.remove_run(number);
    }

    /// How a job has ended whose last run ended so: made to, if any of its runs was; else with the
    /// highest exit code of all, as `srun` tells it.
    fn together(
        &self,
        gone: &[RunNumber],
        mut end: JobEnd,
        mut cause: Option<Cause>,
    ) -> (JobEnd, Option<Cause>) {
        for (other, made_to) in gone.iter().filter_map(|n| self.runs[n].gone.as_ref()) {
            cause = cause.or(*made_to);
            end = match (end, other) {
                (JobEnd::Exited(a), JobEnd::Exited(b)) => JobEnd::Exited(a.max(*b)),
                (JobEnd::Exited(_), other) => other.clone(),
                (end, _) => end,
            };
        }
        (end, cause)
    }

    /// Decides what becomes of the job of a run that `cause` has ended.
    fn settle(&mut self, now: Timestamp, number: RunNumber, cause: Cause) {
        let job = self.runs[&number].job;
        let fate = self.config.profile().ending(cause).fate;
        let Some(record) = self.jobs.get_mut(&job) else {
            return;
        };
        match fate {
            Fate::Requeued(hold_off) if record.request.rerunnable => {
                let not_before = now + self.config.requeue_hold_off.unwrap_or(hold_off);
                record.phase = JobPhase::Queued {
                    not_before: Some(not_before),
                };
                let rank = self.rank(&self.jobs[&job]);
                self.queued.insert(rank);
                self.timers.insert((not_before, Timer::Eligible(job)));
            }
            Fate::Held => {
                let why = match cause {
                    Cause::Walltime => "the allowed job duration was exceeded",
                    Cause::Cancel
                    | Cause::Preempt
                    | Cause::Requeue
                    | Cause::NodeDown
                    | Cause::NodeLost
                    | Cause::Drain => "held by the system",
                };
                record.phase = JobPhase::Held {
                    why: why.to_owned(),
                };
            }
            Fate::Requeued(_) | Fate::Over | Fate::RunsOn => {
                let end = match cause {
                    Cause::Walltime => JobEnd::Walltime,
                    Cause::Cancel => JobEnd::Cancelled,
                    Cause::Preempt | Cause::Drain => JobEnd::Preempted,
                    Cause::NodeDown | Cause::NodeLost => JobEnd::NodeLost,
                    Cause::Requeue => JobEnd::Other("requeued".to_owned()),
                };
                self.over(now, job, end);
            }
        }
    }

    /// The job is over.
    pub(super) fn over(&mut self, now: Timestamp, number: super::JobNumber, end: JobEnd) {
        let forget = now + self.config.min_job_age;
        let Some(job) = self.jobs.get_mut(&number) else {
            return;
        };
        let last = job
            .run()
            .and_then(|run| self.runs.get(&run))
            .map(|run| (run.node.clone(), run.start));
        job.phase = JobPhase::Over { end, at: now, last };
        self.timers.insert((forget, Timer::Forget(number)));
    }

    /// Takes a run's resources off its node and its job off the run.
    pub(super) fn detach(&mut self, number: RunNumber) {
        if let Some(run) = self.runs.get_mut(&number)
            && run.attached
        {
            run.attached = false;
            self.changed = true;
            self.timers.remove(&(run.end, Timer::End(number)));
            if let Some(node) = self.nodes.get_mut(&run.node) {
                node.used = node.used.minus(&run.resources);
            }
        }
    }

    pub(super) fn remove_run(&mut self, number: RunNumber) {
        self.drop_doom_timers(number);
        self.detach(number);
        self.runs.remove(&number);
    }
}
