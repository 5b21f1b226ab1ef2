//! Asynchronous copies into shared memory (`cp.async`) that a warp has issued and not yet waited for.

use std::collections::VecDeque;

/// One copy of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// Lane that issued it.
    pub lane: u8,
    /// Offset in the shared memory of its block.
    pub to: u32,
    /// Bytes written there: 4, 8 or 16.
    pub bytes: u8,
    /// Generic address it reads.
    pub from: u64,
    /// Bytes read; the rest of the destination becomes zero.
    pub read: u8,
    /// The data, when it was read at issue.
    pub data: Option<[u8; 16]>,
}

/// Something that one lane issued.
pub trait Issued {
    /// The lane.
    fn lane(&self) -> usize;
}

impl Issued for Copy {
    fn lane(&self) -> usize {
        usize::from(self.lane)
    }
}

/// The copies of a warp, by the group that waits for them. Groups are counted for each lane; here they are kept
/// in order of commit, and a lane takes part with the copies it issued.
#[derive(Debug)]
pub struct CopyGroups<T = Copy> {
    /// Issued, not committed.
    pub open: Vec<T>,
    /// Committed, oldest first: the lanes that committed and their copies.
    pub groups: VecDeque<(u32, Vec<T>)>,
}

impl<T> Default for CopyGroups<T> {
    fn default() -> Self {
        Self { open: Vec::new(), groups: VecDeque::new() }
    }
}

impl<T: Issued> CopyGroups<T> {
    /// Closes the open copies of the lanes of `mask` into a group of theirs.
    pub fn commit(&mut self, mask: u32) {
        let (mine, rest) =
            std::mem::take(&mut self.open).into_iter().partition(|c| mask >> c.lane() & 1 != 0);
        self.open = rest;
        self.groups.push_back((mask, mine));
    }

    /// Takes, for every lane of `mask`, the copies of all its groups but the `keep` newest.
    pub fn finish(&mut self, mask: u32, keep: usize) -> Vec<T> {
        let mut newer = [0usize; 32];
        let mut taken = Vec::new();
        for (members, copies) in self.groups.iter_mut().rev() {
            let mut due = 0;
            for (lane, newer) in newer.iter_mut().enumerate() {
                if *members & mask & 1 << lane != 0 {
                    if *newer >= keep {
                        due |= 1 << lane;
                    }
                    *newer += 1;
                }
            }
            let (done, rest): (Vec<_>, Vec<_>) = copies.drain(..).partition(|c| due >> c.lane() & 1 != 0);
            *copies = rest;
            *members &= !due;
            taken.splice(0..0, done);
        }
        while self.groups.front().is_some_and(|(members, _)| *members == 0) {
            self.groups.pop_front();
        }
        taken
    }

    /// Takes every copy of the lanes of `mask`, committed or not (`cp.async.wait_all`).
    pub fn finish_all(&mut self, mask: u32) -> Vec<T> {
        self.commit(mask);
        self.finish(mask, 0)
    }

    /// A lane of `mask` with copies under way.
    pub fn pending(&self, mask: u32) -> Option<usize> {
        let all = self.open.iter().chain(self.groups.iter().flat_map(|(_, c)| c));
        all.map(|c| c.lane()).find(|l| mask >> l & 1 != 0)
    }
}
