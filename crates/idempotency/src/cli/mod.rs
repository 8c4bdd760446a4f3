//! The operator's command line, for every language: [`Program`].
//!
//! `cargo install idempotency --features cli` has it as the command `idempotency`; the Python package as `pyidempotent`,
//! and on an application's own store as `manage.py idempotency` and `flask idempotency`. It looks at keys (`list`, `get`,
//! `stats`, `watch`, `export`), settles those that only a person can (`resolve`, `release`), and asks a store whether it is
//! well (`ping`). Each command is a file; what they share is beside them. It may import the engine, the stores and the
//! rules of HTTP.

mod arguments;
mod console;
mod exit;
mod export;
mod find;
mod get;
mod list;
mod output;
mod ping;
mod scan;
mod seen;
mod settle;
mod stats;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::engine::Idempotency;
use crate::result_tags::JSON;
use crate::seal::{self, Sealed};
use crate::store::Store;
use crate::stores::{self, RedisOptions, RedisStore};
use crate::words;

use arguments::{Arguments, Command, Shell};
pub use exit::Exit;
use exit::{Failure, usage};
pub use output::Streams;

/// What makes the stored form of a function's result from its JSON.
type Encode = Arc<dyn Fn(&str) -> Result<Vec<u8>, String> + Send + Sync>;

/// The command line of one program.
///
/// ```
/// use idempotency::cli::{Exit, Program, Streams};
/// use idempotency::{Idempotency, stores::MemoryStore};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let own = Idempotency::new(MemoryStore::new());
/// let program = Program::new("shop keys").on(own, "shop");
/// let exit = program.run(vec!["list".into(), "--json".into()], Streams::to(std::io::sink(), std::io::sink())).await;
/// assert_eq!(exit, Exit::Done);
/// # });
/// ```
pub struct Program {
    name: String,
    own: Option<(Idempotency, String)>,
    others: Vec<(String, String)>,
    encode: Encode,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("name", &self.name).field("own", &self.own).finish_non_exhaustive()
    }
}

/// What a command works with.
struct Run {
    engine: Idempotency,
    namespace: String,
    json: bool,
    streams: Streams,
    encode: Encode,
}

impl Program {
    /// A program that opens the store of `--url` or `IDEMPOTENCY_URL`.
    ///
    /// - `name`: what its users type.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), own: None, others: vec![], encode: Arc::new(as_json) }
    }

    /// One of an application, on its own store.
    ///
    /// - `namespace`: of keys, unless the command line names another.
    pub fn on(self, engine: Idempotency, namespace: impl Into<String>) -> Self {
        Self { own: Some((engine, namespace.into())), ..self }
    }

    /// One whose help has a command more, which somebody else runs: its name and what it does.
    pub fn besides(mut self, name: impl Into<String>, about: impl Into<String>) -> Self {
        self.others.push((name.into(), about.into()));
        self
    }

    /// One that stores the results of functions in another form than Rust's: `encode` makes it from JSON, or says what is
    /// wrong with that.
    pub fn encoding(self, encode: impl Fn(&str) -> Result<Vec<u8>, String> + Send + Sync + 'static) -> Self {
        Self { encode: Arc::new(encode), ..self }
    }

    /// Runs a command. Whatever goes wrong is said on the stream of errors.
    ///
    /// - `arguments`: without the program's name.
    pub async fn run(self, arguments: Vec<OsString>, mut streams: Streams) -> Exit {
        let mut command = self.command();
        let first = OsString::from(&self.name);
        let read = command
            .try_get_matches_from_mut([first].into_iter().chain(arguments))
            .and_then(|matches| Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
        let mut arguments = match read {
            Ok(arguments) => arguments,
            Err(mut error) => {
                advise(&mut error);
                let text = error.render().to_string();
                let is_asked_for = !error.use_stderr();
                let _ = if is_asked_for { streams.print(&text) } else { streams.tell_part(&text) };
                return if is_asked_for { Exit::Done } else { Exit::Usage };
            }
        };
        if let Command::Console { store: url @ Some(_), .. } = &mut arguments.command {
            arguments.url = url.take();
        }
        if let Command::Completions { shell } = arguments.command {
            return ended(streams.print(&completions(shell, command, &self.name)).map_err(Into::into), &mut streams);
        }
        let (engine, namespace) = match self.store(&arguments) {
            Ok(store) => store,
            Err(failure) => return ended(Err(failure), &mut streams),
        };
        let mut run = Run { engine, namespace, json: arguments.json, streams, encode: self.encode };
        let done = run.command(arguments.command).await;
        match done {
            Ok(exit) => exit,
            Err(failure) => ended(Err(failure), &mut run.streams),
        }
    }

    fn command(&self) -> clap::Command {
        let mut command = Arguments::command().name(self.name.clone()).bin_name(self.name.clone());
        if self.own.is_some() {
            command = command.mut_arg("url", |url| url.hide(true)).mut_arg("prefix", |prefix| prefix.hide(true));
        }
        for (name, about) in &self.others {
            command = command.subcommand(clap::Command::new(name.clone()).about(about.clone()));
        }
        command
    }

    fn store(&self, arguments: &Arguments) -> Result<(Idempotency, String), Failure> {
        if let Some(own) = &self.own {
            return match (&arguments.url, &arguments.prefix) {
                (None, None) => Ok(own.clone()),
                _ => Err(usage("these are the keys of the application's own store; leave out --url and --prefix")),
            };
        }
        let url = arguments.url.clone().or_else(|| std::env::var("IDEMPOTENCY_URL").ok().filter(|url| !url.is_empty()));
        let url = url.ok_or_else(|| usage("say which store: set IDEMPOTENCY_URL, or pass --url redis://host"))?;
        let store = open(&url, arguments.prefix.as_deref())?;
        let store = match seal::from_environment()? {
            Some(keys) => Arc::new(Sealed::new(store, keys)) as Arc<dyn Store>,
            None => store,
        };
        Ok((Idempotency::new(store), String::new()))
    }
}

