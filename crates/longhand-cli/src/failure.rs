//! Why a command stopped.

/// A reason to stop, as one line for stderr. Either way the program's exit code is 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Bad input or usage: a file, a value, an option.
    Input(String),
    /// A sound request that this build or this device does not compute.
    Declined(String),
}

/// Everything that reads or computes.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Bad input.
    pub fn input(message: impl Into<String>) -> Self {
        Failure::Input(message.into())
    }

    /// A refusal.
    pub fn declined(reason: impl Into<String>) -> Self {
        Failure::Declined(reason.into())
    }

    /// The same, with the place (a file name) before it.
    pub fn at(self, place: &str) -> Self {
        match self {
            Failure::Input(m) => Failure::Input(format!("{place}: {m}")),
            Failure::Declined(m) => Failure::Declined(format!("{place}: {m}")),
        }
    }

    /// The line without the word "declined".
    pub fn reason(&self) -> &str {
        match self {
            Failure::Input(m) | Failure::Declined(m) => m,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A file name or a tensor name may hold anything; the message stays one line.
        let line: String = self
            .reason()
            .chars()
            .flat_map(|c| {
                let escaped = c.is_control().then(|| c.escape_default().to_string());
                escaped.unwrap_or_else(|| c.to_string()).chars().collect::<Vec<_>>()
            })
            .collect();
        match self {
            Failure::Input(_) => f.write_str(&line),
            Failure::Declined(_) => write!(f, "declined: {line}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<longhand::Error> for Failure {
    fn from(e: longhand::Error) -> Self {
        match e {
            longhand::Error::Declined(d) => Failure::Declined(d.reason),
            other => Failure::Input(other.to_string()),
        }
    }
}

impl From<longhand_models::Error> for Failure {
    fn from(e: longhand_models::Error) -> Self {
        match e {
            longhand_models::Error::Kernel(e) => e.into(),
            longhand_models::Error::Declined(reason) => Failure::Declined(reason),
            other => Failure::Input(other.to_string()),
        }
    }
}
