//! Decoded instructions: register slots resolved, modifiers as fields.

use crate::alu::{Class, Kind, L32, L64};
use crate::tc::Mma;

/// Where a result goes. 8-, 16- and 32-bit registers share a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dst {
    R32(u32),
    R64(u32),
    /// `_`.
    Sink,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Src {
    R32(u32),
    R64(u32),
    Imm(u64),
    Special(Special),
    /// A variable's address in its space.
    Symbol(Symbol, u32),
}

/// What a variable's address is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// Static shared memory.
    Shared,
    /// Dynamic shared memory.
    Dynamic,
    /// The module's `.global` and `.const` variables.
    Global,
    Local,
    Param,
}

/// A predicate operand, possibly negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PSrc {
    Reg(u32, bool),
    Const(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterRank,
    ClusterSize,
    IsExplicitCluster,
    LaneMask(MaskKind),
    Clock,
    GlobalTimer,
    DynamicSmem,
    TotalSmem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaskKind {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    /// `.shared` and `.shared::cta`: the block's own window.
    Shared,
    /// `.shared::cluster`.
    Cluster,
    Local,
    Param,
    Generic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mem {
    pub(crate) space: Space,
    pub(crate) base: Src,
    pub(crate) offset: i64,
}

/// Memory order of a load, store or atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    /// Not `.weak`.
    pub(crate) strong: bool,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    pub(crate) scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomType {
    U,
    S,
    B,
    F32,
    F64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    AddU,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

/// add.cc and its kin: operation, carry in, carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Debug, Clone)]
pub(crate) enum CmpFn {
    C32(fn(&L32, &L32) -> u32),
    C64(fn(&L64, &L64) -> u32),
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu {
        f: Kind,
        dst: Dst,
        src: [Src; 3],
        cut: u32,
        divides: bool,
    },
    Lop3 {
        dst: Dst,
        src: [Src; 3],
        lut: u8,
    },
    Bfi {
        dst: Dst,
        src: [Src; 4],
        wide: bool,
    },
    Carry {
        op: CarryOp,
        wide: bool,
        signed: bool,
        dst: Dst,
        src: [Src; 3],
        carry_in: bool,
        carry_out: bool,
    },
    Setp {
        f: CmpFn,
        a: Src,
        b: Src,
        p: Option<u32>,
        q: Option<u32>,
        combine: Option<(BoolOp, PSrc)>,
    },
    SetpPair {
        f: fn(&L32, &L32) -> (u32, u32),
        a: Src,
        b: Src,
        p: Option<u32>,
        q: Option<u32>,
        combine: Option<(BoolOp, PSrc)>,
    },
    Selp {
        dst: Dst,
        a: Src,
        b: Src,
        p: PSrc,
    },
    /// and, or, xor, not, mov of predicates; `not` is xor with true.
    Pred {
        op: BoolOp,
        dst: Option<u32>,
        a: PSrc,
        b: PSrc,
    },
    Mov {
        dst: Dst,
        src: Src,
    },
    Pack {
        dst: Dst,
        src: Vec<Src>,
        bits: u32,
    },
    Unpack {
        dst: Vec<Dst>,
        src: Src,
        bits: u32,
    },
    Cvta {
        dst: Dst,
        src: Src,
        space: Space,
        to: bool,
    },
    Isspacep {
        p: Option<u32>,
        src: Src,
        space: Space,
    },
    Ld {
        mem: Mem,
        bytes: u8,
        sext: bool,
        dst: Vec<Dst>,
        order: Order,
        nc: bool,
    },
    St {
        mem: Mem,
        bytes: u8,
        src: Vec<Src>,
        order: Order,
    },
    Atom {
        mem: Mem,
        op: AtomOp,
        ty: AtomType,
        bytes: u8,
        dst: Vec<Dst>,
        src: Vec<Src>,
        compare: Option<Src>,
        order: Order,
        returns: bool,
    },
    CpAsync {
        dst: Mem,
        src: Mem,
        bytes: u32,
        src_bytes: Option<Src>,
        ignore: Option<PSrc>,
    },
    CpCommit,
    CpWait {
        keep: u32,
    },
    /// `wait_all`: uncommitted copies too.
    CpWaitAll,
    Ldmatrix {
        mem: Mem,
        dst: Vec<Dst>,
        trans: bool,
    },
    Stmatrix {
        mem: Mem,
        src: Vec<Src>,
        trans: bool,
    },
    Movmatrix {
        dst: Dst,
        src: Src,
    },
    Mma {
        f: Mma,
        d: Vec<Dst>,
        a: Vec<Src>,
        b: Vec<Src>,
        c: Vec<Src>,
    },
    Shfl {
        mode: ShflMode,
        dst: Dst,
        p: Option<u32>,
        src: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        mode: VoteMode,
        dst: Dst,
        p: Option<u32>,
        a: PSrc,
        mask: Src,
    },
    Match {
        all: bool,
        wide: bool,
        dst: Dst,
        p: Option<u32>,
        src: Src,
        mask: Src,
    },
    Redux {
        op: ReduxOp,
        dst: Dst,
        src: Src,
        mask: Src,
    },
    Activemask {
        dst: Dst,
    },
    BarWarp {
        mask: Src,
    },
    Bar {
        kind: BarKind,
        aligned: bool,
        id: Src,
        count: Option<Src>,
        pred: Option<PSrc>,
        dst: Dst,
        p: Option<u32>,
    },
    Fence {
        scope: Scope,
    },
    Bra {
        target: u32,
        uniform: bool,
    },
    Brx {
        index: Src,
        targets: Vec<u32>,
    },
    Exit,
    Trap,
    /// Prefetches, hints, nanosleep.
    Nothing,
    /// The part of the set that sm_90 adds.
    Hopper(Box<crate::hopper::Op90>),
}

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) line: u32,
    /// Byte range in the text.
    pub(crate) span: (usize, usize),
    pub(crate) opcode: String,
    pub(crate) class: Class,
    /// Registers read and written, by their number in [`crate::module::Program::names`].
    pub(crate) reads: Vec<u32>,
    pub(crate) writes: Vec<u32>,
    /// Of a branch: where its sides meet again.
    pub(crate) join: u32,
}

impl Op {
    /// The mask of lanes that execute it together, where it has one.
    pub(crate) fn members(&self) -> Option<Src> {
        match self {
            Op::Shfl { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::BarWarp { mask } => Some(*mask),
            _ => None,
        }
    }
}
