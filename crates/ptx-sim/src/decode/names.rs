//! Declarations, special registers, and what a version of the ISA has.

use super::{Flat, Frame, Name, Result};
use crate::Diag;
use crate::alu::Since;
use crate::op::{Special, Symbol};
use crate::parse::{Kernel, Statement, Variable};

impl Flat<'_> {
    pub(super) fn walk(&mut self, body: &[Statement], frame: usize) -> Result<()> {
        for statement in body {
            match statement {
                Statement::Block(inner) => {
                    self.frames.push(Frame { parent: Some(frame), ..Frame::default() });
                    let inner_frame = self.frames.len() - 1;
                    self.walk(inner, inner_frame)?;
                }
                Statement::Instruction(inst) => self.code.push((inst.clone(), frame)),
                Statement::Label(name, line, column) => {
                    let at = self.code.len() as u32;
                    if self.frames[frame].labels.insert(name.clone(), at).is_some() {
                        return Err(Diag::text(
                            "PTX-NAME",
                            self.file,
                            (*line, *column),
                            format!("label {name} is defined twice"),
                        ));
                    }
                    self.labels.push((name.clone(), at));
                }
                Statement::BranchTargets(name, targets) => {
                    self.frames[frame].targets.insert(name.clone(), targets.clone());
                }
                Statement::Variable(variable) => self.variable(frame, variable),
                Statement::Registers { bits, predicate, names, line, column } => {
                    for (name, count) in names {
                        let all: Vec<String> = match count {
                            0 => vec![name.clone()],
                            n => (0..*n).map(|i| format!("{name}{i}")).collect(),
                        };
                        for name in all {
                            let slot = self.register(&name, *bits, *predicate);
                            if self.frames[frame].names.insert(name.clone(), slot).is_some() {
                                return Err(Diag::text(
                                    "PTX-NAME",
                                    self.file,
                                    (*line, *column),
                                    format!("{name} is declared twice"),
                                ));
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn register(&mut self, name: &str, bits: u32, predicate: bool) -> Name {
        if predicate {
            self.names_p.push(name.to_owned());
            self.preds += 1;
            Name::Pred(self.preds - 1)
        } else if bits == 64 {
            self.names64.push(name.to_owned());
            self.n64 += 1;
            Name::R64(self.n64 - 1)
        } else {
            self.names32.push(name.to_owned());
            self.n32 += 1;
            Name::R32(self.n32 - 1, bits)
        }
    }

    /// Of all variables of a space, and registers: beyond what any kernel has.
    pub(super) fn check_sizes(&self, kernel: &Kernel) -> Result<()> {
        let registers = self.n32 + self.n64 + self.preds;
        if self.local > 512 << 10 || self.static_smem > 1 << 24 || registers > 1 << 17 {
            let message = format!(
                "{} bytes of local and {} of shared memory, {registers} registers are more than a kernel has",
                self.local, self.static_smem
            );
            let place = (kernel.line, kernel.column);
            return Err(Diag::text("PTX-PARSE", self.file, place, message));
        }
        Ok(())
    }

    pub(super) fn variable(&mut self, frame: usize, variable: &Variable) {
        let align = variable.align.max(1);
        let symbol = match (variable.space.as_str(), variable.size) {
            (".shared", Some(size)) if !variable.external => {
                let at = self.static_smem.checked_next_multiple_of(align).unwrap_or(u32::MAX);
                self.static_smem = at.saturating_add(size);
                Name::Symbol(Symbol::Shared, at)
            }
            (".shared", _) => {
                self.dynamic_align = self.dynamic_align.max(align);
                Name::Symbol(Symbol::Dynamic, 0)
            }
            (_, size) => {
                let at = self.local.checked_next_multiple_of(align).unwrap_or(u32::MAX);
                self.local = at.saturating_add(size.unwrap_or(0));
                Name::Symbol(Symbol::Local, at)
            }
        };
        self.frames[frame].names.insert(variable.name.clone(), symbol);
    }
}

/// When an instruction that is no arithmetic was introduced, as far as that is after PTX 7.0 and sm_80.
pub(super) fn since(parts: &[&str]) -> Option<Since> {
    let has = |name: &str| parts.contains(&name);
    let vector = ["v2", "v4", "v8"].iter().any(|v| has(v));
    let (ptx, sm) = match parts[0] {
        "atom" | "red" if vector => ((8, 1), 90),
        "atom" | "red" if has("bf16") || has("bf16x2") => ((7, 8), 90),
        "stmatrix" => ((7, 8), 90),
        "movmatrix" => ((7, 8), 80),
        "mma" if has("e4m3") || has("e5m2") => ((8, 4), 89),
        _ if has("cluster") || has("shared::cluster") => ((7, 8), 90),
        _ if has("shared::cta") => ((7, 8), 80),
        _ => return None,
    };
    Some(Since { ptx, sm })
}

pub(crate) fn truncate(n: u64, bits: u8) -> u64 {
    if bits >= 64 { n } else { n & ((1 << bits) - 1) }
}

pub(super) fn special(name: &str) -> Option<(Special, u32)> {
    use crate::op::MaskKind;
    let axis = |text: &str| match text {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    let name = name.strip_prefix('%')?;
    if let Some((base, a)) = name.rsplit_once('.') {
        let a = axis(a)?;
        return Some((
            match base {
                "tid" => Special::Tid(a),
                "ntid" => Special::Ntid(a),
                "ctaid" => Special::Ctaid(a),
                "nctaid" => Special::Nctaid(a),
                "clusterid" => Special::ClusterId(a),
                "nclusterid" => Special::NclusterId(a),
                "cluster_ctaid" => Special::ClusterCtaid(a),
                "cluster_nctaid" => Special::ClusterNctaid(a),
                _ => return None,
            },
            32,
        ));
    }
    Some(match name {
        "laneid" => (Special::Laneid, 32),
        "warpid" => (Special::Warpid, 32),
        "nwarpid" => (Special::Nwarpid, 32),
        "smid" => (Special::Smid, 32),
        "nsmid" => (Special::Nsmid, 32),
        "gridid" => (Special::Gridid, 64),
        "cluster_ctarank" => (Special::ClusterRank, 32),
        "cluster_nctarank" => (Special::ClusterSize, 32),
        "is_explicit_cluster" => (Special::IsExplicitCluster, 32),
        "lanemask_eq" => (Special::LaneMask(MaskKind::Eq), 32),
        "lanemask_le" => (Special::LaneMask(MaskKind::Le), 32),
        "lanemask_lt" => (Special::LaneMask(MaskKind::Lt), 32),
        "lanemask_ge" => (Special::LaneMask(MaskKind::Ge), 32),
        "lanemask_gt" => (Special::LaneMask(MaskKind::Gt), 32),
        "clock" => (Special::Clock, 32),
        "clock64" => (Special::Clock, 64),
        "globaltimer" => (Special::GlobalTimer, 64),
        "dynamic_smem_size" => (Special::DynamicSmem, 32),
        "total_smem_size" => (Special::TotalSmem, 32),
        _ => return None,
    })
}
