//! What stands before the LRM's commands on our side: a small program that hands them on as they
//! are, or plays what a line or a login node can do to them.
//!
//! Nothing here plays the LRM's own words: a rule that is about them needs the real LRM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::SiteLrm;

/// It is given the whole command. Words in capitals are replaced.
const PROGRAM: &str = r#"#!/bin/sh
# Before the batch system's commands while lrm-conformance runs.
fault=
[ ! -e "${0%/*}/fault" ] || read -r fault < "${0%/*}/fault"
has() { wanted=$1; shift; for word; do [ "${word##*/}" != "$wanted" ] || return 0; done; return 1; }
case $fault in
  hang) exec sleep 100000 ;;
  cut) "$@" | head -c 40; exit 0 ;;
  empty) if has LISTING "$@"; then printf '%s' 'EMPTY'; exit 0; fi ;;
  lose)
    if has SUBMIT "$@"; then
      rm -f "${0%/*}/fault"
      "$@" > /dev/null 2>&1
      exec sleep 100000
    fi ;;
esac
exec "$@"
"#;

/// What it plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Play {
    /// Commands hang, and are not handed on.
    Hang,
    /// Only the first 40 bytes of the output come through.
    Cut,
    /// Listings are those of an LRM without jobs.
    Empty,
    /// The next submit is handed on; its answer does not come.
    Lose,
}

impl Play {
    const fn word(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Empty => "empty",
            Self::Lose => "lose",
        }
    }

    /// For reports: how the rule was checked.
    pub(super) const fn means(self) -> &'static str {
        match self {
            Self::Hang => "the commands were made to hang on this side",
            Self::Cut => "the output was cut off on this side",
            Self::Empty => "a listing without jobs was shown on this side",
            Self::Lose => "the answer was dropped on this side",
        }
    }
}

/// The program, in a directory of ours.
#[derive(Debug)]
pub(super) struct Front {
    program: PathBuf,
    fault: PathBuf,
}

impl Front {
    /// Writes it; nothing is played.
    pub(super) fn write(directory: &Path, lrm: &SiteLrm) -> io::Result<Self> {
        let (submit, listing, empty) = words(lrm);
        let front = Self {
            program: directory.join("front"),
            fault: directory.join("fault"),
        };
        let text = PROGRAM
            .replace("SUBMIT", submit)
            .replace("LISTING", listing)
            .replace("EMPTY", empty);
        fs::write(&front.program, text)?;
        front.play_nothing()?;
        Ok(front)
    }

    /// What goes before a command, with the site's own prefix after it.
    pub(super) fn prefix(&self, own: &[String]) -> Vec<String> {
        let shell = ["/bin/sh".to_owned(), self.program.display().to_string()];
        shell.into_iter().chain(own.iter().cloned()).collect()
    }

    pub(super) fn play(&self, play: Play) -> io::Result<()> {
        fs::write(&self.fault, format!("{}\n", play.word()))
    }

    pub(super) fn play_nothing(&self) -> io::Result<()> {
        match fs::remove_file(&self.fault) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The words by which a submit and a listing are known, and the listing without jobs.
const fn words(lrm: &SiteLrm) -> (&'static str, &'static str, &'static str) {
    match lrm {
        SiteLrm::None => ("", "", ""),
        SiteLrm::Sim { .. } => ("submit", "queue", "{\"count\": 0, \"jobs\": []}\n"),
        SiteLrm::Slurm { .. } => ("sbatch", "squeue", ""),
        SiteLrm::Pbs { .. } => ("qsub", "qstat", ""),
        SiteLrm::Htcondor { .. } => ("condor_submit", "condor_q", ""),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use lrm_adapters::slurm::SlurmSettings;
    use protocol::slot_file::{HypervisorKind, HypervisorSection};

    use super::*;
    use crate::config::JobSettings;

    fn slurm() -> SiteLrm {
        SiteLrm::Slurm {
            settings: Box::new(SlurmSettings::default()),
            job: Box::new(JobSettings {
                broker_url: None,
                broker_ca: None,
                store: "/s".into(),
                scratch: "/x".into(),
                program: "/p".into(),
                hypervisor: HypervisorSection {
                    kind: HypervisorKind::Null,
                    accelerator: None,
                    binary: None,
                    machine: None,
                    cpu: None,
                },
            }),
        }
    }

    /// Commands called `sbatch` and `squeue` that print their arguments.
    fn commands(at: &Path) {
        for name in ["sbatch", "squeue"] {
            let path = at.join(name);
            let echo = format!(
                "#!/bin/sh\nprintf '%s|' {name} \"$@\" | tee -a \"{}/ran\"\nexit 3\n",
                at.display()
            );
            fs::write(&path, echo).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).unwrap();
        }
    }

    fn run(front: &Front, at: &Path, name: &str) -> Output {
        let prefix = front.prefix(&["/usr/bin/env".to_owned()]);
        Command::new(&prefix[0])
            .args(&prefix[1..])
            .arg(at.join(name))
            .args([
                "it's",
                "",
                "$HOME and a text that is longer than forty bytes",
            ])
            .output()
            .unwrap()
    }

    #[test]
    fn commands_go_through_as_they_are_unless_something_is_played() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        commands(at);
        let front = Front::write(at, &slurm()).unwrap();
        let said = |name: &str| {
            let output = run(&front, at, name);
            (
                String::from_utf8(output.stdout).unwrap(),
                output.status.code(),
            )
        };
        let whole = "squeue|it's||$HOME and a text that is longer than forty bytes|";
        assert_eq!(said("squeue"), (whole.to_owned(), Some(3)));
        front.play(Play::Cut).unwrap();
        assert_eq!(said("squeue"), (whole[..40].to_owned(), Some(0)));
        front.play(Play::Empty).unwrap();
        assert_eq!(said("squeue"), (String::new(), Some(0)));
        assert_eq!(said("sbatch").1, Some(3), "a submit is no listing");
        front.play(Play::Lose).unwrap();
        assert_eq!(
            said("squeue"),
            (whole.to_owned(), Some(3)),
            "a listing is no submit"
        );
        front.play_nothing().unwrap();
        front.play_nothing().unwrap();
        assert_eq!(said("squeue"), (whole.to_owned(), Some(3)));
    }

    #[test]
    fn a_submit_whose_answer_is_dropped_is_handed_on_once_and_says_nothing() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        commands(at);
        let front = Front::write(at, &slurm()).unwrap();
        front.play(Play::Lose).unwrap();
        let prefix = front.prefix(&[]);
        let mut child = Command::new(&prefix[0])
            .args(&prefix[1..])
            .arg(at.join("sbatch"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let ran = at.join("ran");
        let handed_on = (0..4000).any(|_| {
            pause();
            fs::read_to_string(&ran).is_ok_and(|text| text == "sbatch|")
        });
        assert!(handed_on);
        assert_eq!(child.try_wait().unwrap(), None, "it hangs");
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"");
        // The next one is handed on with its answer.
        assert_eq!(run(&front, at, "sbatch").status.code(), Some(3));
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a step of a bounded wait for a child"
    )]
    fn pause() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
