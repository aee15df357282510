//! The entry points, by what they are about.

mod context;
mod device;
mod event;
mod function;
mod graph;
mod launch;
mod memory;
mod module;
mod pool;
mod stream;

use crate::abi::Address;

/// Every exported name with its address.
pub(crate) fn tables() -> impl Iterator<Item = (&'static str, Address)> {
    let tables = [
        context::table(),
        device::table(),
        event::table(),
        function::table(),
        graph::table(),
        launch::table(),
        memory::table(),
        module::table(),
        pool::table(),
        stream::table(),
        crate::tensor_map::table(),
        crate::stubs::table(),
        crate::control::table(),
    ];
    tables.into_iter().flatten()
}
