//! What ends a run early, and the exit code it means; the one place where causes become a line on stderr.

use std::error::Error;
use std::fmt;

/// What every step of a command returns.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a run ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A read gave bytes that were never written there: the one thing a cache must not do.
    WrongBytes(String),
    /// A cache file is not what it was when it was written, or could not be emptied.
    Damaged(String),
    /// Something that was acknowledged is not durable.
    NotDurable(String),
    /// The input or the machine: what failed, why, and what to do about it.
    Input { what: String, source: Option<Box<dyn Error + Send + Sync>>, remedy: Option<String> },
}

impl Failure {
    /// Something in the input or the environment does not work.
    pub(crate) fn input(what: impl Into<String>) -> Self {
        Self::Input { what: what.into(), source: None, remedy: None }
    }

    /// As [`Self::input`], with the error behind it.
    pub(crate) fn caused(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Input { what: what.into(), source: Some(source.into()), remedy: None }
    }

    /// The same failure with what to do about it.
    #[must_use]
    pub(crate) fn remedy(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Input { what, source, .. } => Self::Input { what, source, remedy: Some(advice.into()) },
            wrong @ (Self::WrongBytes(_) | Self::Damaged(_) | Self::NotDurable(_)) => wrong,
        }
    }

    /// 1: the cache or its file is wrong, or not all is durable. 2: the input or the environment is. A question whose answer is
    /// no ends with 1 too, and is no failure: see `ctl`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::WrongBytes(_) | Self::Damaged(_) | Self::NotDurable(_) => 1,
            Self::Input { .. } => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, source, remedy) = match self {
            Self::WrongBytes(what) | Self::Damaged(what) | Self::NotDurable(what) => (what, None, None),
            Self::Input { what, source, remedy } => (what, source.as_ref(), remedy.as_ref()),
        };
        let mut line = what.clone();
        let mut cause: Option<&dyn Error> = source.map(|source| &**source as &dyn Error);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        if let Some(remedy) = remedy {
            line.push_str("; ");
            line.push_str(remedy);
        }
        f.write_str(&line.replace('\n', " "))
    }
}

impl From<terrace::Error> for Failure {
    fn from(error: terrace::Error) -> Self {
        Self::caused("the cache cannot go on", error)
    }
}

impl From<terrace::tiers::Error> for Failure {
    fn from(error: terrace::tiers::Error) -> Self {
        Self::from(terrace::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes_in_order_and_the_remedy_last() {
        let cause = std::io::Error::other("no such\nthing");
        let failure = Failure::caused("cannot open x", cause).remedy("name another file");
        assert_eq!(failure.to_string(), "cannot open x: no such thing; name another file");
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(Failure::WrongBytes("block 1:2".into()).exit_code(), 1);
    }
}
