//! A caller's buffers, and the checks that keep wgpu from rejecting a whole encoder.

use super::{Caps, Context};
use crate::Error;

/// A tensor in a buffer of the caller's: where it begins, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The buffer, with usage `STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Byte at which the tensor begins.
    pub offset: u64,
}

impl<'a> From<&'a wgpu::Buffer> for Binding<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Binding { buffer, offset: 0 }
    }
}

impl<'a> Binding<'a> {
    /// A tensor that begins at byte `offset`.
    pub fn new(buffer: &'a wgpu::Buffer, offset: u64) -> Self {
        Binding { buffer, offset }
    }
}

/// Read or written by the kernels of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Read,
    Write,
    /// Written by one kernel and read by another.
    Both,
}

/// A binding known to hold what the kernel touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked<'a> {
    pub(crate) name: &'static str,
    pub(crate) buffer: &'a wgpu::Buffer,
    pub(crate) offset: u64,
    /// Bytes the kernel may touch, a multiple of 4.
    pub(crate) bytes: u64,
    pub(crate) usage: Usage,
}

impl<'a> Checked<'a> {
    /// Checks that `binding` holds `elements` of `element_bytes` each.
    pub(crate) fn new(
        name: &'static str,
        binding: Option<Binding<'a>>,
        elements: usize,
        element_bytes: usize,
        usage: Usage,
    ) -> Result<Self, Error> {
        let binding = binding
            .ok_or_else(|| Error::invalid(name, "absent", "the problem says that it is given"))?;
        if !binding.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::invalid(
                format!("{name}.buffer.usage"),
                format!("{:?}", binding.buffer.usage()),
                "must contain STORAGE",
            ));
        }
        if !binding.offset.is_multiple_of(element_bytes as u64) {
            let rule = format!("must be a multiple of the element's {element_bytes} bytes");
            return Err(Error::invalid(format!("{name}.offset"), binding.offset, rule));
        }
        // Kernels read whole words; so the last word must be there too.
        let start = binding.offset / 4 * 4;
        let end = (elements as u64)
            .checked_mul(element_bytes as u64)
            .and_then(|n| n.checked_add(binding.offset))
            .and_then(|n| n.checked_next_multiple_of(4));
        let size = binding.buffer.size();
        match end {
            Some(end) if end <= size => Ok(Checked {
                name,
                buffer: binding.buffer,
                offset: binding.offset,
                bytes: end - start,
                usage,
            }),
            _ => {
                let rule = format!(
                    "{elements} elements of {element_bytes} bytes from offset {} need {} bytes (a multiple of 4)",
                    binding.offset,
                    end.map_or("too many".into(), |e| e.to_string()),
                );
                Err(Error::invalid(format!("{name}.buffer.size"), size, rule))
            }
        }
    }

    /// The workspace: it begins where a part of it may be bound.
    pub(crate) fn workspace(
        binding: Option<Binding<'a>>,
        bytes: u64,
        caps: &Caps,
    ) -> Result<Self, Error> {
        let words = (bytes / 4) as usize;
        let workspace = Checked::new("workspace", binding, words, 4, Usage::Both)?;
        let alignment = u64::from(caps.offset_alignment);
        if !workspace.offset.is_multiple_of(alignment) {
            let rule = format!("must be a multiple of the device's {alignment} bytes");
            return Err(Error::invalid("workspace.offset", workspace.offset, rule));
        }
        Ok(workspace)
    }

    /// The part from element `first` on, `elements` long: a range to bind whose offset suits the
    /// device, and the element of it at which the part begins.
    pub(crate) fn part(
        &self,
        context: &Context,
        first: u64,
        elements: u64,
        element_bytes: u64,
    ) -> (wgpu::BufferBinding<'a>, u32) {
        let alignment = u64::from(context.caps().offset_alignment);
        let start = self.offset + first * element_bytes;
        let aligned = start / alignment * alignment;
        let end = (start + elements.max(1) * element_bytes)
            .next_multiple_of(16)
            .min(self.buffer.size() / 4 * 4);
        let range = wgpu::BufferBinding {
            buffer: self.buffer,
            offset: aligned,
            size: std::num::NonZeroU64::new(end - aligned),
        };
        (range, ((start - aligned) / element_bytes) as u32)
    }
}

/// Rejects a written tensor that shares bytes with another tensor, or a buffer with one that is
/// read: the API forbids binding one buffer both ways. What is both read and written shares with none.
pub(crate) fn check_aliasing(all: &[Checked<'_>]) -> Result<(), Error> {
    for (n, a) in all.iter().enumerate() {
        for b in &all[n + 1..] {
            let both_read = a.usage == Usage::Read && b.usage == Usage::Read;
            if both_read || a.buffer != b.buffer {
                continue;
            }
            if a.usage != b.usage || a.usage == Usage::Both {
                let (written, other) = if b.usage == Usage::Read { (a, b) } else { (b, a) };
                let value = format!("the buffer of {}", other.name);
                let rule = "a buffer cannot be read and written in one dispatch: use another";
                return Err(Error::invalid(format!("{}.buffer", written.name), value, rule));
            }
            if a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes {
                let value = format!("{} to {}", b.offset, b.offset + b.bytes);
                return Err(Error::invalid(
                    b.name,
                    value,
                    format!("overlaps {} in the same buffer", a.name),
                ));
            }
        }
    }
    Ok(())
}