impl Run {
    async fn command(&mut self, command: Command) -> Result<Exit, Failure> {
        match command {
            Command::Ping { strict } => return ping::ping(self, strict).await,
            Command::List { which, limit } => list::list(self, &which, limit).await?,
            Command::Get { name, show_body } => get::get(self, &name, show_body).await?,
            Command::Resolve { name, word, status, body, content_type, result } => {
                let answer = settle::Answered { status, body, content_type, result };
                settle::resolve(self, &name, &word, answer).await?;
            }
            Command::Release { name, word } => settle::release(self, &name, &word).await?,
            Command::Purge => self.purge().await?,
            Command::Stats { limit } => stats::stats(self, limit).await?,
            Command::Watch { interval, count, limit } => watch::watch(self, interval, count, limit).await?,
            Command::Export { which, show_body } => export::export(self, &which, show_body).await?,
            Command::Console { port, bind, .. } => console::console(self, bind, port).await?,
            Command::Completions { .. } => {}
        }
        Ok(Exit::Done)
    }

    async fn purge(&mut self) -> Result<(), Failure> {
        let removed = self.engine.purge().await?;
        let text = if self.json {
            serde_json::json!({ "removed": removed }).to_string()
        } else {
            format!("removed: {removed}")
        };
        Ok(self.streams.print(&format!("{text}\n"))?)
    }
}

/// A URL that stands where none is taken is meant to be the store.
fn advise(error: &mut clap::Error) {
    let is_url = |stray: &ContextValue| matches!(stray, ContextValue::String(text) if text.contains("://"));
    if error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::InvalidArg).is_some_and(is_url) {
        let advice = "say which store by --url before it, or by IDEMPOTENCY_URL".into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice]));
    }
}

/// Opens a store that is there: to look at one makes none.
fn open(url: &str, prefix: Option<&str>) -> Result<Arc<dyn Store>, Failure> {
    let store = match prefix {
        Some(prefix) if url.starts_with("redis") || url.starts_with("unix://") => {
            let options = RedisOptions { prefix: prefix.into(), ..RedisOptions::from_url(url)? };
            Arc::new(RedisStore::with_options(options)?) as Arc<dyn Store>
        }
        Some(_) => return Err(usage("--prefix is for Redis; a schema in Postgres is a part of its URL, ?schema=…")),
        None => stores::open(url).map_err(|error| usage(error.to_string()))?,
    };
    if url.starts_with("memory://") {
        return Err(usage(
            "memory:// keeps its keys to the process that has them: there is nothing to see from outside",
        ));
    }
    if let Some(path) = url.strip_prefix("sqlite:///") {
        let path = PathBuf::from(stores::decoded_path(path).unwrap_or_else(|| path.into()));
        if !path.exists() {
            let message = format!("there is no file {} (sqlite:///relative, sqlite:////absolute)", path.display());
            return Err(crate::StoreError::new(crate::StoreErrorKind::Setup, message).into());
        }
    }
    Ok(store)
}

fn as_json(result: &str) -> Result<Vec<u8>, String> {
    let value: serde_json::Value =
        serde_json::from_str(result).map_err(|error| format!("--result is not JSON: {error}"))?;
    Ok([&[JSON], value.to_string().as_bytes()].concat())
}

fn completions(shell: Shell, mut command: clap::Command, name: &str) -> String {
    use clap_complete::{Shell as Known, generate};
    let shell = match shell {
        Shell::Bash => Known::Bash,
        Shell::Elvish => Known::Elvish,
        Shell::Fish => Known::Fish,
        Shell::Powershell => Known::PowerShell,
        Shell::Zsh => Known::Zsh,
    };
    let mut script = vec![];
    generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Says what went wrong.
fn ended(done: Result<(), Failure>, streams: &mut Streams) -> Exit {
    let Err(failure) = done else { return Exit::Done };
    let exit = failure.exit();
    if exit != Exit::Done {
        let _ = streams.tell(&crate::seen::harmless(&failure.to_string())); // nobody else could be told
    }
    exit
}
