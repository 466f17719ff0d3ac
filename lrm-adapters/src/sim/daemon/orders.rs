//! Requests of the command, carried out on the state.

use protocol::ids::{NodeName, SubmitKey};
use protocol::lrm::JobState;
use protocol::time::Timestamp;

use super::rows;
use super::state::State;
use crate::sim::model::{Answer, Event, JobNumber};
use crate::sim::wire::{JobOrder, NodeOrder, Request, Response};

/// Carries out a request. [`Request::Wait`] is answered with the job's state now: whoever waits
/// asks again.
pub(super) fn carry_out(state: &mut State, now: Timestamp, request: Request) -> Response {
    match request {
        Request::Submit { request, task } => response(state.submit(now, request, task)),
        Request::List { all, key } => {
            Response::Jobs(rows::jobs(&state.model, now, all, key.as_ref()))
        }
        Request::Nodes => Response::Nodes(rows::nodes(&state.model)),
        Request::Job { job, key, order } => on_job(state, now, job, key.as_ref(), order),
        Request::Node { node, order } => response(state.step(now, node_event(node, order))),
        Request::End { job } => match state.model.observe_one(now, job) {
            None => Response::NoSuchJob,
            Some(seen) => Response::End(seen.end),
        },
        Request::Wait { job } => match state.model.observe_one(now, job).map(|seen| seen.state) {
            None => Response::NoSuchJob,
            Some(JobState::Ended(end)) => Response::Over(end),
            Some(
                JobState::Queued
                | JobState::Held
                | JobState::Running
                | JobState::Suspended
                | JobState::Ending
                | JobState::Unknown(_),
            ) => Response::Done,
        },
        Request::AddFault(fault) => {
            state.faults.add(fault);
            Response::Done
        }
        Request::ClearFaults => {
            state.faults = super::faults::Faults::default();
            Response::Done
        }
        Request::Faults => Response::Faults(state.faults.all().to_vec()),
        Request::Crash => response(state.step(now, Event::CrashLosingNewest)),
        Request::Poke => Response::Done,
    }
}

fn on_job(
    state: &mut State,
    now: Timestamp,
    job: JobNumber,
    key: Option<&SubmitKey>,
    order: JobOrder,
) -> Response {
    let Some(record) = state.model.job(job) else {
        return Response::NoSuchJob;
    };
    if key.is_some() && record.request.key.as_ref() != key {
        // The id was given to another job: the one that is meant is unknown.
        return Response::NoSuchJob;
    }
    let end = record
        .run()
        .and_then(|number| state.model.runs().find(|(n, _)| *n == number))
        .map(|(_, run)| run.end);
    let event = match order {
        JobOrder::Cancel => Event::Cancel(job),
        JobOrder::Withdraw => Event::Withdraw(job),
        JobOrder::Preempt => Event::Preempt(job),
        JobOrder::Requeue => Event::Requeue(job),
        JobOrder::Hold => Event::Hold(job),
        JobOrder::Release => Event::Release(job),
        JobOrder::Extend(by) | JobOrder::Shorten(by) => {
            let Some(end) = end else {
                return Response::Refused(format!("job {job} does not run"));
            };
            let end = if matches!(order, JobOrder::Extend(_)) {
                end + by
            } else {
                end.before(by)
            };
            Event::SetEnd { job, end }
        }
    };
    response(state.step(now, event))
}

fn node_event(node: NodeName, order: NodeOrder) -> Event {
    match order {
        NodeOrder::Drain => Event::Drain(node),
        NodeOrder::Undrain => Event::Undrain(node),
        NodeOrder::Down => Event::NodeDown(node),
        NodeOrder::Lost => Event::NodeLost(node),
        NodeOrder::PowerLoss => Event::NodePowerLoss(node),
        NodeOrder::Restore => Event::NodeRestore(node),
        NodeOrder::Close(at) => Event::CloseNode { node, at },
    }
}

fn response(answer: Answer) -> Response {
    match answer {
        Answer::Done => Response::Done,
        Answer::Submitted(job) => Response::Submitted(job),
        Answer::Refused(why) => Response::Refused(why),
        Answer::NoSuchJob => Response::NoSuchJob,
        Answer::Started => Response::Started,
        Answer::NoSuchNode => Response::NoSuchNode,
    }
}
