//! Streams: work that is queued, what it waits for, and running it.

use crate::abi::code;
use crate::kernels::Launching;
use crate::settings::Mode;
use crate::state::State;
use std::collections::VecDeque;

pub(crate) struct Stream {
    pub(crate) context: u64,
    /// Waits for the legacy default stream, and that for it.
    pub(crate) blocking: bool,
    pub(crate) queue: VecDeque<Item>,
    /// How many items were ever queued, and how many of them have run.
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    /// What a capture has collected so far.
    pub(crate) capture: Option<Vec<Work>>,
}

/// The `n`th item of a stream.
type Place = (u64, u64);

pub(crate) struct Item {
    /// What must have run before.
    after: Vec<Place>,
    work: Work,
}

#[derive(Clone)]
pub(crate) enum Work {
    /// Host bytes to device memory, copied when queued.
    Write {
        to: u64,
        data: Vec<u8>,
    },
    /// The same from page-locked memory, read when it runs.
    WritePinned {
        to: u64,
        from: usize,
        bytes: usize,
    },
    /// Device memory to the host.
    Read {
        to: usize,
        from: u64,
        bytes: usize,
    },
    /// A pattern of 1, 2 or 4 bytes, so many times.
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Launch(Box<Launching>),
    Record {
        event: u64,
    },
    Free {
        address: u64,
    },
    /// A host function with its argument.
    Call {
        function: unsafe extern "C" fn(*mut std::ffi::c_void),
        data: usize,
    },
    Nothing,
}

impl Stream {
    pub(crate) fn new(context: u64, blocking: bool) -> Self {
        Stream {
            context,
            blocking,
            queue: VecDeque::new(),
            submitted: 0,
            completed: 0,
            capture: None,
        }
    }
}

impl State {
    /// The stream that a caller's handle means, in a context without a fault.
    pub(crate) fn stream(&self, handle: u64) -> Result<u64, u32> {
        let handle = match handle {
            0..=2 => {
                let context = &self.contexts[&self.current()?];
                if handle == 2 { context.per_thread } else { context.legacy }
            }
            handle => handle,
        };
        let stream = self.streams.get(&handle).ok_or(code::INVALID_HANDLE)?;
        match self.contexts.get(&stream.context).map(|c| c.failed) {
            Some(None) => Ok(handle),
            Some(Some(code)) => Err(code),
            None => Err(code::CONTEXT_IS_DESTROYED),
        }
    }

    /// Queues `work` on a stream (as [`stream`](Self::stream) gave it) after its other work, and
    /// after `after`. Returns its place.
    pub(crate) fn submit(
        &mut self,
        stream: u64,
        after: Vec<Place>,
        work: Work,
    ) -> Result<u64, u32> {
        if let Some(captured) = self.streams.get_mut(&stream).and_then(|s| s.capture.as_mut()) {
            // One stream's work in its order is all that is played.
            if !after.is_empty() || matches!(work, Work::Record { .. } | Work::Free { .. }) {
                return Err(code::STREAM_CAPTURE_UNSUPPORTED);
            }
            captured.push(work);
            return Ok(0);
        }
        let mut after = after;
        let (context, blocking) = {
            let s = &self.streams[&stream];
            (s.context, s.blocking)
        };
        let legacy = self.contexts[&context].legacy;
        if stream == legacy {
            let others = self.streams.iter().filter(|(_, s)| s.context == context && s.blocking);
            after.extend(others.map(|(handle, s)| (*handle, s.submitted)));
            after.retain(|(handle, _)| *handle != stream);
        } else if blocking {
            after.push((legacy, self.streams[&legacy].submitted));
        }
        let queued = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        queued.queue.push_back(Item { after, work });
        queued.submitted += 1;
        let place = queued.submitted;
        if self.settings.mode == Mode::Immediate {
            self.run_until(stream, place);
            self.health(context)?;
        }
        Ok(place)
    }

    /// The code of the context's fault.
    pub(crate) fn health(&self, context: u64) -> Result<(), u32> {
        match self.contexts.get(&context).and_then(|c| c.failed) {
            Some(code) => Err(code),
            None => Ok(()),
        }
    }

    /// Runs until item `place` of `stream` has run, other streams' work among it.
    pub(crate) fn run_until(&mut self, stream: u64, place: u64) {
        while self.streams.get(&stream).is_some_and(|s| s.completed < place) {
            if !self.step(|_| true) {
                return;
            }
        }
    }

