//! A number of bytes that memory is limited to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes, or `none` for as many as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Given", into = "String")]
pub(crate) struct Budget(pub Option<u64>);

/// As a config file may say it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Given> for Budget {
    type Error = String;

    fn try_from(given: Given) -> Result<Self, String> {
        match given {
            Given::Bytes(bytes) => Ok(Budget(Some(bytes))),
            Given::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Budget(None));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err("bytes are a whole number, as such or in KiB, MiB, GiB or TiB; or `none`".into()),
        };
        let number: u64 = number.parse().map_err(|e: std::num::ParseIntError| e.to_string())?;
        let bytes = number.checked_mul(1 << shift).ok_or("more bytes than can be counted")?;
        Ok(Budget(Some(bytes)))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{bytes}"),
            None => f.write_str("none"),
        }
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> String {
        budget.to_string()
    }
}

#[test]
fn bytes_have_units() {
    let parse = |text: &str| text.parse::<Budget>().map(|b| b.0);
    for (text, bytes) in
        [("0", 0), ("12", 12), ("3K", 3 << 10), ("3kib", 3 << 10), ("5 MiB", 5 << 20), ("7G", 7 << 30)]
    {
        assert_eq!(parse(text), Ok(Some(bytes)), "{text}");
    }
    assert_eq!(parse("none"), Ok(None));
    for text in ["", "M", "-1", "1.5G", "1MB", "20000000T", "99999999999999999999"] {
        assert!(parse(text).is_err(), "{text}");
    }
    let budget = Budget(Some(1 << 20));
    assert_eq!(serde_json::from_str::<Budget>(&serde_json::to_string(&budget).unwrap()).unwrap(), budget);
    assert_eq!(serde_json::from_str::<Budget>("1048576").unwrap(), budget);
}
