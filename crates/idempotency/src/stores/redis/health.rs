//! What the servers say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::{Cmd, FromRedisValue};

use super::RedisStore;
use super::node::Node;
use super::route::Used;
use crate::error::StoreError;
use crate::store::Health;

/// What INFO says, by name.
type Info = BTreeMap<String, String>;

impl RedisStore {
    pub(super) async fn look(&self) -> Result<Health, StoreError> {
        let (nodes, _) = self.route.primaries().await?;
        let several = nodes.len() > 1;
        let mut health: Option<Health> = None;
        for node in &nodes {
            let at = node.get().await?.at.to_string();
            let said = self.look_at_server(node, &at).await?;
            let named = |text: String| if several { format!("{at}: {text}") } else { text };
            match &mut health {
                None => {
                    let warnings = said.warnings.into_iter().map(named).collect();
                    health = Some(Health { warnings, ..said });
                }
                Some(health) => {
                    health.facts.extend(said.facts);
                    health.warnings.extend(said.warnings.into_iter().map(named));
                }
            }
        }
        Ok(health.unwrap_or_else(|| Health::new("Redis", "")).warned_where(nodes.is_empty(), "no server has any slot"))
    }

    async fn look_at_server(&self, node: &Arc<Node>, at: &str) -> Result<Health, StoreError> {
        // A user may be kept from each of these: what is not known is said so.
        let info = self.ask::<String>(node, Cmd::new().arg("INFO")).await;
        let info: Info = info.as_deref().map(read).unwrap_or_default();
        let of = |name: &str| info.get(name).map(String::as_str);
        let (name, version) = match of("valkey_version") {
            Some(version) => ("Valkey", version),
            None => ("Redis", of("redis_version").unwrap_or("")),
        };
        let mut health = Health::new(name, version).fact("server", at);
        if info.is_empty() {
            health = health.warning("INFO is not permitted to this user: its settings are not known");
        }
        if let Ok((seconds, micros)) = self.ask::<(u64, u64)>(node, Cmd::new().arg("TIME")).await {
            health.clock = Some(seconds * 1_000_000 + micros);
        }
        if let Some(policy) = of("maxmemory_policy") {
            let is_bounded = of("maxmemory").is_some_and(|most| most != "0");
            health = health.fact("maxmemory-policy", policy);
            if policy != "noeviction" {
                let when = if is_bounded { "" } else { " as soon as maxmemory is set" };
                health = health.warning(format!(
                    "maxmemory-policy is {policy}: it may drop a claim{when}, and a dropped claim is a second run; set \
                     noeviction"
                ));
            }
        }
        if of("role") == Some("slave") {
            health = health.warning("it is a replica and takes no writes; name its primary");
        }
        match of("aof_enabled") {
            Some("0") => {
                health = health
                    .fact("appendonly", "no")
                    .warning("appendonly is no: a restart loses the claims and results since the last snapshot");
            }
            Some(_) => {
                let setting = self.ask::<Info>(node, Cmd::new().arg("CONFIG").arg("GET").arg("appendfsync")).await.ok();
                let fsync = setting.and_then(|mut setting| setting.remove("appendfsync"));
                health = health.fact("appendonly", "yes").fact("appendfsync", fsync.as_deref().unwrap_or("not known"));
                if fsync.is_some_and(|fsync| fsync != "always") {
                    health = health.warning(
                        "appendfsync is not always: a crash of the machine loses the claims and results of the last \
                         second or more",
                    );
                }
            }
            None => {}
        }
        if of("loading") == Some("1") {
            health = health.warning("it is loading its data and answers nothing yet");
        }
        Ok(health)
    }

    async fn ask<T: FromRedisValue>(&self, node: &Arc<Node>, command: &Cmd) -> Result<T, StoreError> {
        let used = Used::default();
        self.within_limit(&used, async {
            let mut link = node.get().await?;
            used.note(node, &link);
            let answer = command.query_async(&mut link.connection).await;
            answer.map_err(|source| node.failed(link.number, source, &self.all()))
        })
        .await
    }
}

impl Health {
    fn warned_where(self, is_so: bool, warning: &str) -> Self {
        if is_so { self.warning(warning) } else { self }
    }
}

fn read(info: &str) -> Info {
    let pairs = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
