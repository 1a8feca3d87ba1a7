//! Parses, traces, runs, and gives the exit code: 0 ended as asked, 1 failed while running, 2 a setting is missing or wrong.

use std::process::ExitCode;

use chatixia_sidecar::config::{Args, Config, LogFormat};
use chatixia_sidecar::{check, supervisor};
use clap::Parser;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::from_process(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("chatixia-sidecar: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = trace(&config) {
        eprintln!("chatixia-sidecar: RUST_LOG: {error}");
        return ExitCode::from(2);
    }
    // One thread: what is lost between threads is more than a second core would win for one agent.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chatixia-sidecar: {error}");
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, async {
        if args.check {
            return if check::run(&config).await { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        match supervisor::run(config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "not started");
                ExitCode::FAILURE
            }
        }
    });
    drop(local);
    // Not waiting for a name lookup that still blocks its thread.
    runtime.shutdown_background();
    code
}

/// Logs to stderr what RUST_LOG asks for: `LEVEL`, or `TARGET=LEVEL,..`. Filters on spans and fields would bring a regular
/// expression engine, a tenth of the binary.
fn trace(config: &Config) -> Result<(), ParseError> {
    let filter: Targets = config.log_filter.parse()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            tracing_subscriber::registry().with(filter).with(lines.with_ansi(ansi)).init();
        }
        LogFormat::Json => tracing_subscriber::registry().with(filter).with(lines.json()).init(),
    }
    Ok(())
}
