//! Long inputs on the processor, end to end:
//! `cargo run --release -p longhand-models --example long_input -- longformer 16384`
//!
//! The models are the test fixtures' with more positions: their widths are tiny, their lengths not.

#[path = "../tests/common/stretched.rs"]
mod stretched;

use longhand_models::{Device, Inputs, Model, Result};
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: long_input longformer|reformer LENGTH (reformer: a multiple of 64)";
    let [name, length] = &args[..] else { panic!("{usage}") };
    let length: usize = length.parse().expect(usage);
    let folder = std::env::temp_dir().join(format!("long_input_{name}_{length}"));
    let folder = match &name[..] {
        "longformer" => stretched::longformer(folder, length, [512, 512]),
        "reformer" => stretched::reformer(folder, length),
        _ => panic!("{usage}"),
    };
    let model = Model::open(&folder)?;
    let ids = (0..length).map(|i| 3 + (i * 7 % 100) as i32).collect();
    let inputs = Inputs::new().ints_of("input_ids", &[1, length], ids);
    let start = Instant::now();
    let out = model.forward(&inputs, &Device::Cpu)?;
    let seconds = start.elapsed().as_secs_f64();
    let logits = out.floats("logits")?;
    assert!(logits.data().iter().all(|x| x.is_finite()), "a result that is no number");
    println!("{name}: {length} tokens in {seconds:.2} s, logits {:?}", logits.shape());
    // Where there is no such file, no peak is told.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    std::fs::remove_dir_all(&folder).expect("the folder just made");
    Ok(())
}
