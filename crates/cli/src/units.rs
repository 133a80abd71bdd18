//! Sizes and durations with units: `8MiB`, `1.5GB`, `250ms`, `1m30s`.
//!
//! A number without a unit is refused (only zero needs none), because `--hedge-after 5` means
//! seconds to one reader and milliseconds to the next. What is shown can be read back: `show` picks
//! the largest units that are exact.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// So many KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// So many MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// So many GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// Why a text is no size or no duration; says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Texts longer than this are refused unread; no honest one is near it.
const TEXT_MAX: usize = 64;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Nanoseconds of each unit, the longest first.
const SPANS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |why: &str| {
            UnitError(format!(
                "{why}: a size is a number and a unit, such as 512KiB, 8MiB or 10GB"
            ))
        };
        let text = text.trim();
        if text == "0" {
            return Ok(Self(0));
        }
        let (number, rest) = number(text).map_err(&wrong)?;
        let unit = rest.trim();
        if unit.is_empty() {
            return Err(wrong("the unit is missing"));
        }
        let (_, scale) = SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .or_else(|| {
                SIZES
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            })
            .ok_or_else(|| wrong(&format!("\"{}\" is no unit of size", unit.escape_debug())))?;
        number.times(*scale).map(Self).map_err(wrong)
    }
}

/// A part of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction(pub f64);

impl FromStr for Fraction {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
        number.map(Self).ok_or_else(|| {
            let text = text.escape_debug();
            UnitError(format!("\"{text}\" is no number from 0 to 1, such as 0.01"))
        })
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |why: &str| {
            UnitError(format!(
                "{why}: a duration is numbers and units, such as 250ms, 5s or 1m30s"
            ))
        };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut nanos = 0u64;
        let mut shortest = u64::MAX;
        loop {
            let (number, after) = number(rest).map_err(&wrong)?;
            let end = after
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            if unit.is_empty() {
                return Err(wrong("the unit is missing"));
            }
            let (_, scale) = SPANS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(|| wrong(&format!("\"{unit}\" is no unit of time")))?;
            if *scale >= shortest {
                return Err(wrong("the units must go from long to short, each once"));
            }
            shortest = *scale;
            nanos = number
                .times(*scale)
                .map_err(wrong)?
                .checked_add(nanos)
                .ok_or_else(|| wrong("too large"))?;
            rest = after;
            if rest.is_empty() {
                return Ok(Self(Duration::from_nanos(nanos)));
            }
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = ["TiB", "GiB", "MiB", "KiB"]
            .into_iter()
            .zip([1u64 << 40, 1 << 30, 1 << 20, 1 << 10])
            .find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // More than 584 years were never read from a text, and are shown as the most that can be.
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in SPANS {
            if rest >= *scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

/// Bytes for people, with one decimal: `1.5 GiB`. Not meant to be read back.
pub fn human(bytes: u64) -> String {
    let mut scale = 1u64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if bytes / scale < 1024 {
            break;
        }
        scale <<= 10;
        unit = next;
    }
    if scale == 1 {
        format!("{bytes} B")
    } else {
        format!("{:.1} {unit}", bytes as f64 / scale as f64)
    }
}

/// A decimal number as it was written: `whole.fraction`, the fraction in units of `10^-digits`.
struct Decimal {
    whole: u64,
    fraction: u64,
    digits: u32,
}

impl Decimal {
    /// `self * scale`, exactly; a remainder below one is an error, as nobody means `1.0000001KiB`.
    fn times(&self, scale: u64) -> Result<u64, &'static str> {
        let whole = self.whole.checked_mul(scale).ok_or("too large")?;
        let part = u128::from(self.fraction) * u128::from(scale);
        let unit = 10u128.pow(self.digits);
        if part % unit != 0 {
            return Err("more decimals than the unit has");
        }
        // `fraction < 10^digits`, hence the quotient is below `scale`.
        let part = u64::try_from(part / unit).map_err(|_| "too large")?;
        whole.checked_add(part).ok_or("too large")
    }
}

/// The number that `text` begins with, and what follows it.
fn number(text: &str) -> Result<(Decimal, &str), &'static str> {
    if text.len() > TEXT_MAX {
        return Err("too long");
    }
    if text.is_empty() {
        return Err("nothing is there");
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    if number.is_empty() {
        return Err("a number must come first");
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return Err("this is no decimal number");
    }
    let parse = |digits: &str| digits.parse::<u64>().map_err(|_| "too large");
    let digits = u32::try_from(fraction.len()).map_err(|_| "too long")?;
    Ok((
        Decimal {
            whole: parse(whole)?,
            fraction: parse(fraction)?,
            digits,
        },
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, want: Result<u64, &str>| match (text.parse::<Size>(), want) {
            (Ok(size), Ok(want)) => {
                assert_eq!(size.0, want, "{text}");
                assert_eq!(size.to_string().parse(), Ok(size), "shown as {size}");
            }
            (Err(error), Err(want)) => {
                assert!(error.to_string().starts_with(want), "{text}: {error}");
            }
            (got, want) => panic!("{text}: {got:?}, not {want:?}"),
        };
        check("8MiB", Ok(8 << 20));
        check(" 8 MiB ", Ok(8 << 20));
        check("8mib", Ok(8 << 20));
        check("10GB", Ok(10_000_000_000));
        check("1.5KiB", Ok(1536));
        check("4096B", Ok(4096));
        check("0", Ok(0));
        check("0B", Ok(0));
        check("18446744073709551615B", Ok(u64::MAX));
        check("18446744073709551616B", Err("too large"));
        check("17179869184GiB", Err("too large"));
        check("0.1B", Err("more decimals"));
        check("8", Err("the unit is missing"));
        check("", Err("nothing is there"));
        check("MiB", Err("a number must come first"));
        check("-8MiB", Err("a number must come first"));
        check("8MeB", Err("\"MeB\" is no unit of size"));
        check("8s", Err("\"s\" is no unit of size"));
        check("1.2.3MiB", Err("this is no decimal number"));
        check(".5MiB", Err("this is no decimal number"));
        check("8µB", Err("\"µB\" is no unit of size"));
        check(&"1".repeat(100), Err("too long"));
    }

    #[test]
    fn spans() {
        let check = |text: &str, want: Result<u64, &str>| match (text.parse::<Span>(), want) {
            (Ok(span), Ok(want)) => {
                assert_eq!(span.0, Duration::from_nanos(want), "{text}");
                assert_eq!(span.to_string().parse(), Ok(span), "shown as {span}");
            }
            (Err(error), Err(want)) => {
                assert!(error.to_string().starts_with(want), "{text}: {error}");
            }
            (got, want) => panic!("{text}: {got:?}, not {want:?}"),
        };
        check("5s", Ok(5_000_000_000));
        check("250ms", Ok(250_000_000));
        check("1m30s", Ok(90_000_000_000));
        check("1.5s", Ok(1_500_000_000));
        check("2h", Ok(7_200_000_000_000));
        check("0", Ok(0));
        check("5", Err("the unit is missing"));
        check("5M", Err("\"M\" is no unit of time"));
        check("1s1m", Err("the units must go from long to short"));
        check("1s 2ms", Err("a number must come first"));
        check("600000d", Err("too large"));
        check("s", Err("a number must come first"));
        check("5µs", Err("the unit is missing"));
    }

    #[test]
    fn for_people() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(u64::MAX), "16.0 EiB");
    }
}
