//! What there is to cover, and what was covered.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use trimoe::{Device, Op, Result};

/// Names of the operations that ran.
static RAN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Runs an operation, of which is known then that it ran.
pub fn run<O: Op>(device: &Device, op: O) -> Result<()> {
    RAN.lock().unwrap().insert(O::NAME);
    device.run(op)
}

/// Names of the operations that ran so far.
pub fn ran() -> BTreeSet<&'static str> {
    RAN.lock().unwrap().clone()
}

/// Names of all operations, as the library's source has them: whoever adds one need not think of it here.
pub fn every_op() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let name = |line: &str| {
            line.trim().strip_prefix("const NAME: &'static str = \"")?.strip_suffix("\";").map(String::from)
        };
        names.extend(text.lines().filter_map(name));
    }
    assert!(names.contains("copy") && names.contains("route_backward"), "{names:?}");
    names
}

/// What of `all` is not in `covered`.
pub fn missing<A: AsRef<str>, C: AsRef<str>>(
    all: impl IntoIterator<Item = A>,
    covered: &BTreeSet<C>,
) -> Vec<String> {
    let covered: BTreeSet<&str> = covered.iter().map(AsRef::as_ref).collect();
    let names = all.into_iter().map(|name| name.as_ref().to_string());
    names.filter(|name| !covered.contains(name.as_str())).collect()
}
