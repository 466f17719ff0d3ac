//! The command line of `qsub`.

use std::path::PathBuf;

use protocol::resources::Resources;
use protocol::time::Span;

use crate::Dialect;

/// What was asked for.
pub(super) struct Order {
    pub name: String,
    pub queue: String,
    pub resources: Resources,
    pub walltime: Span,
    pub rerunnable: bool,
    pub output: PathBuf,
    pub shell: String,
    /// A command in direct mode, the script otherwise.
    pub command: Vec<String>,
    variables: Vec<String>,
}

impl Order {
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Reads it; what the real one would not understand is an error.
pub(super) fn read(dialect: Dialect, args: &[&str]) -> Result<Order, String> {
    let mut order = Order {
        name: "STDIN".to_owned(),
        queue: "pilots".to_owned(),
        resources: Resources {
            cores: 1,
            memory_mib: 0,
            disk_mib: 0,
        },
        walltime: Span::from_mins(10),
        rerunnable: true,
        output: PathBuf::from("/dev/null"),
        shell: "/bin/sh".to_owned(),
        command: Vec::new(),
        variables: Vec::new(),
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if *arg == "--" && dialect == Dialect::Openpbs {
            order.command = rest.map(|a| (*a).to_owned()).collect();
            break;
        }
        if !arg.starts_with('-') {
            order.command = vec![(*arg).to_owned()];
            break;
        }
        let value = rest
            .next()
            .ok_or_else(|| format!("option requires an argument -- '{arg}'"))?;
        match *arg {
            "-N" if value.contains(char::is_whitespace) => {
                return Err("illegal -N value".to_owned());
            }
            "-N" => order.name = (*value).to_owned(),
            "-q" => order.queue = (*value).to_owned(),
            "-l" => resources(dialect, &mut order, value)?,
            "-r" => order.rerunnable = *value == "y",
            "-o" => order.output = PathBuf::from(value),
            "-v" => order.variables = value.split(',').map(str::to_owned).collect(),
            "-S" => order.shell = (*value).to_owned(),
            "-m" | "-j" | "-A" | "-P" | "-W" | "-k" | "-p" => {}
            other => return Err(format!("invalid option -- '{other}'")),
        }
    }
    if order.command.is_empty() {
        return Err("no script".to_owned());
    }
    Ok(order)
}

fn resources(dialect: Dialect, order: &mut Order, list: &str) -> Result<(), String> {
    let wrong = || format!("Illegal attribute or resource value {list}");
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    for item in list.split(',') {
        let (name, value) = item.split_once('=').ok_or_else(wrong)?;
        match (name, dialect) {
            ("walltime", _) => order.walltime = Span::from_secs(number(value)?),
            ("mem", _) => order.resources.memory_mib = megabytes(value).ok_or_else(wrong)?,
            ("select", Dialect::Openpbs) | ("nodes", Dialect::Torque) => {
                let mut parts = value.split(':');
                if parts.next() != Some("1") {
                    return Err(wrong());
                }
                for part in parts {
                    match part.split_once('=').ok_or_else(wrong)? {
                        ("ncpus" | "ppn", n) => {
                            order.resources.cores =
                                u32::try_from(number(n)?).map_err(|_| wrong())?;
                        }
                        ("mem", m) => {
                            order.resources.memory_mib = megabytes(m).ok_or_else(wrong)?;
                        }
                        (_, _) => return Err(wrong()),
                    }
                }
            }
            (_, _) => return Err(format!("Unknown resource Resource_List.{name}")),
        }
    }
    Ok(())
}

fn megabytes(text: &str) -> Option<u64> {
    text.strip_suffix("mb")?.parse().ok()
}
