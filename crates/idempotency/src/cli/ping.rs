//! `ping`: whether the store answers, and what endangers it.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::Run;
use super::exit::{Exit, Failure};
use super::output::Colour;
use super::words::duration;
use crate::clock::{micros, wall_clock};
use crate::record::Micros;
use crate::seen::harmless;

/// By how much a clock may differ from ours before it is worth a word.
const DIFFERS: Micros = 1_000_000;

pub(super) async fn ping(run: &mut Run, strict: bool) -> Result<Exit, Failure> {
    let (asked, began) = (Instant::now(), wall_clock());
    let mut health = run.engine.health().await?;
    let took = micros(asked.elapsed());
    if let Some(clock) = health.clock {
        // It was read somewhere between the two.
        let early = began.saturating_sub(clock);
        let late = clock.saturating_sub(began + took);
        if early.max(late) > DIFFERS {
            let (by, how) = if early > late { (early, "behind") } else { (late, "ahead of") };
            health = health.warning(format!(
                "its clock is {} {how} this machine's: leases are judged by the store's, ages here are wrong by that",
                duration(by)
            ));
        }
    }
    let exit = if strict && !health.warnings.is_empty() { Exit::Endangered } else { Exit::Done };
    let text = if run.json {
        let facts: Map<String, Value> = health.facts.iter().map(|(name, fact)| (name.clone(), json!(fact))).collect();
        let milliseconds = (took as f64 / 10.0).round() / 100.0;
        let said = json!({
            "store": health.store, "version": health.version, "answered_ms": milliseconds,
            "facts": facts, "warnings": health.warnings,
        });
        format!("{said}\n")
    } else {
        let name = [health.store.as_str(), health.version.as_str()].join(" ");
        let mut text = format!("{} answers in {:.1} ms\n", harmless(name.trim()), took as f64 / 1000.0);
        for (name, fact) in &health.facts {
            text += &format!("  {name:20}{}\n", harmless(fact));
        }
        for warning in &health.warnings {
            let mark = run.streams.paint(Colour::Yellow, "warning:");
            text += &format!("{mark} {}\n", harmless(warning));
        }
        text
    };
    run.streams.print(&text)?;
    Ok(exit)
}
