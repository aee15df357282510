//! One file per command.

pub(crate) mod all;
pub(crate) mod bench;
mod book;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod model;
pub(crate) mod run;
pub(crate) mod sources;
mod text;

/// A bar on stderr for long work; it draws itself only on a terminal.
fn progress(steps: usize) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(steps as u64);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}
