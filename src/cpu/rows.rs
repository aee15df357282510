//! A result whose rows are written by many threads.

// The one place of this backend that needs it beside the choice of instructions.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// A slice of which each thread writes rows of its own.
pub(crate) struct SharedRows<'a, T> {
    first: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` that is written from several threads, at places that do not overlap
// (the promise of `row`'s caller).
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        SharedRows { first: all.as_mut_ptr(), len: all.len(), life: PhantomData }
    }

    /// The elements from `at` on.
    ///
    /// # Safety
    ///
    /// No other thread has any of them.
    ///
    /// # Panics
    ///
    /// If they are not inside.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "row {at}+{len} of {}", self.len);
        // SAFETY: inside, as was just checked; nobody else has it, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), len) }
    }
}
