//! Where a command computes, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum DeviceName {
    /// `cpu`
    #[default]
    Cpu,
    /// `cuda`, `cuda:N`
    Cuda(usize),
    /// `auto`: the first CUDA device, or the CPU.
    Auto,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => return Ok(DeviceName::Cpu),
            "cuda" => return Ok(DeviceName::Cuda(0)),
            "auto" => return Ok(DeviceName::Auto),
            _ => {}
        }
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        number.map(DeviceName::Cuda).ok_or_else(|| "a device is cpu, cuda, cuda:N or auto".into())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceName::Auto => f.write_str("auto"),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> String {
        name.to_string()
    }
}

#[test]
fn devices_have_names() {
    for (text, name) in [
        ("cpu", DeviceName::Cpu),
        ("cuda", DeviceName::Cuda(0)),
        ("cuda:3", DeviceName::Cuda(3)),
        ("auto", DeviceName::Auto),
    ] {
        assert_eq!(text.parse(), Ok(name));
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
        assert!(text.parse::<DeviceName>().is_err(), "{text}");
    }
}
