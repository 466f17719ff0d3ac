//! What an x86-64 program needs before it runs: read from its program headers.

use anyhow::{Context, Result, bail};

const INTERPRETER: u64 = 3;
const DYNAMIC: u64 = 2;
const NEEDED: u64 = 1;

/// How many other files the program needs: its loader and shared libraries. 0: it is static.
pub(super) fn needs(file: &[u8]) -> Result<usize> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") || number(file, 18, 2)? != 62 {
        bail!("this is no program for x86-64");
    }
    let table = number(file, 32, 8)?;
    let (size, count) = (number(file, 54, 2)?, number(file, 56, 2)?);
    let mut needs = 0;
    for n in 0..count {
        let header = table + n * size;
        match number(file, header, 4)? {
            INTERPRETER => needs += 1,
            DYNAMIC => {
                let begin = number(file, header + 8, 8)?;
                let end = begin + number(file, header + 32, 8)?;
                let mut at = begin;
                while at < end {
                    needs += usize::from(number(file, at, 8)? == NEEDED);
                    at += 16;
                }
            }
            _ => {}
        }
    }
    Ok(needs)
}

fn number(file: &[u8], at: u64, bytes: usize) -> Result<u64> {
    let at = usize::try_from(at).context("offset out of range")?;
    let part = file.get(at..at.saturating_add(bytes));
    let part = part.context("the program's headers are cut off")?;
    Ok(part
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_libraries_needs_them() {
        // This test is one: a loader and at least the C library.
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs(&me).unwrap() >= 2);
        assert!(needs(&me[..70]).is_err());
        assert!(needs(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_program_without_headers_for_a_loader_needs_nothing() {
        let mut bare = vec![0; 64 + 56];
        bare[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bare[18], bare[32], bare[54], bare[56], bare[64]) = (62, 64, 56, 1, 1);
        assert_eq!(needs(&bare).unwrap(), 0);
        bare[64] = 3;
        assert_eq!(needs(&bare).unwrap(), 1);
    }
}
