//! From a configuration to the kernels of a launch: their bindings and their WGSL.

use super::{Config, Kernel, band};
use crate::DType;
use crate::full::config as full;
use crate::template::expand;
use minijinja::{Value, context};

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Adds the biases to q, and what else the scores have in common.
    Prepare,
    /// Puts masks and segments where the main kernel reads them.
    Mark,
    /// Copies k and v to a texture ([`Kernel::Rows`]).
    Pack,
    /// The attention itself.
    Forward,
    /// Merges the parts of split keys.
    Combine,
}

/// What a kernel binds, in the order of its binding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Queries.
    Q,
    /// Keys after the memory's.
    K,
    /// Their values.
    V,
    /// Keys of the memory.
    KMemory,
    /// Their values.
    VMemory,
    /// The position table.
    R,
    /// Added to q for the keys.
    BiasU,
    /// Added to q for the positions.
    BiasV,
    /// Added to q for the segments.
    BiasS,
    /// What the same segment and another one are worth.
    SegEmbed,
    /// The queries' segments.
    SegQ,
    /// The keys' segments.
    SegK,
    /// The queries' positions.
    Targets,
    /// Pairs that are not attended.
    PermMask,
    /// Keys that may be attended.
    KeyValid,
    /// The result.
    Out,
    /// Logsumexp.
    Lse,
    /// What the preparing kernels make ([`Kernel::Tile`]).
    Workspace,
    /// Parts of a split key sequence.
    Partial,
    /// q as a texture.
    QTexels,
    /// The position table as a texture.
    RTexels,
    /// K and V as a texture.
    KvTexels,
    /// What else the preparing kernels make, as a texture ([`Kernel::Rows`]).
    WordTexels,
    /// The uniform block.
    Params,
}

impl Slot {
    /// The textures of [`Kernel::Rows`].
    pub const TEXTURES: [Slot; 4] =
        [Slot::QTexels, Slot::RTexels, Slot::KvTexels, Slot::WordTexels];

    /// One of the [`TEXTURES`](Self::TEXTURES).
    pub fn is_texture(&self) -> bool {
        Self::TEXTURES.contains(self)
    }

    /// Neither a texture nor the uniform block.
    pub fn is_storage_buffer(&self) -> bool {
        !self.is_texture() && *self != Slot::Params
    }

    /// As the templates call it, in which `r` is any row.
    fn name(self) -> &'static str {
        match self {
            Slot::R => "table",
            slot => slot.tensor(),
        }
    }

    /// The name of the caller's tensor.
    pub fn tensor(self) -> &'static str {
        match self {
            Slot::Q => "q",
            Slot::K => "k",
            Slot::V => "v",
            Slot::KMemory => "k_memory",
            Slot::VMemory => "v_memory",
            Slot::R => "r",
            Slot::BiasU => "bias_u",
            Slot::BiasV => "bias_v",
            Slot::BiasS => "bias_s",
            Slot::SegEmbed => "seg_embed",
            Slot::SegQ => "seg_q",
            Slot::SegK => "seg_k",
            Slot::Targets => "targets",
            Slot::PermMask => "perm_mask",
            Slot::KeyValid => "key_valid",
            Slot::Out => "out",
            Slot::Lse => "lse",
            Slot::Workspace => "workspace",
            Slot::Partial => "partial",
            Slot::QTexels => "q_texels",
            Slot::RTexels => "r_texels",
            Slot::KvTexels => "kv_texels",
            Slot::WordTexels => "word_texels",
            Slot::Params => "params",
        }
    }

    /// The full kernels' texture that is laid out alike.
    pub(in crate::transformer_xl) fn texels(self) -> full::Slot {
        match self {
            Slot::QTexels | Slot::RTexels => full::Slot::QTexels,
            Slot::KvTexels => full::Slot::KvTexels,
            _ => full::Slot::ValidTexels,
        }
    }
}

