//! The attributes of the device.

use crate::chip::Chip;
use crate::{Code, Error, Result};

/// The attribute of number `attribute` in `CUdevice_attribute`.
#[rustfmt::skip]
pub(super) fn value(chip: &Chip, attribute: u32) -> Result<i32> {
    let hopper = chip.capability >= 90;
    let number = match attribute {
        1 => 1024,                                // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                            // MAX_BLOCK_DIM_X, _Y
        4 => 64,                                  // MAX_BLOCK_DIM_Z
        5 => i32::MAX as u32,                     // MAX_GRID_DIM_X
        6 | 7 => 65535,                           // MAX_GRID_DIM_Y, _Z
        8 => chip.shared_per_block,               // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                               // TOTAL_CONSTANT_MEMORY
        10 => 32,                                 // WARP_SIZE
        11 => i32::MAX as u32,                    // MAX_PITCH
        12 => chip.registers_per_multiprocessor,  // MAX_REGISTERS_PER_BLOCK
        13 => chip.clock_khz,                     // CLOCK_RATE
        14 => 512,                                // TEXTURE_ALIGNMENT
        15 => 1,                                  // GPU_OVERLAP
        16 => chip.multiprocessors,               // MULTIPROCESSOR_COUNT
        17 | 18 => 0,                             // KERNEL_EXEC_TIMEOUT, INTEGRATED
        19 => 1,                                  // CAN_MAP_HOST_MEMORY
        20 => 0,                                  // COMPUTE_MODE: default
        // Textures and surfaces: there are none, a program that asks learns so.
        21..=29 | 42..=49 | 52..=74 | 77 => 0,
        30 => 512,                                // SURFACE_ALIGNMENT
        31 => 1,                                  // CONCURRENT_KERNELS
        32 => 0,                                  // ECC_ENABLED
        33 => 1,                                  // PCI_BUS_ID
        34 | 35 => 0,                             // PCI_DEVICE_ID, TCC_DRIVER
        36 => chip.memory_khz,                    // MEMORY_CLOCK_RATE
        37 => chip.memory_bus_bits,               // GLOBAL_MEMORY_BUS_WIDTH
        38 => chip.l2_bytes,                      // L2_CACHE_SIZE
        39 => chip.threads_per_multiprocessor,    // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                                  // ASYNC_ENGINE_COUNT
        41 => 1,                                  // UNIFIED_ADDRESSING
        50 => 0,                                  // PCI_DOMAIN_ID
        51 => 32,                                 // TEXTURE_PITCH_ALIGNMENT
        75 => chip.capability / 10,               // COMPUTE_CAPABILITY_MAJOR
        76 => chip.capability % 10,               // COMPUTE_CAPABILITY_MINOR
        78..=80 => 1,                             // STREAM_PRIORITIES, GLOBAL_L1_CACHE, LOCAL_L1_CACHE
        81 => chip.shared_per_multiprocessor,     // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82 => chip.registers_per_multiprocessor,  // MAX_REGISTERS_PER_MULTIPROCESSOR
        83 => 1,                                  // MANAGED_MEMORY
        84..=86 => 0,                             // MULTI_GPU_BOARD, its group, HOST_NATIVE_ATOMIC
        87 => if chip.capability.is_multiple_of(10) { 2 } else { 64 }, // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        88 | 89 => 0,                             // PAGEABLE_MEMORY_ACCESS, CONCURRENT_MANAGED_ACCESS
        90 | 91 => 1,                             // COMPUTE_PREEMPTION, HOST_POINTER_FOR_REGISTERED_MEM
        92..=94 => 0,                             // stream memory operations
        95 => 1,                                  // COOPERATIVE_LAUNCH
        96 => 0,                                  // COOPERATIVE_MULTI_DEVICE_LAUNCH
        97 => chip.shared_per_block_optin,        // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        98 => 0,                                  // CAN_FLUSH_REMOTE_WRITES
        99 => 1,                                  // HOST_REGISTER_SUPPORTED
        100..=105 => 0,                           // host page tables, virtual memory management, sharing
        106 => chip.blocks_per_multiprocessor,    // MAX_BLOCKS_PER_MULTIPROCESSOR
        107..=110 => 0,                           // compression, persisting L2, access policy, RDMA
        111 => chip.shared_reserved,              // RESERVED_SHARED_MEMORY_PER_BLOCK
        112 | 114 => 0,                           // SPARSE_CUDA_ARRAY, TIMELINE_SEMAPHORE_INTEROP
        113 => 1,                                 // READ_ONLY_HOST_REGISTER_SUPPORTED
        115 => 1,                                 // MEMORY_POOLS_SUPPORTED
        116..=119 => 0,                           // RDMA, sharing of pools
        120 => hopper.into(),                     // CLUSTER_LAUNCH
        121..=125 => 0,                           // arrays, stream memory operations, DMA-BUF, IPC
        126 => if hopper { 4 } else { 1 },        // MEM_SYNC_DOMAIN_COUNT
        127 => hopper.into(),                     // TENSOR_MAP_ACCESS_SUPPORTED
        128..=130 => 0,                           // fabric, unified function pointers, NUMA
        131 | 134 => u32::MAX,                    // NUMA_ID, HOST_NUMA_ID: -1, none
        132 | 133 | 135..=147 => 0,               // multicast, MPS, graphics, decompression, host pools
        _ => return Err(Error::new(Code::InvalidValue, format!("device attribute {attribute} is unknown"))),
    };
    Ok(number as i32)
}
