//! From a configuration to the kernels of a launch: their bindings and their WGSL.

use super::{Config, Kernel};
use crate::DType;
use crate::full::config as full;
use crate::template::expand;
use minijinja::{Value, context};

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Finds out which positions are valid and which global.
    Prepare,
    /// Copies k and v to a texture ([`Kernel::Rows`]).
    Pack,
    /// The rows of all positions; those of global ones are replaced later.
    Local,
    /// Copies the global k and v to the same texture.
    PackGlobal,
    /// The rows of global positions, in parts.
    Global,
    /// Merges the parts.
    Combine,
}

/// What a kernel binds, in the order of its binding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Local queries.
    Q,
    /// Local keys.
    K,
    /// Local values.
    V,
    /// Global queries.
    QGlobal,
    /// Global keys.
    KGlobal,
    /// Global values.
    VGlobal,
    /// The result.
    Out,
    /// Logsumexp.
    Lse,
    /// Positions that are global, if valid.
    GlobalIndices,
    /// Valid positions.
    KeyValid,
    /// Distances of the band's keys, per head.
    Dilation,
    /// The global positions, and a mark for each position.
    Marks,
    /// Parts of the global rows.
    Partial,
    /// K and V as a texture.
    KvTexels,
    /// The marks as a texture.
    MarkTexels,
    /// The uniform block.
    Params,
}

impl Slot {
    /// One of the textures of [`Kernel::Rows`].
    pub fn is_texture(&self) -> bool {
        matches!(self, Slot::KvTexels | Slot::MarkTexels)
    }

    /// Neither a texture nor the uniform block.
    pub fn is_storage_buffer(&self) -> bool {
        !self.is_texture() && *self != Slot::Params
    }

    /// As the templates call it: the global rows' kernels read the global tensors as theirs.
    fn name(self) -> &'static str {
        match self {
            Slot::Q | Slot::QGlobal => "q",
            Slot::K | Slot::KGlobal => "k",
            Slot::V | Slot::VGlobal => "v",
            Slot::Out => "out",
            Slot::Lse => "lse",
            Slot::GlobalIndices => "global_indices",
            Slot::KeyValid => "key_valid",
            Slot::Dilation => "dilation",
            Slot::Marks => "marks",
            Slot::Partial => "partial",
            Slot::KvTexels => "kv_texels",
            Slot::MarkTexels => "mark_texels",
            Slot::Params => "params",
        }
    }

    /// The full kernels' texture that is laid out alike.
    pub(in crate::longformer) fn texels(self) -> full::Slot {
        match self {
            Slot::KvTexels => full::Slot::KvTexels,
            _ => full::Slot::ValidTexels,
        }
    }
}

impl Stage {
    /// The stage's kernels work for the global rows.
    pub(in crate::longformer) fn is_global(self) -> bool {
        matches!(self, Stage::PackGlobal | Stage::Global | Stage::Combine)
    }
}

