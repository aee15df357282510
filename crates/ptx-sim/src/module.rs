//! A parsed and decoded module.

use crate::decode::{Scope, lower};
use crate::op::{Inst, Op};
use crate::parse::{Kernel, Tree, Variable, parse};
use crate::{Diag, cfg};
use std::collections::BTreeMap;

/// PTX text made ready to run.
#[derive(Debug)]
pub struct Module {
    pub(crate) text: String,
    /// PTX ISA version, for instance (8, 0).
    pub version: (u32, u32),
    /// Architecture: 80, 90.
    pub target: u32,
    /// `sm_90a` and the like: runs on exactly that architecture.
    pub arch_specific: bool,
    entries: Vec<Entry>,
    pub(crate) globals: Vec<(Variable, u32)>,
    pub(crate) global_bytes: u32,
    pub(crate) origins: Vec<(u32, String)>,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the text.
    pub name: String,
    /// Bytes from the beginning of the parameters.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Bytes.
    pub align: u32,
}

/// One kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// In order.
    pub params: Vec<Param>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Bytes of statically declared shared memory.
    pub static_smem: u32,
    /// Alignment of `.extern .shared` variables.
    pub dynamic_align: u32,
    /// `.reqntid`.
    pub reqntid: Option<[u32; 3]>,
    /// `.maxntid`.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Registers of a thread: `.maxnreg`, else an estimate from what is alive at once.
    pub regs: u32,
    pub(crate) program: Program,
}

/// What runs.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) code: Vec<Inst>,
    /// Registers of each file.
    pub(crate) n32: u32,
    pub(crate) n64: u32,
    pub(crate) preds: u32,
    /// Register names: 32-bit, 64-bit, predicates.
    pub(crate) names: Vec<String>,
    pub(crate) local_bytes: u32,
    /// Labels and where they stand.
    pub(crate) labels: Vec<(String, u32)>,
    /// Uses wgmma, whose operands are watched.
    pub(crate) wgmma: bool,
}

impl Module {
    /// Parses and decodes `text`; `file` names it in errors.
    ///
    /// # Errors
    ///
    /// `PTX-PARSE` with line and column, `PTX-UNSUPPORTED` with the instruction's name, `PTX-TYPE`,
    /// `PTX-NAME` for what is not declared.
    pub fn parse(text: &str, file: &str) -> Result<Module, Box<Diag>> {
        let tree = parse(text, file)?;
        let place = (1, 1);
        let Tree { version, target, variables, kernels, origins } = tree;
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let Some(sm) = target.strip_prefix("sm_").and(digits.parse::<u32>().ok()) else {
            return Err(Diag::text(
                "PTX-PARSE",
                file,
                place,
                format!(".target {target}: expected an architecture such as sm_80"),
            ));
        };
        let mut module = Module {
            text: text.to_owned(),
            version,
            target: sm,
            arch_specific: target.ends_with(['a', 'f']),
            entries: Vec::new(),
            globals: Vec::new(),
            global_bytes: 0,
            origins,
        };
        let mut outer = Scope::default();
        let mut externs = Vec::new();
        for variable in variables {
            if variable.space == ".shared" {
                externs.push(variable);
                continue;
            }
            let at = module.global_bytes.next_multiple_of(variable.align.max(1));
            outer.globals.insert(variable.name.clone(), at);
            module.global_bytes = at.saturating_add(variable.size.unwrap_or(0));
            if module.global_bytes > 1 << 28 {
                let message = "more than 256 MiB of variables".to_owned();
                return Err(Diag::text("PTX-PARSE", file, place, message));
            }
            module.globals.push((variable, at));
        }
        for kernel in kernels {
            let entry = module.entry_of(kernel, &outer, &externs, file)?;
            module.entries.push(entry);
        }
        Ok(module)
    }

    fn entry_of(
        &self,
        kernel: Kernel,
        outer: &Scope,
        shared: &[Variable],
        file: &str,
    ) -> Result<Entry, Box<Diag>> {
        let mut params = Vec::new();
        let mut bytes = 0u32;
        for p in &kernel.params {
            let offset = bytes.next_multiple_of(p.align.max(1));
            bytes = offset.saturating_add(p.size).min(1 << 30);
            params.push(Param { name: p.name.clone(), offset, size: p.size, align: p.align });
        }
        let limit = if self.version >= (8, 1) { 32764 } else { 4096 };
        if bytes > limit {
            return Err(Diag::text(
                "PTX-PARSE",
                file,
                (kernel.line, kernel.column),
                format!(
                    "{bytes} bytes of parameters; PTX {}.{} allows {limit}",
                    self.version.0, self.version.1
                ),
            ));
        }
        let three = |name: &str| {
            let (_, v) = kernel.directives.iter().find(|(n, _)| n == name)?;
            Some([0, 1, 2].map(|i| v.get(i).copied().unwrap_or(1)))
        };
        let lowered = lower(&kernel, &params, outer, shared, self, file)?;
        let mut program = lowered.program;
        cfg::set_joins(&mut program.code);
        let regs = match kernel.directives.iter().find(|(n, _)| n == "maxnreg") {
            Some((_, v)) => v.first().copied().unwrap_or(255).clamp(16, 255),
            None => cfg::registers_alive(&program).clamp(16, 255),
        };
        Ok(Entry {
            name: kernel.name.clone(),
            param_bytes: bytes,
            params,
            static_smem: lowered.static_smem,
            dynamic_align: lowered.dynamic_align,
            reqntid: three("reqntid"),
            maxntid: three("maxntid"),
            cluster: three("reqnctapercluster"),
            regs,
            program,
        })
    }

    /// The kernels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The kernel called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Instructions by opcode over all kernels.
    pub fn opcodes(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for inst in self.entries.iter().flat_map(|entry| &entry.program.code) {
            *all.entry(inst.opcode.clone()).or_insert(0) += 1;
        }
        all
    }

    /// Float reductions to memory, by line: their results depend on the order of arrival.
    pub fn order_dependent(&self) -> Vec<(u32, String)> {
        use crate::op::AtomType::{B, S, U};
        let code = self.entries.iter().flat_map(|entry| &entry.program.code);
        let float =
            |inst: &&Inst| matches!(&inst.op, Op::Atom { ty, .. } if !matches!(ty, U | S | B));
        code.filter(float).map(|inst| (inst.line, inst.opcode.clone())).collect()
    }

    /// Where a line came from, by the nearest `//@` comment before it.
    pub(crate) fn origin(&self, line: u32) -> Option<String> {
        let at = self.origins.partition_point(|(l, _)| *l <= line);
        let (marker, origin) = self.origins.get(at.checked_sub(1)?)?;
        let (file, first) = origin.rsplit_once(':')?;
        let first: u32 = first.trim().parse().ok()?;
        Some(format!("{file}:{}", first + (line - marker).saturating_sub(1)))
    }
}

impl Program {
    /// Number of a predicate in `names`.
    pub(crate) fn meta_pred(&self, index: u32) -> u32 {
        self.n32 + self.n64 + index
    }

    /// The label before an instruction, for reports by region.
    pub(crate) fn label_of(&self, pc: usize) -> &str {
        let at = self.labels.partition_point(|(_, at)| *at as usize <= pc);
        at.checked_sub(1).map_or("", |i| self.labels[i].0.as_str())
    }
}

impl Inst {
    pub(crate) fn ends_flow(&self) -> bool {
        self.guard.is_none()
            && matches!(self.op, Op::Bra { .. } | Op::Brx { .. } | Op::Exit | Op::Trap)
    }
}
