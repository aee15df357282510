//! What can go wrong, in words that name the file, the tensor or the option, and the rule.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is behind a mutex, whatever became of the thread that held it before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `read` gives, if it is asked for.
pub(crate) fn when<T>(asked: bool, read: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    asked.then(read).transpose()
}

/// What `f` makes of each, or the first error.
pub(crate) fn each<T, U, const N: usize>(
    of: [T; N],
    f: impl FnMut(T) -> Result<U>,
) -> Result<[U; N]> {
    let all = of.into_iter().map(f).collect::<Result<Vec<U>>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("as many as there were")))
}

/// An error, `field` holding `value` against `rule`, unless that `holds`.
pub(crate) fn ensure(
    holds: bool,
    field: impl Display,
    value: impl Display,
    rule: impl Display,
) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(field, value, rule)) }
}

/// An error unless that `holds`.
pub(crate) fn require(holds: bool, error: impl FnOnce() -> Error) -> Result<()> {
    if holds { Ok(()) } else { Err(error()) }
}

/// An error if something was `found` that must not be there.
pub(crate) fn reject<T>(found: Option<T>, error: impl FnOnce(T) -> Error) -> Result<()> {
    found.map_or(Ok(()), |found| Err(error(found)))
}

/// Every error of the crate, as one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder, a file, an option or an input that does not hold what it must.
    #[error("{0}")]
    Input(String),
    /// A sound request that this build or this device does not compute.
    #[error("declined: {0}")]
    Declined(String),
    /// From the attention kernels.
    #[error(transparent)]
    Kernel(#[from] longhand::Error),
}

impl Error {
    /// Bad input.
    pub fn input(message: impl Display) -> Self {
        Error::Input(message.to_string())
    }

    /// What this build or this device does not compute.
    pub fn declined(message: impl Display) -> Self {
        Error::Declined(message.to_string())
    }

    /// `field` holds `value`, against `rule`.
    pub fn invalid(field: impl Display, value: impl Display, rule: impl Display) -> Self {
        Error::Input(format!("{field} = {value}: {rule}"))
    }

    /// The tensor `name` has the sizes `got`, against `rule`.
    pub fn shape(name: impl Display, got: &[usize], rule: impl Display) -> Self {
        Error::invalid(format_args!("the shape of {name}"), format_args!("{got:?}"), rule)
    }

    /// The same, with the place (a file name) before it.
    pub fn at(self, place: impl Display) -> Self {
        match self {
            Error::Input(message) => Error::Input(format!("{place}: {message}")),
            other => other,
        }
    }
}
