//! Global memory and the public face of the simulator.

use crate::options::{Options, Profile};
use crate::shadow::Shadow;
use crate::{Diag, Module, Report};

/// Where device addresses begin: no host address and no shared-memory address looks like one.
pub(crate) const GLOBAL_BASE: u64 = 0x7f00_0000_0000;
/// Unused bytes after every allocation, at least; as many as it has if those are more, so that what
/// runs over one tensor does not land in the next.
const RED_ZONE: u64 = 1 << 16;
const ALIGNMENT: u64 = 256;

/// Bytes of memory, and which of them were ever written.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    pub(crate) data: Vec<u8>,
    defined: Vec<u64>,
}

impl Bytes {
    /// Poisoned: 0xFF, and undefined.
    pub(crate) fn poisoned(len: usize) -> Self {
        Bytes { data: vec![0xff; len], defined: vec![0; len.div_ceil(64)] }
    }

    pub(crate) fn define(&mut self, at: usize, len: usize, defined: bool) {
        let mut byte = at;
        while byte < at + len {
            let bit = byte % 64;
            let n = (64 - bit).min(at + len - byte);
            let mask = if n == 64 { u64::MAX } else { ((1 << n) - 1) << bit };
            match defined {
                true => self.defined[byte / 64] |= mask,
                false => self.defined[byte / 64] &= !mask,
            }
            byte += n;
        }
    }

    pub(crate) fn is_defined(&self, at: usize, len: usize) -> bool {
        let bit = at % 64;
        if bit + len <= 64 {
            let mask = if len == 64 { u64::MAX } else { ((1 << len) - 1) << bit };
            return self.defined[at / 64] & mask == mask;
        }
        (at..at + len).all(|byte| self.defined[byte / 64] >> (byte % 64) & 1 == 1)
    }

    /// Writes bytes that are defined.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.define(at, bytes.len(), true);
    }

    pub(crate) fn poison(&mut self, at: usize, len: usize) {
        self.data[at..at + len].fill(0xff);
        self.define(at, len, false);
    }

    pub(crate) fn word(&self, at: usize, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.data[at..at + bytes]);
        u64::from_le_bytes(word)
    }
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) freed: bool,
    pub(crate) read_only: bool,
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    /// Accesses of the launch that runs.
    pub(crate) shadow: Shadow,
}

/// Why an address cannot be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    OutOfBounds,
    Freed,
}

/// All allocations, in the order of their addresses.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) allocations: Vec<Allocation>,
    next: u64,
    last: usize,
}

impl Global {
    fn allocate(&mut self, len: u64) -> u64 {
        let base = GLOBAL_BASE + self.next;
        self.next +=
            len.next_multiple_of(ALIGNMENT) + len.next_multiple_of(ALIGNMENT).max(RED_ZONE);
        self.allocations.push(Allocation {
            base,
            len,
            freed: false,
            read_only: false,
            name: String::new(),
            bytes: Bytes::poisoned(len as usize),
            shadow: Shadow::new((len as usize).div_ceil(4)),
        });
        base
    }

    /// Allocation and offset of `len` bytes at `address`.
    pub(crate) fn find(&mut self, address: u64, len: u64) -> Result<(usize, usize), Fault> {
        let inside = |a: &Allocation| {
            address >= a.base && address.checked_add(len).is_some_and(|end| end <= a.base + a.len)
        };
        if let Some(a) = self.allocations.get(self.last)
            && inside(a)
            && !a.freed
        {
            return Ok((self.last, (address - a.base) as usize));
        }
        let at = self.allocations.partition_point(|a| a.base <= address);
        let Some(index) = at.checked_sub(1) else { return Err(Fault::OutOfBounds) };
        let a = &self.allocations[index];
        if !inside(a) {
            return Err(Fault::OutOfBounds);
        }
        if a.freed {
            return Err(Fault::Freed);
        }
        self.last = index;
        Ok((index, (address - a.base) as usize))
    }

    /// The nearest allocation, in words, for reports.
    pub(crate) fn describe(&self, address: u64) -> String {
        let at = self.allocations.partition_point(|a| a.base <= address);
        let Some(a) = at.checked_sub(1).map(|i| &self.allocations[i]) else {
            return format!("address {address:#x} is below every allocation");
        };
        let name = if a.name.is_empty() { "an allocation".to_owned() } else { a.name.clone() };
        let offset = address - a.base;
        let state = if a.freed { ", which was freed" } else { "" };
        format!("address {address:#x} is byte {offset} of {name} of {} bytes{state}", a.len)
    }
}

/// A launch's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; [1, 1, 1] without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory, in bytes.
    pub dynamic_smem: u32,
    /// Most shared memory that the function's attributes allow: 49152 unless raised.
    pub smem_limit: u32,
}

impl Launch {
    /// A launch without clusters, with the device's largest shared memory allowed.
    pub fn new(grid: [u32; 3], block: [u32; 3], dynamic_smem: u32) -> Self {
        Launch { grid, block, cluster: [1, 1, 1], dynamic_smem, smem_limit: u32::MAX }
    }
}

