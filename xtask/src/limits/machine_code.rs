//! What the compiler made of the kernels: registers, local memory, and the loops around tensor instructions.

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
    /// The loops with tensor instructions, in the order of the code.
    pub loops: Vec<Loop>,
}

/// A loop without an inner loop.
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

/// The most that the main loop of a kernel may issue, as a share of its tensor pipe's time; none for kernels whose
/// products are not what they mostly do.
fn most_issued(kernel: &str) -> Option<f64> {
    let name = kernel.strip_prefix("moe_")?;
    if name.starts_with("int4_gemm") {
        Some(1.0)
    } else if name.starts_with("grouped_gemm") {
        Some(0.5)
    } else {
        None
    }
}

impl MachineCode {
    /// Takes images apart.
    pub fn of(tools: &Toolkit, images: &[PathBuf]) -> Result<Self> {
        let mut kernels = BTreeMap::new();
        for image in images {
            let usage = dump(tools, "-res-usage", image)?;
            let mut of_image = resources(&usage);
            for (name, loops) in loops(&dump(tools, "-sass", image)?) {
                of_image.entry(name).or_default().loops = loops;
            }
            kernels.extend(of_image);
        }
        if kernels.is_empty() {
            bail!("the images hold no kernel for sm_80: is TRIMOE_CUDA_ARCHS set?");
        }
        Ok(Self { kernels })
    }

    /// Prints what there is about products, and says what is above its limit.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        println!(
            "| kernel | registers | loop | instructions | HMMA | LDSM | LDGSTS | LOP3 | issue / tensor pipe |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (name, kernel) in &self.kernels {
            if kernel.local_bytes > 0 {
                broken.push(format!("{name}: {} bytes of local memory a thread", kernel.local_bytes));
            }
            for (i, l) in kernel.loops.iter().enumerate() {
                let Loop { issued, hmma, ldsm, ldgsts, lop3 } = l;
                let share = l.issue_share();
                println!(
                    "| {name} | {} | {i} | {issued} | {hmma} | {ldsm} | {ldgsts} | {lop3} | {share:.2} |",
                    kernel.registers
                );
            }
            // The loop with the most products is the main one; the others are its ends.
            let main = kernel.loops.iter().max_by_key(|l| l.hmma);
            if let (Some(most), Some(main)) = (most_issued(name), main)
                && main.issue_share() > most
            {
                let share = main.issue_share();
                broken.push(format!(
                    "{name}: issue slots {share:.2} x the tensor pipe's time, more than {most}"
                ));
            }
        }
        broken
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
            kernels.insert(name, Kernel { registers: value("REG"), local_bytes, loops: Vec::new() });
        }
    }
    kernels
}

/// The loops with tensor instructions of every function, from `cuobjdump -sass`.
fn loops(text: &str) -> BTreeMap<String, Vec<Loop>> {
    let mut all = BTreeMap::new();
    let mut code: Vec<(u64, &str)> = Vec::new();
    let mut function = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            if let Some(name) = function.replace(name.to_string()) {
                all.insert(name, loops_of(&code));
            }
            code.clear();
        } else if let Some((address, text)) = instruction(line) {
            code.push((address, text));
        }
    }
    if let Some(name) = function {
        all.insert(name, loops_of(&code));
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
    let count = |(from, to): &(u64, u64)| {
        let mut counts = Loop::default();
        for (_, text) in code.iter().filter(|(a, _)| (*from..=*to).contains(a)) {
            let opcode = text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or("");
            counts.issued += 1;
            counts.hmma += u32::from(opcode.starts_with("HMMA"));
            counts.ldsm += u32::from(opcode.starts_with("LDSM"));
            counts.ldgsts += u32::from(opcode.starts_with("LDGSTS"));
            counts.lop3 += u32::from(opcode.starts_with("LOP3"));
        }
        counts
    };
    ranges.iter().filter(|range| inner(range)).map(count).filter(|l| l.hmma > 0).collect()
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
        let kernel = Kernel { registers: 40, local_bytes: 24, loops: Vec::new() };
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
        let found = loops(text);
        assert_eq!(found["k"], [Loop { issued: 4, hmma: 1, ldsm: 1, ldgsts: 1, lop3: 0 }]);
        assert_eq!(found["k"][0].issue_share(), 0.5);
    }
}
