//! The chip models: limits that a device reports and launches are checked against.

/// What a chip can hold. Sizes in bytes unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Name in PTX: `sm_86`.
    pub arch: &'static str,
    /// Compute capability times ten: 86.
    pub capability: u32,
    /// A product of this architecture, for the device's name.
    pub product: &'static str,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Threads resident on one multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Blocks resident on one multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// Shared memory of one multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Most shared memory of a block that asked for more than 48 KB.
    pub shared_per_block_optin: u32,
    /// Most shared memory of a block that did not ask.
    pub shared_per_block: u32,
    /// Shared memory that the system takes from every block.
    pub shared_reserved: u32,
    /// 32-bit registers of one multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// L2 cache.
    pub l2_bytes: u32,
    /// Device memory that can be allocated here (not that of the product).
    pub memory_bytes: u64,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,
    /// Clock of the memory in kHz.
    pub memory_khz: u32,
    /// Clock of the multiprocessors in kHz.
    pub clock_khz: u32,
}

const SM_80: Chip = Chip {
    arch: "sm_80",
    capability: 80,
    product: "A100",
    multiprocessors: 108,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    shared_per_multiprocessor: 164 << 10,
    shared_per_block_optin: 163 << 10,
    shared_per_block: 48 << 10,
    shared_reserved: 1 << 10,
    registers_per_multiprocessor: 65536,
    l2_bytes: 40 << 20,
    memory_bytes: 8 << 30,
    memory_bus_bits: 5120,
    memory_khz: 1_215_000,
    clock_khz: 1_410_000,
};

/// Every model, in order of capability.
pub static CHIPS: [Chip; 5] = [
    // To see what programs do on a chip that is too old for them: its tensor cores are not modelled.
    Chip {
        arch: "sm_75",
        capability: 75,
        product: "T4",
        multiprocessors: 40,
        threads_per_multiprocessor: 1024,
        blocks_per_multiprocessor: 16,
        shared_per_multiprocessor: 64 << 10,
        shared_per_block_optin: 64 << 10,
        shared_reserved: 0,
        l2_bytes: 4 << 20,
        memory_bus_bits: 256,
        memory_khz: 5_001_000,
        clock_khz: 1_590_000,
        ..SM_80
    },
    SM_80,
    Chip {
        arch: "sm_86",
        capability: 86,
        product: "RTX 3090",
        multiprocessors: 82,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 16,
        shared_per_multiprocessor: 100 << 10,
        shared_per_block_optin: 99 << 10,
        l2_bytes: 6 << 20,
        memory_bus_bits: 384,
        memory_khz: 9_751_000,
        clock_khz: 1_695_000,
        ..SM_80
    },
    Chip {
        arch: "sm_89",
        capability: 89,
        product: "RTX 4090",
        multiprocessors: 128,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        shared_per_multiprocessor: 100 << 10,
        shared_per_block_optin: 99 << 10,
        l2_bytes: 72 << 20,
        memory_bus_bits: 384,
        memory_khz: 10_501_000,
        clock_khz: 2_520_000,
        ..SM_80
    },
    Chip {
        arch: "sm_90",
        capability: 90,
        product: "H100 SXM",
        multiprocessors: 132,
        shared_per_multiprocessor: 228 << 10,
        shared_per_block_optin: 227 << 10,
        l2_bytes: 50 << 20,
        memory_bus_bits: 5120,
        memory_khz: 2_619_000,
        clock_khz: 1_980_000,
        ..SM_80
    },
];

impl Chip {
    /// The model called `name` (`sm_86`).
    pub fn named(name: &str) -> Option<&'static Chip> {
        CHIPS.iter().find(|c| c.arch == name)
    }

    /// Blocks of `threads` threads and `shared` bytes of shared memory that fit on one multiprocessor at
    /// `registers` registers a thread (rounded as the hardware allocates: 8 a thread, 256 a warp).
    pub fn occupancy(&self, threads: u32, shared: u32, registers: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let by_threads = self.threads_per_multiprocessor / (warps * 32);
        let by_shared =
            self.shared_per_multiprocessor / (shared + self.shared_reserved).next_multiple_of(128);
        let by_registers =
            self.registers_per_multiprocessor / (registers.max(1).next_multiple_of(8) * 32 * warps);
        by_threads.min(by_shared).min(by_registers).min(self.blocks_per_multiprocessor)
    }
}
