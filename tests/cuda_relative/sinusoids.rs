//! The kernel that makes position tables.
#![allow(unsafe_code)]

use super::DTYPES;
use crate::common::cuda::{Device, Tensor, on_devices};
use crate::common::guard::{GUARD, bytes_of, sentinel};
use crate::common::sinusoids::{tables, worst};
use longhand::cuda::{Caps, Stream};
use longhand::transformer_xl::sinusoids::cuda::Args;
use longhand::transformer_xl::{SinCos, Sinusoids};
use longhand::{DType, Error};

/// The bytes of the table, made `guard` bytes into memory of which nothing else is written.
fn made(device: &Device, table: &Sinusoids, guard: usize) -> Vec<u8> {
    let stream = Stream::new(&device.context).unwrap();
    let len = table.rows * table.width * table.dtype.bytes();
    let frequencies = table.frequencies();
    let frequencies =
        Tensor::new(device, &stream, "frequencies", bytemuck::cast_slice(&frequencies), 0);
    let out = Tensor::new(device, &stream, "out", &sentinel(len), guard);
    let plan = table.plan_cuda(&device.context).unwrap();
    let args = Args { frequencies: frequencies.at(), table: out.at() };
    // SAFETY: both are as large as the table says, and live until it was read.
    unsafe { plan.launch(&stream, &args) }.unwrap();
    out.read(&stream, "table").unwrap()
}

#[test]
fn every_distance_has_its_sines_and_cosines() {
    on_devices(|device| {
        for dtype in DTYPES {
            for table in tables(dtype) {
                // On a multiple of 16 bytes, and off it.
                for guard in [GUARD, GUARD + dtype.bytes()] {
                    let part = worst(&table, &made(device, &table, guard));
                    assert!(
                        part <= 1.0,
                        "{}: {part:.2} of what is allowed: {table:?}",
                        device.name
                    );
                }
            }
        }
    });
}

#[test]
fn one_call_gives_the_same() {
    on_devices(|device| {
        let order = SinCos::Interleaved;
        let table = Sinusoids { first: -9, rows: 12, width: 10, order, dtype: DType::BF16 };
        let got = table.run_cuda(&device.context).unwrap();
        assert_eq!(bytes_of(&got, DType::BF16), made(device, &table, 0));
    });
}

#[test]
fn what_has_no_table_is_refused() {
    let table = Sinusoids { first: 0, rows: 4, width: 8, order: SinCos::Halves, dtype: DType::F32 };
    let odd = Sinusoids { width: 7, ..table }.sources_cuda(&Caps::a100()).unwrap_err();
    assert!(odd.to_string().contains("width = 7"), "{odd}");
    let long = Sinusoids { rows: 1 << 28, ..table }.sources_cuda(&Caps::a100()).unwrap_err();
    assert!(matches!(long, Error::Declined(_)), "{long}");
    let old = Caps { compute_capability: (7, 5), ..Caps::a100() };
    assert!(matches!(table.sources_cuda(&old), Err(Error::Declined(_))));
    on_devices(|device| {
        let stream = Stream::new(&device.context).unwrap();
        let plan = table.plan_cuda(&device.context).unwrap();
        let field = |frequencies, table| {
            // SAFETY: it does not come to a launch.
            match unsafe { plan.launch(&stream, &Args { frequencies, table }) } {
                Err(Error::Invalid { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field(0, 256), "frequencies");
        assert_eq!(field(260, 256), "frequencies");
        assert_eq!(field(256, 0), "table");
        assert_eq!(field(256, 258), "table");
    });
}
