//! What `sim-lrm` says to programs: exit codes, and the words for states in its listing.

use protocol::lrm::{JobEnd, JobState};

/// Done.
pub const EXIT_OK: u8 = 0;
/// No answer from the daemon, or one that could not be read. What was asked may have been done.
pub const EXIT_NO_ANSWER: u8 = 1;
/// The command line or a file is wrong; the daemon was not asked.
pub const EXIT_USAGE: u8 = 2;
/// The daemon refused; nothing was done.
pub const EXIT_REFUSED: i32 = 3;
/// The daemon knows no such job or node.
pub const EXIT_NO_SUCH_JOB: i32 = 4;
/// `wait`: the job is over, and not by exiting with code 0.
pub const EXIT_ENDED_BADLY: u8 = 5;
/// `cancel --if-queued`: the job has started; nothing was done.
pub const EXIT_STARTED: i32 = 6;

/// The word for a state, as Slurm would say it where it has a word.
pub fn state_word(state: &JobState) -> &str {
    match state {
        JobState::Queued => "PENDING",
        JobState::Held => "HELD",
        JobState::Running => "RUNNING",
        JobState::Suspended => "SUSPENDED",
        JobState::Ending => "COMPLETING",
        JobState::Ended(JobEnd::Exited(0)) => "COMPLETED",
        JobState::Ended(JobEnd::Exited(_)) => "FAILED",
        JobState::Ended(JobEnd::Cancelled) => "CANCELLED",
        JobState::Ended(JobEnd::Walltime) => "TIMEOUT",
        JobState::Ended(JobEnd::Preempted) => "PREEMPTED",
        JobState::Ended(JobEnd::NodeLost) => "NODE_FAIL",
        JobState::Ended(JobEnd::LaunchFailed) => "LAUNCH_FAILED",
        JobState::Ended(JobEnd::Other(_)) => "ENDED",
        JobState::Unknown(word) => word,
    }
}
