//! `list`: what is in flight, lapsed or unknown.

use serde_json::Value;

use super::Run;
use super::arguments::Which;
use super::exit::Failure;
use super::output::Table;
use super::scan::Scan;
use super::seen::Seen;
use super::words::{bytes, duration};
use crate::seen::Standing;

pub(super) async fn list(run: &mut Run, which: &Which, limit: usize) -> Result<(), Failure> {
    let (mut found, more) = Scan::new(which, &Standing::UNFINISHED).most(run, limit).await?;
    found.sort_by_key(|seen| seen.fence);
    if run.json {
        let lines: String = found.iter().map(|seen| format!("{}\n", Value::Object(seen.json()))).collect();
        run.streams.print(&lines)?;
    } else if !found.is_empty() {
        let text = table(&found).text(&run.streams);
        run.streams.print(&text)?;
    }
    if found.is_empty() {
        run.streams.tell(&nothing(which))?;
    }
    if more {
        run.streams.tell(&format!("There may be more than {limit}; pass --limit."))?;
    }
    Ok(())
}

fn nothing(which: &Which) -> String {
    let states = if which.state.is_empty() { &Standing::UNFINISHED[..] } else { &which.state };
    let names: Vec<&str> = states.iter().map(|state| state.words()).collect();
    let names = match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    };
    let of = which.operation.as_ref().map(|operation| format!(" of {operation:?}")).unwrap_or_default();
    let older = which.older.map(|older| format!(" for longer than {}", duration(older))).unwrap_or_default();
    format!("Nothing{of} is {names}{older}.")
}

/// Records under each other.
pub(super) fn table(found: &[Seen]) -> Table {
    let mut table = Table::new(&["STATE", "BEGAN", "LEASE", "KEPT", "SIZE", "ID", "OPERATION AND KEY"]);
    for seen in found {
        let lease = if seen.standing == Standing::InFlight { duration(seen.lease_left) } else { "-".into() };
        table.row(
            seen.standing.colour(),
            vec![
                seen.standing.words().into(),
                format!("{} ago", duration(seen.age())),
                lease,
                seen.life_left.map_or_else(|| "for ever".into(), duration),
                bytes(seen.size as u64),
                seen.id.id(),
                seen.shown(),
            ],
        );
    }
    table
}
