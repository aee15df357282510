//! From a configuration to the kernels of a launch: their bindings and their WGSL.

use super::{Config, Kernel, LANES};
use crate::template::expand;
use minijinja::value::merge_maps;
use minijinja::{Value, context};

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Copies q, k and v to textures ([`Kernel::Rows`]).
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
    /// Keys.
    K,
    /// Values.
    V,
    /// The result.
    Out,
    /// Logsumexp.
    Lse,
    /// Parts of a split key sequence.
    Partial,
    /// Slopes per head.
    Alibi,
    /// Additive bias.
    Bias,
    /// Bias by buckets of distances.
    BiasTable,
    /// Valid keys.
    KeyValid,
    /// Where queries of packed sequences begin.
    CuQ,
    /// Where keys of packed sequences begin.
    CuK,
    /// q as a texture.
    QTexels,
    /// K and V as a texture.
    KvTexels,
    /// Valid keys as a texture.
    ValidTexels,
    /// The uniform block.
    Params,
}

impl Slot {
    /// One of the textures of [`Kernel::Rows`].
    pub fn is_texture(&self) -> bool {
        matches!(self, Slot::QTexels | Slot::KvTexels | Slot::ValidTexels)
    }

    /// Neither a texture nor the uniform block.
    pub fn is_storage_buffer(&self) -> bool {
        !self.is_texture() && *self != Slot::Params
    }

    /// The tensor's name.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Q => "q",
            Slot::K => "k",
            Slot::V => "v",
            Slot::Out => "out",
            Slot::Lse => "lse",
            Slot::Partial => "partial",
            Slot::Alibi => "alibi",
            Slot::Bias => "bias",
            Slot::BiasTable => "bias_table",
            Slot::KeyValid => "key_valid",
            Slot::CuQ => "cu_q",
            Slot::CuK => "cu_k",
            Slot::QTexels => "q_texels",
            Slot::KvTexels => "kv_texels",
            Slot::ValidTexels => "valid_texels",
            Slot::Params => "params",
        }
    }
}

impl Config {
    /// Bindings of `stage`.
    pub fn slots(&self, stage: Stage) -> Vec<Slot> {
        let rows = matches!(self.kernel, Kernel::Rows { .. });
        let texels = [Slot::QTexels, Slot::KvTexels]
            .into_iter()
            .chain(self.key_padding.then_some(Slot::ValidTexels));
        let mut slots = match stage {
            Stage::Pack => vec![Slot::Q, Slot::K, Slot::V],
            Stage::Forward if rows => texels.clone().chain([Slot::Out, Slot::Lse]).collect(),
            Stage::Forward if self.kernel.splits() => {
                vec![Slot::Q, Slot::K, Slot::V, Slot::Partial]
            }
            Stage::Forward => vec![Slot::Q, Slot::K, Slot::V, Slot::Out, Slot::Lse],
            Stage::Combine => vec![Slot::Partial, Slot::Out, Slot::Lse],
        };
        if stage == Stage::Pack {
            slots.extend(texels);
        }
        let main = stage == Stage::Forward;
        // Whatever holds the keys' validity is read once: by the copy, or by the main kernel.
        let reads_validity = self.key_padding && if rows { stage == Stage::Pack } else { main };
        let optional = [
            (self.alibi && main, Slot::Alibi),
            (self.bias && main, Slot::Bias),
            (self.buckets.is_some() && main, Slot::BiasTable),
            (reads_validity, Slot::KeyValid),
            (self.ragged && stage != Stage::Pack, Slot::CuQ),
            (self.ragged && stage != Stage::Pack, Slot::CuK),
        ];
        slots.extend(optional.into_iter().filter_map(|(given, slot)| given.then_some(slot)));
        slots.push(Slot::Params);
        slots
    }

    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        match self.kernel {
            Kernel::Rows { .. } => vec![Stage::Pack, Stage::Forward],
            Kernel::Tile { split: true, .. } => vec![Stage::Forward, Stage::Combine],
            Kernel::Tile { .. } => vec![Stage::Forward],
        }
    }

    /// What a pipeline of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        match stage {
            Stage::Forward => *self,
            Stage::Pack => Config { ragged: false, ..self.unmodified() },
            Stage::Combine => Config { key_padding: false, ..self.unmodified() },
        }
    }

    /// The same for scores that nothing is done to.
    fn unmodified(&self) -> Config {
        Config { softcap: false, alibi: false, bias: false, buckets: None, ..*self }
    }

    /// The WGSL of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        let values = self.values(&self.slots(stage));
        match (stage, self.kernel) {
            (Stage::Pack, _) => expand("full_pack.wgsl", values),
            (Stage::Combine, _) => expand("full_combine.wgsl", values),
            (Stage::Forward, Kernel::Rows { .. }) => expand(
                "full_forward_rows.wgsl",
                context! {
                    modified => *self != self.unmodified(),
                    ..merge_maps([self.kernel.values(self.head_dim), values])
                },
            ),
            (Stage::Forward, Kernel::Tile { .. }) => expand(
                "full_forward_tile.wgsl",
                context! {
                    always_edge => self.key_padding || self.bias,
                    ..merge_maps([self.kernel.values(self.head_dim), values])
                },
            ),
        }
    }

    fn values(&self, slots: &[Slot]) -> Value {
        let slot: Value = slots.iter().enumerate().map(|(n, slot)| (slot.name(), n)).collect();
        context! {
            slot,
            q_rows_shift => self.kernel.texel_shift(self.head_dim, Slot::QTexels),
            kv_rows_shift => self.kernel.texel_shift(self.head_dim, Slot::KvTexels),
            valid_shift => self.kernel.texel_shift(self.head_dim, Slot::ValidTexels),
            texel_access => if slots.contains(&Slot::Q) { "write" } else { "read" },
            partial_access => if slots.contains(&Slot::Out) { "read" } else { "read_write" },
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            padded => self.padded,
            vec4 => self.vec4,
            f16 => self.f16,
            softcap => self.softcap,
            alibi => self.alibi,
            bias => self.bias,
            buckets => self.buckets.map(|b| b.values()),
            key_padding => slots.contains(&Slot::KeyValid) || slots.contains(&Slot::ValidTexels),
            ragged => self.ragged,
        }
    }
}

impl Kernel {
    /// What the templates of a kernel's shape take from it.
    pub(crate) fn values(&self, head_dim: u32) -> Value {
        self.values_with(head_dim, 0)
    }

    /// The same with so many rows staged beside those of Q and K.
    pub(crate) fn values_with(&self, head_dim: u32, band: u32) -> Value {
        match *self {
            Kernel::Rows { rows, keys, .. } => {
                context! { rows, keys, lanes => LANES, d4 => head_dim / 4 }
            }
            Kernel::Tile { block_m, tr, tc, dc, stage_f16, subgroups, split } => {
                let (stage, vbase, vr) = self.stage(head_dim, band);
                context! {
                    block_m, tr, tc, dc, stage, vbase, vr, stage_f16, subgroups, split,
                    block_n => self.block_n(),
                    chunks => head_dim / dc,
                    subgroup_steps => (0..tc.ilog2()).map(|n| 1 << n).collect::<Vec<u32>>(),
                }
            }
        }
    }
}
