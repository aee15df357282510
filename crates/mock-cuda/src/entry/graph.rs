//! Graphs, as far as a capture of one stream makes them: its work in its order.

use crate::abi::{code, entries, out};
use crate::state::{State, ask, with};
use std::ffi::c_uint;

entries! {
    fn cuStreamBeginCapture_v2(stream: u64, _mode: c_uint) {
        with(|s| {
            // The legacy default stream cannot be captured.
            if stream <= 1 {
                return Err(code::STREAM_CAPTURE_UNSUPPORTED);
            }
            let stream = s.stream(stream)?;
            let found = s.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
            if found.capture.is_some() {
                return Err(code::ILLEGAL_STATE);
            }
            found.capture = Some(Vec::new());
            Ok(())
        })
    }

    fn cuStreamEndCapture(stream: u64, graph: *mut u64) {
        let handle = ask(|s| {
            let stream = s.stream(stream)?;
            let found = s.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
            let work = found.capture.take().ok_or(code::ILLEGAL_STATE)?;
            let handle = s.handle();
            s.graphs.insert(handle, work);
            Ok(handle)
        })?;
        out(graph, handle)
    }

    fn cuGraphInstantiateWithFlags(executable: *mut u64, graph: u64, _flags: u64) {
        let handle = ask(|s| {
            let work = s.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?.clone();
            let handle = s.handle();
            s.graphs.insert(handle, work);
            Ok(handle)
        })?;
        out(executable, handle)
    }

    fn cuGraphUpload(executable: u64, stream: u64) {
        with(|s| {
            s.stream(stream)?;
            s.graphs.get(&executable).map(|_| ()).ok_or(code::INVALID_HANDLE)
        })
    }

    fn cuGraphLaunch(executable: u64, stream: u64) {
        with(|s| {
            let stream = s.stream(stream)?;
            for work in s.graphs.get(&executable).ok_or(code::INVALID_HANDLE)?.clone() {
                s.submit(stream, vec![], work)?;
            }
            Ok(())
        })
    }

    fn cuGraphDestroy(graph: u64) {
        with(|s| s.forget_graph(graph))
    }

    fn cuGraphExecDestroy(executable: u64) {
        with(|s| s.forget_graph(executable))
    }
}

impl State {
    fn forget_graph(&mut self, graph: u64) -> Result<(), u32> {
        self.graphs.remove(&graph).map(|_| ()).ok_or(code::INVALID_HANDLE)
    }
}
