//! [`Route`]: which connection a command for a key goes to, and where it goes on to from there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Script, ServerErrorKind, Value};
use tokio::time::sleep;

use super::cluster::{Cluster, nobody_has, sent_around};
use super::credentials::Who;
use super::dial::{Dial, Expected, Wanted};
use super::errors;
use super::node::{Finder, Link, Node};
use super::options::{RedisAddress, RedisOptions, RedisServers};
use super::sentinel::Sentinels;
use super::slots::{redirected, slot};
use crate::error::{StoreError, StoreErrorKind};

/// How often a command is sent on before it is an error.
const MOST_TURNS: usize = 8;

/// How long a node is left alone whose keys are on their way to another.
const KEYS_MOVE: Duration = Duration::from_millis(5);

/// The way to the servers.
pub(super) struct Route {
    dial: Arc<Dial>,
    kind: Kind,
}

enum Kind {
    /// One connection, to one server or to the primary of several.
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// The connection that an operation uses, so that it is left when it answers too late.
#[derive(Default)]
pub(super) struct Used(Mutex<Option<(Arc<Node>, u64)>>);

impl Used {
    pub(super) fn note(&self, node: &Arc<Node>, link: &Link) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((node.clone(), link.number));
    }

    /// The connection is not used again.
    pub(super) fn forget(&self) {
        if let Some((node, number)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            node.forget(number);
        }
    }
}

impl Route {
    /// # Errors
    /// Where these options can't be used.
    pub(super) fn new(options: RedisOptions) -> Result<Self, StoreError> {
        let RedisOptions { servers, login, credentials, database, encrypted, time_limit, tls, replicas, aof, .. } =
            options;
        let who = Who::of(login, credentials, time_limit)?;
        let dial = |who, database, encrypted, expected| {
            let wanted = Wanted { replicas, aof };
            Dial::new(who, database, encrypted, tls.clone(), expected, wanted, time_limit)
        };
        let (dial, first, kind) = match servers {
            RedisServers::One(at) => {
                let dial = Arc::new(dial(who, database, encrypted, Expected::Server));
                let node = Node::new(Finder::At(at.clone(), dial.clone()));
                (dial, Some(at), Kind::One(node))
            }
            RedisServers::Sentinel { sentinels, service, login: their_login, encrypted: is_encrypted } => {
                let asks = dial(Who::Login(their_login), 0, is_encrypted, Expected::Sentinel);
                let (dial, first) =
                    (Arc::new(dial(who, database, encrypted, Expected::Primary)), sentinels.first().cloned());
                let sentinels = Box::new(Sentinels::new(service, sentinels, asks, dial.clone(), time_limit));
                (dial, first, Kind::One(Node::new(Finder::Primary(sentinels))))
            }
            RedisServers::Cluster(nodes) => {
                let dial = Arc::new(dial(who, database, encrypted, Expected::Node));
                let first = nodes.first().cloned();
                (dial.clone(), first, Kind::Cluster(Cluster::new(dial, nodes, time_limit)))
            }
        };
        let nowhere = || StoreError::new(StoreErrorKind::Setup, "these Redis options name no server");
        dial.check_settings(&first.ok_or_else(nowhere)?)?; // says now what is wrong with them
        Ok(Self { dial, kind })
    }

    /// Executes a script for a key on the server that has it: its answer, and the connection that it came by.
    ///
    /// It is sent again only where the server has said that it was not executed.
    pub(super) async fn run(
        &self,
        used: &Used,
        name: &[u8],
        command: &Cmd,
        script: &Script,
        shown: impl Fn() -> String,
    ) -> Result<(Value, Link), StoreError> {
        match &self.kind {
            Kind::One(node) => {
                let mut again = true;
                loop {
                    let mut link = node.get().await?;
                    used.note(node, &link);
                    match send(&mut link, command, script, false).await {
                        Ok(answer) => return Ok((answer, link)),
                        Err(source) if errors::is_of_a_cluster(&source) => return Err(errors::is_a_node()),
                        // It was the primary: who is it now?
                        Err(source) if again && is(&source, ServerErrorKind::ReadOnly) => {
                            again = false;
                            node.forget(link.number);
                        }
                        Err(source) => return Err(node.failed(link.number, source, &shown())),
                    }
                }
            }
            Kind::Cluster(cluster) => self.run_on(cluster, used, slot(name), command, script, shown).await,
        }
    }

