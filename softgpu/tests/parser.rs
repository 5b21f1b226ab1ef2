//! What the parser makes of valid PTX. Refused text is in `parser_errors.rs`.

use softgpu::ptx::ast::{Init, InitValue, Instruction, Module, Operand, Space, Statement, Type, Variable};
use softgpu::ptx::parse;

const SAMPLE: &str = include_str!("data/sample.ptx");
const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse(&format!("{HEADER}{text}")).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

/// The statements of a kernel with this body.
fn body(text: &str) -> Vec<Statement> {
    module(&format!(".entry k() {{ {text} }}")).functions.remove(0).body.expect("a body")
}

/// The only instruction of a kernel.
fn instruction(text: &str) -> Instruction {
    match body(text).pop() {
        Some(Statement::Instruction(instruction)) => instruction,
        other => panic!("{text}: {other:?}"),
    }
}

fn operand(text: &str) -> Operand {
    let mut operands = instruction(&format!("op {text};")).operands;
    assert_eq!(operands.len(), 1, "{text}");
    operands.remove(0)
}

fn variable(text: &str) -> Variable {
    let mut variables = module(text).variables;
    assert_eq!(variables.len(), 1, "{text}");
    variables.remove(0)
}

fn name(name: &str) -> Operand {
    Operand::Name(name.to_owned())
}

fn names(list: &[&str]) -> Vec<Operand> {
    list.iter().map(|text| name(text)).collect()
}

fn address(base: Operand, offset: i64) -> Operand {
    Operand::Address(Box::new(base), offset)
}

/// Initial values as (offset, bytes, bits).
fn bits(variable: &Variable) -> Vec<(usize, usize, u64)> {
    let bits = |init: &Init| match init.value {
        InitValue::Bits(bits) => (init.offset, init.bytes, bits),
        InitValue::Address { .. } => panic!("{init:?}"),
    };
    variable.init.iter().map(bits).collect()
}

#[test]
fn reads_the_module_level() {
    let module = parse(SAMPLE).expect("the sample");
    assert_eq!((module.version, module.target.as_str(), module.address_size), ((8, 7), "sm_90a", 64));
    let functions: Vec<_> =
        module.functions.iter().map(|f| (f.name.as_str(), f.entry, f.body.is_some())).collect();
    let expected = [
        ("vprintf", false, false),
        ("__assertfail", false, false),
        ("_Z2f1f", false, false),
        ("alias_of_f1", false, false),
        ("_Z4demoPfPKfi", true, true),
    ];
    assert_eq!(functions, expected);
    let variables: Vec<_> =
        module.variables.iter().map(|v| (v.name.as_str(), v.space, v.ty, v.align, v.bytes)).collect();
    let expected = [
        ("counter", Space::Global, Type::U32, 4, 4),
        ("shared_with_host", Space::Global, Type::U32, 4, 4),
        ("table", Space::Const, Type::B8, 4, 8),
        ("thirds", Space::Const, Type::F64, 8, 16),
        ("grid", Space::Global, Type::S32, 4, 24),
        ("record", Space::Global, Type::U64, 8, 32),
        ("functions", Space::Global, Type::U64, 8, 16),
        ("$str$1", Space::Global, Type::B8, 1, 5),
        ("dynamic", Space::Shared, Type::B8, 16, 0),
    ];
    assert_eq!(variables, expected);
    assert!(module.variables.iter().all(|v| v.external == (v.name == "dynamic")));
    assert_eq!(
        (module.aliases[0].name.as_str(), module.aliases[0].target.as_str()),
        ("alias_of_f1", "_Z2f1f")
    );
}

