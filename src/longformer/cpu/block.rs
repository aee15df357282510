//! A block of rows, local or global, over the keys that it sees.
//!
//! A row's coordinate is its position, or, in the band, its number among the positions that the
//! dilation leaves together: there the band is a range. Keys that a row must not meet (padding, and
//! in the band the globals, which are met through their list) are left out as tiles are gathered, so
//! that only the ends of ranges need masks.
//!
//! Floor: 4·D operations for each pair that the masks leave, by the processor's multiply-add units.

use super::{Args, Longformer};
use crate::cpu::gather::{Head, Products, Rows};
use crate::cpu::tile::{BLOCK_M, Tile};
use crate::cpu::{Element, Isa, SharedRows};
use crate::real::row_start;
use std::f32::consts::LOG2_E;

/// One head of one sequence.
pub(super) struct Block<'a, T> {
    pub(super) problem: &'a Longformer,
    pub(super) args: &'a Args<'a, T>,
    pub(super) isa: Isa,
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) globals: Globals<'a>,
}

/// The valid globals of a sequence, ascending.
#[derive(Clone, Copy)]
pub(super) struct Globals<'a>(&'a [i32]);

impl<'a> Globals<'a> {
    /// Of a list that ends at the first −1.
    pub(super) fn new(list: &'a [i32]) -> Self {
        Globals(&list[..list.partition_point(|&i| i >= 0)])
    }

    /// Those from `position` on.
    fn from(self, position: i32) -> Self {
        Globals(&self.0[self.0.partition_point(|&i| i < position)..])
    }

    /// Whether `position` is one; asked of ascending positions.
    fn next_is(&mut self, position: i32) -> bool {
        while self.0.first().is_some_and(|&i| i < position) {
            self.0 = &self.0[1..];
        }
        self.0.first() == Some(&position)
    }
}

/// The rows of one head of q, k and v.
struct Tensors<'a, T> {
    q: Head<'a, T>,
    k: Head<'a, T>,
    v: Head<'a, T>,
}

impl<T: Element> Block<'_, T> {
    /// Up to `BLOCK_M` positions of a class, from its `first` on: those that are valid and not global
    /// are attended, invalid ones have no result.
    pub(super) fn local(
        &self,
        class: usize,
        first: usize,
        tile: &mut Tile<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let p = self.problem;
        let step = p.dilation_of(self.head);
        let count = (p.seqlen - class).div_ceil(step);
        let position = |c: usize| (class + c * step) as i32;
        let (left, right) = (p.left, p.right_of_band());
        let end = count.min(first + BLOCK_M);
        let mut rows = Rows::new();
        let mut globals = self.globals;
        for c in first..end {
            let i = position(c);
            if !self.is_valid(i) {
                self.store(i as usize, None, out, lse);
            } else if !globals.next_is(i) {
                let last = (count - 1).min(c + right);
                rows.push(i, c.saturating_sub(left) as i32, last as i32);
            }
        }
        if rows.len == 0 {
            return;
        }
        let x = self.local_tensors();
        self.load_q(tile, &rows, &x);
        let band = first.saturating_sub(left)..count.min(end + right);
        let mut globals = self.globals.from(position(band.start));
        let keys = band.map(|c| (position(c), c as i32));
        let keys = keys.filter(|&(j, _)| self.is_valid(j) && !globals.next_is(j));
        self.attend(tile, &rows, &x, keys);
        rows.see(|i| self.range(i));
        self.attend(tile, &rows, &x, self.globals.0.iter().map(|&j| (j, j)));
        self.store_all(tile, &rows, out, lse);
    }

    /// Up to `BLOCK_M` globals, from number `first` on.
    pub(super) fn global(
        &self,
        first: usize,
        tile: &mut Tile<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let Some(list) = self.globals.0.get(first..) else { return };
        let mut rows = Rows::new();
        for &i in &list[..list.len().min(BLOCK_M)] {
            let (start, last) = self.range(i);
            rows.push(i, start, last);
        }
        if rows.len == 0 {
            return;
        }
        let x = self.global_tensors();
        self.load_q(tile, &rows, &x);
        let last = self.range(rows.position(rows.len - 1) as i32).1;
        let keys = (0..=last).filter(|&j| self.is_valid(j)).map(|j| (j, j));
        self.attend(tile, &rows, &x, keys);
        self.store_all(tile, &rows, out, lse);
    }

    fn is_valid(&self, i: i32) -> bool {
        self.args.key_valid.is_none_or(|x| x[self.batch * self.problem.seqlen + i as usize] != 0)
    }

    /// First and last of all positions that row `i` may see.
    fn range(&self, i: i32) -> (i32, i32) {
        (0, if self.problem.causal { i } else { self.problem.seqlen as i32 - 1 })
    }

    fn local_tensors(&self) -> Tensors<'_, T> {
        let (l, a) = (&self.problem.layout, self.args);
        let head = |x, strides| Head::new(x, strides, self.batch, self.head, self.problem.head_dim);
        Tensors { q: head(a.q, l.q), k: head(a.k, l.k), v: head(a.v, l.v) }
    }

    fn global_tensors(&self) -> Tensors<'_, T> {
        let (l, a) = (&self.problem.layout, self.args);
        let head = |x, strides| Head::new(x, strides, self.batch, self.head, self.problem.head_dim);
        match (a.q_global, a.k_global, a.v_global) {
            (Some(q), Some(k), Some(v)) => {
                Tensors { q: head(q, l.q_global), k: head(k, l.k_global), v: head(v, l.v_global) }
            }
            _ => self.local_tensors(),
        }
    }

    /// q times the scale, to units of log2.
    fn load_q(&self, tile: &mut Tile<'_>, rows: &Rows, x: &Tensors<'_, T>) {
        let scale = (self.problem.softmax_scale * f64::from(LOG2_E)) as f32;
        tile.load_rows(self.isa, rows, &x.q, scale);
    }

    fn attend(
        &self,
        tile: &mut Tile<'_>,
        rows: &Rows,
        x: &Tensors<'_, T>,
        keys: impl Iterator<Item = (i32, i32)>,
    ) {
        tile.attend(self.isa, rows, (&x.k, &x.v), keys, &mut Products);
    }

    fn store_all(
        &self,
        tile: &mut Tile<'_>,
        rows: &Rows,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        for n in 0..rows.len {
            self.store(rows.position(n), Some(tile.result(self.isa, n)), out, lse);
        }
    }

    /// Row `i`'s result, or that of a row with nothing to attend.
    fn store(
        &self,
        i: usize,
        result: Option<(&mut [f32], f32)>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let p = self.problem;
        let at = row_start(self.batch * p.layout.out.batch, p.layout.out, i, self.head);
        let lse_at = (self.batch * p.heads + self.head) * p.seqlen + i;
        // SAFETY: each position is global or a row of one local block, and no two rows share an
        // element (`validate`).
        #[allow(unsafe_code)]
        let (out, lse) = unsafe { (out.row(at, p.head_dim), lse.row(lse_at, 1)) };
        match result {
            Some((row, lse_of_row)) => {
                T::store(row, out);
                lse[0] = lse_of_row;
            }
            None => {
                out.fill(T::default());
                lse[0] = f32::NEG_INFINITY;
            }
        }
    }
}
