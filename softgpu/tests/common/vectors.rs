//! Recorded outputs of real tensor cores.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;

/// The recorded tensor-core outputs, by file name; `None`, loudly, where there are none.
///
/// `SOFTGPU_VECTORS` names the archive or its folder; without it, it is looked for beside the workspace.
pub fn recorded() -> Option<HashMap<String, String>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tensor-core");
    let named = std::env::var_os("SOFTGPU_VECTORS");
    let mut path = named.clone().map_or_else(beside, PathBuf::from);
    if path.is_dir() {
        path.push("vectors.tar.zst");
    }
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            assert!(named.is_none(), "SOFTGPU_VECTORS: {}: {error}", path.display());
            eprintln!("SKIPPED: no recorded tensor-core outputs at {} (set SOFTGPU_VECTORS)", path.display());
            return None;
        }
    };
    let mut bytes = vec![];
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes).unwrap();
    Some(untar(&bytes))
}

/// The files of a tar archive: headers of 512 bytes, name first, size in octal at 124, data padded to 512.
fn untar(mut bytes: &[u8]) -> HashMap<String, String> {
    let text = |field: &[u8]| {
        String::from_utf8(field.iter().copied().take_while(|&b| b != 0).collect()).unwrap().trim().to_owned()
    };
    let mut files = HashMap::new();
    while bytes.len() >= 512 && bytes[0] != 0 {
        let (header, rest) = bytes.split_at(512);
        let size = usize::from_str_radix(&text(&header[124..136]), 8).unwrap();
        files.insert(text(&header[..100]), text(&rest[..size]));
        bytes = &rest[size.next_multiple_of(512)..];
    }
    files
}
