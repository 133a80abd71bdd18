//! The `gannet` binary; see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    gannet_cli::main()
}
