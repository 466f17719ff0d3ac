//! Instants and spans. No clock is read here: `now` is always an argument.

use std::fmt;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A wall-clock instant: milliseconds since 1970-01-01T00:00:00Z. RFC 3339 text on the wire; one
/// that RFC 3339 cannot write, as the end of a slot without an end, is `@<milliseconds>ms`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// The instant `secs` seconds after the Unix epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this instant is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Span {
        Span(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The instant `span` before this one.
    #[must_use]
    pub fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.as_signed()))
    }

    /// Reads the `Date` of an HTTP answer, as `Sat, 21 Nov 2026 09:00:00 GMT`; none when it is
    /// not one.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let read = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
        Some(Self(read.timestamp().as_millisecond()))
    }

    /// Reads RFC 3339 text, a number of seconds since the epoch (`1763712000`, `1763712000.5`), or
    /// what is written of an instant beyond RFC 3339.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(secs) = text.parse::<i64>() {
            return Ok(Self::from_secs(secs));
        }
        if let Ok(secs) = text.parse::<f64>()
            && secs.is_finite()
            && secs.abs() < 1e12
        {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "bounded by the check above"
            )]
            return Ok(Self((secs * 1000.0).round() as i64));
        }
        if let Some(millis) = text.strip_prefix('@').and_then(|t| t.strip_suffix("ms"))
            && let Ok(millis) = millis.parse::<i64>()
        {
            return Ok(Self(millis));
        }
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_millisecond()))
            .map_err(|_| {
                format!(
                    "`{text}` is not an instant; write RFC 3339 as in \"2026-11-21T14:05:00Z\", or seconds since 1970"
                )
            })
    }
}

impl Add<Span> for Timestamp {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_signed()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => t.fmt(f),
            Err(_) => write!(f, "@{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 instant or seconds since 1970")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Timestamp, E> {
                Timestamp::parse(v).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Timestamp, E> {
                Ok(Timestamp::from_secs(v))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Timestamp, E> {
                // A TOML file writes seconds with a fraction without quotes.
                Timestamp::parse(&v.to_string()).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Timestamp, E> {
                i64::try_from(v)
                    .map(Timestamp::from_secs)
                    .map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

/// A length of time in whole milliseconds, never negative. An integer on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Longer than anything that is planned here.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// `mins` minutes.
    pub const fn from_mins(mins: u64) -> Self {
        Self(mins.saturating_mul(60_000))
    }

    /// `secs` seconds; negative and not-a-number become zero.
    pub fn from_secs_f64(secs: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates, which is what is wanted here"
        )]
        Self(((secs.max(0.0) * 1000.0).ceil() as u64).min(Self::MAX.0))
    }

    /// Whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Seconds with their fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.as_duration().as_secs_f64()
    }

    /// The same length as the standard library's type.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    /// The standard library's length, cut to whole milliseconds.
    pub fn from_duration(d: std::time::Duration) -> Self {
        Self(u64::try_from(d.as_millis()).unwrap_or(Self::MAX.0))
    }

    /// This length less `other`; zero when `other` is longer.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `n` times this length.
    #[must_use]
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }

    /// True for no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    fn as_signed(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Span {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a + b)
    }
}

impl fmt::Display for Span {
    /// `0s`, `250ms`, `4.2s` below a minute; `3m 20s`, `1h 30m` above.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms @ 1..1000 => write!(f, "{ms}ms"),
            ms @ 1000..60_000 if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms @ 1000..60_000 => write!(f, "{}.{}s", ms / 1000, ms % 1000 / 100),
            ms => humantime::format_duration(std::time::Duration::from_secs(ms / 1000)).fmt(f),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An instant of one process's monotonic clock: milliseconds since that process chose.
///
/// Never sent: two processes' values have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Mono(u64);

impl Mono {
    /// `millis` milliseconds after the clock's zero.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's zero.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this instant is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// The instant `span` before this one, or the clock's zero.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Add<Span> for Mono {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_reads_back_what_it_writes() {
        let t = Timestamp::from_millis(1_763_712_000_250);
        for t in [
            t,
            Timestamp::default() + Span::MAX,
            Timestamp::from_millis(i64::MIN),
        ] {
            assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
            let json = serde_json::to_string(&t).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), t);
        }
        assert_eq!(
            Timestamp::parse("1763712000"),
            Ok(Timestamp::from_secs(1_763_712_000))
        );
        assert!(
            Timestamp::parse("tomorrow")
                .unwrap_err()
                .contains("RFC 3339")
        );
    }

    #[test]
    fn spans_never_wrap() {
        assert_eq!(Span::from_secs(1).minus(Span::from_secs(2)), Span::ZERO);
        assert_eq!(
            Timestamp::from_secs(1).since(Timestamp::from_secs(2)),
            Span::ZERO
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX) + Span::MAX,
            Timestamp::from_millis(i64::MAX)
        );
    }

    #[test]
    fn spans_read_like_speech() {
        let shown: Vec<String> = [0, 250, 4200, 59_000, 200_000, 5_400_000]
            .map(|ms| Span::from_millis(ms).to_string())
            .into();
        assert_eq!(shown, ["0s", "250ms", "4.2s", "59s", "3m 20s", "1h 30m"]);
    }
}