/// A device: memory and what it plays.
#[derive(Debug)]
pub struct Device {
    /// What it plays.
    pub profile: Profile,
    /// How it runs.
    pub options: Options,
    pub(crate) global: Global,
    pub(crate) launches: u64,
}

impl Device {
    /// A device without allocations.
    pub fn new(profile: Profile, options: Options) -> Self {
        Device { profile, options, global: Global::default(), launches: 0 }
    }

    /// Changes how it runs.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// An allocation aligned to 256 bytes, poisoned and undefined.
    ///
    /// # Errors
    ///
    /// `HOST-ALLOC` for 0 bytes or more than 2^40.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Box<Diag>> {
        if bytes == 0 || bytes > 1 << 40 {
            let message = format!("an allocation of {bytes} bytes; allowed are 1 to 2^40");
            return Err(Box::new(Diag::new("HOST-ALLOC", "host", message)));
        }
        Ok(self.global.allocate(bytes))
    }

    /// Frees an allocation; its addresses are never used again.
    ///
    /// # Errors
    ///
    /// `HOST-FREE` if `address` is not the beginning of a live allocation.
    pub fn free(&mut self, address: u64) -> Result<(), Box<Diag>> {
        match self.global.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(i) if !self.global.allocations[i].freed => {
                let a = &mut self.global.allocations[i];
                a.freed = true;
                a.bytes = Bytes::default();
                a.shadow = Shadow::default();
                Ok(())
            }
            _ => {
                let message = format!("{address:#x} is not the beginning of a live allocation");
                Err(Box::new(Diag::new("HOST-FREE", "host", message)))
            }
        }
    }

    fn find(&mut self, address: u64, len: u64) -> Result<(usize, usize), Box<Diag>> {
        self.global.find(address, len).map_err(|fault| {
            let code = match fault {
                Fault::OutOfBounds => "MEM-OOB-GLOBAL",
                Fault::Freed => "MEM-FREED",
            };
            let message = format!("a host copy of {len} bytes: {}", self.global.describe(address));
            Box::new(Diag::new(code, "host", message))
        })
    }

    /// Copies to the device.
    ///
    /// # Errors
    ///
    /// `MEM-OOB-GLOBAL`, `MEM-FREED`.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Box<Diag>> {
        let (a, at) = self.find(address, bytes.len() as u64)?;
        self.global.allocations[a].bytes.write(at, bytes);
        Ok(())
    }

    /// Copies from the device.
    ///
    /// # Errors
    ///
    /// `MEM-OOB-GLOBAL`, `MEM-FREED`.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Box<Diag>> {
        let (a, at) = self.find(address, bytes.len() as u64)?;
        bytes.copy_from_slice(&self.global.allocations[a].bytes.data[at..at + bytes.len()]);
        Ok(())
    }

    /// Sets bytes.
    ///
    /// # Errors
    ///
    /// `MEM-OOB-GLOBAL`, `MEM-FREED`.
    pub fn fill(&mut self, address: u64, len: u64, value: u8) -> Result<(), Box<Diag>> {
        let (a, at) = self.find(address, len)?;
        let bytes = &mut self.global.allocations[a].bytes;
        bytes.data[at..at + len as usize].fill(value);
        bytes.define(at, len as usize, true);
        Ok(())
    }

    /// Copies within the device, undefined bytes included.
    ///
    /// # Errors
    ///
    /// `MEM-OOB-GLOBAL`, `MEM-FREED`.
    pub fn copy(&mut self, to: u64, from: u64, len: u64) -> Result<(), Box<Diag>> {
        let (a, at) = self.find(from, len)?;
        let (b, to) = self.find(to, len)?;
        let source = &self.global.allocations[a].bytes;
        let data = source.data[at..at + len as usize].to_vec();
        let defined: Vec<bool> = (at..at + len as usize).map(|i| source.is_defined(i, 1)).collect();
        let bytes = &mut self.global.allocations[b].bytes;
        bytes.data[to..to + len as usize].copy_from_slice(&data);
        for (i, d) in defined.into_iter().enumerate() {
            bytes.define(to + i, 1, d);
        }
        Ok(())
    }

    /// Names the allocation that `address` lies in, for reports, and says whether kernels may write
    /// it (`MEM-READONLY`).
    pub fn tag(&mut self, address: u64, read_only: bool, name: &str) {
        if let Ok((a, _)) = self.global.find(address, 1) {
            let a = &mut self.global.allocations[a];
            a.read_only = read_only;
            a.name = name.to_owned();
        }
    }

    /// Whether `len` bytes at `address` lie in one live allocation.
    pub fn is_valid(&mut self, address: u64, len: u64) -> bool {
        self.global.find(address, len).is_ok()
    }

    /// Runs a kernel to its end. `params` are the parameters' bytes as the text lays them out.
    ///
    /// # Errors
    ///
    /// The report, if any of its diagnostics is an error.
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        launch: &Launch,
        params: &[u8],
    ) -> Result<Report, Box<Report>> {
        crate::machine::run(self, module, entry, launch, params)
    }
}
