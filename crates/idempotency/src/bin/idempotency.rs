//! The operator's command line: see [`idempotency::cli`].

use std::process::ExitCode;

use idempotency::cli::{Program, Streams};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the operating system refuses a poller: {error}");
            return ExitCode::FAILURE;
        }
    };
    let program = Program::new("idempotency");
    let ended = runtime.block_on(program.run(std::env::args_os().skip(1).collect(), Streams::of_the_process()));
    // What waits for an answer of the terminal does not hold it up.
    runtime.shutdown_background();
    ended.into()
}