impl Config {
    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        let all = [
            (true, Stage::Prepare),
            (self.segments || self.blocked(), Stage::Mark),
            (!self.is_tile(), Stage::Pack),
            (true, Stage::Forward),
            (self.kernel.splits(), Stage::Combine),
        ];
        all.into_iter().filter_map(|(on, stage)| on.then_some(stage)).collect()
    }

    /// Bindings of `stage`.
    pub fn slots(&self, stage: Stage) -> Vec<Slot> {
        use Slot::*;
        let tile = self.is_tile();
        let keys = [(true, K), (true, V), (self.memory, KMemory), (self.memory, VMemory)];
        let words = [(tile, Workspace), (!tile, WordTexels)];
        let split = self.kernel.splits();
        let bound: Vec<(bool, Slot)> = match stage {
            Stage::Prepare => [(true, Q), (!tile, R), (true, BiasU), (true, BiasV)]
                .into_iter()
                .chain([BiasS, SegEmbed, SegQ].map(|slot| (self.segments, slot)))
                .chain([(self.targets, Targets)])
                .chain([QTexels, RTexels].map(|slot| (!tile, slot)))
                .chain(words)
                .collect(),
            Stage::Mark => {
                let masks = [(self.perm_mask, PermMask), (self.key_padding, KeyValid)];
                [(self.segments, SegK), (self.perm_mask && self.targets, Targets)]
                    .into_iter()
                    .chain(masks)
                    .chain(words)
                    .collect()
            }
            Stage::Pack => keys.into_iter().chain([(true, KvTexels)]).collect(),
            Stage::Forward if tile => keys
                .into_iter()
                .chain([(true, R), (!split, Out), (!split, Lse), (split, Partial)])
                .chain(words)
                .collect(),
            Stage::Forward => {
                [QTexels, RTexels, KvTexels, WordTexels, Out, Lse].map(|slot| (true, slot)).into()
            }
            Stage::Combine => vec![(true, Partial), (true, Out), (true, Lse)],
        };
        let bound = bound.into_iter().chain([(true, Params)]);
        bound.filter_map(|(on, slot)| on.then_some(slot)).collect()
    }

    /// What a pipeline of `stage` depends on; what its source does not see is cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        let plain = Config {
            memory: false,
            chunked: false,
            segments: false,
            perm_mask: false,
            key_padding: false,
            targets: false,
            own_position: false,
            ..*self
        };
        let kernel = match self.kernel {
            Kernel::Rows { texture_width, .. } => Kernel::Rows { rows: 1, keys: 1, texture_width },
            tile => tile,
        };
        match stage {
            Stage::Prepare => {
                Config { kernel, segments: self.segments, targets: self.targets, ..plain }
            }
            Stage::Mark => Config {
                kernel,
                dtype: DType::F32,
                head_dim: 32,
                padded: false,
                vec4: true,
                f16: false,
                segments: self.segments,
                perm_mask: self.perm_mask,
                key_padding: self.key_padding,
                targets: self.targets && self.perm_mask,
                ..plain
            },
            Stage::Pack => Config { kernel, memory: self.memory, ..plain },
            Stage::Forward if self.is_tile() => *self,
            // Its textures have no trace of the keys' tensors.
            Stage::Forward => Config { memory: false, ..*self },
            Stage::Combine => plain,
        }
    }

    /// The kernel's name.
    pub fn name(&self, stage: Stage) -> &'static str {
        match stage {
            Stage::Prepare => "transformer_xl_prepare",
            Stage::Mark => "transformer_xl_mark",
            Stage::Pack => "transformer_xl_pack",
            Stage::Forward if self.is_tile() => "transformer_xl_forward_tile",
            Stage::Forward => "transformer_xl_forward_rows",
            Stage::Combine => "transformer_xl_combine",
        }
    }

    /// The WGSL of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        expand(&format!("{}.wgsl", self.name(stage)), self.of_stage(stage).values(stage))
    }

    fn values(&self, stage: Stage) -> Value {
        let slots = self.slots(stage);
        let slot: Value = slots.iter().enumerate().map(|(n, slot)| (slot.name(), n)).collect();
        let shift = |slot: Slot| self.kernel.texel_shift(self.head_dim, slot.texels());
        let written = |slot| if stage.writes(slot, self) { "read_write" } else { "read" };
        let stores = stage.writes(Slot::WordTexels, self) || stage == Stage::Pack;
        context! {
            slot,
            q_rows_shift => shift(Slot::QTexels),
            kv_rows_shift => shift(Slot::KvTexels),
            valid_shift => shift(Slot::WordTexels),
            texel_access => if stores { "write" } else { "read" },
            stores_words => stage.writes(Slot::WordTexels, self),
            workspace_access => written(Slot::Workspace),
            partial_access => written(Slot::Partial),
            texels => !self.is_tile(),
            chunked => self.chunked,
            segments => self.segments,
            perm_mask => self.perm_mask,
            key_padding => self.key_padding,
            blocked => self.blocked(),
            targets => self.targets,
            records => self.records(),
            own_position => self.own_position,
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            padded => self.padded,
            vec4 => self.vec4,
            f16 => self.f16,
            ..self.kernel.values_with(self.head_dim, band(&self.kernel, self.targets))
        }
    }
}

impl Stage {
    /// Whether the stage binds `slot` for writing. Parts lie in the workspace, which must not be
    /// bound both ways.
    pub(in crate::transformer_xl) fn writes(self, slot: Slot, config: &Config) -> bool {
        match slot {
            Slot::Out | Slot::Lse => true,
            Slot::Partial => self == Stage::Forward,
            Slot::Workspace => {
                self != Stage::Combine && (self != Stage::Forward || config.kernel.splits())
            }
            Slot::QTexels | Slot::RTexels | Slot::WordTexels => {
                matches!(self, Stage::Prepare | Stage::Mark)
            }
            Slot::KvTexels => self == Stage::Pack,
            _ => false,
        }
    }
}