#[test]
fn reads_a_kernel() {
    let module = parse(SAMPLE).expect("the sample");
    let kernel = &module.functions[4];
    let params: Vec<_> = kernel.params.iter().map(|p| (p.space, p.ty, p.align, p.bytes)).collect();
    let expected = [
        (Space::Param, Type::U64, 8, 8), // `.ptr .align 16` is about the pointee
        (Space::Param, Type::U64, 8, 8),
        (Space::Param, Type::U32, 4, 4),
        (Space::Param, Type::B8, 64, 128),
    ];
    assert_eq!(params, expected);
    assert_eq!((kernel.max_threads, kernel.required_threads), (Some([128, 1, 1]), None));
    assert_eq!((kernel.min_blocks, kernel.cluster, kernel.line), (Some(2), Some([2, 1, 1]), 38));

    let body = kernel.body.as_ref().expect("a body");
    let registers: Vec<_> = body
        .iter()
        .filter_map(|statement| match statement {
            Statement::Register { name, count, ty, .. } => Some((name.as_str(), *count, *ty)),
            _ => None,
        })
        .collect();
    let expected = [
        ("%p", Some(4), Type::Pred),
        ("%f", Some(9), Type::F32),
        ("%r", Some(9), Type::B32),
        ("%extra", None, Type::B32),
        ("%rd", Some(9), Type::B64),
    ];
    assert_eq!(registers, expected);
    let opcodes: Vec<_> = body
        .iter()
        .filter_map(|statement| match statement {
            Statement::Instruction(instruction) => Some(instruction.opcode()),
            Statement::Block(_) => Some("{}".to_owned()),
            Statement::Label { name, .. } => Some(format!("{name}:")),
            _ => None,
        })
        .collect();
    let expected = [
        "$L__func_begin0:",
        "ld.param.u64",
        "ld.param.v4.f32",
        "cvta.to.global.u64",
        "mov.u32",
        "mov.u32",
        "mov.u64",
        "setp.ge.s32",
        "bra",
        "bra.uni",
        "fma.rn.f32",
        "st.global.f32",
        "{}",
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes",
        "ld.global.L1::no_allocate.L2::128B.v2.b32",
        "bar.sync",
        "$L__BB0_2:",
        "{}",
        "brx.idx",
        "$L__BB0_3:",
        "ret",
    ];
    assert_eq!(opcodes, expected);
}

#[test]
fn reads_initial_values() {
    let text = ".global .s32 g[2][3] = {{1, 2, 3}, {-4, 5}};";
    let minus_four = u64::from(-4_i32 as u32);
    assert_eq!(bits(&variable(text)), [(0, 4, 1), (4, 4, 2), (8, 4, 3), (12, 4, minus_four), (16, 4, 5)]);
    // Without braces, rows are filled one after the other; an open first dimension grows by whole rows.
    let open = variable(".global .u16 g[][3] = {1, 2, 3, {4}};");
    assert_eq!((bits(&open), open.bytes), (vec![(0, 2, 1), (2, 2, 2), (4, 2, 3), (6, 2, 4)], 12));
    let vectors = variable(".const .v2 .f32 c[2] = {{1.0, 2}, {0f40400000, 0d4010000000000000}};");
    let expected = [1.0_f32, 2.0, 3.0, 4.0].map(|value| u64::from(value.to_bits()));
    assert_eq!(bits(&vectors).iter().map(|init| init.2).collect::<Vec<_>>(), expected);
    assert_eq!((vectors.align, vectors.bytes), (8, 16));
    assert_eq!(bits(&variable(".global .b32 g = 0f3F800000;")), [(0, 4, 0x3f80_0000)]);
    assert_eq!(bits(&variable(".global .f64 g = 0f3F800000;")), [(0, 8, 1.0_f64.to_bits())]);
    // Integers are cut to the size of the type.
    assert_eq!(bits(&variable(".global .u8 g[1 + 2 * 2] = {300, -1};")), [(0, 1, 44), (1, 1, 255)]);
    assert_eq!(bits(&variable(".global .u32 zero[4] = {0, 0, 7};")), [(8, 4, 7)]);

    let record = variable(".global .u64 r[4] = {f, generic(g)+8, h+-4, generic(i)};");
    let expected = [("f", 0, false), ("g", 8, true), ("h", -4, false), ("i", 0, true)];
    for ((init, at), (symbol, offset, generic)) in record.init.iter().zip(0..).zip(expected) {
        let value = InitValue::Address { symbol: symbol.to_owned(), offset, generic };
        assert_eq!(*init, Init { offset: 8 * at, bytes: 8, value });
    }
}

