//! The text of `qstat -f`: one block for each job. Pure.
//!
//! ```text
//! Job Id: 2.pbssrv
//!     Job_Name = pilot
//!     Variable_List = PBS_O_HOME=/lab/users/alice,PBS_O_LANG=C.UTF-8,
//! <tab>PBS_O_LOGNAME=alice
//! <empty line>
//! ```
//!
//! This form and not JSON: `qstat -f -F json` of OpenPBS 23.06.06 prints only the first of several
//! ids, and turns values into numbers (measured); of other versions invalid JSON is known. Values
//! are broken at any place; a line that starts with a tab (Torque's manual also shows blanks)
//! goes on with the value, without anything between.

/// One job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// What stands after `Job Id:`.
    pub id: String,
    attributes: Vec<(String, String)>,
}

impl Block {
    /// The value of an attribute. Names are compared without case: OpenPBS writes `Exit_status`,
    /// Torque `exit_status`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// A variable of the job's `Variable_List`.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.get("Variable_List")?
            .split(',')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Reads the whole text.
///
/// # Errors
/// It has something in it and no job, ends within a job, or tells of the same job twice: then
/// nothing of it is to be believed.
pub(super) fn read(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("Job Id:") {
            if open {
                return Err(format!("no empty line before `{line}`"));
            }
            blocks.push(Block {
                id: id.trim().to_owned(),
                attributes: Vec::new(),
            });
            open = true;
        } else if line.trim().is_empty() {
            open = false;
        } else if open && let Some(block) = blocks.last_mut() {
            add(block, line)?;
        } else if !blocks.is_empty() {
            return Err(format!("`{}` belongs to no job", cut(line)));
        }
    }
    if open {
        return Err("the listing ends within a job".to_owned());
    }
    if blocks.is_empty() && !text.trim().is_empty() {
        return Err(format!("no job could be read in `{}`", cut(text)));
    }
    for (n, block) in blocks.iter().enumerate() {
        if blocks[..n].iter().any(|other| other.id == block.id) {
            return Err(format!("job {} is listed twice", block.id));
        }
    }
    Ok(blocks)
}

fn add(block: &mut Block, line: &str) -> Result<(), String> {
    let attribute = line
        .strip_prefix("    ")
        .filter(|rest| !rest.starts_with([' ', '\t']))
        .and_then(|rest| {
            rest.split_once(" = ")
                .or_else(|| Some((rest.strip_suffix(" =")?, "")))
        })
        .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace));
    match (attribute, block.attributes.last_mut()) {
        (Some((name, value)), _) => {
            block.attributes.push((name.to_owned(), value.to_owned()));
        }
        (None, Some((_, value))) => {
            value.push_str(line.strip_prefix('\t').unwrap_or(line.trim_start()));
        }
        (None, None) => return Err(format!("job {} begins with `{}`", block.id, cut(line))),
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.trim().chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_were_broken_are_whole_again() {
        let text = "Job Id: 7.srv\n    Job_Name = wp-a\n    Variable_List = A=1,\n\tWP_K\n\tEY=wp-a,B=\n    comment = x = y\n    empty =\n\n";
        let blocks = read(text).unwrap();
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].id, "7.srv");
        assert_eq!(blocks[0].get("job_name"), Some("wp-a"));
        assert_eq!(blocks[0].variable("WP_KEY"), Some("wp-a"));
        assert_eq!(blocks[0].variable("WP"), None);
        assert_eq!(blocks[0].get("comment"), Some("x = y"));
        assert_eq!(blocks[0].get("empty"), Some(""));
    }

    #[test]
    fn nothing_is_an_empty_listing_and_noise_is_none() {
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("\n").unwrap(), []);
        for bad in [
            "Welcome to the cluster\n",
            "Job Id: 1.s\n    Job_Name = x\n",
            "Job Id: 1.s\n    Job_Name = x\nJob Id: 2.s\n    Job_Name = y\n\n",
            "Job Id: 1.s\n    a = x\n\nJob Id: 1.s\n    a = y\n\n",
            "Job Id: 1.s\n    a = x\n\nsegmentation fault\n",
            "Job Id: 1.s\ngarbage\n\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let greeted = "Welcome!\nJob Id: 1.s\n    a = x\n\n";
        assert_eq!(read(greeted).unwrap().len(), 1);
    }
}
