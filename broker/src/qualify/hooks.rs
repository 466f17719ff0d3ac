//! Commands of the administrator for what only an administrator can do to an LRM.

use std::str::FromStr;

use lrm_adapters::command::Runner;
use protocol::time::Span;

/// A command is killed, and has failed, after so long.
const TIMEOUT: Span = Span::from_mins(5);

/// A command with places for values, as `scontrol requeue {id}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    words: Vec<String>,
}

impl FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = shell_words::split(text).map_err(|e| e.to_string())?;
        if words.is_empty() {
            return Err("it is empty; name a program".to_owned());
        }
        Ok(Self { words })
    }
}

impl Hook {
    /// The command with each `{name}` replaced by its value, within its word.
    fn filled(&self, values: &[(&str, &str)]) -> Vec<String> {
        let fill = |word: &String| {
            values.iter().fold(word.clone(), |word, (name, value)| {
                word.replace(&format!("{{{name}}}"), value)
            })
        };
        self.words.iter().map(fill).collect()
    }

    /// Runs it on this host.
    ///
    /// # Errors
    /// It cannot be run, takes longer than five minutes, or says no.
    pub(super) async fn run(&self, values: &[(&str, &str)]) -> Result<(), String> {
        let command = self.filled(values);
        let name = shell_words::join(&command);
        let mut runner = Runner::new(TIMEOUT);
        runner.path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", runner.path);
        match runner.run(&command).await {
            Ok(output) if output.code == Some(0) => Ok(()),
            Ok(output) => Err(format!("`{name}`: {}", output.complaint())),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// All of them; what has none is not checked.
#[derive(Clone, Default, Debug)]
pub struct Hooks {
    /// Preempts the job `{id}`.
    pub preempt: Option<Hook>,
    /// Has the job `{id}` started again.
    pub requeue: Option<Hook>,
    /// Sets the walltime of the running job `{id}` to `{minutes}`, which are `{seconds}`.
    pub shorten: Option<Hook>,
    /// The LRM loses its daemon on `{node}`.
    pub lose_node: Option<Hook>,
    /// It has the daemon on `{node}` again.
    pub restore_node: Option<Hook>,
    /// Stops the LRM's controller.
    pub stop: Option<Hook>,
    /// Starts it again.
    pub start: Option<Hook>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_within_words_and_never_split_them() {
        let hook: Hook = "ssh 'login 1' scontrol update jobid={id} note='{id} {other}'"
            .parse()
            .unwrap();
        let words = hook.filled(&[("id", "7 'x'"), ("node", "n1")]);
        let wanted = [
            "ssh",
            "login 1",
            "scontrol",
            "update",
            "jobid=7 'x'",
            "note=7 'x' {other}",
        ];
        assert_eq!(words, wanted);
        assert!("".parse::<Hook>().is_err());
        assert!("sh -c 'open".parse::<Hook>().is_err());
    }

    #[tokio::test]
    async fn a_command_that_says_no_is_told_with_its_words() {
        let hook: Hook = "sh -c 'echo {id} is not mine >&2; exit 4'".parse().unwrap();
        let why = hook.run(&[("id", "7")]).await.unwrap_err();
        assert!(
            why.contains("exit code 4") && why.contains("7 is not mine"),
            "{why}"
        );
        let fine: Hook = "test {node} = n1".parse().unwrap();
        assert_eq!(fine.run(&[("node", "n1")]).await, Ok(()));
    }
}
