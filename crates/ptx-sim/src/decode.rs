//! From the syntax tree to decoded instructions: names are resolved, types are checked.

mod arith;
mod memory;
mod names;
mod warp;

pub(crate) use arith::space_of;

use crate::alu::{Class, Since};
use crate::module::{Module, Param, Program};
use crate::op::{Dst, Inst, Mem, Op, PSrc, Space, Src, Symbol};
use crate::parse::{Instruction, Kernel, Operand, Variable};
use crate::{Diag, hopper};
pub(crate) use names::truncate;
use names::{since, special};
use std::collections::HashMap;

pub(crate) type Result<T> = std::result::Result<T, Box<Diag>>;

/// What the module's names mean outside kernels.
#[derive(Debug, Default, Clone)]
pub(crate) struct Scope {
    /// Offset of `.global` and `.const` variables.
    pub(crate) globals: HashMap<String, u32>,
}

#[derive(Debug, Clone, Copy)]
enum Name {
    R32(u32, u32),
    R64(u32),
    Pred(u32),
    Symbol(Symbol, u32),
}

#[derive(Debug, Default)]
struct Frame {
    parent: Option<usize>,
    names: HashMap<String, Name>,
    labels: HashMap<String, u32>,
    targets: HashMap<String, Vec<String>>,
}

pub(crate) struct Lowered {
    pub(crate) program: Program,
    pub(crate) static_smem: u32,
    pub(crate) dynamic_align: u32,
}

/// Decodes one kernel.
pub(crate) fn lower(
    kernel: &Kernel,
    params: &[Param],
    outer: &Scope,
    shared: &[Variable],
    module: &Module,
    file: &str,
) -> Result<Lowered> {
    let mut flat = Flat {
        frames: vec![Frame::default()],
        code: Vec::new(),
        n32: 0,
        n64: 0,
        preds: 0,
        names32: Vec::new(),
        names64: Vec::new(),
        names_p: Vec::new(),
        static_smem: 0,
        local: 0,
        dynamic_align: 1,
        labels: Vec::new(),
        file,
    };
    for (name, at) in &outer.globals {
        flat.frames[0].names.insert(name.clone(), Name::Symbol(Symbol::Global, *at));
    }
    for param in params {
        flat.frames[0].names.insert(param.name.clone(), Name::Symbol(Symbol::Param, param.offset));
    }
    for variable in shared {
        flat.variable(0, variable);
    }
    flat.frames.push(Frame { parent: Some(0), ..Frame::default() });
    flat.walk(&kernel.body, 1)?;
    flat.check_sizes(kernel)?;
    // A kernel that runs off its end returns.
    let mut code = Vec::with_capacity(flat.code.len() + 1);
    for (inst, frame) in &flat.code {
        let mut d = Decoder {
            flat: &flat,
            frame: *frame,
            inst,
            module,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        code.push(d.instruction()?);
    }
    code.push(Inst {
        op: Op::Exit,
        guard: None,
        line: kernel.line,
        span: (0, 0),
        opcode: "ret".into(),
        class: Class::Move,
        reads: Vec::new(),
        writes: Vec::new(),
        join: 0,
    });
    let wgmma = code.iter().any(|inst| inst.opcode.starts_with("wgmma"));
    let mut names = flat.names32.clone();
    names.extend(flat.names64.iter().cloned());
    names.extend(flat.names_p.iter().cloned());
    let program = Program {
        code,
        n32: flat.n32,
        n64: flat.n64,
        preds: flat.preds,
        names,
        local_bytes: flat.local,
        labels: flat.labels,
        wgmma,
    };
    Ok(Lowered { program, static_smem: flat.static_smem, dynamic_align: flat.dynamic_align })
}

struct Flat<'a> {
    frames: Vec<Frame>,
    code: Vec<(Instruction, usize)>,
    n32: u32,
    n64: u32,
    preds: u32,
    names32: Vec<String>,
    names64: Vec<String>,
    names_p: Vec<String>,
    static_smem: u32,
    local: u32,
    dynamic_align: u32,
    labels: Vec<(String, u32)>,
    file: &'a str,
}

