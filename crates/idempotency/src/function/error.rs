//! [`Error`]: why a call has no result.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::StoreError;
use crate::key::KeyError;

/// Why a call has no result.
///
/// `E` is the error of the work itself, where there is any work. It is a [`std::error::Error`] where `E` is one; an `E`
/// that is none, as `anyhow::Error` or a `String`, is made one by [`Error::boxed`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::{Error, Idempotency, stores::MemoryStore};
///
/// let payments = Idempotency::new(MemoryStore::new());
/// let declined = async |_| Err::<u32, _>("declined".to_owned());
/// match payments.call("charge", "order-7")?.run(declined).await {
///     Err(Error::Work(why)) => assert_eq!(why, "declined"),
///     Err(Error::InFlight { retry_after }) => println!("busy; try again in {retry_after:?}"),
///     Err(other) => return Err(other.boxed().into()),
///     Ok(done) => println!("charged {}", done.into_inner()),
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error<E = Infallible> {
    /// The key is no key. Nothing ran.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The payload has no form that tells it from others. Nothing ran.
    #[error("the payload can't be compared with that of a repeat")]
    Payload(#[source] ValueError),
    /// The key was used with another payload. Nothing ran.
    #[error("the idempotency key was used with another payload; use a new key for a new request")]
    Conflict,
    /// Another attempt runs. Nothing ran.
    #[error("another attempt with this idempotency key still runs; try again in {retry_after:?}")]
    InFlight {
        /// When a repeat makes sense: the lesser of what is left of the other's lease and 1 s.
        retry_after: Duration,
    },
    /// Nobody knows whether an earlier attempt had its effect. Nothing runs until an operator resolves the key.
    #[error("the outcome of an earlier attempt with this idempotency key is unknown; an operator must resolve the key")]
    Unknown,
    /// Done before, and its result could not be kept. Nothing ran.
    #[error("this was done before, and its result could not be kept")]
    NotKept,
    /// The result has no form in which it can be stored. What was written in its transaction must not be committed.
    #[error("the result can't be stored; roll the transaction back")]
    Unstorable(#[source] ValueError),
    /// Done before, and its result can't be read here.
    #[error("this was done before, and its result can't be read")]
    Unreadable(#[from] Unreadable),
    /// A blocking method, as [`Call::run_blocking`](super::Call::run_blocking), on a thread of a Tokio runtime, whose other
    /// tasks would stand still. Nothing ran.
    #[error(
        "a blocking call on a thread of a Tokio runtime, whose other tasks would stand still; use run and await it, or on \
         a thread of spawn_blocking Handle::current().block_on(call.run(…))"
    )]
    InRuntime,
    /// The store failed. Nothing ran.
    #[error("the store of the idempotency keys can't be used")]
    Store(#[from] StoreError),
    /// The work failed: the key is released, or unknown under [`AfterCrash::Refuse`](crate::AfterCrash::Refuse).
    #[error("the work failed")]
    Work(#[source] E),
}

impl<E> Error<E> {
    /// The error with another error of the work.
    pub fn map_work<F>(self, change: impl FnOnce(E) -> F) -> Error<F> {
        match self {
            Self::Key(error) => Error::Key(error),
            Self::Payload(error) => Error::Payload(error),
            Self::Conflict => Error::Conflict,
            Self::InFlight { retry_after } => Error::InFlight { retry_after },
            Self::Unknown => Error::Unknown,
            Self::NotKept => Error::NotKept,
            Self::Unstorable(error) => Error::Unstorable(error),
            Self::Unreadable(error) => Error::Unreadable(error),
            Self::InRuntime => Error::InRuntime,
            Self::Store(error) => Error::Store(error),
            Self::Work(error) => Error::Work(change(error)),
        }
    }

    /// The error with a work error that is a [`std::error::Error`]: for `anyhow::Error`, `Box<dyn Error + Send + Sync>`
    /// and strings, which are none.
    pub fn boxed(self) -> Error<BoxedError>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.map_work(|error| BoxedError(error.into()))
    }
}

/// An error of the work, whatever its type was: [`Error::boxed`].
#[derive(Debug)]
pub struct BoxedError(Box<dyn StdError + Send + Sync>);

impl BoxedError {
    /// The error itself, to be downcast.
    pub fn into_inner(self) -> Box<dyn StdError + Send + Sync> {
        self.0
    }
}

impl fmt::Display for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for BoxedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Why a value has no form that another process reads as the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    /// Where in the value, as `.lines.2.amount`; empty for the value itself.
    path: String,
    kind: ValueErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueErrorKind {
    NotFinite,
    NestedOption,
    TooDeep,
    Other(String),
}

/// Values that are nested deeper are refused: no reader of JSON takes much more.
pub(super) const MAX_DEPTH: u8 = 100;

impl ValueError {
    pub(super) fn new(kind: ValueErrorKind) -> Self {
        Self { path: String::new(), kind }
    }

    /// The error of a part, seen from what it is a part of.
    pub(super) fn within(mut self, part: impl fmt::Display) -> Self {
        self.path.insert_str(0, &format!(".{part}"));
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str("the value ")?,
            path => write!(f, "{path} ")?,
        }
        match &self.kind {
            ValueErrorKind::NotFinite => f.write_str("is not a finite number (NaN or infinite)"),
            ValueErrorKind::NestedOption => {
                f.write_str("is Some of nothing (Some(None) or Some(())), which reads as None; use an enum")
            }
            ValueErrorKind::TooDeep => write!(f, "is nested more than {MAX_DEPTH} levels deep"),
            ValueErrorKind::Other(why) => write!(f, "can't be serialized: {why}"),
        }
    }
}

impl StdError for ValueError {}

impl serde::ser::Error for ValueError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(ValueErrorKind::Other(message.to_string()))
    }
}

/// Why a stored result can't be read here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Something else wrote it, in a form that no Rust function reads.
    #[error("it is {0}, not that of a Rust function; give one of the two another name or namespace")]
    Foreign(&'static str),
    /// A Rust function wrote it, and it is of another type.
    #[error("it is no {expected}: {source}")]
    OtherType {
        /// The type that was asked for.
        expected: &'static str,
        /// What does not fit.
        source: Box<dyn StdError + Send + Sync>,
    },
}
