//! What the compiler made of the kernels: registers, local memory, and the loops around tensor instructions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolkit::Toolkit;

/// Cycles for which an m16n8k16 product of 16-bit elements (or an m16n8k8 one in TF32) occupies the tensor pipe of a
/// quarter of an A100's multiprocessor: 2048 multiply-adds at 256 a cycle. In each cycle one instruction can issue.
const PIPE_CYCLES: f64 = 8.0;

/// The kernels of all images.
pub struct MachineCode {
    /// By name.
    pub kernels: BTreeMap<String, Kernel>,
}

/// One kernel.
#[derive(Debug, Default, PartialEq)]
pub struct Kernel {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of stack and local memory of a thread: spills, and arrays that are indexed by variables.
    pub local_bytes: u32,
    /// All of its code.
    pub whole: Loop,
    /// The loops with tensor instructions, in the order of the code.
    pub loops: Vec<Loop>,
}

/// Instructions of a stretch of code: of a loop without an inner loop, say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loop {
    /// Instructions.
    pub issued: u32,
    /// Products on tensor cores.
    pub hmma: u32,
    /// Loads of fragments.
    pub ldsm: u32,
    /// Asynchronous copies.
    pub ldgsts: u32,
    /// Three-input logic, the work of INT4 dequantisation.
    pub lop3: u32,
}

impl Loop {
    /// Issue slots as a share of the time of the tensor pipe.
    fn issue_share(&self) -> f64 {
        f64::from(self.issued) / (PIPE_CYCLES * f64::from(self.hmma))
    }
}

/// What the machine code of a kernel with products must show.
struct Products {
    /// Start of the kernels' names, without `moe_`, and their end.
    name: (&'static str, &'static str),
    /// Fewest HMMA for each LDSM in the whole kernel: what a warp gets out of an operand that it reads from shared memory.
    /// None where fragments come from elsewhere.
    fed: Option<f64>,
    /// Whether asynchronous copies run beside them.
    copies: bool,
    /// The most that the main loop may issue, as a share of its tensor pipe's time; none where products are not what the
    /// kernel mostly does, or wait for memory.
    issued: Option<f64>,
    /// Where that is missed, what was reached; more fails.
    reached: Option<f64>,
    /// Whether there is a main loop for each of several forms of operands: the shortest counts.
    forms: bool,
}

const fn row(name: (&'static str, &'static str), fed: Option<f64>, copies: bool) -> Products {
    Products { name, fed, copies, issued: None, reached: None, forms: false }
}

/// All of them, as they were compiled with nvcc 13.0; the first that fits counts. Every kernel with tensor instructions
/// needs a row.
const PRODUCTS: &[Products] = &[
    row(("attention_dkv", ""), Some(1.3), true),
    row(("attention_dq", ""), Some(1.2), true),
    row(("attention", "_256"), Some(1.5), true),
    row(("attention", ""), Some(2.6), true),
    // Six strips a step make 16 products; f32 takes three each. Four strips of a small tile make 20.
    row(("gram_small", ""), Some(5.0), true),
    row(("gram", ""), Some(2.6), true),
    row(("expand_factors", ""), Some(2.4), false),
    row(("expand", ""), None, false),
    row(("route_d", ""), None, true),
    row(("route_many", ""), Some(1.0), true),
    row(("route", ""), Some(1.3), true),
    // A product of 16 rows by 8 columns takes four weights a lane: in bf16 two masks, one and a half shifts and two
    // subtractions, 6.5 slots of 8 with itself. Loads of words, scales and rows are another 1.1 and leave 0.4 for what
    // happens once a stage, which is 1.2. In f16 two nibbles of a byte need no shift, and a slot is left.
    Products {
        issued: Some(1.0),
        reached: Some(1.11),
        forms: true,
        ..row(("int4_gemm", "_BF16_16"), Some(4.0), true)
    },
    Products { issued: Some(1.0), forms: true, ..row(("int4_gemm", ""), Some(4.0), true) },
    // Of its two main loops the one that dequantises.
    Products { issued: Some(1.0), ..row(("grouped_gemm_int4", "_LARGE"), Some(2.6), true) },
    Products {
        issued: Some(1.0),
        reached: Some(1.08),
        ..row(("grouped_gemm_int4", "_MEDIUM"), Some(1.7), true)
    },
    Products { issued: Some(0.5), ..row(("grouped_gemm", "_LARGE"), Some(2.6), true) },
    Products { issued: Some(0.5), ..row(("grouped_gemm", "_MEDIUM"), Some(1.7), true) },
    row(("grouped_gemm", "_SMALL"), Some(0.8), true),
    row(("grouped_gemm", "_ANY"), Some(1.3), false),
];

