//! From a configuration to the kernels of a launch: their bindings and their WGSL.

use super::{Config, Kernel, SORT_ITEMS};
use crate::DType;
use crate::full::config::{self as full, LANES};
use crate::template::expand;
use minijinja::{Value, context};

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Copies qk, v and the rotations to textures ([`Kernel::Rows`]); where rows are gathered, the
    /// qk of some positions for the hash alone.
    Pack,
    /// The keys' factors, and the buckets if there is anything to hash.
    Hash,
    /// Counts the items of each digit; of the first digit, they stand as in the sequence.
    Count {
        /// Of the lowest digit.
        first: bool,
    },
    /// From numbers of items to places.
    Scan,
    /// Puts the items in order by one digit.
    Scatter {
        /// By the lowest digit.
        first: bool,
    },
    /// What is looked up by place ([`Kernel::Rows`]), and places by position.
    Index,
    /// Copies the rows that a part of a round sees, and what is looked up beside them, to textures.
    Gather,
    /// One round's attention, merged with those before it.
    Attend,
}

/// What a kernel binds, in the order of its binding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Queries, which are also the keys.
    Qk,
    /// Values.
    V,
    /// The result.
    Out,
    /// Logsumexp over all rounds.
    Lse,
    /// That of each round.
    LseRounds,
    /// What qk is multiplied by to find its buckets.
    Rotations,
    /// Half of each factor of the number of buckets.
    Factors,
    /// The bucket of each position in each round.
    Buckets,
    /// Valid positions.
    KeyValid,
    /// The keys' factors.
    Norms,
    /// The position at each place.
    Order,
    /// The same after the digits before.
    OrderBefore,
    /// The place of each position.
    Places,
    /// Numbers of items.
    Histogram,
    /// qk and v as a texture.
    RowTexels,
    /// The rotations as a texture.
    RotationTexels,
    /// Of each place, its position and that key's factor, as a texture.
    ItemTexels,
    /// The places as a texture.
    PlaceTexels,
    /// The uniform block.
    Params,
}

impl Slot {
    /// The textures of [`Kernel::Rows`].
    pub(in crate::lsh) const TEXTURES: [Slot; 4] =
        [Slot::RowTexels, Slot::RotationTexels, Slot::ItemTexels, Slot::PlaceTexels];

    /// One of the textures of [`Kernel::Rows`].
    pub fn is_texture(&self) -> bool {
        Slot::TEXTURES.contains(self)
    }

    /// Neither a texture nor the uniform block.
    pub fn is_storage_buffer(&self) -> bool {
        !self.is_texture() && *self != Slot::Params
    }

    /// It lies in the workspace.
    pub(in crate::lsh) fn is_workspace(&self) -> bool {
        use Slot::{Histogram, Norms, Order, OrderBefore, Places};
        matches!(self, Norms | Order | OrderBefore | Places | Histogram)
    }

    /// As the templates call it.
    fn name(self) -> &'static str {
        match self {
            Slot::Qk => "qk",
            Slot::V => "v",
            Slot::Out => "out",
            Slot::Lse => "lse",
            Slot::LseRounds => "lse_rounds",
            Slot::Rotations => "rotations",
            Slot::Factors => "factors",
            Slot::Buckets => "buckets",
            Slot::KeyValid => "key_valid",
            Slot::Norms => "norms",
            Slot::Order => "order",
            Slot::OrderBefore => "order_before",
            Slot::Places => "places",
            Slot::Histogram => "histogram",
            Slot::RowTexels => "row_texels",
            Slot::RotationTexels => "rotation_texels",
            Slot::ItemTexels => "item_texels",
            Slot::PlaceTexels => "place_texels",
            Slot::Params => "params",
        }
    }

    /// The full kernels' texture that is laid out alike.
    pub(in crate::lsh) fn texels(self) -> full::Slot {
        match self {
            Slot::RotationTexels => full::Slot::QTexels,
            Slot::RowTexels => full::Slot::KvTexels,
            _ => full::Slot::ValidTexels,
        }
    }
}

impl Stage {
    /// Invocations of a workgroup.
    pub(in crate::lsh) fn threads(self, config: &Config) -> u32 {
        match self {
            Stage::Hash if config.is_rows() => LANES,
            Stage::Attend => config.kernel.threads(),
            Stage::Scan => 256,
            // Items stand far apart in memory: as few at a time as one vector or cache line.
            Stage::Count { .. } | Stage::Scatter { .. } => 32,
            Stage::Pack | Stage::Hash | Stage::Index | Stage::Gather => 64,
        }
    }

    /// Whether the stage binds `slot` for writing.
    fn writes(self, slot: Slot) -> bool {
        match slot {
            Slot::Out | Slot::Lse | Slot::LseRounds => true,
            Slot::Buckets => self == Stage::Hash,
            Slot::RotationTexels => self == Stage::Pack,
            Slot::RowTexels => matches!(self, Stage::Pack | Stage::Gather),
            Slot::PlaceTexels => self == Stage::Index,
            Slot::ItemTexels => matches!(self, Stage::Index | Stage::Gather),
            _ => false,
        }
    }
}

