//! Errors of the cache as the protocol has them; the one place where that is decided.

use std::error::Error as _;
use std::io;

use terrace::Error;
use terrace_nbd::{ErrorCode, Failure};

/// What a client is told. The message has the whole chain of causes, in one line.
pub(super) fn failure_of(error: &Error) -> Failure {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    Failure::new(code_of(error), message.replace('\n', " "))
}

fn code_of(error: &Error) -> ErrorCode {
    match error {
        Error::OutOfRange { .. } | Error::NotWholeBlocks { .. } => ErrorCode::Invalid,
        Error::WouldBlock => ErrorCode::NoMemory,
        Error::Closed | Error::Detached { .. } => ErrorCode::Shutdown,
        _ => io_cause(error).map_or(ErrorCode::Io, |cause| Failure::from(io::Error::from(cause)).code),
    }
}

/// What the system said, if it was the system.
fn io_cause(error: &Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_keeps_its_meaning_through_the_cache() {
        for (kind, code) in [
            (io::ErrorKind::StorageFull, ErrorCode::NoSpace),
            (io::ErrorKind::PermissionDenied, ErrorCode::NotPermitted),
            (io::ErrorKind::Other, ErrorCode::Io),
        ] {
            let source = kind.into();
            let device = "disk".to_string();
            let cause =
                terrace::tiers::Error::Device { action: "write", device, offset: 4096, bytes: 512, source };
            let failure = failure_of(&Error::from(cause));
            assert_eq!(failure.code, code, "{kind}");
            assert!(
                failure.message.starts_with("cannot write 512 bytes at offset 4096 of disk: "),
                "{failure}"
            );
        }
        let codes = [Error::WouldBlock, Error::Closed].map(|error| failure_of(&error).code);
        assert_eq!(codes, [ErrorCode::NoMemory, ErrorCode::Shutdown]);
    }
}