/// Starts of the names of kernels that have none, though a row would fit: sums of partial results, and attention of one query
/// a row, which waits for the keys and values that it reads once.
const WITHOUT: &[&str] = &["int4_gemm_reduce", "attention_step"];

/// What is above its limit, in words.
#[derive(Default)]
pub struct Faults {
    /// As recorded.
    pub missed: Vec<String>,
    /// More than that.
    pub broken: Vec<String>,
}

/// What is expected of a kernel, if it is one with products.
fn row_of(name: &str) -> Option<&'static Products> {
    let bare = name.strip_prefix("moe_").unwrap_or(name);
    let fits = |p: &&Products| bare.starts_with(p.name.0) && bare.ends_with(p.name.1);
    PRODUCTS.iter().find(fits).filter(|_| !WITHOUT.iter().any(|w| bare.starts_with(w)))
}

impl MachineCode {
    /// Takes images apart.
    pub fn of(tools: &Toolkit, images: &[PathBuf]) -> Result<Self> {
        let mut kernels = BTreeMap::new();
        for image in images {
            let usage = dump(tools, "-res-usage", image)?;
            let mut of_image = resources(&usage);
            for (name, (whole, loops)) in code(&dump(tools, "-sass", image)?) {
                let kernel = of_image.entry(name).or_default();
                (kernel.whole, kernel.loops) = (whole, loops);
            }
            kernels.extend(of_image);
        }
        if kernels.is_empty() {
            bail!("the images hold no kernel for sm_80: is TRIMOE_CUDA_ARCHS set?");
        }
        Ok(Self { kernels })
    }

    /// Prints what there is about products, and says what is above its limit: what is as recorded, and what is not.
    pub fn check(&self) -> Faults {
        let (mut missed, mut broken) = (Vec::new(), Vec::new());
        println!(
            "| kernel | registers | loop | instructions | HMMA | LDSM | LDGSTS | LOP3 | issue / tensor pipe |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (name, kernel) in &self.kernels {
            for (i, l) in kernel.loops.iter().enumerate() {
                let Loop { issued, hmma, ldsm, ldgsts, lop3 } = l;
                let share = l.issue_share();
                println!(
                    "| {name} | {} | {i} | {issued} | {hmma} | {ldsm} | {ldgsts} | {lop3} | {share:.2} |",
                    kernel.registers
                );
            }
            let named = |fault| format!("{name}: {fault}");
            broken.extend(kernel.faults().map(named));
            let of_products = kernel.product_faults(name);
            missed.extend(of_products.missed.into_iter().map(named));
            broken.extend(of_products.broken.into_iter().map(named));
        }
        for row in PRODUCTS {
            if !self.kernels.keys().any(|name| row_of(name).is_some_and(|r| r.name == row.name)) {
                broken.push(format!("no kernel is one of {:?}, of which products are expected", row.name));
            }
        }
        Faults { missed, broken }
    }
}

impl Kernel {
    /// What no kernel may have.
    fn faults(&self) -> Option<String> {
        (self.local_bytes > 0).then(|| format!("{} bytes of local memory a thread", self.local_bytes))
    }

    /// What is wrong with the products of a kernel, or that it has none.
    fn product_faults(&self, name: &str) -> Faults {
        let mut faults = Faults::default();
        let Some(want) = row_of(name) else {
            if self.whole.hmma > 0 {
                faults.broken.push("it has products, and needs a row in PRODUCTS".into());
            }
            return faults;
        };
        if self.whole.hmma == 0 {
            if name.contains("F16") {
                faults.broken.push("it has no products on tensor cores".into());
            }
            return faults; // those of f32 may be made of fused multiply-adds
        }
        let Loop { hmma, ldsm, ldgsts, .. } = self.whole;
        let starved = |fed: f64| ldsm == 0 || f64::from(hmma) < fed * f64::from(ldsm);
        if want.fed.is_some_and(starved) || want.copies && ldgsts == 0 {
            let Products { fed, copies, .. } = want;
            faults.broken.push(format!(
                "{hmma} HMMA, {ldsm} LDSM, {ldgsts} LDGSTS; expected {fed:?} HMMA for each LDSM, copies: {copies}"
            ));
        }
        // The loop with the most products is the main one; the others are its ends.
        let main = self.loops.iter().max_by_key(|l| (l.hmma, want.forms.then_some(Reverse(l.issued))));
        if let (Some(most), Some(main)) = (want.issued, main)
            && main.issue_share() > most
        {
            let share = main.issue_share();
            let text =
                format!("its main loop issues for {share:.2} x the tensor pipe's time, more than {most}");
            match want.reached {
                Some(reached) if share <= reached => {
                    faults.missed.push(format!("{text}; as recorded, at most {reached}"))
                }
                _ => faults.broken.push(text),
            }
        }
        faults
    }
}

