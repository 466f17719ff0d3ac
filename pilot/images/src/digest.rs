//! Digests of artefacts: `blake3:` or `sha256:` and 64 hex digits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

/// How a digest is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    /// BLAKE3, 256 bits.
    Blake3,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// The word before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// A digest with its algorithm. Shown as `blake3:<hex>`, lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// Its algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its 64 hex digits, lower case.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Name of the blob with this digest.
    pub(crate) fn blob_name(&self) -> String {
        format!("{}-{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (algorithm, hex) = match text.split_once(':') {
            Some(("blake3", hex)) => (Algorithm::Blake3, hex),
            Some(("sha256", hex)) => (Algorithm::Sha256, hex),
            Some(_) | None => return Err(wrong(text)),
        };
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong(text));
        }
        let hex = hex.to_ascii_lowercase().into();
        Ok(Self { algorithm, hex })
    }
}

fn wrong(text: &str) -> String {
    format!("`{text}` is not a digest; write `blake3:` or `sha256:` and 64 hex digits")
}

/// Makes a digest of bytes as they come.
pub struct Hasher(Kind);

enum Kind {
    Blake3(Box<blake3::Hasher>),
    Sha256(Box<ring::digest::Context>),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Blake3 => Kind::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::Sha256 => {
                Kind::Sha256(Box::new(ring::digest::Context::new(&ring::digest::SHA256)))
            }
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Blake3(h) => drop(h.update(bytes)),
            Kind::Sha256(h) => h.update(bytes),
        }
    }

    /// The digest of all bytes that were taken.
    pub fn finish(self) -> Digest {
        match self.0 {
            Kind::Blake3(h) => Digest {
                algorithm: Algorithm::Blake3,
                hex: h.finalize().to_hex().as_str().into(),
            },
            Kind::Sha256(h) => Digest {
                algorithm: Algorithm::Sha256,
                hex: h
                    .finish()
                    .as_ref()
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect::<String>()
                    .into(),
            },
        }
    }
}

/// Bytes that are read or written at once.
pub(crate) const CHUNK: usize = 1 << 18;

/// Reads a file to its end: its digest and length.
pub(crate) fn digest_file(file: &mut File, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), bytes)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard_test_vectors() {
        let of = |algorithm, bytes: &[u8]| {
            let mut h = Hasher::new(algorithm);
            h.update(bytes);
            h.finish().to_string()
        };
        assert_eq!(
            of(Algorithm::Sha256, b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            of(Algorithm::Blake3, b""),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn only_whole_digests_are_taken_and_case_does_not_matter() {
        let hex = "AB".repeat(32);
        let d: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(d.to_string(), format!("sha256:{}", "ab".repeat(32)));
        for bad in ["", "sha256:", "md5:00", &hex, &format!("sha256:{hex}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
