//! What the emulator checks beyond what hardware would: initialisation, races, convergence.

pub mod clock;
pub mod report;
pub mod shadow;