    async fn run_on(
        &self,
        cluster: &Arc<Cluster>,
        used: &Used,
        slot: u16,
        command: &Cmd,
        script: &Script,
        shown: impl Fn() -> String,
    ) -> Result<(Value, Link), StoreError> {
        let mut sent_to: Option<(Arc<Node>, bool)> = None;
        let mut has_looked = false;
        for _ in 0..MOST_TURNS {
            let (owner, seen) = match sent_to.take() {
                Some((node, asking)) => (Some((node, asking)), cluster.version()),
                None => {
                    let (owner, seen) = cluster.owner(slot).await?;
                    (owner.map(|node| (node, false)), seen)
                }
            };
            let (error, node) = match owner {
                None => (nobody_has(slot), None),
                Some((node, asking)) => match node.get().await {
                    Err(error) => (error, Some(node)),
                    Ok(mut link) => {
                        used.note(&node, &link);
                        let source = match send(&mut link, command, script, asking).await {
                            Ok(answer) => return Ok((answer, link)),
                            Err(source) => source,
                        };
                        if let Some((is_asked, to)) = redirection(&source, &link.at) {
                            sent_to = Some(match is_asked {
                                true => (cluster.node(&to), true),
                                false => (moved(cluster, slot, &to, seen), false),
                            });
                            continue;
                        }
                        if is(&source, ServerErrorKind::TryAgain) {
                            sleep(KEYS_MOVE).await;
                            continue;
                        }
                        let is_down = is(&source, ServerErrorKind::ClusterDown);
                        let error = node.failed(link.number, source, &shown());
                        if !is_down {
                            if error.kind() == StoreErrorKind::Unknown {
                                look_behind(cluster, seen);
                            }
                            return Err(error);
                        }
                        (error, Some(node))
                    }
                },
            };
            // Nothing was executed. Does anybody else have the slot by now?
            if has_looked || error.kind() != StoreErrorKind::NotExecuted {
                return Err(error);
            }
            has_looked = true;
            cluster.look(seen).await?;
            let (owner, _) = cluster.owner(slot).await?;
            if owner.as_ref().map(Arc::as_ptr) == node.as_ref().map(Arc::as_ptr) {
                return Err(error);
            }
        }
        Err(sent_around(&shown()))
    }

    /// A connection did not answer in time: is its server still the one?
    pub(super) fn suspect(&self) {
        if let Kind::Cluster(cluster) = &self.kind {
            look_behind(cluster, cluster.version());
        }
    }

    /// The servers that have records between them, and a number that is another one when keys have moved between them.
    pub(super) async fn primaries(&self) -> Result<(Vec<Arc<Node>>, u64), StoreError> {
        match &self.kind {
            Kind::One(node) => Ok((vec![node.clone()], 0)),
            Kind::Cluster(cluster) => cluster.primaries().await,
        }
    }

    /// Where to hear what is published, if it was `before`, and that connection still stands. Every node of a cluster
    /// hears what any of them publishes.
    pub(super) async fn published(&self, before: Option<&RedisAddress>) -> Result<RedisAddress, StoreError> {
        match (&self.kind, before) {
            (Kind::Cluster(_), Some(before)) => Ok(before.clone()),
            (Kind::Cluster(cluster), None) => Ok((*cluster.any().await?.get().await?.at).clone()),
            (Kind::One(node), _) => Ok((*node.get().await?.at).clone()),
        }
    }

    /// How a connection to one of the servers is opened.
    pub(super) fn dial(&self) -> &Arc<Dial> {
        &self.dial
    }
}

/// Sends a command whose script the server may not know yet. With `asking` a node serves keys that are on their way to it.
async fn send(link: &mut Link, command: &Cmd, script: &Script, asking: bool) -> RedisResult<Value> {
    let answer = send_once(link, command, asking).await;
    match answer {
        Err(error) if is(&error, ServerErrorKind::NoScript) => {
            script.load_async(&mut link.connection).await?;
            send_once(link, command, asking).await
        }
        answer => answer,
    }
}

async fn send_once(link: &mut Link, command: &Cmd, asking: bool) -> RedisResult<Value> {
    if !asking {
        return command.query_async(&mut link.connection).await;
    }
    let mut both = Pipeline::with_capacity(2);
    both.cmd("ASKING").add_command(command.clone());
    let answers = link.connection.req_packed_commands(&both, 0, 2).await?;
    answers.into_iter().last().unwrap_or(Value::Nil).extract_error()
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

/// Where a node sends us, and whether only for this once.
fn redirection(source: &RedisError, asked: &RedisAddress) -> Option<(bool, RedisAddress)> {
    let (to, _slot) = source.redirect_node()?;
    Some((is(source, ServerErrorKind::Ask), redirected(to, asked)?))
}

/// A slot has moved, and others may have with it.
fn moved(cluster: &Arc<Cluster>, slot: u16, to: &RedisAddress, seen: u64) -> Arc<Node> {
    let node = cluster.moved(slot, to);
    if cluster.version() == seen + 1 {
        look_behind(cluster, seen + 1);
    }
    node
}

/// Asks who has which slots, while nobody waits for it.
fn look_behind(cluster: &Arc<Cluster>, seen: u64) {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        if let Err(error) = cluster.look(seen).await {
            tracing::debug!("the Redis cluster does not say who has which slots: {error}");
        }
    });
}
