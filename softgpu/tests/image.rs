//! Module images: which PTX is taken out of them, and what is refused.

mod common;

use common::fatbin::{Entry, Packing, fatbin};
use softgpu::Code;
use softgpu::image::{from_pointer, read};
use softgpu::ptx::{MAX_TEXT, parse};
use std::ffi::{CString, c_void};
use std::ptr;

/// Made by nvcc 13.0 and its fatbinary: `add` for compute_80 and compute_90a.
const NVCC_ZSTD: &[u8] = include_bytes!("data/zstd.fatbin");
const NVCC_LZ4: &[u8] = include_bytes!("data/lz4.fatbin");

const PACKINGS: [Packing; 3] = [Packing::Plain, Packing::Zstd, Packing::Lz4];

/// A text that looks like PTX, different for every `what`, with enough repetition to compress.
fn ptx(what: &str) -> String {
    format!(".version 8.0\n.target sm_80\n// {what} {}\n", "add.s32 %r1, %r2, %r3;\n".repeat(50))
}

fn fails(image: &[u8], code: Code, words: &str) {
    let error = read(image, 86).expect_err(words);
    assert_eq!(error.code, code, "{error}");
    assert!(error.text.contains(words), "{error}");
}

/// `image` with bytes at an offset replaced.
fn patched(image: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn text_is_read_up_to_its_nul() {
    let text = ptx("text");
    assert_eq!(read(text.as_bytes(), 80).as_ref(), Ok(&text));
    assert_eq!(read(format!("{text}\0rest").as_bytes(), 80).as_ref(), Ok(&text));
    let mut latin = text.clone().into_bytes();
    latin.extend(b"// caf\xe9\n");
    assert_eq!(read(&latin, 80), Ok(format!("{text}// caf\u{fffd}\n")));
}

#[test]
fn every_packing_gives_the_text_back() {
    for packing in PACKINGS {
        for text in [ptx("one"), ptx(&"x".repeat(12_345)), ".version 8.0".to_owned()] {
            let image = fatbin(&[Entry::ptx(80, ' ', packing, &text)]);
            assert_eq!(read(&image, 86), Ok(text), "{packing:?}");
        }
    }
}

#[test]
fn images_of_nvcc_are_read() {
    for image in [NVCC_ZSTD, NVCC_LZ4] {
        for (arch, target) in [(80, "sm_80"), (86, "sm_80"), (90, "sm_90a"), (100, "sm_80")] {
            let module = parse(&read(image, arch).expect("an image")).expect("PTX");
            assert_eq!(
                (module.target.as_str(), module.functions[0].name.as_str()),
                (target, "add"),
                "{arch}"
            );
        }
    }
}

#[test]
fn the_best_entry_for_the_device_is_taken() {
    let entries = [(90, ' '), (75, ' '), (80, ' '), (90, 'a'), (100, 'f'), (103, 'a'), (120, ' ')];
    let name = |arch: u32, suffix: char| format!("{arch}{suffix}");
    let programs =
        entries.map(|(arch, suffix)| Entry::ptx(arch, suffix, Packing::Plain, &ptx(&name(arch, suffix))));
    let mut image = vec![Entry::elf(86)];
    image.extend(programs);
    let image = fatbin(&image);
    for (device, expected) in [
        (75, (75, ' ')),
        (80, (80, ' ')),
        (86, (80, ' ')),
        (89, (80, ' ')),
        (90, (90, 'a')),
        (100, (100, 'f')),
        (101, (100, 'f')),
        (103, (103, 'a')),
        (110, (90, ' ')),
        (121, (120, ' ')),
    ] {
        assert_eq!(read(&image, device), Ok(ptx(&name(expected.0, expected.1))), "sm_{device}");
    }
    let error = read(&image, 70).expect_err("too old");
    assert_eq!(error.code, Code::NoBinaryForGpu);
    let words = "compute_90, compute_75, compute_80, compute_90a, compute_100f, compute_103a, compute_120, \
                 the device is sm_70";
    assert!(error.text.contains(words), "{error}");
}

#[test]
fn images_without_ptx_say_how_to_get_some() {
    fails(
        b"\x7fELF\x02\x01\x01",
        Code::NoBinaryForGpu,
        "the image is a cubin; this driver runs PTX only: embed PTX",
    );
    fails(
        &fatbin(&[Entry::elf(86)]),
        Code::NoBinaryForGpu,
        "the fatbin holds cubins only; this driver runs PTX",
    );
    fails(&fatbin(&[]), Code::NoBinaryForGpu, "embed PTX in the image");
    fails(b"", Code::InvalidImage, "the image of 0 bytes is no PTX, fatbin or cubin");
    fails(b"MZ\x90\x01 and so on", Code::InvalidImage, "it starts with \"MZ");
}

#[test]
fn every_truncation_is_noticed() {
    for packing in PACKINGS {
        let image = fatbin(&[Entry::ptx(80, ' ', packing, &ptx("whole"))]);
        for length in 4..image.len() {
            fails(&image[..length], Code::InvalidImage, "corrupt fatbin at byte");
        }
        // The same with a header that agrees with the length.
        for length in 17..image.len() {
            let body = (length as u64 - 16).to_le_bytes();
            fails(&patched(&image[..length], 8, &body), Code::InvalidImage, "corrupt fatbin at byte");
        }
    }
}

#[test]
fn corrupt_fields_name_offset_and_sizes() {
    let text = ptx("fields");
    let [plain, zstd, lz4] = PACKINGS.map(|packing| fatbin(&[Entry::ptx(80, ' ', packing, &text)]));
    let huge = u64::MAX.to_le_bytes();
    let small = 5_u64.to_le_bytes();
    let length = text.len();
    for (image, words) in [
        (patched(&plain, 6, &[15, 0]), "at byte 6: a header of 15 bytes, at least 16".to_owned()),
        (patched(&plain, 8, &huge), "at byte 8: 18446744073709551615 bytes of entries, at most".to_owned()),
        (
            patched(&plain, 20, &[63, 0]),
            "at byte 20: an entry's header of 63 bytes, not 64 or more".to_owned(),
        ),
        (patched(&plain, 20, &[255; 4]), "the entry's payload has".to_owned()),
        (
            patched(&plain, 24, &huge),
            "at byte 96: the entry's payload has 18446744073709551615 bytes".to_owned(),
        ),
        (patched(&zstd, 32, &[255; 4]), "at byte 96: 4294967295 compressed bytes in a payload of".to_owned()),
        (patched(&zstd, 72, &huge), "at byte 96: PTX of compute_80: it claims to be longer than".to_owned()),
        (patched(&zstd, 72, &small), "6 bytes after decompression (Zstd), 5 expected".to_owned()),
        (patched(&zstd, 96, b"junk"), "are no zstd frame".to_owned()),
        (patched(&lz4, 72, &small), "no LZ4 block of 5 bytes".to_owned()),
        (
            patched(&lz4, 72, &(length as u64 + 1).to_le_bytes()),
            format!("{length} bytes after decompression (Lz4), {} expected", length + 1),
        ),
        (patched(&lz4, 72, &(MAX_TEXT as u64).to_le_bytes()), format!("bytes of LZ4 cannot hold {MAX_TEXT}")),
    ] {
        fails(&image, Code::InvalidImage, &words);
    }
}

#[test]
fn a_bomb_is_not_unpacked() {
    let zeros = " ".repeat(2 * MAX_TEXT);
    let bomb = fatbin(&[Entry::ptx(80, ' ', Packing::Zstd, &zeros)]);
    assert!(bomb.len() < MAX_TEXT / 1000);
    fails(&bomb, Code::InvalidImage, "it claims to be longer than");
    // It lies about its size: no more than that is unpacked.
    fails(&patched(&bomb, 72, &100_u64.to_le_bytes()), Code::InvalidImage, "101 bytes after decompression");
}

#[test]
fn pointers_are_followed_by_what_they_show() {
    #[repr(C)]
    struct Wrapper {
        magic: u32,
        version: u32,
        data: *const c_void,
        file: *const c_void,
    }
    let wrapper = |data| Wrapper { magic: 0x4662_43b1, version: 1, data, file: ptr::null() };
    let text = CString::new(ptx("pointer")).expect("no NUL");
    let expected = Ok(ptx("pointer"));
    // SAFETY: the text ends with a NUL.
    assert_eq!(unsafe { from_pointer(text.as_ptr().cast(), 86) }, expected);
    let image = fatbin(&[Entry::ptx(80, ' ', Packing::Zstd, &ptx("pointer"))]);
    // SAFETY: the image is a whole fatbin.
    assert_eq!(unsafe { from_pointer(image.as_ptr().cast(), 86) }, expected);
    let wrapped = wrapper(image.as_ptr().cast());
    // SAFETY: the wrapper points to a whole fatbin.
    assert_eq!(unsafe { from_pointer(ptr::from_ref(&wrapped).cast(), 86) }, expected);

    let code = |image: *const c_void| {
        // SAFETY: null, or a pointer to one of the images below.
        unsafe { from_pointer(image, 86) }.expect_err("a bad image").code
    };
    assert_eq!(code(ptr::null()), Code::InvalidValue);
    assert_eq!(code(c"".as_ptr().cast()), Code::InvalidImage);
    assert_eq!(code(c"\x7fELF".as_ptr().cast()), Code::NoBinaryForGpu);
    assert_eq!(code(ptr::from_ref(&wrapper(ptr::null())).cast()), Code::InvalidImage);
    assert_eq!(code(ptr::from_ref(&wrapper(text.as_ptr().cast())).cast()), Code::InvalidImage);
    let endless = patched(&image, 8, &u64::MAX.to_le_bytes());
    assert_eq!(code(endless.as_ptr().cast()), Code::InvalidImage);
}
