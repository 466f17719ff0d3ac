//! SPDX licence expressions: `A OR B AND C WITH E`, parentheses, and the old `A/B` for "or".

use std::fmt;

use anyhow::{Result, bail};

/// A licence expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// An identifier, with its exception.
    Licence(String),
    /// Both apply.
    And(Box<Expression>, Box<Expression>),
    /// The user chooses.
    Or(Box<Expression>, Box<Expression>),
}

impl Expression {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self> {
        let spaced = text
            .replace('/', " OR ")
            .replace('(', " ( ")
            .replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut at = 0;
        let expression = either(&words, &mut at)?;
        if at != words.len() {
            bail!("`{}` is not expected in `{text}`", words[at]);
        }
        Ok(expression)
    }

    /// Whether the allowed licences suffice.
    pub fn satisfied_by(&self, allowed: &[String]) -> bool {
        match self {
            Self::Licence(name) => allowed.contains(name),
            Self::And(left, right) => left.satisfied_by(allowed) && right.satisfied_by(allowed),
            Self::Or(left, right) => left.satisfied_by(allowed) || right.satisfied_by(allowed),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Licence(name) => f.write_str(name),
            Self::And(left, right) => write!(f, "({left} AND {right})"),
            Self::Or(left, right) => write!(f, "({left} OR {right})"),
        }
    }
}

fn either(words: &[&str], at: &mut usize) -> Result<Expression> {
    let mut left = both(words, at)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        left = Expression::Or(Box::new(left), Box::new(both(words, at)?));
    }
    Ok(left)
}

fn both(words: &[&str], at: &mut usize) -> Result<Expression> {
    let mut left = single(words, at)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        left = Expression::And(Box::new(left), Box::new(single(words, at)?));
    }
    Ok(left)
}

fn single(words: &[&str], at: &mut usize) -> Result<Expression> {
    let word = *words.get(*at).unwrap_or(&"the end");
    *at += 1;
    match word {
        "(" => {
            let inner = either(words, at)?;
            if words.get(*at) != Some(&")") {
                bail!("a parenthesis is not closed");
            }
            *at += 1;
            Ok(inner)
        }
        "the end" | ")" | "AND" | "OR" | "WITH" => bail!("a licence is expected before {word}"),
        name => {
            if words.get(*at) != Some(&"WITH") {
                return Ok(Expression::Licence(name.to_owned()));
            }
            let Some(exception) = words.get(*at + 1) else {
                bail!("an exception is expected after WITH")
            };
            *at += 2;
            Ok(Expression::Licence(format!("{name} WITH {exception}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn satisfied(text: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Expression::parse(text).unwrap().satisfied_by(&allowed)
    }

    #[test]
    fn and_binds_stronger_than_or() {
        assert!(satisfied("MIT OR GPL-3.0-only AND ISC", &["MIT"]));
        assert!(!satisfied("(MIT OR GPL-3.0-only) AND ISC", &["MIT"]));
        assert!(satisfied(
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            &["MIT", "Unicode-3.0"]
        ));
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        assert!(!satisfied(
            "Apache-2.0 WITH LLVM-exception",
            &["Apache-2.0"]
        ));
        assert!(satisfied("Apache-2.0 WITH LLVM-exception OR MIT", &["MIT"]));
    }

    #[test]
    fn the_old_slash_means_or() {
        assert!(satisfied("MIT/Apache-2.0", &["Apache-2.0"]));
        assert!(satisfied("Apache-2.0 / MIT", &["MIT"]));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT MIT", "MIT WITH",
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
