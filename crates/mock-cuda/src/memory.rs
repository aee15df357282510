//! Device memory, as a host sees it.

use crate::abi::code;
use crate::state::State;

pub(crate) struct Allocation {
    pub(crate) context: u64,
    pub(crate) bytes: u64,
}

impl State {
    /// `bytes` for the current context.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<u64, u32> {
        let context = self.current()?;
        self.not_capturing()?;
        if bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        let used: u64 = self.memory.values().map(|a| a.bytes).sum();
        if (bytes as u64).saturating_add(used) > self.settings.memory {
            return Err(code::OUT_OF_MEMORY);
        }
        let address = self.simulator().alloc(bytes as u64).map_err(|_| code::OUT_OF_MEMORY)?;
        self.memory.insert(address, Allocation { context, bytes: bytes as u64 });
        Ok(address)
    }

    /// Frees what begins at `address`.
    pub(crate) fn release(&mut self, address: u64) -> Result<(), u32> {
        self.memory.remove(&address).ok_or(code::INVALID_VALUE)?;
        self.simulator().free(address).map_err(|diag| {
            self.report(diag.to_string());
            code::INVALID_VALUE
        })
    }

    /// The allocation that holds `address`: where it begins, and its size.
    pub(crate) fn allocation(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (begin, allocation) = self.memory.range(..=address).next_back()?;
        (address < begin + allocation.bytes).then_some((*begin, allocation))
    }

    /// That `bytes` from `address` on lie in one allocation.
    pub(crate) fn check_range(&self, address: u64, bytes: u64) -> Result<(), u32> {
        let end = address.checked_add(bytes).ok_or(code::INVALID_VALUE)?;
        match self.allocation(address) {
            Some((begin, allocation)) if end <= begin + allocation.bytes => Ok(()),
            _ => Err(code::INVALID_VALUE),
        }
    }

    /// Whether a host range is page-locked.
    pub(crate) fn is_pinned(&self, address: u64, bytes: usize) -> bool {
        let found = self.pinned.range(..=address).next_back();
        found.is_some_and(|(begin, size)| address + bytes as u64 <= begin + *size as u64)
    }
}
