//! `skiff bench`: the promised numbers, measured against any cluster a kubeconfig names.
//!
//! Raw HTTP/1.1 connections over TLS, one per simulated client, so that what is measured is the
//! server and not a client library. The same run can be pointed at another server: what counts are
//! the ratios of one machine and one hour. SPECIFICATION.md says which promise each line checks.

mod connection;
mod cpu;
mod fanout;
mod pods;
mod rates;
mod report;
mod scheduling;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use super::Done;
use crate::cli::BenchArgs;
use connection::Target;
use cpu::Meter;

pub fn run(args: BenchArgs) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let target = Target::from_kubeconfig(args.kubeconfig.as_deref()).await?;
        let span = Duration::from_secs(args.seconds);
        println!("{} with {} clients, {} s each", target.server(), args.clients, args.seconds);
        let bench = rates::Bench::prepare(&target).await?;
        let measured = match (args.pods, &args.image) {
            (Some(pods), _) => measure_scheduling(&args, &target, bench.namespace(), pods).await,
            (None, Some(image)) => measure_node(&args, &target, bench.namespace(), image).await,
            (None, None) => measure(&args, &target, &bench, span).await,
        };
        // The namespace goes whether or not everything could be measured.
        bench.clean_up(&target).await?;
        measured?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Scheduling is measured alone: it leaves no room for anything else.
async fn measure_scheduling(
    args: &BenchArgs,
    target: &Target,
    namespace: &str,
    pods: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let wishes = match args.spread {
        true => scheduling::Wishes::SpreadAndAffinity,
        false => scheduling::Wishes::None,
    };
    let scheduled = scheduling::run(target, namespace, pods, args.clients, wishes).await?;
    report::scheduled(&scheduled);
    Ok(())
}

/// The node is measured alone: what the API server is busy with would be counted too.
async fn measure_node(
    args: &BenchArgs,
    target: &Target,
    namespace: &str,
    image: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let pods = pods::Pods { target, namespace, image };
    report::spread("apply to Running", pods.starts(100).await?);
    if let Some(command) = &args.exec {
        report::spread(&format!("exec {command}"), pods.commands(command, 100).await?);
    }
    if let Some(sessions) = args.sessions {
        report::all(&format!("{sessions} exec sessions"), pods.sessions(sessions).await?);
    }
    report::all(&format!("{} pods at once", args.burst), pods.burst(args.burst).await?);
    Ok(())
}

async fn measure(
    args: &BenchArgs,
    target: &Target,
    bench: &rates::Bench,
    span: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let meter = Meter { server: args.server_pid };
    let few = args.clients.min(16);
    report::rate(
        "create 1 KB ConfigMaps",
        &bench.creates(target, args.clients, span, &meter).await?,
    );
    report::rate("get", &bench.gets(target, args.clients, span, &meter).await?);
    report::rate("list 500 x 1 KB", &bench.lists(target, few, span, &meter).await?);
    report::spread(
        "create to watch event",
        watch::latencies(target, bench.namespace(), 200).await?,
    );
    let load = (args.watchers, args.changes_per_second);
    let fanout = fanout::run(target, bench.namespace(), load, span, &meter).await;
    report::fanout(&fanout.map_err(|error| error.to_string())?);
    Ok(())
}
