//! See the library of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    longhand_cli::cli::main()
}
