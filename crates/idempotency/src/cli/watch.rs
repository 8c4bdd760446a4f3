//! `watch`: what goes on, as it goes on.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Run;
use super::arguments::Which;
use super::exit::Failure;
use super::list::table;
use super::scan::Scan;
use super::seen::Seen;
use super::stats::Counts;
use super::words::{count, time};
use crate::clock::wall_clock;
use crate::record::Micros;
use crate::seen::Standing;

/// The most records of a look. What is in flight at once is not more; what is unknown should not be.
const MOST: usize = 10_000;

pub(super) async fn watch(run: &mut Run, interval: Micros, looks: Option<u64>, limit: usize) -> Result<(), Failure> {
    let mut left = looks;
    // Its progress would stand between its pictures.
    run.streams.tells_progress = false;
    while left != Some(0) {
        let which = Which { state: vec![], operation: None, older: None };
        let (mut found, more) = Scan::new(&which, &Standing::UNFINISHED).most(run, MOST).await?;
        found.sort_by_key(|seen| seen.fence);
        let mut counts = Counts::default();
        found.iter().for_each(|seen| counts.add(seen));
        let text = picture(run, &found, &counts, more, limit);
        run.streams.print(&text)?;
        left = left.map(|left| left - 1);
        if left != Some(0) {
            tokio::time::sleep(Duration::from_micros(interval.max(100_000))).await;
        }
    }
    Ok(())
}

fn picture(run: &Run, found: &[Seen], counts: &Counts, more: bool, limit: usize) -> String {
    let at = time(wall_clock());
    let number = |standing: Standing| {
        let number = count(counts.of(standing));
        if more { format!("{number}+") } else { number }
    };
    if run.json {
        let mut said: Map<String, Value> = Standing::UNFINISHED
            .iter()
            .map(|standing| (standing.words().replace(' ', "_"), json!(counts.of(*standing))))
            .collect();
        said.insert("at".into(), json!(at));
        said.insert("records".into(), found.iter().take(limit).map(|seen| Value::Object(seen.json())).collect());
        return format!("{}\n", Value::Object(said));
    }
    let line = format!(
        "{}  in flight {}  lapsed {}  unknown {}\n",
        &at[..19].replace('T', " "),
        number(Standing::InFlight),
        number(Standing::Lapsed),
        number(Standing::Unknown),
    );
    if !run.streams.is_terminal {
        return line;
    }
    let shown = &found[..limit.min(found.len())];
    let rest = match found.len() - shown.len() {
        0 => String::new(),
        rest => format!("and {} more\n", count(rest as u64)),
    };
    // From the top, over what stands there.
    format!("\x1b[H\x1b[2J{line}\n{}{rest}", table(shown).text(&run.streams))
}
