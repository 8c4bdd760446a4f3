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
use redis::{RedisConnectionInfo, RedisResult};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::error::{StoreError, StoreErrorKind};

/// Who logs in to a Redis server, and for how long that holds.
///
/// ```
/// use std::time::Duration;
/// use idempotency::stores::RedisLogin;
/// let login = RedisLogin::new(Some("shop"), "a token").valid_for(Duration::from_secs(900));
/// assert!(!format!("{login:?}").contains("a token"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisLogin {
    username: Option<String>,
    password: String,
    valid_for: Option<Duration>,
}

impl RedisLogin {
    /// A login without an end that is known. Without a user's name it is the server's default user's.
    pub fn new(username: Option<&str>, password: impl Into<String>) -> Self {
        Self { username: username.map(str::to_owned), password: password.into(), valid_for: None }
    }

    /// For how long it holds from now on. Another one is asked for when three quarters of that have passed.
    pub fn valid_for(mut self, duration: Duration) -> Self {
        self.valid_for = Some(duration);
        self
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.username, &self.password) == (&other.username, &other.password)
    }

    /// These settings with this login in place of theirs.
    pub(super) fn apply(&self, settings: &RedisConnectionInfo) -> RedisConnectionInfo {
        let settings = settings.clone().set_password(&self.password);
        match &self.username {
            Some(username) => settings.set_username(username),
            None => settings,
        }
    }
}

impl fmt::Debug for RedisLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, password: _, valid_for } = self;
        f.debug_struct("RedisLogin").field("username", username).field("valid_for", valid_for).finish_non_exhaustive()
    }
}

/// What [`RedisCredentials::login`] returns.
pub type RedisLoginReply<'a> =
    Pin<Box<dyn Future<Output = Result<RedisLogin, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

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
///             Ok(RedisLogin::new(Some("shop"), password.trim_end()))
///         })
///     }
/// }
/// ```
pub trait RedisCredentials: Send + Sync {
    /// Who logs in from now on.
    ///
    /// # Errors
    /// Where that can't be found out. The call that needs the connection fails, and nothing runs.
    fn login(&self) -> RedisLoginReply<'_>;

    /// What errors and the log call it: by default its type.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

/// How often somebody is asked whose logins have no end that is known.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// The pause before a login that failed is tried again, at most.
const TRIED_AGAIN: Duration = Duration::from_secs(10);

/// The shortest pause between two questions: an answer may end at once.
const SHORTEST: Duration = Duration::from_millis(50);

/// An answer that nobody waited for any more is used within this time.
const KEPT: Duration = Duration::from_secs(10);

type Answer = Result<(RedisLogin, Instant), Box<dyn Error + Send + Sync>>;

/// Asks for logins, one question at a time.
pub(super) struct Asker {
    credentials: Arc<dyn RedisCredentials>,
    /// A share of a call's, so that the call fails with what this says.
    limit: Duration,
    asked: tokio::sync::Mutex<Option<JoinHandle<Answer>>>,
}

impl Asker {
    pub(super) fn new(credentials: Arc<dyn RedisCredentials>, time_limit: Duration) -> Arc<Self> {
        Arc::new(Self { credentials, limit: time_limit.mul_f64(0.9), asked: tokio::sync::Mutex::default() })
    }

    pub(super) fn name(&self) -> String {
        self.credentials.name()
    }

    /// # Errors
    /// [`StoreErrorKind::NotExecuted`], with the name of who gives the credentials.
    pub(super) async fn ask(&self) -> Result<RedisLogin, StoreError> {
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
                Ok((login, since)) if !is_old || since.elapsed() < KEPT => return Ok(login),
                Err(source) if !is_old => return Err(self.failed(source.to_string(), Some(source))),
                _ => (question, is_old) = (self.question(), false),
            }
        }
    }

    fn question(&self) -> JoinHandle<Answer> {
        let credentials = self.credentials.clone();
        tokio::spawn(async move {
            let login = credentials.login().await?;
            Ok((login, Instant::now()))
        })
    }

    fn failed(&self, why: String, source: Option<Box<dyn Error + Send + Sync>>) -> StoreError {
        let message = format!("there are no credentials for the Redis server from {}: {why}", self.name());
        let error = StoreError::new(StoreErrorKind::NotExecuted, message);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
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
    pub(super) fn of(connection: MultiplexedConnection, asker: Arc<Asker>, login: RedisLogin) -> Self {
        Self(tokio::spawn(renew(connection, asker, login)).abort_handle())
    }
}

/// Returns when the connection is lost.
async fn renew(mut connection: MultiplexedConnection, asker: Arc<Asker>, mut login: RedisLogin) {
    let mut since = Instant::now();
    let mut pause = pause_after(&login);
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        let again = match asker.ask().await {
            Ok(fresh) if fresh.is_same(&login) => Ok(fresh),
            Ok(fresh) => match timeout(asker.limit, log_in(&mut connection, &fresh)).await {
                Ok(Ok(())) => Ok(fresh),
                Ok(Err(error)) if error.is_io_error() || error.is_unrecoverable_error() => return,
                Ok(Err(error)) => {
                    Err(format!("the Redis server refused the credentials from {}: {error}", asker.name()))
                }
                Err(_) => Err(format!("the Redis server did not answer within {:?}", asker.limit)),
            },
            Err(error) => Err(error.to_string()),
        };
        pause = match again {
            Ok(fresh) => {
                (login, since) = (fresh, asked);
                pause_after(&login)
            }
            Err(why) => {
                tracing::warn!("a connection goes on with the credentials it has: {why}");
                let left = login.valid_for.map(|whole| whole.saturating_sub(since.elapsed()) / 4);
                left.unwrap_or(TRIED_AGAIN).clamp(SHORTEST, TRIED_AGAIN)
            }
        };
    }
}

fn pause_after(login: &RedisLogin) -> Duration {
    login.valid_for.map_or(ASKED_AGAIN, |whole| (whole / 4 * 3).max(SHORTEST))
}

async fn log_in(connection: &mut MultiplexedConnection, login: &RedisLogin) -> RedisResult<()> {
    let mut auth = redis::cmd("AUTH");
    if let Some(username) = &login.username {
        auth.arg(username);
    }
    auth.arg(&login.password).exec_async(connection).await
}
