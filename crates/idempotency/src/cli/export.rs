//! `export`: every record, a line of JSON each.

use serde_json::Value;

use super::Run;
use super::arguments::Which;
use super::exit::Failure;
use super::get::document;
use super::scan::Scan;
use crate::seen::Standing;

pub(super) async fn export(run: &mut Run, which: &Which, show_body: bool) -> Result<(), Failure> {
    let mut scan = Scan::new(which, &Standing::ALL);
    while let Some(page) = scan.next(run).await? {
        let mut lines = String::new();
        for seen in page {
            let said = match show_body {
                false => seen.json(),
                true => match run.engine.get(&seen.id).await? {
                    Some((held, _)) => document(&seen, &held.record, true),
                    None => continue, // it has gone meanwhile
                },
            };
            lines += &format!("{}\n", Value::Object(said));
        }
        run.streams.print(&lines)?;
    }
    Ok(())
}
