//! What the emulator checks beyond what hardware would: initialisation, races, convergence.

mod check;
pub mod clock;
pub mod report;
pub mod shadow;
