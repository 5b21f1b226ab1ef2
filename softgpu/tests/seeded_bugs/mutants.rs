//! The table of seeded bugs.

use softgpu::sanitizer::report::Kind;
use softgpu::sanitizer::report::Kind::*;

use crate::{Base, blocks, matrix, warps};

/// Where the mistake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// In the kernel: the value of `BUG`; 0 is the correct one.
    Kernel(u32),
    /// The host gives a null pointer as input.
    Null,
    /// The host has freed the input.
    Freed,
    /// The host has not written the input.
    Blank,
    /// The input lacks its last element.
    Short,
    /// The launch has four bytes of dynamic shared memory too few.
    LessShared,
    /// In the kernel, which never ends: it gets few instructions.
    Endless(u32),
}

/// How a mistake is caught.
#[derive(Clone, Copy, Debug)]
pub enum Caught {
    /// By a report of this kind.
    Report(Kind),
    /// By a wrong result, and no report.
    Result,
}

/// A kernel with a mistake.
pub struct Mutant {
    /// The kernel.
    pub base: &'static Base,
    /// The mistake.
    pub seed: Seed,
    /// The problem it is run on.
    pub shape: usize,
    /// How it must be caught, in every mode.
    pub caught: Caught,
    /// In words.
    pub what: &'static str,
}

fn bugs(base: &'static Base, shape: usize, list: &[(u32, Caught, &'static str)]) -> Vec<Mutant> {
    let mutant = |&(bug, caught, what)| Mutant { base, seed: Seed::Kernel(bug), shape, caught, what };
    list.iter().map(mutant).collect()
}

fn host(base: &'static Base, seed: Seed, kind: Kind, what: &'static str) -> Mutant {
    Mutant { base, seed, shape: 0, caught: Caught::Report(kind), what }
}

