//! The kernel that makes position tables.

use super::DTYPES;
use crate::common::raw::{guarded, read};
use crate::common::sinusoids::{ERROR, tables, worst};
use crate::common::{device, devices, guard};
use longhand::transformer_xl::sinusoids::webgpu::Args;
use longhand::transformer_xl::{SinCos, Sinusoids, sinusoids};
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Error};

/// The bytes of the table, made `guard` bytes into a buffer, of which nothing else is written.
fn made(gpu: &Context, table: &Sinusoids, guard: usize) -> Vec<u8> {
    let len = table.rows * table.width * table.dtype.bytes();
    let frequencies = guarded(gpu, bytemuck::cast_slice(&table.frequencies()), guard::GUARD);
    let buffer = guarded(gpu, &guard::sentinel(len), guard);
    let args = Args {
        frequencies: Binding::new(&frequencies, guard::GUARD as u64),
        table: Binding::new(&buffer, guard as u64),
    };
    let bound = table.plan_webgpu(gpu).unwrap().bind(&args).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let bytes = read(gpu, &buffer);
    let untouched = guard::sentinel(bytes.len());
    assert!(bytes[..guard] == untouched[..guard], "written before its beginning: {table:?}");
    assert!(bytes[guard + len..] == untouched[guard + len..], "written past its end: {table:?}");
    bytes[guard..guard + len].to_vec()
}

#[test]
fn every_distance_has_its_sines_and_cosines() {
    for (name, gpu) in devices() {
        for dtype in DTYPES {
            for table in tables(dtype) {
                // On a multiple of four elements, and off it.
                for guard in [guard::GUARD, guard::GUARD + dtype.bytes()] {
                    let part = worst(&table, &made(&gpu, &table, guard));
                    assert!(part <= 1.0, "{name}: {part:.2} of what is allowed: {table:?}");
                }
            }
        }
    }
}

#[test]
fn the_table_is_the_hosts() {
    let Some(gpu) = device() else { return };
    let table =
        Sinusoids { first: -700, rows: 1400, width: 32, order: SinCos::Halves, dtype: DType::F32 };
    let got = table.run_webgpu(gpu).unwrap();
    let expected = sinusoids(-700, 1400, 32, SinCos::Halves).unwrap();
    let error =
        got.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(error <= ERROR + 3e-8, "{error:.1e}");
}

#[test]
fn what_has_no_table_is_refused() {
    let Some(gpu) = device() else { return };
    let table = Sinusoids { first: 0, rows: 4, width: 8, order: SinCos::Halves, dtype: DType::F16 };
    let odd = Sinusoids { width: 7, ..table }.plan_webgpu(gpu).unwrap_err();
    assert!(odd.to_string().contains("width = 7"), "{odd}");
    let long = Sinusoids { rows: 1 << 28, ..table }.plan_webgpu(gpu).unwrap_err();
    assert!(matches!(long, Error::Declined(_)), "{long}");
    let plan = table.plan_webgpu(gpu).unwrap();
    let [a, b] = [64, 64].map(|bytes| guarded(gpu, &vec![0; bytes], 0));
    let refused = |args: Args<'_>| match plan.bind(&args) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let all = Args::new(&a, &b);
    plan.bind(&all).unwrap();
    let at = |buffer, offset| Binding::new(buffer, offset);
    assert_eq!(refused(Args { table: at(&a, 0), ..all }), "table.buffer");
    assert_eq!(refused(Args { table: at(&b, 2), ..all }), "table.buffer.size");
    assert_eq!(refused(Args { table: at(&b, 1), ..all }), "table.offset");
    assert_eq!(refused(Args { frequencies: at(&a, 4), ..all }), "frequencies.offset");
    assert_eq!(refused(Args { frequencies: at(&a, 40), ..all }), "frequencies.buffer.size");
}