#[test]
fn reads_every_form_of_operand() {
    let boxed = |text: &str| Box::new(name(text));
    let cases = [
        ("%r1", name("%r1")),
        ("%tid.x", name("%tid.x")),
        ("_", name("_")),
        ("$L__BB0_1", name("$L__BB0_1")),
        ("a$b_1", name("a$b_1")),
        ("sym+4", Operand::NameOffset("sym".into(), 4)),
        ("sym-4*2", Operand::NameOffset("sym".into(), -8)),
        ("[%rd1]", address(name("%rd1"), 0)),
        ("[%rd1+16]", address(name("%rd1"), 16)),
        ("[%rd1+-8]", address(name("%rd1"), -8)),
        ("[ %rd1 - 8 ]", address(name("%rd1"), -8)),
        ("[sym+0x10]", address(name("sym"), 16)),
        ("[0]", address(Operand::Int(0), 0)),
        ("[0x100+4]", address(Operand::Int(260), 0)),
        ("%p1|%p2", Operand::Pair(boxed("%p1"), boxed("%p2"))),
        ("_|%p2", Operand::Pair(boxed("_"), boxed("%p2"))),
        ("!%p1", Operand::Not(boxed("%p1"))),
        ("-%f1", Operand::Negative(boxed("%f1"))),
        ("{_, %r1}", Operand::Vector(names(&["_", "%r1"]))),
        ("{%r1}", Operand::Vector(names(&["%r1"]))),
        ("{0, -1}", Operand::Vector(vec![Operand::Int(0), Operand::Int(u64::MAX)])),
        ("[%rd1, {%r1, %r2}]", Operand::Tensor(vec![name("%rd1"), Operand::Vector(names(&["%r1", "%r2"]))])),
        (
            "[map+64, {%r1}, {%rs1, 2}]",
            Operand::Tensor(vec![
                Operand::NameOffset("map".into(), 64),
                Operand::Vector(names(&["%r1"])),
                Operand::Vector(vec![name("%rs1"), Operand::Int(2)]),
            ]),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(operand(text), expected, "{text}");
    }
}

#[test]
fn reads_every_form_of_constant() {
    let cases: [(&str, i64); 31] = [
        ("0", 0),
        ("10U", 10),
        ("0x1F", 31),
        ("0XffU", 255),
        ("017", 15),
        ("0b101", 5),
        ("-8", -8),
        ("+-8", -8),
        ("- -8", 8),
        ("0xFFFFFFFFFFFFFFFF", -1),
        ("18446744073709551615", -1),
        ("(1 << 4) | 3", 19),
        ("4*8+1", 33),
        ("1+4*8", 33),
        ("10-3-2", 5),
        ("7 / 2 % 2", 1),
        ("-7 / 2", -3),
        ("-1 / 2U", i64::MAX),
        ("-8 >> 1", -4),
        ("1 << 64", 0),
        ("~0 ^ 1", -2),
        ("6 & 3 == 3", 0),
        ("1 < 2 && 3 != 4", 1),
        ("0 || 0", 0),
        ("-1 > 0U", 1),
        ("-1 > 0", 0),
        ("!5", 0),
        ("1 ? 2 : 3", 2),
        ("0 ? 2 : 0 ? 3 : 4", 4),
        ("(.u64) -1 >> 63", 1),
        ("WARP_SZ * 2", 64),
    ];
    for (text, expected) in cases {
        assert_eq!(operand(text), Operand::Int(expected as u64), "{text}");
    }
    assert_eq!(operand("0f3F800000"), Operand::F32(0x3f80_0000));
    assert_eq!(operand("-0F3F800000"), Operand::F32(0xbf80_0000));
    assert_eq!(operand("0d3FF0000000000000"), Operand::F64(1.0_f64.to_bits()));
    for (text, value) in [("1.5", 1.5_f64), ("-1.5e-3", -1.5e-3), ("2E+2", 200.0), ("3.", 3.0)] {
        assert_eq!(operand(text), Operand::F64(value.to_bits()), "{text}");
    }
}

#[test]
fn reads_instructions() {
    let load = instruction("@!%p1 ld.shared::cta.u32 %r1, [%rd1].unified;");
    assert_eq!(load.guard, Some(("%p1".to_owned(), true)));
    assert_eq!(load.opcode(), "ld.shared::cta.u32.unified");
    assert_eq!(load.operands, [name("%r1"), address(name("%rd1"), 0)]);
    assert_eq!(instruction("@p bra L;").guard, Some(("p".to_owned(), false)));
    assert_eq!(instruction("ret;").operands, []);
    let call = instruction("call.uni (r), f, (a, 3), proto;");
    let list = |operands| Operand::List(operands);
    let expected = [list(names(&["r"])), name("f"), list(vec![name("a"), Operand::Int(3)]), name("proto")];
    assert_eq!(call.operands, expected);
    assert_eq!(instruction("call f, ();").operands, [name("f"), Operand::List(Vec::new())]);
}

#[test]
fn reads_labels_and_what_they_name() {
    let statements = body(
        "T: .branchtargets A, B; F: .calltargets f, g;\n\
         P : .callprototype (.param .b32 _) _ (.param .align 8 .b8 _[16], .param .b64 _) .noreturn;\
         A: B: ret;",
    );
    let strings = |list: [&str; 2]| list.map(str::to_owned).to_vec();
    assert_eq!(
        statements[0],
        Statement::BranchTargets { name: "T".into(), targets: strings(["A", "B"]), line: 4 }
    );
    assert_eq!(
        statements[1],
        Statement::CallTargets { name: "F".into(), targets: strings(["f", "g"]), line: 4 }
    );
    let Statement::CallPrototype { name, returns, params, line: 5 } = &statements[2] else {
        panic!("{:?}", statements[2])
    };
    let sizes: Vec<_> = params.iter().map(|param| (param.align, param.bytes)).collect();
    assert_eq!((name.as_str(), returns.len(), sizes), ("P", 1, vec![(8, 16), (8, 8)]));
    let label = |name: &str| Statement::Label { name: name.into(), line: 5 };
    assert_eq!(statements[3..5], [label("A"), label("B")]);
}

#[test]
fn reads_scopes_of_inline_assembly() {
    let mut statements = body("{ .reg .pred p; .reg .b32 t<3>, u; { ret; } ; } ret;");
    assert_eq!(statements.len(), 2);
    let Statement::Block(inner) = statements.remove(0) else { panic!("{statements:?}") };
    let registers = inner.iter().filter(|inner| matches!(inner, Statement::Register { .. })).count();
    assert_eq!(registers, 3);
    assert!(matches!(inner.last(), Some(Statement::Block(block)) if block.len() == 1));
}

#[test]
fn comments_and_line_breaks_change_nothing() {
    let text = ".version 8.0 .target sm_80 .address_size 64 .global .b32 g [ 2 ] = { 1 , - 2 } ; \
                .visible .entry k ( .param .u64 p ) .maxntid 32 , 1 { .reg .b32 %r < 4 > ; \
                L : @ ! %p1 ld .global .u32 %r1 , [ %rd1 + - 8 ] ; call ( %r1 ) , f , ( %r2 ) ; bra L ; }";
    let expected = parse(text).expect("plain");
    assert_eq!(parse(&text.replace(' ', " /* ; } */ ")), Ok(expected.clone()));
    assert_eq!(parse(&text.replace(' ', "\t")), Ok(expected.clone()));
    // With every blank a line break, a thing stands on the line that counts the blanks before it.
    let spread = parse(&text.replace(' ', " // ; }\r\n")).expect("with line breaks");
    let Some(Statement::Instruction(load)) = spread.functions[0].body.as_ref().map(|body| &body[2]) else {
        panic!("{spread:?}")
    };
    let before = text.split("ld .global").next().expect("the load");
    assert_eq!((load.name.as_str(), load.line as usize), ("ld", 1 + before.matches(' ').count()));
}
