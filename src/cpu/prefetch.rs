//! Telling the caches what is needed soon.

/// Asks for the cache lines of `x`, which will be read soon. Rows that are gathered are found by no
/// prefetcher of the processor's, and each may be in a page of its own. Into the first cache: a Zen 4
/// that is asked for them in the second does nothing to be seen.
#[inline(always)]
pub(crate) fn prefetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(x)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing; the address is inside of `x` besides.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().cast::<i8>().add(at));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}
