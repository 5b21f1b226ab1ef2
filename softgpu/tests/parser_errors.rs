//! Text that the parser refuses: the code, the line, and the words of the error.

use softgpu::Code;
use softgpu::ptx::{MAX_TEXT, parse};

const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Checks the error for a module that starts with the header, so that `text` is line 4.
fn refuses(text: &str, line: u32, words: &str) {
    let error = parse(&format!("{HEADER}{text}")).expect_err(text);
    assert_eq!(error.code, Code::InvalidPtx, "{text}: {error}");
    assert!(error.text.starts_with(&format!("line {line}: ")), "{text}: {error}");
    assert!(error.text.contains(words), "{text}: {error}");
}

/// Checks the error for a body on line 4.
fn refuses_body(text: &str, words: &str) {
    refuses(&format!(".entry k() {{ {text} }}"), 4, words);
}

#[test]
fn versions_and_targets() {
    for (text, code, words) in [
        ("", Code::InvalidPtx, "line 1: expected `.version`, found the end of the text"),
        ("hello", Code::InvalidPtx, "line 1: expected `.version`, found `hello`"),
        ("\n.version x", Code::InvalidPtx, "line 2: expected a version, found `x`"),
        (".version 8", Code::InvalidPtx, "line 1: `8` is no version of PTX"),
        (
            "\n.version 10.0",
            Code::UnsupportedPtxVersion,
            "line 2: the module is PTX 10.0, versions up to 9.x",
        ),
        (".version 8.0\n.global", Code::InvalidPtx, "line 2: expected `.target`, found `.global`"),
        (".version 8.0\n.target debug", Code::InvalidPtx, "line 2: the target names no architecture"),
        (".version 8.0 .target sm_80\n.address_size 32", Code::InvalidPtx, "line 2: addresses of 32 bits"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.code, code, "{text}");
        assert!(error.text.starts_with(words), "{text}: {error}");
    }
    assert!(parse(".version 9.99\n.target sm_120").is_ok());
}

#[test]
fn errors_name_the_line_and_quote_the_text() {
    refuses("\n\n.entry k() {\n\tadd.s32 %r1, %r2 %r3;\n}", 7, "expected `;`, found `%r3`");
    refuses("// a\n/* b\n c */ .global .f99 x;", 6, "`.f99` is no type that memory can hold");
    let long = "x".repeat(1000);
    refuses(&long, 4, &format!("found `{}...`", "x".repeat(40)));
    refuses("§", 4, "found `§`");
    refuses(".entry k() { ret;", 4, "found the end of the text");
}

#[test]
fn declarations() {
    for (text, words) in [
        (".param .u32 x;", "`.param` outside a function"),
        (".reg .u32 x;", "expected a function, a variable or a directive"),
        (".global x;", "expected a type, found `x`"),
        (".global .pred p;", "`.pred` is no type that memory can hold"),
        (".global .texref t;", "`.texref` is no type"),
        (".global .align 3 .u32 x;", "a power of two"),
        (".global .align 131072 .u32 x;", "a power of two"),
        (".global .u32 x[];", "`x` has no size: it needs one, a value, or `.extern`"),
        (".global .u32 x[2][];", "expected a constant, found `]`"),
        (".global .u32 x[1.5];", "expected an integer"),
        (".global .u32 x[-1];", "the size of an array is -1: out of range"),
        (".global .u32 x[2] = {1, 2, 3};", "more values than the variable has elements"),
        (".global .u32 x[2] = 1;", "expected `{`, found `1`"),
        (".global .u32 x = {1};", "expected a constant, found `{`"),
        (".global .u32 x[2][2] = {1, {2}};", "the braces do not match the dimensions"),
        (".global .u32 x[2] = {{1}, {2}};", "the braces do not match the dimensions"),
        (".global .u32 x = 1 / 0;", "`/` by zero"),
        (".global .u32 x = ~1.5;", "`~` of a floating-point constant"),
        (".global .f32 x = 1.5 + 1;", "`+` of a floating-point constant"),
        (".global .f16 x = 1;", "a value of F16 cannot be given so"),
        (".global .b128 x = 1;", "a value of B128 cannot be given so"),
        (".global .u32 x = 1.5;", "a value of U32 cannot be given so"),
        (".global .u8 x = f;", "a value of U8 cannot hold an address"),
        (".global .b8 x[8] = {0xFF(f)};", "`mask(symbol)` are not supported"),
        (".shared .u32 x = 1;", "cannot have a value"),
        (".extern .global .u32 x = 1;", "cannot have a value"),
        (".func (.reg .u32 r) f();", "parameters in registers are not supported"),
        (".func f(.local .u32 r);", "expected `.param`, found `.local`"),
        (".entry k() .maxntid 1, 2, 3, 4 {}", "one to three positive numbers"),
        (".entry k() .reqntid 0 {}", "one to three positive numbers"),
        (".entry k() .maxntid 99999999999 {}", "out of range"),
        (".section .debug_info { .b8 1,", "expected `}`, found the end"),
        (".file 1 \"never closed", "expected the name of a file"),
        ("/* never closed", "found `/* never closed`"),
        (".pragma nounroll;", "expected a pragma in quotes"),
    ] {
        refuses(text, 4, words);
    }
}