impl Config {
    /// The kernels of a launch, each once, in order of their first launch.
    pub fn stages(&self) -> Vec<Stage> {
        let all = [
            (self.is_rows(), Stage::Pack),
            (true, Stage::Hash),
            (self.sorted, Stage::Count { first: true }),
            (self.sorted, Stage::Scan),
            (self.sorted, Stage::Scatter { first: true }),
            (self.digits, Stage::Count { first: false }),
            (self.digits, Stage::Scatter { first: false }),
            ((self.is_rows() && !self.gathered) || self.duplicates_once, Stage::Index),
            (self.gathered, Stage::Gather),
            (true, Stage::Attend),
        ];
        all.into_iter().filter_map(|(on, stage)| on.then_some(stage)).collect()
    }

    /// Bindings of `stage`.
    pub fn slots(&self, stage: Stage) -> Vec<Slot> {
        let rows = self.is_rows();
        let valid = self.key_padding.then_some(Slot::KeyValid);
        // Where buckets are hashed, the hash has seen to it.
        let sort_valid = valid.filter(|_| !self.hashed);
        let order = self.sorted.then_some(Slot::Order);
        let rotations = |slot| self.hashed.then_some(slot);
        let places = |slot| self.duplicates_once.then_some(slot);
        let results =
            [Slot::Out, Slot::Lse].into_iter().chain(self.sorted.then_some(Slot::LseRounds));
        let mut slots: Vec<Slot> = match stage {
            Stage::Pack => [Slot::Qk]
                .into_iter()
                .chain((!self.gathered).then_some(Slot::V))
                .chain(rotations(Slot::Rotations))
                .chain([Slot::RowTexels])
                .chain(rotations(Slot::RotationTexels))
                .collect(),
            Stage::Hash => {
                let (x, columns) = match rows {
                    true => (Slot::RowTexels, Slot::RotationTexels),
                    false => (Slot::Qk, Slot::Rotations),
                };
                let hash = [columns, Slot::Factors, Slot::Buckets].map(rotations);
                [x, Slot::Norms]
                    .into_iter()
                    .chain(hash.into_iter().flatten())
                    .chain(valid)
                    .collect()
            }
            Stage::Count { first } => {
                let before = (!first).then_some(Slot::OrderBefore);
                let read = [Slot::Buckets].into_iter().chain(sort_valid);
                read.chain(before).chain([Slot::Histogram]).collect()
            }
            Stage::Scan => vec![Slot::Histogram],
            Stage::Scatter { first } => {
                let before = (!first).then_some(Slot::OrderBefore);
                let read = [Slot::Buckets].into_iter().chain(sort_valid);
                read.chain(before).chain([Slot::Histogram, Slot::Order]).collect()
            }
            Stage::Gather => [Slot::Qk, Slot::V]
                .into_iter()
                .chain(order)
                .chain([Slot::Norms, Slot::RowTexels, Slot::ItemTexels])
                .collect(),
            Stage::Index if self.gathered => vec![Slot::Order, Slot::PlaceTexels],
            Stage::Index if rows => order
                .into_iter()
                .chain([Slot::Norms, Slot::ItemTexels])
                .chain(places(Slot::PlaceTexels))
                .collect(),
            Stage::Index => vec![Slot::Order, Slot::Places],
            Stage::Attend if rows => [Slot::RowTexels, Slot::ItemTexels]
                .into_iter()
                .chain(places(Slot::PlaceTexels))
                .chain(results)
                .collect(),
            Stage::Attend => [Slot::Qk, Slot::V]
                .into_iter()
                .chain(order)
                .chain([Slot::Norms])
                .chain(places(Slot::Places))
                .chain(results)
                .collect(),
        };
        slots.push(Slot::Params);
        slots
    }

    /// Whether `stage` binds `slot` for writing. The parts of the workspace lie in one buffer, which
    /// must not be bound both ways.
    pub(in crate::lsh) fn writes(&self, stage: Stage, slot: Slot) -> bool {
        match slot.is_workspace() {
            true => match stage {
                Stage::Attend | Stage::Gather => false,
                Stage::Index => !self.is_rows(),
                _ => true,
            },
            false => stage.writes(slot),
        }
    }

