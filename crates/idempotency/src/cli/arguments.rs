//! The command line, as clap reads it.

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::words::read_duration;
use crate::record::Micros;
use crate::seen::Standing;

/// Looks at idempotency keys, and settles those that only a person can.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, after_help = CODES, subcommand_required = true)]
pub(super) struct Arguments {
    /// The store: redis://host, redis+cluster://…, postgresql://host/database, sqlite:////absolute/path. By default
    /// the environment's IDEMPOTENCY_URL, which other users of the machine can't read
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// What storage keys in Redis start with ("idem:"). The schema in Postgres is a part of its URL: ?schema=…
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(super) prefix: Option<String>,
    /// Writes JSON for programs: one document, or one a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

const CODES: &str = "Exit codes: 0 done, 1 the store failed, 2 usage, 3 no such record, 4 nothing was changed, \
                     5 endangered (ping --strict).";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Asks the store whether it answers, and what of its settings endangers the promises
    Ping {
        /// Exits with 5 where something does
        #[arg(long)]
        strict: bool,
    },
    /// Lists what is in flight, lapsed or unknown, the oldest first
    List {
        #[command(flatten)]
        which: Which,
        /// The most records
        #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
        limit: usize,
    },
    /// Shows what stands under a key
    Get {
        #[command(flatten)]
        name: Name,
        /// Shows the body of a stored answer, or the value of a function
        #[arg(long)]
        show_body: bool,
    },
    /// Completes a key: every repeat gets this result, and nothing runs
    Resolve {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        word: Word,
        /// The status of the answer [200]
        #[arg(long, value_parser = clap::value_parser!(u16).range(200..=599))]
        status: Option<u16>,
        /// Its body
        #[arg(long)]
        body: Option<String>,
        /// Its content type
        #[arg(long = "type")]
        content_type: Option<String>,
        /// The result of a function, in JSON, in place of an answer
        #[arg(long, value_name = "JSON")]
        result: Option<String>,
    },
    /// Frees a key: the next request with it runs
    Release {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        word: Word,
    },
    /// Removes what has expired, from a store that does not do it by itself
    Purge,
    /// Counts records by state and operation; says what is oldest
    Stats {
        /// The most operations
        #[arg(long, default_value_t = 20, value_parser = at_least_one)]
        limit: usize,
    },
    /// Shows what goes on, again and again, until it is stopped
    Watch {
        /// The time between two looks
        #[arg(long, default_value = "2s", value_parser = read_duration)]
        interval: Micros,
        /// Ends after so many looks
        #[arg(long, value_name = "LOOKS")]
        count: Option<u64>,
        /// The most records of each look
        #[arg(long, default_value_t = 20, value_parser = at_least_one)]
        limit: usize,
    },
    /// Writes all records, a line of JSON each
    Export {
        #[command(flatten)]
        which: Which,
        /// With the bodies of stored answers, and the values of functions
        #[arg(long)]
        show_body: bool,
    },
    /// Serves the operator's page on this machine, until it is stopped
    Console {
        /// The store, in place of --url
        #[arg(value_name = "URL")]
        store: Option<String>,
        /// The port; 0: any that is free
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// The address, one of this machine's own
        #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
        bind: IpAddr,
    },
    /// Writes the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// Which records.
#[derive(Args, Clone, Debug)]
pub(super) struct Which {
    /// Only in these states, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "STATES")]
    pub(super) state: Vec<Standing>,
    /// Only of this operation: "POST /pay", or the name of a function
    #[arg(long)]
    pub(super) operation: Option<String>,
    /// Only attempts that began longer ago: 90s, 10m, 2h, 1d
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    pub(super) older: Option<Micros>,
}

/// Names a record.
#[derive(Args, Debug)]
pub(super) struct Name {
    /// The key
    pub(super) key: Option<String>,
    /// What it was used for: "POST /pay", or the name of a function
    #[arg(long)]
    pub(super) operation: Option<String>,
    /// Whose it is: what scope= returned, or the primary key of the user
    #[arg(long)]
    pub(super) caller: Option<String>,
    /// The namespace of the key, where the application has one
    #[arg(long)]
    pub(super) namespace: Option<String>,
    /// The record, as list or a line of the log shows it, in place of all that
    #[arg(long, conflicts_with_all = ["key", "operation", "caller", "namespace"])]
    pub(super) id: Option<String>,
}

/// How a record is changed.
#[derive(Args, Debug)]
pub(super) struct Word {
    /// Only the record of this fence, as get shows it
    #[arg(long)]
    pub(super) fence: Option<u64>,
    /// Also what is in flight, or done
    #[arg(long)]
    pub(super) force: bool,
    /// Does not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "it must be a number of 1 or more".into())
}