impl Config {
    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        let rows = |kernel: &Kernel| matches!(kernel, Kernel::Rows { .. });
        let all = [
            (self.marked(), Stage::Prepare),
            (rows(&self.local), Stage::Pack),
            (true, Stage::Local),
            (self.globals && self.own_projections && rows(&self.global), Stage::PackGlobal),
            (self.globals, Stage::Global),
            (self.globals, Stage::Combine),
        ];
        all.into_iter().filter_map(|(on, stage)| on.then_some(stage)).collect()
    }

    /// Bindings of `stage`.
    pub fn slots(&self, stage: Stage) -> Vec<Slot> {
        let rows = matches!(self.local, Kernel::Rows { .. });
        let local = [Slot::Q, Slot::K, Slot::V];
        let global = match self.own_projections {
            true => [Slot::QGlobal, Slot::KGlobal, Slot::VGlobal],
            false => local,
        };
        let mark_texels = self.marked().then_some(Slot::MarkTexels);
        let texels = [Slot::KvTexels].into_iter().chain(mark_texels);
        let marks = self.marked().then_some(Slot::Marks);
        let dilation = self.dilated.then_some(Slot::Dilation);
        let mut slots: Vec<Slot> = match stage {
            Stage::Prepare => {
                let globals = self.globals.then_some(Slot::GlobalIndices);
                let valid = self.key_padding.then_some(Slot::KeyValid);
                globals.into_iter().chain(valid).chain(marks).collect()
            }
            Stage::Pack => local.into_iter().skip(1).chain(marks).chain(texels).collect(),
            Stage::PackGlobal => global.into_iter().skip(1).chain([Slot::KvTexels]).collect(),
            Stage::Local if rows => [Slot::Q]
                .into_iter()
                .chain(texels)
                .chain([Slot::Out, Slot::Lse])
                .chain(dilation)
                .collect(),
            Stage::Local => local
                .into_iter()
                .chain([Slot::Out, Slot::Lse])
                .chain(marks)
                .chain(dilation)
                .collect(),
            Stage::Global if rows => {
                global.into_iter().take(1).chain(texels).chain([Slot::Partial]).collect()
            }
            Stage::Global => global.into_iter().chain([Slot::Partial, Slot::Marks]).collect(),
            Stage::Combine => vec![Slot::Partial, Slot::Marks, Slot::Out, Slot::Lse],
        };
        slots.push(Slot::Params);
        slots
    }

    /// What a pipeline of `stage` depends on; what its source does not see is cleared, so that
    /// configurations share it. Bindings have other names then, but the same numbers.
    pub fn of_stage(&self, stage: Stage) -> Config {
        let seen = Config { own_projections: false, dilated: false, ..*self };
        match stage {
            Stage::Prepare => Config {
                local: Kernel::Rows { rows: 1, keys: 1, texture_width: 4096 },
                global: Kernel::Rows { rows: 1, keys: 1, texture_width: 4096 },
                dtype: DType::F32,
                head_dim: 32,
                padded: false,
                vec4: true,
                f16: false,
                ..seen
            },
            Stage::Pack => {
                let (globals, key_padding) = (self.marked(), false);
                Config { global: self.local, globals, key_padding, ..seen }
            }
            Stage::Local => Config { global: self.local, dilated: self.dilated, ..seen },
            Stage::Global => Config { local: self.global, ..seen },
            Stage::PackGlobal | Stage::Combine => {
                Config { local: self.global, key_padding: false, ..seen }
            }
        }
    }

    /// The kernel's name.
    pub fn name(&self, stage: Stage) -> &'static str {
        let rows = matches!(self.local, Kernel::Rows { .. });
        match (stage, rows) {
            (Stage::Prepare, _) => "longformer_prepare",
            (Stage::Pack, _) => "longformer_pack",
            (Stage::PackGlobal, _) => "longformer_pack_global",
            (Stage::Local, true) => "longformer_forward_rows",
            (Stage::Local, false) => "longformer_forward_tile",
            (Stage::Global, true) => "longformer_forward_rows_global",
            (Stage::Global, false) => "longformer_forward_tile_global",
            (Stage::Combine, _) => "longformer_combine",
        }
    }

    /// The WGSL of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        let template = match (stage, self.local) {
            (Stage::Prepare, _) => "longformer_prepare.wgsl",
            (Stage::Pack | Stage::PackGlobal, _) => "longformer_pack.wgsl",
            (Stage::Combine, _) => "longformer_combine.wgsl",
            (Stage::Local | Stage::Global, Kernel::Rows { .. }) => "longformer_forward_rows.wgsl",
            (Stage::Local | Stage::Global, Kernel::Tile { .. }) => "longformer_forward_tile.wgsl",
        };
        expand(template, self.of_stage(stage).values(stage))
    }

    fn values(&self, stage: Stage) -> Value {
        let slots = self.slots(stage);
        let slot: Value = slots.iter().enumerate().map(|(n, slot)| (slot.name(), n)).collect();
        let kernel = if stage.is_global() { self.global } else { self.local };
        let written = |slot: Slot| if stage.writes(slot) { "read_write" } else { "read" };
        let shift = |slot: Slot| kernel.texel_shift(self.head_dim, slot.texels());
        context! {
            slot,
            kv_rows_shift => shift(Slot::KvTexels),
            valid_shift => shift(Slot::MarkTexels),
            texel_access => if stage.writes(Slot::KvTexels) { "write" } else { "read" },
            partial_access => written(Slot::Partial),
            marks_access => written(Slot::Marks),
            marks_type => if stage == Stage::Prepare { "atomic<u32>" } else { "u32" },
            global_rows => stage.is_global(),
            globals => self.globals,
            marked => self.marked(),
            key_padding => self.key_padding,
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            padded => self.padded,
            vec4 => self.vec4,
            f16 => self.f16,
            ..kernel.values(self.head_dim)
        }
    }
}

impl Stage {
    /// Whether the stage binds `slot` for writing. Parts and marks lie in one buffer, which must
    /// not be bound both ways.
    pub(in crate::longformer) fn writes(self, slot: Slot) -> bool {
        match slot {
            Slot::Out | Slot::Lse => true,
            Slot::Partial => self == Stage::Global,
            Slot::Marks => matches!(self, Stage::Prepare | Stage::Global),
            Slot::KvTexels | Slot::MarkTexels => matches!(self, Stage::Pack | Stage::PackGlobal),
            _ => false,
        }
    }
}