    /// What a pipeline of `stage` depends on; what its source does not see is cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        let plain = Config { dtype: DType::F32, padded: false, vec4: true, f16: false, ..*self };
        let any = match self.kernel {
            Kernel::Rows { texture_width, .. } => Kernel::Rows { rows: 1, keys: 1, texture_width },
            Kernel::Tile { .. } => Kernel::Tile {
                block_m: 32,
                tr: 8,
                tc: 8,
                dc: 32,
                stage_f16: false,
                subgroups: false,
                split: false,
            },
        };
        let tile = Config { kernel: any, digits: false, ..*self };
        // lavapipe reads a buffer component by component: words of two elements in half the time.
        let copies = Config { f16: false, key_padding: false, duplicates_once: false, ..tile };
        match stage {
            Stage::Attend => Config { digits: false, hashed: false, key_padding: false, ..*self },
            Stage::Pack => Config { sorted: self.hashed, ..copies },
            Stage::Gather => Config { hashed: false, ..copies },
            Stage::Hash => {
                let seen = if self.is_rows() { plain } else { *self };
                Config {
                    kernel: any,
                    gathered: false,
                    digits: false,
                    sorted: self.hashed,
                    duplicates_once: false,
                    ..seen
                }
            }
            Stage::Count { .. } | Stage::Scan | Stage::Scatter { .. } => Config {
                kernel: Kernel::Rows { rows: 1, keys: 1, texture_width: 4096 },
                head_dim: 32,
                digits: true,
                gathered: false,
                hashed: false,
                key_padding: self.key_padding && !self.hashed && stage != Stage::Scan,
                duplicates_once: false,
                ..plain
            },
            Stage::Index => {
                Config { kernel: any, digits: false, hashed: false, key_padding: false, ..plain }
            }
        }
    }

    /// The kernel's name.
    pub fn name(&self, stage: Stage) -> &'static str {
        match (stage, self.is_rows()) {
            (Stage::Pack, _) => "lsh_pack",
            (Stage::Hash, true) => "lsh_hash_rows",
            (Stage::Hash, false) => "lsh_hash_tile",
            (Stage::Count { first: true }, _) => "lsh_count",
            (Stage::Count { first: false }, _) => "lsh_count_next",
            (Stage::Scan, _) => "lsh_scan",
            (Stage::Scatter { first: true }, _) => "lsh_scatter",
            (Stage::Scatter { first: false }, _) => "lsh_scatter_next",
            (Stage::Index, _) => "lsh_index",
            (Stage::Gather, _) => "lsh_gather",
            (Stage::Attend, true) => "lsh_forward_rows",
            (Stage::Attend, false) => "lsh_forward_tile",
        }
    }

    /// The WGSL of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        let template = match (stage, self.is_rows()) {
            (Stage::Pack, _) => "lsh_pack.wgsl",
            (Stage::Hash, true) => "lsh_hash_rows.wgsl",
            (Stage::Hash, false) => "lsh_hash_tile.wgsl",
            (Stage::Count { .. }, _) => "lsh_count.wgsl",
            (Stage::Scan, _) => "lsh_scan.wgsl",
            (Stage::Scatter { .. }, _) => "lsh_scatter.wgsl",
            (Stage::Index, _) => "lsh_index.wgsl",
            (Stage::Gather, _) => "lsh_gather.wgsl",
            (Stage::Attend, true) => "lsh_forward_rows.wgsl",
            (Stage::Attend, false) => "lsh_forward_tile.wgsl",
        };
        expand(template, self.of_stage(stage).values(stage))
    }

    fn values(&self, stage: Stage) -> Value {
        let slots = self.slots(stage);
        let slot: Value = slots.iter().enumerate().map(|(n, slot)| (slot.name(), n)).collect();
        let access = |slot: &Slot| {
            let how = match (slot.is_texture(), self.writes(stage, *slot)) {
                (_, false) => "read",
                (true, true) => "write",
                (false, true) => "read_write",
            };
            (slot.name(), how)
        };
        let access: Value = slots.iter().map(access).collect();
        let shift = |slot: Slot| self.kernel.texel_shift(self.head_dim, slot.texels());
        let kernel = match (stage, self.kernel) {
            // Positions of the hash that are in registers at once.
            (Stage::Hash, Kernel::Rows { keys, texture_width, .. }) => {
                Kernel::Rows { rows: (256 / self.head_dim).clamp(1, 4), keys, texture_width }
            }
            (_, kernel) => kernel,
        };
        context! {
            slot,
            access,
            q_rows_shift => shift(Slot::RotationTexels),
            kv_rows_shift => shift(Slot::RowTexels),
            valid_shift => shift(Slot::ItemTexels),
            gathered => self.gathered,
            hashed => self.hashed,
            duplicates_once => self.duplicates_once,
            items => SORT_ITEMS,
            threads => stage.threads(self),
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            padded => self.padded,
            vec4 => self.vec4,
            f16 => self.f16,
            ..kernel.values(self.head_dim)
        }
    }

    /// Positions that one workgroup of the hash takes.
    pub(in crate::lsh) fn hash_rows(&self) -> usize {
        match self.is_rows() {
            true => (LANES * (256 / self.head_dim).clamp(1, 4)) as usize,
            false => 64,
        }
    }
}
