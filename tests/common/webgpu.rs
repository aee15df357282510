//! The WebGPU device of the tests.

use longhand::webgpu::{Caps, Context};
use std::sync::OnceLock;

/// The device of this process, or `None` where there is no adapter, which is loud, and an error
/// if `LONGHAND_REQUIRE` names `webgpu`.
pub fn device() -> Option<&'static Context> {
    static DEVICE: OnceLock<Option<Context>> = OnceLock::new();
    let context = DEVICE.get_or_init(|| {
        let want = std::env::var("LONGHAND_ADAPTER").ok();
        match Context::open(want.as_deref()) {
            Ok(context) => {
                eprintln!("on {} ({})", context.info().name, context.info().driver_info);
                Some(context)
            }
            Err(why) => {
                let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
                assert!(!required.contains("webgpu"), "LONGHAND_REQUIRE={required}, but {why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    });
    context.as_ref()
}

/// The device of this process, with kernels selected for `caps` of its own.
pub fn device_with(caps: impl FnOnce(Caps) -> Caps) -> Option<Context> {
    let context = device()?;
    let caps = caps(*context.caps());
    Some(Context::with_caps(context.device().clone(), context.queue().clone(), caps))
}

/// What a GPU with nothing but WebGPU's guaranteed limits and no features would be given.
pub fn baseline_gpu(caps: Caps) -> Caps {
    Caps { offset_alignment: caps.offset_alignment, ..Caps::baseline() }
}

/// The device three times: as it is, as a GPU with WebGPU's guaranteed limits and no features, and
/// as a GPU with all that it has. They are the same ones each time, so that a kernel is compiled
/// once for all problems of a test that select it.
pub fn devices() -> Vec<(&'static str, Context)> {
    static DEVICES: OnceLock<Vec<(&str, Context)>> = OnceLock::new();
    let open = || {
        let own = device().cloned().map(|c| ("own", c));
        let baseline = device_with(baseline_gpu).map(|c| ("baseline", c));
        let wide = device_with(|caps| Caps { cpu: false, ..caps }).map(|c| ("wide", c));
        [own, baseline, wide].into_iter().flatten().collect()
    };
    DEVICES.get_or_init(open).clone()
}

/// The devices that problem `n` runs on in its dtype number `dtype` of three: as it is in every one,
/// and as either GPU in one of them, another one for the next problem. For problems that each ask
/// for a kernel of their own, since a software driver takes most of a test to compile them.
pub fn devices_by_turns(n: usize, dtype: usize) -> Vec<(&'static str, Context)> {
    let mut all = devices();
    let turn = |name: &str| ["baseline", "wide"].iter().position(|x| *x == name);
    all.retain(|(name, _)| turn(name).is_none_or(|turn| (n + turn) % 3 == dtype));
    all
}
