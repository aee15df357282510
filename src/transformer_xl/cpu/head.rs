//! One head of one sequence: where its rows are.

use super::Args;
use crate::cpu::Element;
use crate::real::row;
use crate::transformer_xl::{Memory, TransformerXl};
use std::f64::consts::LOG2_E;

/// One head of one sequence.
pub(super) struct Head<'a, T> {
    pub(super) problem: &'a TransformerXl,
    pub(super) args: &'a Args<'a, T>,
    pub(super) batch: usize,
    pub(super) head: usize,
}

impl<'a, T: Element> Head<'a, T> {
    /// Head `n` of all sequences'.
    pub(super) fn new(problem: &'a TransformerXl, args: &'a Args<'a, T>, n: usize) -> Self {
        let heads = problem.shape.heads_q;
        Head { problem, args, batch: n / heads, head: n % heads }
    }

    /// The factor of scores in units of log2.
    pub(super) fn scale(&self) -> f32 {
        (self.problem.softmax_scale * LOG2_E) as f32
    }

    /// Its row of `[heads_q, head_dim]`.
    pub(super) fn of_head<'x>(&self, x: &'x [f32]) -> &'x [f32] {
        let d = self.problem.shape.head_dim;
        &x[self.head * d..][..d]
    }

    /// Query `i`.
    pub(super) fn q(&self, i: usize) -> &'a [T] {
        let (p, l) = (self.problem, self.problem.layout.q);
        row(self.args.q, self.batch * l.batch, l, i, self.head, p.shape.head_dim)
    }

    /// A key's rows of `k` and `v`, wherever they lie.
    pub(super) fn key(&self, j: usize) -> [&'a [T]; 2] {
        let (p, d, args) = (self.problem, self.problem.shape.head_dim, self.args);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        let l = &p.layout;
        let (k, v, at) = match (p.memory, args.k_memory, args.v_memory) {
            (Some(Memory { len, rows, start }), Some(k), Some(v)) if j < len => {
                ((k, l.k_memory), (v, l.v_memory), (start + j) % rows)
            }
            (memory, ..) => ((args.k, l.k), (args.v, l.v), j - memory.map_or(0, |m| m.len)),
        };
        let ((k, of_k), (v, of_v), b) = (k, v, self.batch);
        // Without a map over the two, which is a call.
        [row(k, b * of_k.batch, of_k, at, head, d), row(v, b * of_v.batch, of_v, at, head, d)]
    }

    /// A distance's row of the table, if any pair has it.
    pub(super) fn r(&self, distance: i64) -> Option<&'a [T]> {
        let (p, l) = (self.problem, self.problem.layout.r);
        let clamp = p.clamp_len.map_or(i64::MAX, |n| n as i64);
        let at = usize::try_from(distance.clamp(-clamp, clamp) + p.distance_offset as i64).ok()?;
        (at < p.rows).then(|| row(self.args.r, 0, l, at, self.head, p.shape.head_dim))
    }

    /// The same, or zeros.
    pub(super) fn load_r(&self, distance: i64, to: &mut [f32]) {
        match self.r(distance) {
            Some(r) => T::load(r, to),
            None => to.fill(0.0),
        }
    }
}
