//! Credentials that change: they are asked for at every connection, and again before they end.
//!
//! The library's own renewal is not used: it asks twice for every connection, says nothing of an answer's end, stops at
//! the first refusal, and leaves the connection for hints with the credentials of the start.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::error::{StoreError, StoreErrorKind};

/// A user and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// `None`: the server's default user.
    pub username: Option<String>,
    /// `None`: without a password, unless there is a user name.
    pub password: Option<String>,
}

impl fmt::Debug for RedisLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (username, password) = (self.username.is_some(), self.password.is_some());
        f.debug_struct("RedisLogin").field("username", &username).field("password", &password).finish()
    }
}

/// What [`RedisCredentials::login`] returns: the login, and for how long it holds from now on, where that is known.
pub type RedisLoginReply<'a> =
    Pin<Box<dyn Future<Output = Result<(RedisLogin, Option<Duration>), Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// Says who logs in to the server: for passwords that are rotated, and tokens that expire.
///
/// It is asked for every connection that is opened, and again while a connection lasts: when three quarters of the time
/// have passed that the last login holds, or every minute where that is not known. The connection logs in anew then,
/// and no call notices.
///
/// What it does takes part in the time limit of the call that opens the connection. If it takes longer it goes on, and
/// the next call uses what comes of it.
///
/// ```
/// use idempotency::stores::{RedisCredentials, RedisLogin, RedisLoginReply};
///
/// /// The password that an operator keeps up to date in a file.
/// struct InFile(std::path::PathBuf);
///
/// impl RedisCredentials for InFile {
///     fn login(&self) -> RedisLoginReply<'_> {
///         Box::pin(async {
///             let password = std::fs::read_to_string(&self.0)?;
///             let password = Some(password.trim_end().to_owned());
///             Ok((RedisLogin { username: Some("shop".into()), password }, None))
///         })
///     }
/// }
/// ```
pub trait RedisCredentials: Send + Sync {
    /// Who logs in from now on, and for how long that holds.
    ///
    /// # Errors
    /// Where that can't be found out. The call that needs the connection fails, and nothing runs.
    fn login(&self) -> RedisLoginReply<'_>;

    /// What errors and the log call it: by default its type.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

impl fmt::Debug for dyn RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Who logs in.
pub(super) enum Who {
    /// Always the same.
    Login(RedisLogin),
    Asked(Arc<Asker>),
}

impl Who {
    /// # Errors
    /// Where both are given.
    pub(super) fn of(
        login: RedisLogin,
        credentials: Option<Arc<dyn RedisCredentials>>,
        time_limit: Duration,
    ) -> Result<Self, StoreError> {
        match credentials {
            None => Ok(Self::Login(login)),
            Some(credentials) if login == RedisLogin::default() => {
                Ok(Self::Asked(Arc::new(Asker::new(credentials, time_limit))))
            }
            Some(_) => {
                let message = "the Redis URL has a login, and credentials are given too: leave one of them out";
                Err(StoreError::new(StoreErrorKind::Setup, message))
            }
        }
    }
}

/// A login that somebody gave, when, and for how long.
pub(super) struct Granted {
    pub(super) login: RedisLogin,
    valid_for: Option<Duration>,
    since: Instant,
}

impl Granted {
    /// How long it is used until another one is asked for.
    fn pause(&self) -> Duration {
        self.valid_for.map_or(ASKED_AGAIN, |whole| (whole / 4 * 3).max(SHORTEST))
    }

    /// How long another one is waited for that could not be had.
    fn pause_after_failure(&self) -> Duration {
        match self.valid_for.map(|whole| whole.saturating_sub(self.since.elapsed())) {
            Some(left) if left.is_zero() => OVERDUE,
            Some(left) => (left / 4).clamp(SHORTEST, TRIED_AGAIN),
            None => TRIED_AGAIN,
        }
    }
}

/// How often somebody is asked whose logins have no end that is known.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// The pause before a login that failed is tried again, at most.
const TRIED_AGAIN: Duration = Duration::from_secs(10);

/// The pause where the login that is used has ended.
const OVERDUE: Duration = Duration::from_secs(1);

/// The shortest pause between two questions: an answer may end at once.
const SHORTEST: Duration = Duration::from_millis(50);

/// An answer that nobody waited for any more is used within this time.
const KEPT: Duration = Duration::from_secs(10);

type Answer = Result<Granted, Box<dyn Error + Send + Sync>>;

/// Asks for logins, one question at a time.
pub(super) struct Asker {
    credentials: Arc<dyn RedisCredentials>,
    /// A share of a call's, so that the call fails with what this says.
    limit: Duration,
    asked: tokio::sync::Mutex<Option<JoinHandle<Answer>>>,
}

impl Asker {
    fn new(credentials: Arc<dyn RedisCredentials>, time_limit: Duration) -> Self {
        Self { credentials, limit: time_limit.mul_f64(0.9), asked: tokio::sync::Mutex::default() }
    }

