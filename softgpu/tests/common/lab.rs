//! A small bench to put a kernel on: PTX in, buffers in and out, reports and counters.

use softgpu::chip::Chip;
use softgpu::machine::grid::{Launch, Outcome, run};
use softgpu::machine::memory::Memory;
use softgpu::options::{Copies, Options, Schedule};
use softgpu::program::Program;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    Ptr(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    /// A parameter of 128 bytes, as tensor maps are.
    Block([u8; 128]),
}

/// Memory and options.
pub struct Lab {
    pub memory: Memory,
    pub options: Options,
}

impl Default for Lab {
    fn default() -> Self {
        Self::with(Options { threads: 2, ..Options::default() })
    }
}

impl Lab {
    pub fn with(options: Options) -> Self {
        Self { memory: Memory::new(1 << 30), options }
    }

    /// Device memory that holds these values.
    pub fn put<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = std::mem::size_of_val(values);
        let address = self.memory.allocate(bytes.max(1)).unwrap();
        // SAFETY: plain numbers, read as bytes.
        let raw = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), bytes) };
        self.memory.write(address, raw).unwrap();
        address
    }

    /// Device memory of `bytes` bytes that was never written.
    pub fn blank(&self, bytes: usize) -> u64 {
        self.memory.allocate(bytes).unwrap()
    }

    /// Values in device memory.
    pub fn get<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        // SAFETY: plain numbers, written as bytes.
        let raw = unsafe {
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), size_of::<T>() * count)
        };
        self.memory.read(address, raw).unwrap();
        values
    }

    pub fn load(&self, ptx: &str) -> Program {
        Program::load(ptx, &self.memory, &self.options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Loads a module and runs one of its kernels.
    pub fn run(&self, ptx: &str, kernel: &str, grid: [u32; 3], block: [u32; 3], args: &[Arg]) -> Outcome {
        self.launch(&self.load(ptx), kernel, grid, block, 0, args)
    }

    /// Runs a kernel of a loaded module.
    pub fn launch(
        &self,
        program: &Program,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Arg],
    ) -> Outcome {
        let kernel = program.kernel(kernel).unwrap_or_else(|e| panic!("{e}"));
        let mut params = vec![0u8; kernel.param_bytes];
        assert_eq!(args.len(), kernel.params.len(), "arguments of {}", kernel.name);
        for (arg, p) in args.iter().zip(&kernel.params) {
            let bytes = match arg {
                Arg::Ptr(v) | Arg::U64(v) => v.to_le_bytes().to_vec(),
                Arg::U32(v) => v.to_le_bytes().to_vec(),
                Arg::F32(v) => v.to_le_bytes().to_vec(),
                Arg::Block(v) => v.to_vec(),
            };
            assert_eq!(bytes.len(), p.bytes, "size of {arg:?}");
            params[p.offset..p.offset + p.bytes].copy_from_slice(&bytes);
        }
        self.launch_raw(program, &kernel.name, grid, block, dynamic_shared, &params)
    }

    /// Runs a kernel with its parameter bank as bytes.
    pub fn launch_raw(
        &self,
        program: &Program,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Outcome {
        let kernel = program.kernel(kernel).unwrap_or_else(|e| panic!("{e}"));
        let cluster = kernel.cluster.unwrap_or([1; 3]);
        let launch = Launch { kernel, grid, block, cluster, dynamic_shared, params, cooperative: false };
        run(&launch, &self.memory, &self.options).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Both warp schedules, with late and with eager copies.
pub fn every_schedule() -> impl Iterator<Item = Options> {
    let both = [Schedule::Forward, Schedule::Reverse];
    both.into_iter().flat_map(|schedule| {
        [Copies::Late, Copies::Eager].map(|copies| Options {
            schedule,
            copies,
            threads: 2,
            ..Options::default()
        })
    })
}

/// [`every_schedule`] on the H100 model.
pub fn every_schedule_of_hopper() -> impl Iterator<Item = Options> {
    every_schedule().map(|options| Options { chip: Chip::named("sm_90").unwrap(), ..options })
}

/// [`module`] for Hopper; `shared` declares variables of the module.
pub fn hopper(pointers: usize, shared: &str, body: &str) -> String {
    let text = module(pointers, body).replace(".target sm_80", ".target sm_90a");
    text.replace(".address_size 64\n", &format!(".address_size 64\n{shared}\n"))
}

/// A module with one kernel `k` of pointer parameters `p0`, `p1`, ..., which are in `%rd0`, `%rd1`, ... when the
/// body starts; `%r0` is the thread of the grid (x only). Registers `%p`, `%h` (16 bits), `%r`, `%f`, `%rd`, `%d`
/// from 10 up to 39 are free.
pub fn module(pointers: usize, body: &str) -> String {
    let params: Vec<String> = (0..pointers).map(|i| format!(".param .u64 p{i}")).collect();
    let loads: String = (0..pointers).map(|i| format!("ld.param.u64 %rd{i}, [p{i}];\n")).collect();
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .pred %p<40>; .reg .b16 %h<40>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<40>; .reg .f64 %d<40>;\n\
         {loads}mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.s32 %r0, %r1, %r2, %r3;\n\
         {body}\nret;\n}}\n",
        params.join(", ")
    )
}
