//! Which PBS it is, told by `qstat --version`, which asks no server.

use serde::{Deserialize, Serialize};

use crate::command::Output;

/// The two families that share the commands' names and little else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenPBS and PBS Pro: `select`, direct commands, `qstat -x` for history.
    Openpbs,
    /// Torque: `nodes=1:ppn=`, scripts only, ended jobs in state C for a while.
    Torque,
}

impl Dialect {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Openpbs => "OpenPBS",
            Self::Torque => "Torque",
        }
    }
}

/// Reads what `qstat --version` says. OpenPBS 23.06.06 was measured to print
/// `pbs_version = 23.06.06`; Torque prints `Version: 6.1.2` (`version: 2.5.12` before 4) by its
/// manual, to stdout or stderr.
///
/// # Errors
/// Neither of them said it; Slurm's look-alikes of the PBS commands do not.
pub(super) fn read(output: &Output) -> Result<Dialect, String> {
    let mut lines = output.stdout.lines().chain(output.stderr.lines());
    let found = lines.find_map(|line| {
        let line = line.trim().to_ascii_lowercase();
        if line.starts_with("pbs_version") {
            Some(Dialect::Openpbs)
        } else {
            let number = line.strip_prefix("version:")?;
            number
                .trim()
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(Dialect::Torque)
        }
    });
    found.ok_or_else(|| {
        format!(
            "`qstat --version` is neither that of OpenPBS nor that of Torque ({}); set `dialect` in the site's [pbs] section if it is a PBS",
            output.complaint()
        )
    })
}

/// Reads what `id -un` says: the account that owns our jobs.
///
/// # Errors
/// It is not one name.
pub(super) fn read_user(output: &Output) -> Result<String, String> {
    let name = output.stdout.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if output.code == Some(0) && !name.is_empty() && name.chars().all(plain) {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "`id -un` did not tell our account ({}); set `user` in the site's [pbs] section",
            output.complaint()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(stdout: &str, stderr: &str) -> Output {
        Output {
            code: Some(0),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    #[test]
    fn the_dialect_is_told_by_the_version() {
        let cases = [
            ("pbs_version = 23.06.06\n", "", Some(Dialect::Openpbs)),
            ("pbs_version = 19.1.1\n", "", Some(Dialect::Openpbs)),
            (
                "Version: 6.1.2\nCommit: 661e092552\n",
                "",
                Some(Dialect::Torque),
            ),
            ("", "version: 2.5.12\n", Some(Dialect::Torque)),
            (
                "",
                "perl: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n",
                None,
            ),
            ("Version: unknown\n", "", None),
            ("", "", None),
        ];
        for (stdout, stderr, want) in cases {
            assert_eq!(read(&out(stdout, stderr)).ok(), want, "{stdout}{stderr}");
        }
    }

    #[test]
    fn the_account_is_one_name() {
        assert_eq!(read_user(&out("alice\n", "")).unwrap(), "alice");
        for odd in ["", "a b\n", "Welcome!\nalice\n"] {
            assert!(read_user(&out(odd, "")).is_err(), "{odd}");
        }
    }
}