    /// # Errors
    /// [`StoreErrorKind::NotExecuted`], with the name of who gives the credentials.
    pub(super) async fn ask(&self) -> Result<Granted, StoreError> {
        let mut asked = self.asked.lock().await;
        // Whoever asked before may have given up, but not the task.
        let (mut question, mut is_old) = match asked.take() {
            Some(question) => (question, true),
            None => (self.question(), false),
        };
        loop {
            let answer = match timeout(self.limit, &mut question).await {
                Ok(answer) => answer,
                Err(_) => {
                    *asked = Some(question);
                    return Err(self.failed(format!("it gave none within {:?}", self.limit), None));
                }
            };
            match answer.unwrap_or_else(|panic| Err(panic.into())) {
                Ok(granted) if !is_old || granted.since.elapsed() < KEPT => return Ok(granted),
                Err(source) if !is_old => return Err(self.failed(source.to_string(), Some(source))),
                _ => (question, is_old) = (self.question(), false),
            }
        }
    }

    fn question(&self) -> JoinHandle<Answer> {
        let credentials = self.credentials.clone();
        tokio::spawn(async move {
            let since = Instant::now();
            let (login, valid_for) = credentials.login().await?;
            Ok(Granted { login, valid_for, since })
        })
    }

    fn failed(&self, why: String, source: Option<Box<dyn Error + Send + Sync>>) -> StoreError {
        let message = format!("there are no credentials for the Redis server from {}: {why}", self.credentials.name());
        let error = StoreError::new(StoreErrorKind::NotExecuted, message);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// The error for a server that does not take what was given. Another time that may be better.
    pub(super) fn refused(&self, at: &dyn fmt::Display, source: RedisError) -> StoreError {
        let name = self.credentials.name();
        let message = format!("the Redis server at {at} refused the credentials from {name}: {source}");
        StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source)
    }
}

/// Keeps a connection logged in until it is dropped.
pub(super) struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Renewal {
    pub(super) fn of(connection: MultiplexedConnection, asker: Arc<Asker>, granted: Granted) -> Self {
        Self(tokio::spawn(renew(connection, asker, granted)).abort_handle())
    }
}

/// Returns when the connection is lost.
async fn renew(mut connection: MultiplexedConnection, asker: Arc<Asker>, mut granted: Granted) {
    let (mut pause, mut is_told) = (granted.pause(), false);
    loop {
        sleep(pause).await;
        let again = match asker.ask().await {
            Ok(fresh) if fresh.login == granted.login => Ok(fresh),
            Ok(fresh) => match timeout(asker.limit, log_in(&mut connection, &fresh.login)).await {
                Ok(Ok(())) => Ok(fresh),
                Ok(Err(error)) if error.is_io_error() || error.is_unrecoverable_error() => return,
                Ok(Err(error)) => {
                    let name = asker.credentials.name();
                    Err(format!("the Redis server refused the credentials from {name}: {error}"))
                }
                Err(_) => Err(format!("the Redis server did not answer within {:?}", asker.limit)),
            },
            Err(error) => Err(error.to_string()),
        };
        pause = match again {
            Ok(fresh) => {
                (granted, is_told) = (fresh, false);
                granted.pause()
            }
            Err(why) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("a connection goes on with the credentials it has: {why}");
                }
                granted.pause_after_failure()
            }
        };
    }
}

async fn log_in(connection: &mut MultiplexedConnection, login: &RedisLogin) -> RedisResult<()> {
    let mut auth = redis::cmd("AUTH");
    if let Some(username) = &login.username {
        auth.arg(username);
    }
    auth.arg(login.password.as_deref().unwrap_or_default()).exec_async(connection).await
}
