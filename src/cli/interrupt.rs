//! Ctrl-C: the first asks to stop after the current step, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Exit code after Ctrl-C, as shells report it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Starts listening.
pub(crate) fn listen() -> Result<()> {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("trimoe: finishing this step; press Ctrl-C again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Host { what: "the Ctrl-C handler", why: e.to_string() })
}

/// Whether Ctrl-C was pressed.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