/// Decodes one instruction; collects the registers it touches.
pub(crate) struct Decoder<'a> {
    flat: &'a Flat<'a>,
    frame: usize,
    pub(crate) inst: &'a Instruction,
    pub(crate) module: &'a Module,
    reads: Vec<u32>,
    writes: Vec<u32>,
}

impl Decoder<'_> {
    fn instruction(&mut self) -> Result<Inst> {
        let guard = match &self.inst.guard {
            None => None,
            Some((name, negated)) => match self.lookup(name)? {
                Name::Pred(p) => Some((p, *negated)),
                _ => return self.wrong_type(&format!("guard {name} is not a predicate")),
            },
        };
        let (op, class) = self.op()?;
        Ok(Inst {
            op,
            guard,
            line: self.inst.line,
            span: self.inst.span,
            opcode: self.inst.opcode.clone(),
            class,
            reads: std::mem::take(&mut self.reads),
            writes: std::mem::take(&mut self.writes),
            join: 0,
        })
    }

    fn op(&mut self) -> Result<(Op, Class)> {
        let opcode = self.inst.opcode.clone();
        let parts: Vec<&str> = opcode.split('.').collect();
        let alone = ["ret", "exit", "trap", "brkpt", "bra", "pmevent"];
        if parts.len() == 1 && !alone.contains(&parts[0]) {
            return self.unsupported();
        }
        if let Some(since) = since(&parts) {
            self.since(since)?;
        }
        if let Some(found) = self.memory(&parts)? {
            return Ok(found);
        }
        if let Some(found) = self.warp(&parts)? {
            return Ok(found);
        }
        if let Some(op) = hopper::decode(self, &parts)? {
            return Ok((op, Class::Move));
        }
        self.arith(&parts)
    }

    pub(crate) fn place(&self) -> (u32, u32) {
        (self.inst.line, self.inst.column)
    }

    pub(crate) fn unsupported<T>(&self) -> Result<T> {
        let message = format!("instruction {} is not supported", self.inst.opcode);
        Err(Diag::text("PTX-UNSUPPORTED", self.flat.file, self.place(), message))
    }

    pub(crate) fn wrong_type<T>(&self, message: &str) -> Result<T> {
        let message = format!("{}: {message}", self.inst.opcode);
        Err(Diag::text("PTX-TYPE", self.flat.file, self.place(), message))
    }

    /// The module must be for a version and an architecture that have the instruction.
    pub(crate) fn since(&self, since: Since) -> Result<()> {
        let (major, minor) = (u32::from(since.ptx.0), u32::from(since.ptx.1));
        let (version, target) = (self.module.version, self.module.target);
        if version < (major, minor) {
            let (x, y) = version;
            return self.wrong_type(&format!("needs PTX {major}.{minor}, the module says {x}.{y}"));
        }
        if target < u32::from(since.sm) {
            return self.wrong_type(&format!("needs sm_{}, the module says sm_{target}", since.sm));
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> Result<Name> {
        let mut frame = Some(self.frame);
        while let Some(f) = frame {
            if let Some(found) = self.flat.frames[f].names.get(name) {
                return Ok(*found);
            }
            frame = self.flat.frames[f].parent;
        }
        let message = format!("{name} is not declared");
        Err(Diag::text("PTX-NAME", self.flat.file, self.place(), message))
    }

    fn label(&self, name: &str) -> Result<u32> {
        let mut frame = Some(self.frame);
        while let Some(f) = frame {
            if let Some(found) = self.flat.frames[f].labels.get(name) {
                return Ok(*found);
            }
            frame = self.flat.frames[f].parent;
        }
        let message = format!("label {name} is not defined");
        Err(Diag::text("PTX-NAME", self.flat.file, self.place(), message))
    }

    fn targets(&self, name: &str) -> Result<Vec<u32>> {
        let mut frame = Some(self.frame);
        while let Some(f) = frame {
            if let Some(found) = self.flat.frames[f].targets.get(name) {
                return found.iter().map(|label| self.label(label)).collect();
            }
            frame = self.flat.frames[f].parent;
        }
        self.wrong_type(&format!("{name} is not a list of branch targets"))
    }

    /// Operand `i`, or an error that says how many there should be.
    pub(crate) fn operand(&self, i: usize) -> Result<Operand> {
        match self.inst.operands.get(i) {
            Some(operand) => Ok(operand.clone()),
            None => self.wrong_type(&format!(
                "has {} operands, expected at least {}",
                self.inst.operands.len(),
                i + 1
            )),
        }
    }

    pub(crate) fn operands(&self) -> usize {
        self.inst.operands.len()
    }

    /// The instruction has exactly `n` operands.
    pub(crate) fn count(&self, n: usize) -> Result<()> {
        match self.inst.operands.len() {
            m if m == n => Ok(()),
            m => self.wrong_type(&format!("has {m} operands, expected {n}")),
        }
    }

    pub(crate) fn src(&mut self, operand: &Operand, bits: u8) -> Result<Src> {
        self.src_at_least(operand, bits, false)
    }

    /// A source of `bits`; with `wider` a larger register may stand for it.
    pub(crate) fn src_at_least(&mut self, operand: &Operand, bits: u8, wider: bool) -> Result<Src> {
        match operand {
            Operand::Name(name) => {
                if let Some((special, width)) = special(name) {
                    if u32::from(bits) > width && bits != 64 {
                        return self
                            .wrong_type(&format!("{name} has {width} bits, expected {bits}"));
                    }
                    return Ok(Src::Special(special));
                }
                match self.lookup(name)? {
                    Name::R32(index, width) => {
                        if width != u32::from(bits) && !(wider && width >= u32::from(bits)) {
                            return self
                                .wrong_type(&format!("{name} has {width} bits, expected {bits}"));
                        }
                        self.reads.push(index);
                        Ok(Src::R32(index))
                    }
                    Name::R64(index) => {
                        if bits != 64 && !wider {
                            return self
                                .wrong_type(&format!("{name} has 64 bits, expected {bits}"));
                        }
                        self.reads.push(self.flat.n32 + index);
                        Ok(Src::R64(index))
                    }
                    Name::Pred(_) => self.wrong_type(&format!("{name} is a predicate")),
                    Name::Symbol(symbol, at) => Ok(Src::Symbol(symbol, at)),
                }
            }
            Operand::Int(n) => Ok(Src::Imm(truncate(*n, bits))),
            Operand::Float(value, width) => match (*width, bits) {
                (32, 32) | (64, 64) => Ok(Src::Imm(*value)),
                (64, 32) => Ok(Src::Imm(u64::from((f64::from_bits(*value) as f32).to_bits()))),
                _ => self.wrong_type(&format!("a {width}-bit float literal, expected {bits} bits")),
            },
            Operand::Address { base, offset, .. } => match &**base {
                Operand::Name(name) => match self.lookup(name)? {
                    Name::Symbol(symbol, at) => {
                        Ok(Src::Symbol(symbol, at.wrapping_add(*offset as u32)))
                    }
                    _ => self.wrong_type("an address where a value is expected"),
                },
                _ => self.wrong_type("an address where a value is expected"),
            },
            _ => self.wrong_type("expected a register or a literal"),
        }
    }

    pub(crate) fn dst(&mut self, operand: &Operand, bits: u8) -> Result<Dst> {
        self.dst_at_least(operand, bits, false)
    }

    pub(crate) fn dst_at_least(&mut self, operand: &Operand, bits: u8, wider: bool) -> Result<Dst> {
        let Operand::Name(name) = operand else {
            return self.wrong_type("the destination is not a register");
        };
        if name == "_" {
            return Ok(Dst::Sink);
        }
        match self.lookup(name)? {
            Name::R32(index, width)
                if width == u32::from(bits) || (wider && width >= u32::from(bits)) =>
            {
                self.writes.push(index);
                Ok(Dst::R32(index))
            }
            Name::R64(index) if bits == 64 || wider => {
                self.writes.push(self.flat.n32 + index);
                Ok(Dst::R64(index))
            }
            Name::R32(_, width) => {
                self.wrong_type(&format!("{name} has {width} bits, expected {bits}"))
            }
            Name::R64(_) => self.wrong_type(&format!("{name} has 64 bits, expected {bits}")),
            Name::Pred(_) => self.wrong_type(&format!("{name} is a predicate")),
            Name::Symbol(..) => self.wrong_type(&format!("{name} is not a register")),
        }
    }

    pub(crate) fn pred_dst(&mut self, operand: &Operand) -> Result<Option<u32>> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(None),
            Operand::Name(name) => match self.lookup(name)? {
                Name::Pred(p) => {
                    self.writes.push(self.flat.n32 + self.flat.n64 + p);
                    Ok(Some(p))
                }
                _ => self.wrong_type(&format!("{name} is not a predicate")),
            },
            _ => self.wrong_type("expected a predicate"),
        }
    }

    pub(crate) fn pred(&mut self, operand: &Operand) -> Result<PSrc> {
        match operand {
            Operand::Not(inner) => Ok(match self.pred(inner)? {
                PSrc::Reg(p, negated) => PSrc::Reg(p, !negated),
                PSrc::Const(value) => PSrc::Const(!value),
            }),
            Operand::Int(n) => Ok(PSrc::Const(*n != 0)),
            Operand::Name(name) => match self.lookup(name)? {
                Name::Pred(p) => {
                    self.reads.push(self.flat.n32 + self.flat.n64 + p);
                    Ok(PSrc::Reg(p, false))
                }
                _ => self.wrong_type(&format!("{name} is not a predicate")),
            },
            _ => self.wrong_type("expected a predicate"),
        }
    }

    /// Declared width of the register that an operand names.
    pub(crate) fn register_bits(&self, operand: &Operand) -> Option<u32> {
        match operand {
            Operand::Name(name) => match self.lookup(name) {
                Ok(Name::R32(_, bits)) => Some(bits),
                Ok(Name::R64(_)) => Some(64),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn is_pred(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Name(name) => matches!(self.lookup(name), Ok(Name::Pred(_))),
            Operand::Not(_) => true,
            _ => false,
        }
    }

    /// The elements of `{…}`, or the operand alone.
    pub(crate) fn vector(operand: &Operand) -> Vec<Operand> {
        match operand {
            Operand::Vector(elements) => elements.clone(),
            other => vec![other.clone()],
        }
    }

    pub(crate) fn dsts(&mut self, operand: &Operand, bits: u8) -> Result<Vec<Dst>> {
        Self::vector(operand).iter().map(|o| self.dst(o, bits)).collect()
    }

    pub(crate) fn srcs(&mut self, operand: &Operand, bits: u8) -> Result<Vec<Src>> {
        Self::vector(operand).iter().map(|o| self.src(o, bits)).collect()
    }

    /// A memory operand. Shared, local and parameter addresses may have 32 bits.
    pub(crate) fn mem(&mut self, operand: &Operand, space: Space) -> Result<Mem> {
        let Operand::Address { base, offset, .. } = operand else {
            return self.wrong_type("expected an address in brackets");
        };
        let base = match &**base {
            Operand::Int(n) => Src::Imm(*n),
            base => self.src_at_least(base, 32, true)?,
        };
        if let (Src::R32(_), Space::Global | Space::Generic) = (base, space) {
            return self.wrong_type("global and generic addresses need a 64-bit register");
        }
        Ok(Mem { space, base, offset: *offset })
    }

    pub(crate) fn branch_target(&self, operand: &Operand) -> Result<u32> {
        match operand {
            Operand::Name(name) => self.label(name),
            _ => self.wrong_type("expected a label"),
        }
    }

    pub(crate) fn branch_targets(&self, operand: &Operand) -> Result<Vec<u32>> {
        match operand {
            Operand::Name(name) => self.targets(name),
            _ => self.wrong_type("expected a list of branch targets"),
        }
    }

    pub(crate) fn immediate(&self, operand: &Operand) -> Result<u64> {
        match operand {
            Operand::Int(n) => Ok(*n),
            _ => self.wrong_type("expected an integer literal"),
        }
    }
}