fn dump(tools: &Toolkit, what: &str, image: &Path) -> Result<String> {
    let mut command = Command::new(&tools.cuobjdump);
    command.args([what, "-arch", "sm_80"]).arg(image);
    // cuobjdump looks for nvdisasm on PATH.
    let beside = tools.nvdisasm.parent().unwrap_or(Path::new("."));
    let mut path = vec![beside.to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command.env("PATH", std::env::join_paths(path)?);
    let output = command.output().with_context(|| tools.cuobjdump.display().to_string())?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Registers and local memory, from `cuobjdump -res-usage`.
fn resources(text: &str) -> BTreeMap<String, Kernel> {
    let mut kernels = BTreeMap::new();
    let mut function = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function ") {
            function = Some(name.trim_end_matches(':').to_string());
        } else if let (true, Some(name)) = (line.starts_with("REG:"), function.take()) {
            let value = |what: &str| {
                let field = line.split_whitespace().find_map(|f| f.strip_prefix(what)?.strip_prefix(':'));
                field.and_then(|v| v.parse::<u32>().ok()).unwrap_or(0)
            };
            let local_bytes = value("STACK") + value("LOCAL");
            kernels.insert(name, Kernel { registers: value("REG"), local_bytes, ..Kernel::default() });
        }
    }
    kernels
}

/// All code of every function, and its loops with tensor instructions, from `cuobjdump -sass`.
fn code(text: &str) -> BTreeMap<String, (Loop, Vec<Loop>)> {
    let mut all = BTreeMap::new();
    let mut code: Vec<(u64, &str)> = Vec::new();
    let mut function = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            if let Some(name) = function.replace(name.to_string()) {
                all.insert(name, (count(&code, 0, u64::MAX), loops_of(&code)));
            }
            code.clear();
        } else if let Some((address, text)) = instruction(line) {
            code.push((address, text));
        }
    }
    if let Some(name) = function {
        all.insert(name, (count(&code, 0, u64::MAX), loops_of(&code)));
    }
    all
}

/// `/*0010*/ @P0 IMAD R1, R2 ; /* 0x... */` as its address and text.
fn instruction(line: &str) -> Option<(u64, &str)> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    Some((address, rest.split(';').next()?.trim()))
}

/// The innermost loops with tensor instructions.
fn loops_of(code: &[(u64, &str)]) -> Vec<Loop> {
    // A branch back, and where it leads to.
    let back = |&(address, text): &(u64, &str)| {
        let branch = text.split_whitespace().any(|word| word == "BRA" || word.starts_with("BRA."));
        let target = text.rsplit("0x").next().and_then(|t| u64::from_str_radix(t.trim(), 16).ok());
        target.filter(|&target| branch && target < address).map(|target| (target, address))
    };
    let ranges: Vec<(u64, u64)> = code.iter().filter_map(back).collect();
    let inner = |&(from, to): &(u64, u64)| {
        !ranges.iter().any(|&(f, t)| (f, t) != (from, to) && f >= from && t <= to && has_products(code, f, t))
    };
    let counted = ranges.iter().filter(|range| inner(range)).map(|&(from, to)| count(code, from, to));
    counted.filter(|l| l.hmma > 0).collect()
}

/// The instructions from one address to another.
fn count(code: &[(u64, &str)], from: u64, to: u64) -> Loop {
    let mut counts = Loop::default();
    for (_, text) in code.iter().filter(|(a, _)| (from..=to).contains(a)) {
        let opcode = text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or("");
        counts.issued += 1;
        counts.hmma += u32::from(opcode.starts_with("HMMA"));
        counts.ldsm += u32::from(opcode.starts_with("LDSM"));
        counts.ldgsts += u32::from(opcode.starts_with("LDGSTS"));
        counts.lop3 += u32::from(opcode.starts_with("LOP3"));
    }
    counts
}

