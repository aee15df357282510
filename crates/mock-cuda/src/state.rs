//! Everything the stand-in knows, behind one lock; which context is current, by thread.

use crate::abi::code;
use crate::kernels::{Function, Module};
use crate::memory::Allocation;
use crate::queue::{Stream, Work};
use crate::settings::Settings;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) initialised: bool,
    /// Made with the first context, remade when the last is gone.
    pub(crate) simulator: Option<ptx_sim::Device>,
    pub(crate) contexts: BTreeMap<u64, Context>,
    pub(crate) primary: Option<Primary>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) modules: BTreeMap<u64, Module>,
    pub(crate) functions: BTreeMap<u64, Function>,
    /// Captured work, of graphs and of what was instantiated from them.
    pub(crate) graphs: BTreeMap<u64, Vec<Work>>,
    pub(crate) memory: BTreeMap<u64, Allocation>,
    /// Page-locked host memory: address and bytes.
    pub(crate) pinned: BTreeMap<u64, usize>,
    /// Modelled nanoseconds of everything that ran.
    pub(crate) clock: f64,
    pub(crate) random: u64,
    /// What the simulator reported since the last reset.
    pub(crate) reports: Vec<String>,
    /// The counters of every launch since the last reset, by kernel.
    pub(crate) counters: Vec<(String, serde_json::Value)>,
    /// Functions that were called and are not here, attributes that were asked for and unknown.
    pub(crate) missing: BTreeSet<String>,
    /// Modules loaded since the last reset.
    pub(crate) loaded: u64,
    next: u64,
}

pub(crate) struct Primary {
    pub(crate) context: u64,
    pub(crate) retained: u32,
}

pub(crate) struct Context {
    /// The stream that null means.
    pub(crate) legacy: u64,
    /// The stream that 2 means.
    pub(crate) per_thread: u64,
    /// The code of a fault; every later call returns it.
    pub(crate) failed: Option<u32>,
}

pub(crate) struct Event {
    pub(crate) context: u64,
    pub(crate) timed: bool,
    /// The stream and the place in it of the latest record.
    pub(crate) recorded: Option<(u64, u64)>,
    /// The modelled time at which the latest record ran.
    pub(crate) time: Option<f64>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

thread_local! {
    /// The contexts of this thread; the last is current.
    pub(crate) static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on the state.
pub(crate) fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    // A panic in an entry point has been reported; what it left is still the best there is.
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    f(state.get_or_insert_with(State::new))
}

/// The same where `f` may fail with a result code.
pub(crate) fn ask<T>(f: impl FnOnce(&mut State) -> Result<T, u32>) -> Result<T, u32> {
    with(f)
}

impl State {
    fn new() -> Self {
        let settings = Settings::from_environment();
        State {
            random: settings.seed,
            settings,
            initialised: false,
            simulator: None,
            contexts: BTreeMap::new(),
            primary: None,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            graphs: BTreeMap::new(),
            memory: BTreeMap::new(),
            pinned: BTreeMap::new(),
            clock: 0.0,
            reports: Vec::new(),
            counters: Vec::new(),
            missing: BTreeSet::new(),
            loaded: 0,
            next: 0,
        }
    }

    /// A handle that was never given out. It is no address, so that whoever follows it faults.
    pub(crate) fn handle(&mut self) -> u64 {
        self.next += 1;
        0xcd00_0000_0000_0000 | self.next << 4
    }

    /// The current context, whatever its health.
    pub(crate) fn current_even_failed(&self) -> Result<u64, u32> {
        if !self.initialised {
            return Err(code::NOT_INITIALIZED);
        }
        let current = CURRENT.with_borrow(|stack| stack.last().copied()).unwrap_or(0);
        match (current, self.contexts.contains_key(&current)) {
            (0, _) => Err(code::INVALID_CONTEXT),
            (_, false) => Err(code::CONTEXT_IS_DESTROYED),
            _ => Ok(current),
        }
    }

    /// The current context, or the code of the fault that made it useless.
    pub(crate) fn current(&self) -> Result<u64, u32> {
        let current = self.current_even_failed()?;
        match self.contexts[&current].failed {
            Some(code) => Err(code),
            None => Ok(current),
        }
    }

    pub(crate) fn simulator(&mut self) -> &mut ptx_sim::Device {
        let settings = &self.settings;
        self.simulator
            .get_or_insert_with(|| ptx_sim::Device::new(settings.profile(), settings.options()))
    }

    pub(crate) fn create_context(&mut self) -> u64 {
        let [context, legacy, per_thread] = [(); 3].map(|()| self.handle());
        self.contexts.insert(context, Context { legacy, per_thread, failed: None });
        self.streams.insert(legacy, Stream::new(context, true));
        self.streams.insert(per_thread, Stream::new(context, true));
        context
    }

    /// Ends a context with all that belongs to it. A fault ends here too.
    pub(crate) fn destroy_context(&mut self, context: u64) {
        self.drain(context);
        self.contexts.remove(&context);
        self.streams.retain(|_, s| s.context != context);
        self.events.retain(|_, e| e.context != context);
        self.modules.retain(|_, m| m.context != context);
        self.functions.retain(|_, f| f.context != context);
        let freed: Vec<u64> =
            self.memory.iter().filter(|(_, a)| a.context == context).map(|(at, _)| *at).collect();
        for address in freed {
            self.memory.remove(&address);
            // What the simulator says of memory that it gave out itself is of no use to a host.
            let _ = self.simulator().free(address);
        }
        if self.contexts.is_empty() {
            self.simulator = None;
        }
    }

    /// The next of a fixed sequence of numbers (splitmix64).
    pub(crate) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Keeps and prints what the simulator said.
    pub(crate) fn report(&mut self, text: String) {
        eprintln!("{text}");
        self.reports.push(text);
    }
}
