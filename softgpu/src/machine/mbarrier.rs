//! The mbarrier object: eight bytes of shared memory that count arrivals and bytes of asynchronous copies.
//!
//! PTX leaves their content open. Here, from the low bits up: arrivals still awaited in this phase (20 bits),
//! arrivals of a phase (20), bytes still awaited (21, signed), the parity of the phase (1), and a mark (2) that
//! tells an mbarrier from memory that is not one.

use crate::sanitizer::clock::Released;

/// Most arrivals and bytes that can be counted.
pub const MOST: u32 = (1 << 20) - 1;
/// The top bits of an mbarrier: neither those of zeros nor those of poison.
const MARK: u64 = 0b01;

/// The state of an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// Arrivals still awaited.
    pub pending: u32,
    /// Arrivals of every phase to come.
    pub expected: u32,
    /// Bytes still awaited; negative when copies were faster than `expect_tx`.
    pub bytes: i32,
    /// Parity of the phase.
    pub odd: bool,
}

impl Mbarrier {
    /// A fresh mbarrier for `count` arrivals a phase.
    pub fn new(count: u32) -> Result<Self, String> {
        match count {
            1..=MOST => Ok(Self { pending: count, expected: count, bytes: 0, odd: false }),
            _ => Err(format!("an mbarrier for {count} arrivals: 1 to {MOST} are possible")),
        }
    }

    /// What eight bytes say, unless they are no mbarrier.
    pub fn decode(word: u64) -> Option<Self> {
        (word >> 62 == MARK).then_some(Self {
            pending: word as u32 & MOST,
            expected: (word >> 20) as u32 & MOST,
            bytes: ((word << 3) as i64 >> 43) as i32,
            odd: word >> 61 & 1 != 0,
        })
    }

    /// The eight bytes.
    pub fn encode(self) -> u64 {
        let bytes = self.bytes as u64 & ((1 << 21) - 1);
        u64::from(self.pending)
            | u64::from(self.expected) << 20
            | bytes << 40
            | u64::from(self.odd) << 61
            | MARK << 62
    }

    /// `count` arrivals.
    pub fn arrive(&mut self, count: u32) -> Result<(), String> {
        if count == 0 || count > self.pending {
            return Err(format!(
                "{count} arrivals at an mbarrier that awaits {} in this phase",
                self.pending
            ));
        }
        self.pending -= count;
        self.advance();
        Ok(())
    }

    /// `count` fewer arrivals in every phase to come. Before [`arrive`](Self::arrive).
    pub fn drop_out(&mut self, count: u32) -> Result<(), String> {
        self.expected = self
            .expected
            .checked_sub(count)
            .ok_or_else(|| format!("{count} arrivals dropped of {}", self.expected))?;
        Ok(())
    }

    /// This phase awaits `bytes` more bytes.
    pub fn expect(&mut self, bytes: u32) -> Result<(), String> {
        self.add(i64::from(bytes))?;
        // Copies may have been faster.
        self.advance();
        Ok(())
    }

    /// `bytes` bytes have arrived.
    pub fn complete(&mut self, bytes: u32) -> Result<(), String> {
        self.add(-i64::from(bytes))?;
        self.advance();
        Ok(())
    }

    fn add(&mut self, bytes: i64) -> Result<(), String> {
        let sum = i64::from(self.bytes) + bytes;
        if sum.unsigned_abs() > u64::from(MOST) {
            return Err(format!("{sum} bytes awaited by an mbarrier, {MOST} are possible"));
        }
        self.bytes = sum as i32;
        Ok(())
    }

    /// Goes to the next phase when nothing is awaited in this one.
    fn advance(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.pending = self.expected;
            self.odd = !self.odd;
        }
    }
}

/// What those who arrive at a barrier hand on to those who wait.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Of the phase that is not complete.
    pub collecting: Released,
    /// Of the phases before.
    pub complete: Released,
}
