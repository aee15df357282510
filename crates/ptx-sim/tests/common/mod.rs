//! Small kernels from a body, and one way to run them.

#![allow(dead_code)]

use ptx_sim::{Device, Launch, Module, Options, Profile, Report};

/// A kernel `k(.param .u64 a, .param .u64 b, .param .u32 n)` with registers `%r<64> %d<32> %f<32> %h<16> %p<16>`, 4 KiB of
/// shared memory `s`, and set: `%r1` thread, `%r2` lane, `%r3` warp, `%r4` address of `s`, `%d1`, `%d2` the buffers, `%r5` n.
pub(crate) fn kernel(body: &str) -> String {
    kernel_for("8.0", "sm_80", body)
}

/// [`kernel`] for a version and an architecture.
pub(crate) fn kernel_for(version: &str, target: &str, body: &str) -> String {
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n)\n{{\n\
         .reg .pred %p<16>; .reg .b32 %r<64>; .reg .b64 %d<32>; .reg .f32 %f<32>; .reg .b16 %h<16>;\n\
         .shared .align 1024 .b8 s[4096];\n\
         ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u32 %r5, [n];\n\
         mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 31; shr.u32 %r3, %r1, 5; mov.u32 %r4, s;\n\
         {body}\nret;\n}}\n"
    )
}

/// What a run left: the buffers, and what was found wrong.
pub(crate) struct Done {
    pub(crate) a: Vec<u8>,
    pub(crate) b: Vec<u8>,
    pub(crate) report: Report,
    pub(crate) failed: bool,
}

impl Done {
    pub(crate) fn codes(&self) -> Vec<&'static str> {
        let mut codes: Vec<_> = self.report.diags.iter().map(|d| d.code).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// Buffer b as words.
    pub(crate) fn words(&self) -> Vec<u32> {
        self.b.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }
}

/// A launch of small kernels.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) grid: u32,
    pub(crate) block: u32,
    pub(crate) n: u32,
    /// Initial buffer a.
    pub(crate) a: Vec<u8>,
    /// Initial buffer b; none: undefined.
    pub(crate) b: Option<Vec<u8>>,
    pub(crate) b_bytes: u64,
    pub(crate) smem: u32,
}

impl Shape {
    pub(crate) fn new(block: u32) -> Self {
        let a = (0..4096u32).map(|i| (i * 7 + i / 256) as u8).collect();
        Shape { grid: 1, block, n: 100, a, b: None, b_bytes: 16384, smem: 0 }
    }

    pub(crate) fn run(&self, text: &str, options: Options) -> Done {
        let options = Options { step_budget: options.step_budget.min(20_000_000), ..options };
        let module = Module::parse(text, "test.ptx").unwrap_or_else(|d| panic!("{d}\n{text}"));
        let profile = if module.target >= 90 { Profile::h100() } else { Profile::a100() };
        let mut device = Device::new(profile, options);
        let a = device.alloc(self.a.len() as u64).unwrap();
        device.write(a, &self.a).unwrap();
        let b = device.alloc(self.b_bytes).unwrap();
        if let Some(contents) = &self.b {
            device.write(b, contents).unwrap();
        }
        let mut params = Vec::new();
        params.extend(a.to_le_bytes());
        params.extend(b.to_le_bytes());
        params.extend(self.n.to_le_bytes());
        let launch = Launch::new([self.grid, 1, 1], [self.block, 1, 1], self.smem);
        let (report, failed) = match device.launch(&module, "k", &launch, &params) {
            Ok(report) => (report, false),
            Err(report) => (*report, true),
        };
        let mut done =
            Done { a: vec![0; self.a.len()], b: vec![0; self.b_bytes as usize], report, failed };
        device.read(a, &mut done.a).unwrap();
        device.read(b, &mut done.b).unwrap();
        done
    }

    /// Runs over all schedules and completion modes: clean, with the same bits.
    pub(crate) fn clean(&self, text: &str) -> Done {
        let mut first: Option<Done> = None;
        for options in Options::matrix() {
            let done = self.run(text, options);
            assert!(done.report.diags.is_empty(), "{options:?}\n{}\n{text}", done.report);
            match &first {
                None => first = Some(done),
                Some(first) => {
                    assert!(
                        done.b == first.b && done.a == first.a,
                        "{options:?}: other bits\n{text}"
                    );
                }
            }
        }
        first.unwrap()
    }

    /// Runs over all schedules and completion modes: each reports exactly these codes.
    pub(crate) fn reports(&self, codes: &[&str], text: &str) {
        for options in Options::matrix() {
            let done = self.run(text, options);
            assert_eq!(done.codes(), codes, "{options:?}\n{}\n{text}", done.report);
        }
    }

    /// Runs over all schedules and completion modes: each reports this code, perhaps among others.
    pub(crate) fn notices(&self, code: &str, text: &str) {
        for options in Options::matrix() {
            let done = self.run(text, options);
            assert!(done.codes().contains(&code), "{options:?} {:?}\n{text}", done.codes());
        }
    }
}

/// A sequence of pseudo-random words (SplitMix64).
pub(crate) struct Words(pub(crate) u64);

impl Words {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }
}
