//! Which instructions a kernel is compiled for.

use crate::{Declined, Error};

/// A set of instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every processor of the target has; on AArch64 that includes NEON with its multiply-add.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-512: F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Those that this processor has, the best last.
    pub fn all() -> Vec<Isa> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            all.push(Isa::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Isa::Avx512);
            }
        }
        all
    }

    /// The one that `LONGHAND_CPU` names, else the best that this processor has.
    pub fn choose() -> Result<Isa, Error> {
        let all = Isa::all();
        let best = all.last().copied().unwrap_or(Isa::Portable);
        let named = match std::env::var("LONGHAND_CPU") {
            Err(_) => return Ok(best),
            Ok(name) => name,
        };
        let known =
            [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().find(|isa| isa.name() == named);
        match known {
            None => Err(Error::invalid("LONGHAND_CPU", named, "must be portable, avx2 or avx512")),
            Some(isa) if all.contains(&isa) => Ok(isa),
            Some(isa) => Err(Declined::new(format!("this processor has no {}", isa.name())).into()),
        }
    }

    /// Itself.
    ///
    /// # Errors
    ///
    /// If this processor does not have it.
    pub(crate) fn available(self) -> Result<Isa, Error> {
        match Isa::all().contains(&self) {
            true => Ok(self),
            false => Err(Error::invalid("isa", self.name(), "this processor does not have it")),
        }
    }

    /// As `LONGHAND_CPU` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

/// Whether additions have units of their own beside those of multiply-adds, so that a loop of as many
/// of both takes hardly longer than one of multiply-adds. So it is with AMD's from Zen on; Intel's
/// and Arm's units do either.
pub(crate) fn adds_beside() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // Later versions of Rust have it safe. SAFETY: every x86-64 has the instruction.
        #[allow(unsafe_code, unused_unsafe)]
        let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `$body::<FMA>($args)`, an `#[inline(always)]` function, compiled for `$isa`. `FMA`: a
/// multiply-add is one instruction (where it is not, it is a slow function call).
macro_rules! with_isa {
    ($isa:expr, $body:ident($($name:ident: $type:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($name: $type),*) {
            $body::<true>($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512($($name: $type),*) {
            $body::<true>($($name),*)
        }
        // A function of its own, too: only of its arguments does the compiler know that they do not
        // overlap, and without that it added some sums one by one.
        #[inline(never)]
        fn portable($($name: $type),*) {
            $body::<{ cfg!(target_arch = "aarch64") }>($($name),*)
        }
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::Isa::Avx2 => {
                // SAFETY: a plan has `Isa::Avx2` only where `Isa::all` has found these features.
                #[allow(unsafe_code)]
                let () = unsafe { avx2($($name),*) };
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::Isa::Avx512 => {
                // SAFETY: as above, of `Isa::Avx512`.
                #[allow(unsafe_code)]
                let () = unsafe { avx512($($name),*) };
            }
            _ => portable($($name),*),
        }
    }};
}
pub(crate) use with_isa;
