//! The table of sines and cosines on a CUDA device: plan, launch.

// Launching is unsafe, and so is what offers it.
#![allow(unsafe_code)]

use super::{SinCos, Sinusoids};
use crate::cuda::launch::address;
use crate::cuda::{Caps, Context, DeviceBuffer, Function, Launch, Stream, host};
use crate::template::expand;
use crate::{DType, Error};
use minijinja::context;

const THREADS: u32 = 128;
const ENTRY: &str = "transformer_xl_sinusoids";

/// The addresses of one launch's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// [`Sinusoids::frequencies`], eight bytes each.
    pub frequencies: u64,
    /// The result.
    pub table: u64,
}

/// The parameter of `kernels/transformer_xl_sinusoids.sm80.ptx`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    table: u64,
    frequencies: u64,
    row_bytes: u64,
    /// Pairs of a sine and a cosine in all rows.
    count: u32,
    /// Those of a row.
    pairs: u32,
    first: i32,
    /// Bytes from a sine to the next one, and to its cosine.
    step: u32,
    apart: u32,
    padding: u32,
}

/// A compiled table.
#[derive(Debug, Clone)]
pub struct Plan {
    table: Sinusoids,
    kernel: Function,
}

impl Sinusoids {
    /// Loads the kernel for `context`'s device; the driver compiles a text that it did not meet before.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] for a table of 2^31 elements or more.
    pub fn plan_cuda(&self, context: &Context) -> Result<Plan, Error> {
        self.fits(context.caps())?;
        Ok(Plan { table: *self, kernel: context.function(&source(self.dtype), ENTRY)? })
    }

    /// The PTX that would run on a device with `caps`, by kernel name.
    pub fn sources_cuda(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        self.fits(caps)?;
        Ok(vec![(ENTRY.to_owned(), source(self.dtype))])
    }

    /// Makes the table, waits and reads it back: for tests, tools and first steps.
    pub fn run_cuda(&self, context: &Context) -> Result<Vec<f32>, Error> {
        let plan = self.plan_cuda(context)?;
        let stream = Stream::new(context)?;
        let frequencies = self.frequencies();
        let frequencies =
            DeviceBuffer::with_bytes(context, &stream, bytemuck::cast_slice(&frequencies))?;
        let table = DeviceBuffer::new(context, self.elements() * self.dtype.bytes())?;
        let args = Args { frequencies: frequencies.pointer(), table: table.pointer() };
        // SAFETY: both were made for this table, in this context; each outlives the stream's work,
        // since dropping one waits for the device.
        unsafe { plan.launch(&stream, &args) }?;
        host::read(&table, &stream, self.elements(), self.dtype)
    }

    fn fits(&self, caps: &Caps) -> Result<(), Error> {
        self.validate()?;
        caps.runs_kernels()?;
        self.indices_fit()
    }
}

fn source(dtype: DType) -> String {
    let values = context! { threads => THREADS, dtype => dtype.name() };
    expand("transformer_xl_sinusoids.sm80.ptx", values)
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
    /// Both addresses are of memory of the context's device, as large as the table says and apart from
    /// each other, and stay valid until the launch is done.
    pub unsafe fn launch(&self, stream: &Stream, args: &Args) -> Result<(), Error> {
        let t = &self.table;
        if t.elements() == 0 {
            return Ok(());
        }
        let bytes = t.dtype.bytes() as u64;
        address("frequencies", args.frequencies, 8, false)?;
        address("table", args.table, bytes, false)?;
        let pairs = t.width as u64 / 2;
        let (step, apart) = match t.order {
            SinCos::Halves => (bytes, pairs * bytes),
            SinCos::Interleaved => (2 * bytes, bytes),
        };
        let params = Params {
            table: args.table,
            frequencies: args.frequencies,
            row_bytes: t.width as u64 * bytes,
            count: (t.elements() / 2) as u32,
            pairs: pairs as u32,
            first: t.first as i32,
            step: step as u32,
            apart: apart as u32,
            padding: 0,
        };
        let launch = Launch::new([params.count.div_ceil(THREADS), 1, 1], THREADS);
        // SAFETY: the parameter is what the kernel takes (a test compares the fields); the addresses
        // in it are the promise of whoever called.
        unsafe { self.kernel.launch(stream, &launch, bytemuck::bytes_of(&params)) }
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
        let fields = offsets!(table frequencies row_bytes count pairs first step apart);
        let expected = offsets::of_struct(fields, &[], size_of::<Params>());
        let text = include_str!("../../../kernels/transformer_xl_sinusoids.sm80.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
