//! `stats`: how many records there are, and of what.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Run;
use super::exit::Failure;
use super::output::{Colour, Table};
use super::scan::Scan;
use super::seen::Seen;
use super::words::{bytes, count, duration};
use crate::record::Micros;
use crate::seen::Standing;
use crate::seen::harmless;

/// Of some records: how many in each state, and the bytes of all.
#[derive(Clone, Default)]
pub(super) struct Counts {
    by_state: [u64; 5],
    bytes: u64,
}

impl Counts {
    pub(super) fn add(&mut self, seen: &Seen) {
        self.by_state[seen.standing as usize] += 1;
        self.bytes += seen.size as u64;
    }

    pub(super) fn of(&self, standing: Standing) -> u64 {
        self.by_state[standing as usize]
    }

    fn all(&self) -> u64 {
        self.by_state.iter().sum()
    }

    fn join(&mut self, other: &Self) {
        self.by_state.iter_mut().zip(other.by_state).for_each(|(count, more)| *count += more);
        self.bytes += other.bytes;
    }

    fn cells(&self) -> Vec<String> {
        Standing::ALL.iter().map(|state| count(self.of(*state))).chain([bytes(self.bytes)]).collect()
    }

    fn json(&self) -> serde_json::Map<String, Value> {
        let states = Standing::ALL.iter().map(|state| (state.words().replace(' ', "_"), json!(self.of(*state))));
        states.chain([("bytes".to_owned(), json!(self.bytes))]).collect()
    }
}

/// How long ago the oldest of some attempts began.
#[derive(Clone, Default)]
pub(super) struct Oldest(Option<(Micros, String, String)>);

impl Oldest {
    pub(super) fn add(&mut self, seen: &Seen) {
        if self.0.as_ref().is_none_or(|(age, ..)| *age < seen.age()) {
            self.0 = Some((seen.age(), seen.id.id(), seen.label.clone()));
        }
    }

    fn json(&self) -> Value {
        self.0
            .as_ref()
            .map_or(Value::Null, |(age, id, label)| json!({ "age": age / 1_000_000, "id": id, "label": label }))
    }
}

pub(super) async fn stats(run: &mut Run, limit: usize) -> Result<(), Failure> {
    let (mut all, mut operations) = (Counts::default(), HashMap::<String, Counts>::new());
    let mut oldest = [(Standing::InFlight, Oldest::default()), (Standing::Unknown, Oldest::default())];
    let mut scan = Scan::everything();
    while let Some(page) = scan.next(run).await? {
        for seen in &page {
            all.add(seen);
            match operations.get_mut(seen.operation()) {
                Some(counts) => counts.add(seen),
                None => operations.entry(seen.operation().to_owned()).or_default().add(seen),
            }
            for (standing, oldest) in &mut oldest {
                // A lapsed attempt is one in flight that is late.
                if *standing == seen.standing || (*standing, seen.standing) == (Standing::InFlight, Standing::Lapsed) {
                    oldest.add(seen);
                }
            }
        }
    }
    let mut operations: Vec<(String, Counts)> = operations.into_iter().collect();
    operations.sort_by(|(one, a), (other, b)| b.all().cmp(&a.all()).then_with(|| one.cmp(other)));
    let rest = operations.split_off(limit.min(operations.len()));
    let mut others = Counts::default();
    rest.iter().for_each(|(_, counts)| others.join(counts));
    let text = if run.json {
        let operations = operations.iter().map(|(name, counts)| {
            let mut said = counts.json();
            said.insert("operation".into(), json!(name));
            Value::Object(said)
        });
        let mut said = all.json();
        said.insert("records".into(), json!(all.all()));
        said.insert("operations".into(), operations.collect());
        said.insert("other_operations".into(), json!(rest.len()));
        for (standing, oldest) in &oldest {
            said.insert(format!("oldest_{}", standing.words().replace(' ', "_")), oldest.json());
        }
        format!("{}\n", Value::Object(said))
    } else {
        let mut table = Table::new(&["IN FLIGHT", "LAPSED", "UNKNOWN", "COMPLETED", "NOT KEPT", "BYTES", "OPERATION"]);
        let mut row = |counts: &Counts, name: String| {
            let cells = counts.cells().into_iter().chain([name]).collect();
            table.row(Colour::None, cells);
        };
        operations.iter().for_each(|(name, counts)| row(counts, harmless(name)));
        if !rest.is_empty() {
            row(&others, format!("({} others)", count(rest.len() as u64)));
        }
        row(&all, "(all)".into());
        let mut text = table.text(&run.streams);
        for (standing, Oldest(oldest)) in &oldest {
            if let Some((age, id, label)) = oldest {
                let label = harmless(label);
                text += &format!("oldest {}: began {} ago, {id}, {label}\n", standing.words(), duration(*age));
            }
        }
        text
    };
    Ok(run.streams.print(&text)?)
}
