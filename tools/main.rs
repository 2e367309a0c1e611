//! The command `terrace`; all of it is in the library beside, so that fuzz targets reach what reads untrusted bytes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    terrace_tools::main()
}
