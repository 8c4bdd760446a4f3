//! [`Cluster`]: which node has a key.
//!
//! Not by the client library's own: with retries it sends a command again whose connection broke, which may have been
//! executed; without, it follows no redirection to a node that is new. While it asks for the nodes it serves nobody, so
//! that one node that hangs stops all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::dial::Dial;
use super::errors;
use super::node::{Finder, Node};
use super::options::RedisAddress;
use super::slots::{Range, SLOTS, ranges};
use crate::error::{StoreError, StoreErrorKind};
use crate::stores::shared_work::SharedWork;

/// How many nodes are asked at once who has which slots.
const ASKED_AT_ONCE: usize = 3;

/// The nodes of a cluster, each with a connection of its own.
pub(super) struct Cluster {
    dial: Arc<Dial>,
    given: Vec<RedisAddress>,
    map: Mutex<Map>,
    looking: SharedWork,
    /// Grows, so that another node comes first each time.
    turn: AtomicUsize,
    time_limit: Duration,
}

struct Map {
    /// 0: nobody has told anything yet. It grows with every change.
    version: u64,
    /// By slot.
    owners: Vec<Option<Arc<Node>>>,
    nodes: HashMap<RedisAddress, Arc<Node>>,
}

impl Cluster {
    pub(super) fn new(dial: Arc<Dial>, given: Vec<RedisAddress>, time_limit: Duration) -> Arc<Self> {
        let map = Map { version: 0, owners: vec![None; SLOTS], nodes: HashMap::new() };
        let (map, looking, turn) = (Mutex::new(map), SharedWork::default(), AtomicUsize::default());
        Arc::new(Self { dial, given, map, looking, turn, time_limit })
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of what is known.
    pub(super) fn version(&self) -> u64 {
        self.map().version
    }

    /// The node with a slot, and the version of this knowledge.
    pub(super) async fn owner(self: &Arc<Self>, slot: u16) -> Result<(Option<Arc<Node>>, u64), StoreError> {
        if self.version() == 0 {
            self.look(0).await?;
        }
        let map = self.map();
        Ok((map.owners[usize::from(slot)].clone(), map.version))
    }

    /// The node at an address.
    pub(super) fn node(&self, at: &RedisAddress) -> Arc<Node> {
        self.map().node(at, &self.dial)
    }

    /// A slot has moved, as the node says that had it.
    pub(super) fn moved(&self, slot: u16, to: &RedisAddress) -> Arc<Node> {
        let mut map = self.map();
        let node = map.node(to, &self.dial);
        if let Some(owner) = map.owners.get_mut(usize::from(slot)) {
            *owner = Some(node.clone());
            map.version += 1;
        }
        node
    }

    /// Every node that has slots, and a number that is another one when other nodes have them.
    pub(super) async fn primaries(self: &Arc<Self>) -> Result<(Vec<Arc<Node>>, u64), StoreError> {
        self.look(self.version()).await?;
        let (map, mut layout) = (self.map(), DefaultHasher::new());
        let mut primaries: Vec<Arc<Node>> = vec![];
        for owner in &map.owners {
            owner.as_ref().map(Arc::as_ptr).hash(&mut layout);
        }
        for owner in map.owners.iter().flatten() {
            // Slots that lie together have one owner.
            if !primaries.iter().rev().any(|node| Arc::ptr_eq(node, owner)) {
                primaries.push(owner.clone());
            }
        }
        Ok((primaries, layout.finish()))
    }

    /// Any node, another one each time, and one with a connection if there is one.
    pub(super) async fn any(self: &Arc<Self>) -> Result<Arc<Node>, StoreError> {
        if self.version() == 0 {
            self.look(0).await?;
        }
        let message = "the Redis cluster has no nodes";
        self.candidates().into_iter().next().ok_or_else(|| StoreError::new(StoreErrorKind::NotExecuted, message))
    }

    /// Whom to ask: first nodes with a connection, then others that we know, then those that were given.
    fn candidates(&self) -> Vec<Arc<Node>> {
        let (turn, mut map) = (self.turn.fetch_add(1, Ordering::Relaxed), self.map());
        let (mut ready, mut others): (Vec<_>, Vec<_>) =
            map.nodes.values().cloned().partition(|node| node.ready().is_some());
        let given: Vec<_> = self.given.iter().filter(|at| !map.nodes.contains_key(at)).cloned().collect();
        let mut given: Vec<_> = given.iter().map(|at| map.node(at, &self.dial)).collect();
        for part in [&mut ready, &mut others, &mut given] {
            if !part.is_empty() {
                let turns = turn % part.len();
                part.rotate_left(turns);
            }
        }
        [ready, others, given].concat()
    }

    /// Asks who has which slots, unless somebody has since `seen`.
    pub(super) async fn look(self: &Arc<Self>, seen: u64) -> Result<(), StoreError> {
        let cluster = self.clone();
        let look = async move { if cluster.version() == seen { cluster.ask().await } else { Ok(()) } };
        self.looking.join(|| look).await
    }

    async fn ask(&self) -> Result<(), StoreError> {
        let mut last = None::<StoreError>;
        for some in self.candidates().chunks(ASKED_AT_ONCE) {
            // A quarter of the time: one that hangs leaves some for the next, and for the operation.
            let limit = self.time_limit / 4;
            let mut asked: FuturesUnordered<_> = some.iter().map(|node| timeout(limit, slots_of(node))).collect();
            while let Some(answer) = asked.next().await {
                match answer {
                    Ok(Ok(ranges)) => {
                        self.learn(&ranges);
                        return Ok(());
                    }
                    // A refusal is for somebody to mend; what can't be reached may come back.
                    Ok(Err(error)) if last.as_ref().is_none_or(StoreError::is_passing) => last = Some(error),
                    _ => {}
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            let message = format!("no node of the Redis cluster answered within {:?}", self.time_limit / 4);
            StoreError::new(StoreErrorKind::NotExecuted, message)
        }))
    }

    fn learn(&self, ranges: &[Range]) {
        let mut map = self.map();
        let mut nodes = HashMap::new();
        for at in ranges.iter().flat_map(|(_, _, nodes)| nodes) {
            nodes.insert(at.clone(), map.node(at, &self.dial));
        }
        map.nodes = nodes;
        map.owners.fill(None);
        for (first, last, at) in ranges {
            let owner = at.first().and_then(|at| map.nodes.get(at)).cloned();
            map.owners[usize::from(*first)..=usize::from(*last)].fill(owner);
        }
        map.version += 1;
    }
}

impl Map {
    fn node(&mut self, at: &RedisAddress, dial: &Arc<Dial>) -> Arc<Node> {
        let new = || Node::new(Finder::At(at.clone(), dial.clone()));
        self.nodes.entry(at.clone()).or_insert_with(new).clone()
    }
}

async fn slots_of(node: &Arc<Node>) -> Result<Vec<Range>, StoreError> {
    let mut link = node.get().await?;
    let answer = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut link.connection).await;
    let answer = answer.map_err(|source| errors::not_executed(node.failed(link.number, source, "")))?;
    ranges(answer, &link.at).ok_or_else(|| {
        let message = format!("the node at {} has heard of no cluster", link.at);
        StoreError::new(StoreErrorKind::NotExecuted, message)
    })
}

/// The error for a slot that no node has.
pub(super) fn nobody_has(slot: u16) -> StoreError {
    let message = format!("no node of the Redis cluster has the slot {slot} of this key");
    StoreError::new(StoreErrorKind::NotExecuted, message)
}

/// The error after too many redirections.
pub(super) fn sent_around(key: &str) -> StoreError {
    let message = format!("the nodes of the Redis cluster send {key} around, each to another");
    StoreError::new(StoreErrorKind::NotExecuted, message)
}
