//! The stand-in for the CUDA driver (`crates/mock-cuda`), opened before anything asks for a driver,
//! so that the CUDA backend runs on a machine without a GPU. `LONGHAND_TEST_DEVICE=gpu` leaves it
//! out: the same tests then run on the driver and the GPU of the machine.
#![allow(unsafe_code, dead_code, unreachable_pub, missing_docs)]

use libloading::Library;
use std::ffi::{CString, c_char, c_uint};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The stand-in, for one test at a time: its state is the process's.
pub struct Mock {
    library: &'static Library,
    _turn: MutexGuard<'static, ()>,
}

/// Whether the tests are for the machine's own driver.
pub fn on_gpu() -> bool {
    std::env::var("LONGHAND_TEST_DEVICE").is_ok_and(|device| device == "gpu")
}

/// Opens the stand-in once for the process; `None` if the tests are for the machine's own driver.
/// Settings are as the environment says, whatever a test before has set.
///
/// # Panics
///
/// If its file is not beside the test's program, where cargo puts it.
pub fn install() -> Option<Mock> {
    static TURN: Mutex<()> = Mutex::new(());
    if on_gpu() {
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mock = Mock { library: open(), _turn: turn };
    mock.call("lh_sim_reset");
    Some(mock)
}

fn open() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let beside = || {
            let program = std::env::current_exe().expect("this program has a path");
            let folder = program.parent().expect("it is in a folder").to_owned();
            folder.join(libloading::library_filename("longhand_mock_cuda"))
        };
        let path = std::env::var_os("LONGHAND_MOCK_CUDA").map_or_else(beside, PathBuf::from);
        // SAFETY: the library's initialisers do nothing. It is never closed.
        let opened = unsafe { Library::new(&path) };
        opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    })
}

type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> u32;
type Text = unsafe extern "C" fn(*mut u8, usize, *mut usize) -> u32;
type Counters = unsafe extern "C" fn(*const c_char, c_uint, *mut u8, usize, *mut usize) -> u32;
type Tag = unsafe extern "C" fn(u64, usize, c_uint, *const c_char) -> u32;

impl Mock {
    fn call(&self, name: &str) {
        // SAFETY: the type is that of the function in the stand-in.
        let function = unsafe { self.library.get::<unsafe extern "C" fn() -> u32>(name) };
        // SAFETY: it takes nothing.
        assert_eq!(unsafe { function.expect("exported")() }, 0, "{name}");
    }

    /// Sets an option of the stand-in or the simulator.
    pub fn set(&self, key: &str, value: &str) {
        let text = |text: &str| CString::new(text).expect("no zero byte");
        let (k, v) = (text(key), text(value));
        // SAFETY: the type is that of the function in the stand-in.
        let set = unsafe { self.library.get::<Set>("lh_sim_set") }.expect("exported");
        // SAFETY: two strings that end in a zero byte.
        assert_eq!(unsafe { set(k.as_ptr(), v.as_ptr()) }, 0, "{key}={value}");
    }

    /// Reports, counters and settings are again as at the beginning.
    pub fn reset(&self) {
        self.call("lh_sim_reset");
    }

    /// What the simulator reported in this test so far.
    pub fn report(&self) -> String {
        self.text("lh_sim_report")
    }

    /// Functions that were called and are not supported.
    pub fn missing(&self) -> String {
        self.text("lh_sim_missing")
    }

    /// How many modules, streams, events and allocations there are.
    pub fn live(&self) -> String {
        let text = self.text("lh_sim_live");
        text.split(';').next().unwrap_or_default().to_owned()
    }

    /// How many modules were loaded in this test.
    pub fn loaded(&self) -> usize {
        let text = self.text("lh_sim_live");
        text.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    }

    fn text(&self, name: &str) -> String {
        // SAFETY: the type is that of the function in the stand-in.
        let get = unsafe { self.library.get::<Text>(name) }.expect("exported");
        // SAFETY: `fill` gives a buffer and its length.
        fill(|buffer, length, whole| unsafe { get(buffer, length, whole) }).expect("always there")
    }

    /// The counters of the `launch`th launch of `kernel` in this test, as JSON.
    pub fn counters(&self, kernel: &str, launch: u32) -> Option<String> {
        let kernel = CString::new(kernel).expect("no zero byte");
        // SAFETY: the type is that of the function in the stand-in.
        let get = unsafe { self.library.get::<Counters>("lh_sim_counters") }.expect("exported");
        fill(|buffer, length, whole| {
            // SAFETY: a string that ends in a zero byte; `fill` gives a buffer and its length.
            unsafe { get(kernel.as_ptr(), launch, buffer, length, whole) }
        })
    }

    /// Names memory in reports; kernels must not write what is `read_only`.
    pub fn tag(&self, pointer: u64, read_only: bool, name: &str) {
        let name = CString::new(name).expect("no zero byte");
        // SAFETY: the type is that of the function in the stand-in.
        let tag = unsafe { self.library.get::<Tag>("lh_sim_tag") }.expect("exported");
        // SAFETY: a string that ends in a zero byte.
        let code = unsafe { tag(pointer, 0, c_uint::from(read_only), name.as_ptr()) };
        assert_eq!(code, 0, "0x{pointer:x} is no allocation");
    }
}

/// A text whose length is not known before.
fn fill(get: impl Fn(*mut u8, usize, *mut usize) -> u32) -> Option<String> {
    let mut whole = 0;
    if get(std::ptr::null_mut(), 0, &mut whole) != 0 {
        return None;
    }
    let mut buffer = vec![0; whole + 1];
    assert_eq!(get(buffer.as_mut_ptr(), buffer.len(), &mut whole), 0);
    buffer.truncate(whole);
    Some(String::from_utf8(buffer).expect("UTF-8"))
}
