//! [`Exit`]: how a command ends, and [`Failure`]: why.

use std::io;
use std::process::ExitCode;

use crate::error::StoreError;

/// How a command ends: what its exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// 0: it did what it was told; also where whoever read its output left.
    Done,
    /// 1: the store, or the output, failed.
    Failed,
    /// 2: the command line can't be understood, or misses something.
    Usage,
    /// 3: there is no such record.
    NotFound,
    /// 4: nothing was changed: the record is in another state, has changed meanwhile, or the answer was "no".
    Refused,
    /// 5: `ping --strict` found settings that endanger the promises.
    Endangered,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Endangered => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the output can't be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NotFound(_) => Exit::NotFound,
            Self::Refused(_) => Exit::Refused,
            Self::Store(_) => Exit::Failed,
            // `| head` has read what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::Failed,
        }
    }
}

pub(super) fn usage(what: impl Into<String>) -> Failure {
    Failure::Usage(what.into())
}
