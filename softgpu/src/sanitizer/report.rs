//! What is said about a kernel that does something wrong.

use std::fmt;

use crate::{Code, Error};

/// What kind of mistake it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An access outside every allocation, shared memory or local memory.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A value used before anything was written there.
    Uninitialised,
    /// Two accesses of a block, one a write, that nothing orders.
    SharedRace,
    /// Two accesses to global memory, one a write, not both atomic, that nothing orders.
    GlobalRace,
    /// Shared memory touched while an asynchronous copy into it is under way.
    AsyncRace,
    /// A thread ends with asynchronous copies under way.
    AsyncLeak,
    /// A lane executes a warp-wide instruction whose member mask does not name it, or reads a lane that does
    /// not take part.
    MemberMask,
    /// Lanes or warps wait for each other in a way that can never end.
    Deadlock,
    /// An instruction that needs the whole warp was executed by part of it.
    Divergent,
    /// An instruction was given operands that it does not accept.
    Illegal,
    /// `trap`, or `brkpt` outside a debugger.
    Trap,
    /// `assert` failed.
    Assert,
    /// The instruction budget is used up.
    Timeout,
}

impl Kind {
    /// The driver's code for it. Mistakes that hardware would not notice count as a failed launch.
    pub fn code(self) -> Code {
        match self {
            Kind::OutOfBounds => Code::IllegalAddress,
            Kind::Misaligned => Code::MisalignedAddress,
            Kind::Illegal => Code::IllegalInstruction,
            Kind::Assert => Code::Assert,
            Kind::Timeout => Code::LaunchTimeout,
            _ => Code::LaunchFailed,
        }
    }
}

/// One mistake, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind.
    pub kind: Kind,
    /// The kernel.
    pub kernel: String,
    /// Line in the PTX text.
    pub line: u32,
    /// The instruction, as opcode.
    pub opcode: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// Warp in its block.
    pub warp: u32,
    /// Lane in its warp.
    pub lane: u32,
    /// What happened, with the values.
    pub detail: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { kind, kernel, line, opcode, block: [x, y, z], warp, lane, detail } = self;
        write!(
            f,
            "{kind:?} in {kernel}, PTX line {line} `{opcode}`, block ({x}, {y}, {z}) warp {warp} lane {lane}: {detail}"
        )
    }
}

impl From<&Report> for Error {
    fn from(report: &Report) -> Self {
        Error::new(report.kind.code(), report.to_string())
    }
}