fn has_products(code: &[(u64, &str)], from: u64, to: u64) -> bool {
    code.iter().any(|(a, text)| (from..=to).contains(a) && text.contains("HMMA"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read() {
        let text = "Resource usage:\n Common:\n  GLOBAL:0\n Function moe_x_BF16:\n  REG:40 STACK:8 SHARED:0 LOCAL:16 \
                    CONSTANT[0]:400 TEXTURE:0\n";
        let kernel = Kernel { registers: 40, local_bytes: 24, ..Kernel::default() };
        assert_eq!(kernel.faults().as_deref(), Some("24 bytes of local memory a thread"));
        assert_eq!(resources(text), BTreeMap::from([("moe_x_BF16".to_string(), kernel)]));
    }

    #[test]
    fn the_innermost_loop_with_products_is_counted() {
        let text = "\t\tFunction : k\n\
            /*0000*/ MOV R1, c[0x0][0x28] ; /* 0x00000a0000017a02 */\n\
            /*0010*/ LDSM.16.M88.4 R4, [R2] ; /* 0x1 */\n\
            /*0020*/ @!P0 LDGSTS.E.BYPASS.128 [R5], [R6.64] ; /* 0x1 */\n\
            /*0030*/ HMMA.16816.F32.BF16 R8, R4, R6, R8 ; /* 0x1 */\n\
            /*0040*/ @P1 BRA 0x10 ; /* 0x1 */\n\
            /*0050*/ STG.E [R2.64], R8 ; /* 0x1 */\n\
            /*0060*/ @P2 BRA 0x0 ; /* 0x1 */\n\
            /*0070*/ EXIT ; /* 0x1 */\n\
            /*0080*/ BRA 0x80 ; /* 0x1 */\n";
        let (whole, loops) = &code(text)["k"];
        assert_eq!(whole.issued, 9);
        assert_eq!(loops[..], [Loop { issued: 4, hmma: 1, ldsm: 1, ldgsts: 1, lop3: 0 }]);
        assert_eq!(loops[0].issue_share(), 0.5);
    }

    #[test]
    fn starved_products_are_found() {
        let kernel = |hmma, ldsm, ldgsts, issued| {
            let whole = Loop { issued, hmma, ldsm, ldgsts, lop3: 0 };
            Kernel { whole: whole.clone(), loops: vec![whole], ..Kernel::default() }
        };
        let faults = |name: &str, kernel: Kernel| kernel.product_faults(name).broken.len();
        assert_eq!(faults("moe_grouped_gemm_BF16_LARGE", kernel(64, 16, 8, 160)), 0);
        assert_eq!(faults("moe_grouped_gemm_BF16_LARGE", kernel(64, 16, 8, 257)), 1); // more than 4 a product
        assert_eq!(faults("moe_grouped_gemm_BF16_LARGE", kernel(41, 16, 8, 160)), 1);
        assert_eq!(faults("moe_grouped_gemm_BF16_LARGE", kernel(64, 16, 0, 160)), 1);
        assert_eq!(faults("moe_grouped_gemm_BF16_ANY", kernel(64, 16, 0, 900)), 0);
        assert_eq!(faults("moe_new_BF16", kernel(64, 16, 8, 160)), 1);
        assert_eq!(faults("moe_new_BF16", kernel(0, 0, 0, 160)), 0);
        assert_eq!(faults("moe_route_BF16", kernel(0, 16, 8, 160)), 1);
        assert_eq!(faults("moe_int4_gemm_reduce_BF16", kernel(0, 0, 0, 160)), 0);
    }

    #[test]
    fn what_is_recorded_is_missed_and_not_broken() {
        let whole = |issued| Loop { issued, hmma: 64, ldsm: 8, ldgsts: 10, lop3: 0 };
        let kernel = |issued| Kernel {
            whole: whole(issued),
            loops: vec![whole(900), whole(issued)],
            ..Kernel::default()
        };
        let faults = |issued| {
            let faults = kernel(issued).product_faults("moe_int4_gemm_BF16_16");
            (faults.missed.len(), faults.broken.len())
        };
        assert_eq!(faults(512), (0, 0));
        assert_eq!(faults(566), (1, 0)); // 1.105
        assert_eq!(faults(600), (0, 1));
    }
}
