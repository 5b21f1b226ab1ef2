//! `cargo xtask sass`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::toolkit::Toolkit;
use crate::{paths, run};

/// Looks at the machine code of every kernel: no local memory, and products fed as they should be.
///
/// Compiles kernels/*.cu for sm_80, which takes a minute, and counts instructions; no GPU is needed. What emulation of
/// PTX cannot see is what ptxas made of it.
#[derive(Args)]
pub struct Sass {
    /// Only these files, by name: similarity
    files: Vec<String>,
}

/// Kernels on tensor cores, by the start of their names, and how many HMMA there are at least for every LDSM: what a
/// warp gets out of an operand that it reads from shared memory. They must also have copies that run beside it (LDGSTS).
const PRODUCTS: &[(&str, &str, f64)] = &[
    ("attention", "moe_attention_BF16", 1.6),
    ("attention", "moe_attention_F16", 1.6),
    ("attention_backward", "moe_attention_dkv_BF16", 1.5),
    ("attention_backward", "moe_attention_dkv_F16", 1.5),
    ("attention_backward", "moe_attention_dq_BF16", 1.3),
    ("attention_backward", "moe_attention_dq_F16", 1.3),
    // Six strips a step make 16 products; f32 takes three each.
    ("similarity", "moe_gram_BF16", 2.6),
    ("similarity", "moe_gram_F16", 2.6),
    ("similarity", "moe_gram_F32", 8.0),
    // Four strips make 20.
    ("similarity", "moe_gram_small_BF16", 5.0),
    ("similarity", "moe_gram_small_F16", 5.0),
    ("similarity", "moe_gram_small_F32", 15.0),
];

/// Instructions of a kernel by opcode.
type Counts = BTreeMap<String, usize>;

fn of(counts: &Counts, opcode: &str) -> usize {
    counts.get(opcode).copied().unwrap_or(0)
}

impl Sass {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let tools = Toolkit::provide(&paths::target()?.join("cuda"))?;
        let folder = paths::target()?.join("sass");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut wrong = Vec::new();
        for file in self.stems()? {
            let cubin = folder.join(format!("{file}.cubin"));
            let source = format!("kernels/{file}.cu");
            let mut nvcc = Command::new(&tools.nvcc);
            nvcc.current_dir(paths::root()).args(["-O3", "-std=c++17", "-Ikernels", "-cubin", "-arch=sm_80"]);
            run(nvcc.arg("-o").arg(&cubin).arg(&source))?;
            let kernels = disassemble(&tools.cuobjdump, &cubin)?;
            ensure!(!kernels.is_empty(), "{source} has no kernels");
            for (name, counts) in &kernels {
                let [hmma, ldsm, ldgsts] = ["HMMA", "LDSM", "LDGSTS"].map(|opcode| of(counts, opcode));
                if hmma > 0 {
                    println!("{name:<40} HMMA {hmma:>4}  LDSM {ldsm:>4}  LDGSTS {ldgsts:>4}");
                }
            }
            wrong.extend(faults(&file, &kernels));
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        Ok(())
    }

    /// The files to look at, without their extension.
    fn stems(&self) -> Result<Vec<String>> {
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        let folder = paths::root().join("kernels");
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut stems: Vec<_> = files.filter_map(|f| f.strip_suffix(".cu").map(str::to_owned)).collect();
        stems.sort();
        Ok(stems)
    }
}

fn disassemble(cuobjdump: &Path, cubin: &Path) -> Result<BTreeMap<String, Counts>> {
    let output = Command::new(cuobjdump).arg("-sass").arg(cubin).output();
    let output = output.with_context(|| cuobjdump.display().to_string())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(count(&String::from_utf8_lossy(&output.stdout)))
}

