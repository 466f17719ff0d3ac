//! The local issuer: makes and checks the bearer tokens that every call needs.
//!
//! A token is `wp1.<claims>.<mac>`: base64url JSON and base64url HMAC-SHA256 over `wp1.<claims>`,
//! with a secret that the broker makes at its first start and keeps in a file of mode 0600.
//! Clients treat it as opaque. Revoked token ids are the store's business.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::ids::{SiteName, SubmitKey, UserName};
use protocol::time::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "wp1";
const SECRET_BYTES: usize = 32;
/// No token of ours is nearly so long; longer ones are refused unread.
const LONGEST: usize = 2048;

/// Who a token speaks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Identity {
    /// A user: own workspaces.
    User {
        /// Name.
        sub: UserName,
    },
    /// An administrator: everything.
    Admin {
        /// Name.
        sub: UserName,
    },
    /// The pilot of one pilot job: that slot's calls and no others.
    Pilot {
        /// The pilot job.
        sub: SubmitKey,
        /// Its site.
        site: SiteName,
    },
}

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Who.
    #[serde(flatten)]
    pub who: Identity,
    /// Refused from then on.
    pub exp: Timestamp,
    /// Names the token in the list of revoked ones.
    pub id: String,
}

/// Why a token was refused. None of these tells a caller anything about the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not in the form of a token.
    #[error("the token is not one of this broker's (wrong form)")]
    Malformed,
    /// Made with another secret, or altered.
    #[error("the token is not one of this broker's (wrong signature)")]
    WrongMac,
    /// Too old.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
}

/// The secret file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Reading, making or syncing it failed.
    #[error("{what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others can read it.
    #[error("`{}` can be read by others (mode {mode:o}); anybody could make tokens. help: chmod 600 it, or delete it and issue all tokens again", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what we wrote.
    #[error("`{}` does not hold a secret of {SECRET_BYTES} bytes in base64. help: restore it from a backup, or delete it and issue all tokens again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system has no random numbers for us.
    #[error("the system gave no random numbers")]
    NoRandom,
}

/// Makes and checks tokens.
pub struct Issuer {
    key: hmac::Key,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer(secret)")
    }
}

impl Issuer {
    /// Reads the secret in `state_dir`, or makes it at the first start. Two processes that do so
    /// at once end up with the same secret.
    ///
    /// # Errors
    /// The file can't be read or made, is damaged, or is readable by others.
    pub fn open(state_dir: &Path) -> Result<Self, SecretError> {
        let path = state_dir.join("issuer.secret");
        let fail = |what| {
            let path = path.clone();
            move |source| SecretError::Io { what, path, source }
        };
        if !path.try_exists().map_err(fail("look for"))? {
            make_secret(state_dir, &path)?;
        }
        let mode = fs::metadata(&path).map_err(fail("read"))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Open { path, mode });
        }
        let text = fs::read_to_string(&path).map_err(fail("read"))?;
        match URL_SAFE_NO_PAD.decode(text.trim_end()) {
            Ok(secret) if secret.len() == SECRET_BYTES => Ok(Self::from_secret(&secret)),
            Ok(_) | Err(_) => Err(SecretError::Damaged { path }),
        }
    }

    fn from_secret(secret: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// Makes a token.
    pub fn issue(&self, who: Identity, exp: Timestamp) -> (String, Claims) {
        let claims = Claims {
            who,
            exp,
            id: uuid::Uuid::new_v4().simple().to_string(),
        };
        let json = serde_json::to_vec(&claims).unwrap_or_default();
        let signed = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode(json));
        let mac = hmac::sign(&self.key, signed.as_bytes());
        (format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)), claims)
    }

    /// Checks a token's signature and expiry. Whether it was revoked is not known here.
    ///
    /// # Errors
    /// It is not ours, or too old.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let claims = self.read(token)?;
        if now >= claims.exp {
            return Err(TokenError::Expired(claims.exp));
        }
        Ok(claims)
    }

    /// Checks a token's signature only: also an expired token can be named for its revocation.
    ///
    /// # Errors
    /// It is not ours.
    pub fn read(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::Malformed);
        }
        let (signed, mac) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let mac = URL_SAFE_NO_PAD
            .decode(mac)
            .map_err(|_| TokenError::Malformed)?;
        let body = signed
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or(TokenError::Malformed)?;
        // Compares in constant time.
        hmac::verify(&self.key, signed.as_bytes(), &mac).map_err(|_| TokenError::WrongMac)?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
    }
}

/// Writes a new secret under a name of its own and links it to `path` unless another process was
/// faster; durable before it is used.
fn make_secret(state_dir: &Path, path: &Path) -> Result<(), SecretError> {
    let mut secret = [0_u8; SECRET_BYTES];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| SecretError::NoRandom)?;
    let draft = state_dir.join(format!(".issuer.secret.{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{}", URL_SAFE_NO_PAD.encode(secret))?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Ok(()) => fs::File::open(state_dir)?.sync_all(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    };
    let written = write();
    // The draft may never have been made; whatever is wrong has been said by `written`.
    let _ = fs::remove_file(&draft);
    written.map_err(|source| SecretError::Io {
        what: "make",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn alice() -> Identity {
        Identity::User {
            sub: UserName::new("alice").unwrap(),
        }
    }

    #[test]
    fn a_token_is_good_until_it_expires_and_only_where_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(dir.path()).unwrap();
        let exp = Timestamp::from_secs(1_800_000_100);
        let (token, claims) = issuer.issue(alice(), exp);
        assert_eq!(issuer.check(&token, NOW), Ok(claims.clone()));
        assert_eq!(issuer.check(&token, exp), Err(TokenError::Expired(exp)));
        assert_eq!(
            issuer.read(&token),
            Ok(claims),
            "an expired one can still be named"
        );
        let again = Issuer::open(dir.path()).unwrap();
        assert!(again.check(&token, NOW).is_ok(), "the secret is kept");
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Issuer::open(elsewhere.path()).unwrap();
        assert_eq!(other.check(&token, NOW), Err(TokenError::WrongMac));
    }

    #[test]
    fn altered_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(dir.path()).unwrap();
        let (token, _) = issuer.issue(alice(), Timestamp::from_secs(1_900_000_000));
        let parts: Vec<&str> = token.split('.').collect();
        let admin = URL_SAFE_NO_PAD.encode(
            String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap())
                .unwrap()
                .replace("user", "admin"),
        );
        for bad in [
            String::new(),
            "wp1".into(),
            "wp1..".into(),
            format!("wp1.{admin}.{}", parts[2]),
            format!("wp1.{}.", parts[1]),
            format!("wp1.{}.{}", parts[1], &parts[2][..20]),
            format!("wp2.{}.{}", parts[1], parts[2]),
            format!("{token}."),
            "x".repeat(10_000),
        ] {
            assert!(issuer.check(&bad, NOW).is_err(), "{bad} was taken");
        }
        for i in 0..token.len() - 1 {
            let mut bytes = token.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bytes).unwrap();
            assert!(
                bad == token || issuer.check(&bad, NOW).is_err(),
                "{bad} was taken"
            );
        }
    }

    #[test]
    fn a_secret_that_others_can_read_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Issuer::open(dir.path()).unwrap();
        let path = dir.path().join("issuer.secret");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a draft was left"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let e = Issuer::open(dir.path()).unwrap_err().to_string();
        assert!(e.contains("644") && e.contains("help"), "{e}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(matches!(
            Issuer::open(dir.path()),
            Err(SecretError::Damaged { .. })
        ));
    }
}
