//! Merging two results on a CUDA device: plan, launch.

// Launching is unsafe, and so is what offers it.
#![allow(unsafe_code)]

use super::{Merge, sizes_fit};
use crate::cuda::launch::address;
use crate::cuda::{Caps, Context, DeviceBuffer, Function, Launch, Stream, host};
use crate::template::expand;
use crate::{DType, Error};
use minijinja::context;

const THREADS: u32 = 128;
/// Of a warp.
const ROWS: u32 = 8;
const ENTRY: &str = "merge_results";

/// The addresses of one launch's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// The result, read and written.
    pub out: u64,
    /// Its `lse`, read and written.
    pub lse: u64,
    /// The part, which is merged into it.
    pub part_out: u64,
    /// The part's `lse`.
    pub part_lse: u64,
}

/// The parameter of `kernels/merge_results.sm80.ptx`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    out: u64,
    lse: u64,
    part_out: u64,
    part_lse: u64,
    rows_all: u32,
    heads: u32,
    seqlen_q: u32,
    padding: u32,
}

/// A compiled merge.
#[derive(Debug, Clone)]
pub struct Plan {
    merge: Merge,
    rows: usize,
    /// For rows on multiples of four elements, if they are as long.
    vec: Option<Function>,
    scalar: Function,
}

impl Merge {
    /// Loads the kernel for `context`'s device; the driver compiles a text that it did not meet before.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] for results of 2^31 elements or more, and below compute capability 8.0.
    pub fn plan_cuda(&self, context: &Context) -> Result<Plan, Error> {
        let [rows, _] = self.fits(context.caps())?;
        let load = |vec| context.function(&self.source(vec), ENTRY);
        let vec = self.has_vec().then(|| load(true)).transpose()?;
        Ok(Plan { merge: *self, rows, vec, scalar: load(false)? })
    }

    /// The PTX that would run on a device with `caps`, by kernel name: for rows that begin on multiples
    /// of four elements, if they are a multiple of four elements long.
    pub fn sources_cuda(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        self.fits(caps)?;
        Ok(vec![(ENTRY.to_owned(), self.source(self.has_vec()))])
    }

    /// Merges two results of the host's, waits and reads them back: for tests, tools and first steps.
    ///
    /// # Errors
    ///
    /// As [`plan_cuda`](Self::plan_cuda), and [`Error::Invalid`] for tensors of another size.
    pub fn run_cuda(
        &self,
        context: &Context,
        parts: [(&[f32], &[f32]); 2],
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let plan = self.plan_cuda(context)?;
        let elements = plan.rows * self.shape.head_dim;
        let stream = Stream::new(context)?;
        sizes_fit(parts, [elements, plan.rows])?;
        let mut tensors = Vec::new();
        for (out, lse) in parts {
            for (values, dtype) in [(out, self.dtype), (lse, DType::F32)] {
                tensors.push(DeviceBuffer::with_bytes(context, &stream, &dtype.encode(values))?);
            }
        }
        let [out, lse, part_out, part_lse] = [0, 1, 2, 3].map(|n: usize| tensors[n].pointer());
        let args = Args { out, lse, part_out, part_lse };
        // SAFETY: all were made of the problem's sizes, in this context; each outlives the stream's
        // work, since dropping one waits for the device.
        unsafe { plan.launch(&stream, &args) }?;
        let out = host::read(&tensors[0], &stream, elements, self.dtype)?;
        Ok((out, host::read(&tensors[1], &stream, plan.rows, DType::F32)?))
    }

    fn fits(&self, caps: &Caps) -> Result<[usize; 2], Error> {
        caps.runs_kernels()?;
        self.counts()
    }

    fn has_vec(&self) -> bool {
        self.shape.head_dim.is_multiple_of(4)
    }

    fn source(&self, vec: bool) -> String {
        let width = if vec { 4 } else { 1 };
        let per_row = self.shape.head_dim / width;
        // Accesses of a lane, of which four may be on their way at once.
        let steps = (ROWS as usize * per_row).div_ceil(32);
        let values = context! {
            threads => THREADS,
            rows => ROWS,
            dtype => self.dtype.name(),
            wide => self.dtype == DType::F32,
            elem => self.dtype.bytes(),
            vec => vec,
            width => width,
            per_row => per_row,
            ahead => steps.min(4),
        };
        expand("merge_results.sm80.ptx", values)
    }
}

impl Plan {
    /// Queues the launch on `stream` and returns: one kernel, no wait, no copy, no allocation.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent or misaligned.
    ///
    /// # Safety
    ///
    /// All addresses are of memory of the context's device, as large as the problem says and apart
    /// from each other, and stay valid until the launch is done.
    pub unsafe fn launch(&self, stream: &Stream, args: &Args) -> Result<(), Error> {
        let bytes = self.merge.dtype.bytes() as u64;
        if self.rows == 0 {
            return Ok(());
        }
        for (name, at, align) in [
            ("out", args.out, bytes),
            ("lse", args.lse, 4),
            ("part_out", args.part_out, bytes),
            ("part_lse", args.part_lse, 4),
        ] {
            address(name, at, align, false)?;
        }
        let aligned = (args.out | args.part_out).is_multiple_of(4 * bytes);
        let kernel = self.vec.as_ref().filter(|_| aligned).unwrap_or(&self.scalar);
        let params = Params {
            out: args.out,
            lse: args.lse,
            part_out: args.part_out,
            part_lse: args.part_lse,
            rows_all: self.rows as u32,
            heads: self.merge.shape.heads_q as u32,
            seqlen_q: self.merge.shape.seqlen_q as u32,
            padding: 0,
        };
        let launch = Launch::new([params.rows_all.div_ceil(THREADS / 32 * ROWS), 1, 1], THREADS);
        // SAFETY: the parameter is what the kernel takes (a test compares the fields); the addresses
        // in it are the promise of whoever called.
        unsafe { kernel.launch(stream, &launch, bytemuck::bytes_of(&params)) }
    }
}

#[cfg(test)]
mod tests {
    use super::Params;
    use crate::cuda::launch::offsets;
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_kernel_reads_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let fields = offsets!(out lse part_out part_lse rows_all heads seqlen_q);
        let expected = offsets::of_struct(fields, &[], size_of::<Params>());
        let text = include_str!("../../kernels/merge_results.sm80.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