/// Counts the instructions in what cuobjdump prints: `/*0010*/ @!P0 LDGSTS.E.BYPASS.128 [R5], ... ;`.
fn count(text: &str) -> BTreeMap<String, Counts> {
    let mut kernels = BTreeMap::<String, Counts>::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            current = Some(kernels.entry(name.to_owned()).or_default());
        }
        let Some((address, code)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) else {
            continue;
        };
        let is_code = address.len() == 4 || address.len() == 5; // what follows is the encoding, of 16 digits
        let opcode = code.split_whitespace().find(|word| !word.starts_with('@'));
        if let (true, Some(opcode), Some(counts)) = (is_code, opcode, current.as_deref_mut()) {
            let name = opcode.split(['.', ';']).next().unwrap_or(opcode);
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    kernels
}

/// What is wrong with the kernels of a file.
fn faults(file: &str, kernels: &BTreeMap<String, Counts>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unseen: Vec<_> = PRODUCTS.iter().filter(|row| row.0 == file).map(|row| row.1).collect();
    for (name, counts) in kernels {
        if of(counts, "LDL") + of(counts, "STL") > 0 {
            faults.push(format!("{name} uses local memory"));
        }
        let row = PRODUCTS.iter().find(|row| row.0 == file && name.starts_with(row.1));
        match row {
            Some((_, start, least)) => {
                unseen.retain(|other| other != start);
                let [hmma, ldsm, ldgsts] = ["HMMA", "LDSM", "LDGSTS"].map(|opcode| of(counts, opcode));
                if ldsm == 0 || ldgsts == 0 || (hmma as f64) < least * ldsm as f64 {
                    faults.push(format!(
                        "{name}: {hmma} HMMA, {ldsm} LDSM, {ldgsts} LDGSTS; expected {least} HMMA for each LDSM"
                    ));
                }
            }
            None if of(counts, "HMMA") > 0 => {
                faults.push(format!("{name} has products: it needs a row in PRODUCTS"))
            }
            None => {}
        }
    }
    faults.extend(unseen.into_iter().map(|start| format!("no kernel of {file} starts with {start}")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel as cuobjdump prints it.
    fn listing(name: &str, opcodes: &[(&str, usize)]) -> String {
        let mut text = format!("\t\tFunction : {name}\n\t.headerflags @\"EF_CUDA_SM80\"\n");
        for (opcode, times) in opcodes {
            for _ in 0..*times {
                text += &format!(
                    "        /*0a30*/               @!P0 {opcode}.X R4, R2, R6 ;  /* 0x000000060204723c */\n"
                );
                text += "                                             /* 0x001fe20000041808 */\n";
            }
        }
        text
    }

    #[test]
    fn starved_products_and_local_memory_are_found() {
        let found = |opcodes: &[(&str, usize)]| {
            let kernels = ["BF16", "F16", "F32"].iter().flat_map(|dtype| {
                let small =
                    listing(&format!("moe_gram_small_{dtype}"), &[("HMMA", 15), ("LDSM", 1), ("LDGSTS", 1)]);
                [listing(&format!("moe_gram_{dtype}"), opcodes), small]
            });
            faults("similarity", &count(&kernels.collect::<String>()))
        };
        assert_eq!(found(&[("HMMA", 16), ("LDSM", 2), ("LDGSTS", 1)]), [""; 0]);
        assert_eq!(found(&[("HMMA", 15), ("LDSM", 2), ("LDGSTS", 1)]).len(), 1); // too few for f32
        assert_eq!(found(&[("HMMA", 16), ("LDSM", 2)]).len(), 3);
        assert_eq!(found(&[("HMMA", 16), ("LDGSTS", 1)]).len(), 3);
        assert_eq!(found(&[("HMMA", 16), ("LDSM", 2), ("LDGSTS", 1), ("STL", 1)]).len(), 3);
    }

    #[test]
    fn the_table_is_whole() {
        let kernels = count(&listing("moe_new_F16", &[("HMMA", 1)]));
        assert_eq!(faults("new", &kernels), ["moe_new_F16 has products: it needs a row in PRODUCTS"]);
        assert_eq!(faults("similarity", &count("")).len(), 6);
    }
}
