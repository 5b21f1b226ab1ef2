//! Lines for people: results on stdout, everything else on stderr.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Writes a line of results. A reader that has gone away (`| head`) is no error; a full disk is.
pub(super) fn say(line: Arguments<'_>) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", "standard output")(e)),
        _ => Ok(()),
    }
}

/// Writes a line of progress; a run goes on when nobody can read it.
pub(super) fn note(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
