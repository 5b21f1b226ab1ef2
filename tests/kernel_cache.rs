//! Which kernels `build.rs` compiles again: those that what was touched goes into.

#[allow(dead_code, reason = "the rest of it runs in builds")]
#[path = "../build.rs"]
mod build;

use std::fs;
use std::path::{Path, PathBuf};

/// The sources, by name, whose results are called differently after `touch` of a file.
fn compiled_again(touched: &str) -> Vec<String> {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel_cache").join(touched.replace('/', "-"));
    let _ = fs::remove_dir_all(&folder); // of an earlier run
    copy(Path::new("kernels"), &folder);
    let names = || -> Vec<String> {
        let sources = build::sources(&folder).unwrap();
        sources.iter().map(|s| build::result_name(&folder, s, "sm_80", "nvcc 13").unwrap()).collect()
    };
    let before = names();
    assert_eq!(before, names());
    let file = folder.join(touched);
    fs::write(&file, fs::read_to_string(&file).unwrap() + "// touched\n").unwrap();
    let changed = names().into_iter().zip(before).filter(|(now, before)| now != before);
    changed.map(|(now, _)| now.split("-sm_80").next().unwrap().to_string()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

#[test]
fn a_source_that_is_touched_is_compiled_again_alone() {
    assert_eq!(compiled_again("plan.cu"), ["plan"]);
}

#[test]
fn a_header_concerns_those_that_include_it() {
    assert_eq!(compiled_again("int4_gemm.cuh"), ["int4_gemm"]);
    assert_eq!(compiled_again("int4.h"), ["expand_int4", "grouped_gemm_int4", "int4", "int4_gemm"]);
    let all = build::sources(Path::new("kernels")).unwrap().len();
    assert_eq!(compiled_again("common/abi.h").len(), all);
}

#[test]
fn results_differ_by_architecture_and_compiler() {
    let (kernels, source) = (Path::new("kernels"), Path::new("kernels/add.cu"));
    let name = |arch, version| build::result_name(kernels, source, arch, version).unwrap();
    assert_ne!(name("sm_80", "13.0"), name("sm_80", "13.1"));
    assert!(name("sm_80", "13.0").ends_with(".cubin") && name("compute_80", "13.0").ends_with(".ptx"));
}
