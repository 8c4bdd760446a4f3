//! A Redis cluster of the test's own.

use std::time::{Duration, Instant};

use super::Redis;
use super::postgres::free_port;

pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Primaries that share the slots, without replicas.
    pub fn start(nodes: usize) -> Self {
        let buses: Vec<String> = (0..nodes).map(|_| free_port().to_string()).collect();
        let args = |bus| ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", bus];
        let cluster = Self { nodes: buses.iter().map(|bus| Redis::start(&args(bus))).collect() };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let [first, last] = [at, at + 1].map(|at| at * 16384 / nodes);
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(last - 1).to_string()]);
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            let first = &cluster.nodes[0];
            node.cli(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), &buses[0]]);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        let knows_all = |node: &Redis| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_size:{nodes}"))
        };
        while !cluster.nodes.iter().all(knows_all) {
            assert!(Instant::now() < deadline, "the nodes do not come together");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    /// A URL that names one of them.
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.nodes[0].port)
    }
}
