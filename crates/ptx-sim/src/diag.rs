//! What the simulator reports: a code, a place, and the other party where there is one.

use serde::Serialize;
use std::fmt;

/// How grave a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A broken rule: the launch fails.
    Error,
    /// Legal, but fragile or against common practice.
    Lint,
}

/// Who did something, where and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Line in the PTX text, from 1; 0 if unknown.
    pub line: u32,
    /// Where that line came from, if a `//@ file:line` comment or `.loc` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The instruction as written.
    pub text: String,
    /// Thread block.
    pub cta: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp; none if the whole warp took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<u32>,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diag {
    /// Stable name of the rule, for instance `RACE-SHARED`.
    pub code: &'static str,
    /// Error or lint.
    pub severity: Severity,
    /// What happened, in a sentence.
    pub message: String,
    /// Kernel, or file of the PTX text.
    pub kernel: String,
    /// Column in the PTX text, for errors in the text itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Where it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// The other party of a conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<Site>,
    /// Further facts, one per line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How often it was seen.
    pub count: u64,
}

impl Diag {
    /// A report about a launch or a text as a whole.
    pub(crate) fn new(code: &'static str, kernel: &str, message: impl Into<String>) -> Self {
        Diag {
            code,
            severity: Severity::Error,
            message: message.into(),
            kernel: kernel.to_owned(),
            column: None,
            site: None,
            other: None,
            notes: Vec::new(),
            count: 1,
        }
    }

    /// A report about a place in a PTX text.
    pub(crate) fn text(
        code: &'static str,
        file: &str,
        (line, column): (u32, u32),
        message: impl Into<String>,
    ) -> Box<Self> {
        let site = Site { line, ..Site::default() };
        Box::new(Diag { column: Some(column), site: Some(site), ..Diag::new(code, file, message) })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "ptx line {}", self.line)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ", cta ({x},{y},{z}), warp {}", self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, " lane {lane}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Lint => "lint",
        };
        match (&self.site, self.column) {
            (Some(site), Some(column)) => {
                return write!(
                    f,
                    "{severity}[{}] {}:{}:{column}: {}",
                    self.code, self.kernel, site.line, self.message
                );
            }
            _ => write!(f, "{severity}[{}] {}: {}", self.code, self.kernel, self.message)?,
        }
        if let Some(site) = &self.site {
            write!(f, "\n  at {site}")?;
        }
        if let Some(other) = &self.other {
            write!(f, "\n  against {other}")?;
        }
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        if self.count > 1 {
            write!(f, "\n  seen {} times", self.count)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diag {}
