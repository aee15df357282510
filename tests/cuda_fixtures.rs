//! The CUDA kernels against values computed by other people's implementations (`tests/data`): in the
//! simulator, or with `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine.

mod common;

use common::cuda::{Device, on_devices, on_simulated};
use common::fixtures::{Forward, fixtures_of};
use longhand::{DType, Full};
use longhand_cli::results::from_parts;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let files = fixtures_of("full", 37);
    let agree = |device: &Device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = file.clone().into_full().unwrap();
            let p = Full { dtype, ..problem.problem };
            let got = p.run_cuda(&device.context, &problem.inputs.as_inputs()).unwrap();
            let what = format!("{} {} {dtype}", device.name, problem.name);
            Forward::of(file, dtype).check(&from_parts(&problem, &got, None, dtype), &what);
        }
    };
    on_devices(agree);
    on_simulated("a100", &[("async", "late")], agree);
}
