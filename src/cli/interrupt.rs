//! Ctrl-C: the first asks to stop after the current step, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::terminal::note;
use crate::error::{Error, Result};

/// Exit code after Ctrl-C, as shells report it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Starts listening; the first Ctrl-C prints `message`.
pub(crate) fn listen(message: Option<&'static str>) -> Result<()> {
    let handler = move || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
        if let Some(message) = message {
            note(format_args!("{message}"));
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Host { what: "the Ctrl-C handler", why: e.to_string() })
}

/// Whether Ctrl-C was pressed.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