    /// Waits for everything on a stream.
    pub(crate) fn wait(&mut self, stream: u64) -> Result<(), u32> {
        self.not_capturing()?;
        let (context, last) = {
            let s = self.streams.get(&stream).ok_or(code::INVALID_HANDLE)?;
            (s.context, s.submitted)
        };
        self.run_until(stream, last);
        self.health(context)
    }

    /// That no stream is capturing: what waits or allocates must not be called then.
    pub(crate) fn not_capturing(&self) -> Result<(), u32> {
        match self.streams.values().any(|s| s.capture.is_some()) {
            true => Err(code::STREAM_CAPTURE_UNSUPPORTED),
            false => Ok(()),
        }
    }

    /// Waits for everything of a context.
    pub(crate) fn drain(&mut self, context: u64) {
        while self.step(|s| s.context == context) {}
    }

    /// Whether an item has run.
    pub(crate) fn has_run(&self, (stream, place): Place) -> bool {
        // A stream that is gone was drained before.
        self.streams.get(&stream).is_none_or(|s| s.completed >= place)
    }

    /// Runs the first item of one of the streams that `of` admits and whose first item waits for
    /// nothing; which one is drawn. `false` if there is none.
    fn step(&mut self, of: impl Fn(&Stream) -> bool) -> bool {
        let ready = |s: &Stream| {
            let first = s.queue.front();
            first.is_some_and(|item| item.after.iter().all(|place| self.has_run(*place)))
        };
        let found: Vec<u64> =
            self.streams.iter().filter(|(_, s)| ready(s)).map(|(handle, _)| *handle).collect();
        // Work of another context may be what this one's waits for.
        let mut wanted: Vec<u64> =
            found.iter().copied().filter(|handle| of(&self.streams[handle])).collect();
        if wanted.is_empty() && self.streams.values().any(|s| of(s) && !s.queue.is_empty()) {
            wanted = found;
        }
        if wanted.is_empty() {
            return false;
        }
        let n = self.draw() as usize % wanted.len();
        let handle = wanted[n];
        let Some(stream) = self.streams.get_mut(&handle) else { return false };
        let context = stream.context;
        let item = stream.queue.pop_front();
        if let (Some(item), Ok(())) = (item, self.health(context))
            && let Err(code) = self.perform(item.work)
            && let Some(context) = self.contexts.get_mut(&context)
        {
            context.failed = Some(code);
        }
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.completed += 1;
        }
        true
    }

    fn perform(&mut self, work: Work) -> Result<(), u32> {
        let address = |state: &mut State, result: Result<(), Box<ptx_sim::Diag>>| {
            result.map_err(|diag| {
                state.report(diag.to_string());
                code::ILLEGAL_ADDRESS
            })
        };
        match work {
            Work::Write { to, data } => {
                let written = self.simulator().write(to, &data);
                address(self, written)
            }
            Work::WritePinned { to, from, bytes } => {
                let mut data = vec![0; bytes];
                // SAFETY: page-locked memory of ours, which is not freed before its work is done.
                unsafe { std::ptr::copy(from as *const u8, data.as_mut_ptr(), bytes) };
                let written = self.simulator().write(to, &data);
                address(self, written)
            }
            Work::Read { to, from, bytes } => {
                let mut data = vec![0; bytes];
                let read = self.simulator().read(from, &mut data);
                // SAFETY: the caller keeps its memory until the copy is done.
                unsafe { std::ptr::copy(data.as_ptr(), to as *mut u8, bytes) };
                address(self, read)
            }
            Work::Fill { to, pattern, count } => {
                let filled = match pattern.as_slice() {
                    [byte] => self.simulator().fill(to, count as u64, *byte),
                    _ => self.simulator().write(to, &pattern.repeat(count)),
                };
                address(self, filled)
            }
            Work::Copy { to, from, bytes } => {
                let copied = self.simulator().copy(to, from, bytes as u64);
                address(self, copied)
            }
            Work::Launch(launching) => self.run_kernel(&launching),
            Work::Record { event } => {
                let clock = self.clock;
                if let Some(event) = self.events.get_mut(&event) {
                    event.time = Some(clock);
                }
                Ok(())
            }
            Work::Free { address } => self.release(address),
            Work::Call { function, data } => {
                // SAFETY: the caller's function and argument, as promised to cuLaunchHostFunc.
                unsafe { function(data as *mut std::ffi::c_void) };
                Ok(())
            }
            Work::Nothing => Ok(()),
        }
    }
}