#[test]
fn statements() {
    for (text, words) in [
        (".reg .u99 x;", "registers of type `.u99` are not supported"),
        (".reg .v2 .f32 x;", "registers of type `.v2` are not supported"),
        (".reg .b32 %r<x>;", "expected a number of registers"),
        (".branchtargets A;", "expected a directive that a body may hold"),
        ("mov.u32 %r1, 08;", "`08` is not a number"),
        ("mov.u32 %r1, 0x;", "`0x` is not a number"),
        ("mov.u32 %r1, 12ab;", "`12ab` is not a number"),
        ("mov.f32 %f1, 0f3F8;", "`0f3F8` is not a number"),
        ("mov.u64 %rd1, 18446744073709551616;", "is not a number"),
        ("mov.u32 %r1, ;", "expected an operand, found `;`"),
        ("mov.u32 %r1, {1, };", "expected an operand, found `}`"),
        ("mov.u32 %r1, {{1}};", "expected an operand, found `{`"),
        ("ld.u32 %r1, [%r1+%r2];", "expected a constant, found `%r2`"),
        ("ld.u32 %r1, [1.5];", "an address starts with a name or an integer"),
        ("ld.u32 %r1, x[1];", "expected `;`, found `[`"),
        ("@!1 bra L;", "expected a predicate, found `1`"),
        ("5;", "expected a statement or `}`, found `5`"),
    ] {
        refuses_body(text, words);
    }
}

#[test]
fn sizes_and_depths_are_bounded() {
    let nested = |depth: usize| format!(".entry k() {{ {} ret; {} }}", "{".repeat(depth), "}".repeat(depth));
    assert!(parse(&format!("{HEADER}{}", nested(64))).is_ok());
    refuses(&nested(65), 4, "more than 64 levels of nesting");
    refuses(&nested(1_000_000), 4, "more than 64 levels of nesting");
    for open in ["(", "-", "~", "!", "+", "1?", "1?2:", "(.u64)", "1+(", "{", "[", "[{"] {
        let deep = format!(".entry k() {{ op {}1; }}", open.repeat(100_000));
        refuses(&deep, 4, "");
    }
    refuses(&format!(".global .u32 x = {};", "{".repeat(100_000)), 4, "");
    refuses(&format!(".global .u32 x[1] = {};", "{".repeat(100_000)), 4, "the braces do not match");
    refuses(&format!(".global .u32 x{};", "[1]".repeat(17)), 4, "more than 16 dimensions");
    refuses_body(".reg .b32 %r<4000000000>;", "more than 1048576 registers");
    refuses_body(".reg .b32 %r<1048576>, %s;", "with `%s` the function has more than 1048576");
    for text in [
        ".global .b64 x[4294967295][4294967295][4294967295];",
        ".global .b8 x[4294967295][17];",
        ".shared .b8 x[1048577];",
        ".const .b8 x[4000000000];",
        ".const .v4 .b32 x[65537];",
    ] {
        refuses(text, 4, "is too large for its state space");
    }
    refuses(".entry k(.param .b8 x[4000000000]);", 4, "is too large for its state space");
    let endless = format!("{HEADER}{}", " ".repeat(MAX_TEXT));
    let error = parse(&endless).expect_err("too long");
    assert_eq!((error.code, error.text.starts_with("PTX of ")), (Code::InvalidPtx, true));
}
