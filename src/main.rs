//! The `ratchetfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ratchetfs::main()
}