/// Every seeded bug.
pub fn table() -> Vec<Mutant> {
    use Caught::{Report, Result};
    let gemm = [
        (1, Report(AsyncRace), "wait_group off by one"),
        (2, Report(AsyncRace), "wait_group missing"),
        (3, Report(AsyncRace), "commit missing"),
        (4, Report(AsyncRace), "prefetch into the live slot"),
        (5, Report(SharedRace), "barrier removed"),
        (7, Result, "swizzle mismatch"),
        (8, Result, "matrices of a fragment exchanged"),
        (9, Report(Uninitialised), "uninitialised accumulator"),
        (10, Report(Uninitialised), "no zero fill at the edge"),
        (11, Report(OutOfBounds), "rows beyond the last read"),
        (12, Report(AsyncLeak), "copies that nobody waits for"),
        (13, Report(Misaligned), "misaligned copy"),
        (14, Report(OutOfBounds), "one column too many written"),
        (15, Report(OutOfBounds), "ring index off by one"),
        (16, Result, "accumulator layout wrong"),
    ];
    let mut all = bugs(&matrix::GEMM, 1, &gemm);
    all.extend(bugs(
        &matrix::GEMM_BF16,
        1,
        &[(7, Result, "swizzle mismatch"), (5, Report(SharedRace), "barrier removed")],
    ));
    all.extend(bugs(
        &matrix::DEQUANT,
        0,
        &[
            (1, Result, "wrong lop3 table"),
            (2, Result, "another wrong lop3 table"),
            (3, Report(Misaligned), "misaligned vector load"),
            (4, Report(OutOfBounds), "scale of the next group"),
            (5, Result, "order of the values wrong"),
        ],
    ));
    all.extend(bugs(
        &matrix::SPLITK,
        0,
        &[
            (1, Report(GlobalRace), "missing fence before the lock is handed on"),
            (2, Report(GlobalRace), "no lock"),
            (3, Report(GlobalRace), "lock handed on before all are done"),
            (5, Report(GlobalRace), "only one warp waits"),
        ],
    ));
    all.push(host(&matrix::SPLITK, Seed::Endless(4), Timeout, "waits for a turn that never comes"));
    all.extend(bugs(
        &blocks::REDUCE,
        1,
        &[
            (1, Report(SharedRace), "barrier removed"),
            (2, Report(GlobalRace), "no atomic across blocks"),
            (3, Report(Deadlock), "divergent shuffle"),
            (4, Report(MemberMask), "member mask without the own lane"),
            (5, Report(MemberMask), "source lane outside the mask"),
            (6, Report(OutOfBounds), "one element too many read"),
            (7, Report(Deadlock), "barrier for half a warp"),
            (8, Report(Uninitialised), "shared memory not written"),
            (9, Report(OutOfBounds), "local memory beyond its end"),
            (10, Report(Divergent), "early exit before a barrier"),
        ],
    ));
    all.push(host(&blocks::REDUCE, Seed::Null, OutOfBounds, "null pointer"));
    all.push(host(&blocks::REDUCE, Seed::Freed, OutOfBounds, "use after free"));
    all.push(host(&blocks::REDUCE, Seed::Blank, Uninitialised, "global memory not written"));
    all.push(host(&blocks::REDUCE, Seed::Short, OutOfBounds, "input one element short"));
    all.extend(bugs(
        &blocks::HISTOGRAM,
        0,
        &[
            (1, Report(SharedRace), "not atomic in shared memory"),
            (2, Report(GlobalRace), "not atomic in global memory"),
            (3, Report(Uninitialised), "bins not cleared"),
            (4, Report(SharedRace), "barrier after clearing removed"),
            (5, Report(SharedRace), "barrier before the sums removed"),
            (6, Report(OutOfBounds), "bin index off by one"),
        ],
    ));
    all.extend(bugs(
        &blocks::TICKET,
        0,
        &[
            (1, Report(GlobalRace), "missing fence before the ticket"),
            (2, Report(GlobalRace), "missing barrier before the fence"),
            (3, Report(GlobalRace), "ticket not atomic"),
            (4, Report(GlobalRace), "fence of the block alone"),
            (5, Report(SharedRace), "barrier after the ticket removed"),
            (6, Report(SharedRace), "sum read without a barrier"),
        ],
    ));
    all.extend(bugs(
        &blocks::TRANSPOSE,
        0,
        &[
            (1, Report(SharedRace), "barrier removed"),
            (2, Report(SharedRace), "second barrier removed"),
            (3, Report(OutOfBounds), "one column too many written"),
            (5, Report(OutOfBounds), "ragged edge not respected"),
        ],
    ));
    all.extend(bugs(&blocks::TRANSPOSE, 1, &[(4, Result, "indices exchanged")]));
    all.extend(bugs(
        &blocks::STENCIL,
        0,
        &[
            (1, Report(SharedRace), "barrier removed"),
            (2, Report(SharedRace), "writes the live buffer"),
            (3, Report(Uninitialised), "halo not written"),
            (4, Report(OutOfBounds), "one value too many written"),
        ],
    ));
    all.push(host(&blocks::STENCIL, Seed::LessShared, OutOfBounds, "shared memory beyond the launch's"));
    all.extend(bugs(
        &blocks::HANDOVER,
        0,
        &[
            (1, Report(SharedRace), "buffer refilled too early"),
            (2, Report(Illegal), "mismatched count of a named barrier"),
            (3, Report(Illegal), "count that is no number of warps"),
            (4, Report(SharedRace), "arrives instead of waiting"),
            (5, Report(OutOfBounds), "ring index off by one"),
            (6, Report(Deadlock), "the wrong barrier"),
        ],
    ));
    all.extend(bugs(
        &warps::TOPK,
        0,
        &[
            (1, Report(OutOfBounds), "one logit too many"),
            (2, Result, "tie-break the wrong way"),
            (3, Result, "no tie-break"),
            (4, Result, "winner not removed"),
            (5, Result, "sum lacks the last"),
        ],
    ));
    all.extend(bugs(
        &warps::SORT,
        0,
        &[
            (1, Report(SharedRace), "__syncwarp removed"),
            (2, Report(SharedRace), "barrier removed"),
            (3, Report(OutOfBounds), "scan adds what is not below"),
            (4, Report(OutOfBounds), "inclusive scan"),
            (5, Report(SharedRace), "second barrier removed"),
            (6, Report(OutOfBounds), "rank counts itself"),
            (7, Report(SharedRace), "__syncwarp before the update removed"),
            (8, Result, "not stable"),
        ],
    ));
    all.extend(bugs(
        &warps::TILES,
        0,
        &[
            (1, Report(SharedRace), "__syncwarp removed"),
            (2, Report(SharedRace), "second __syncwarp removed"),
            (3, Report(MemberMask), "own lane missing in __syncwarp"),
            (4, Report(Deadlock), "member that never comes"),
            (5, Report(MemberMask), "source lane outside the tile"),
        ],
    ));
    all
}
