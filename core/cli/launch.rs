//! `yolo train --device 0,1`: starts the ranks of a training on this machine and ends with them.
//!
//! Ranks are this program again, with the variables that `torchrun` sets. Each holds the other end of a pipe: a word asks it to stop,
//! the end of the pipe (this process is gone, however it ended) makes it end at once.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Set for processes that [`run`] started.
const LEASHED: &str = "YOLO_LEASHED";
/// The word that asks a rank to stop.
const STOP: &[u8] = b"stop\n";
/// Once a rank has failed, the others have so long to end by themselves: they notice by their heartbeats and say whom they lost.
const GRACE: Duration = Duration::from_secs(25);

/// Starts `count` ranks with the arguments of this process and waits for them.
pub fn run(count: usize) -> CliResult {
    // Rank 0 speaks.
    ui::hush();
    ui::stop_flag();
    let mut ranks = start(count)?;
    let (mut asked, mut failed): (bool, Option<(usize, ExitStatus, Instant)>) = (false, None);
    let mut ended = vec![false; count];
    while ended.contains(&false) {
        for (rank, child) in ranks.iter_mut().enumerate() {
            if ended[rank] {
                continue;
            }
            let status = child.try_wait().map_err(|error| lost(rank, &error))?;
            let Some(status) = status else { continue };
            ended[rank] = true;
            if !status.success() && failed.is_none() {
                failed = Some((rank, status, Instant::now()));
            }
        }
        if ui::stopped() && !asked {
            asked = true;
            for child in &mut ranks {
                // A rank that has ended needs no word.
                let _ = child.stdin.as_mut().map(|pipe| pipe.write_all(STOP));
            }
        }
        if failed.is_some_and(|(_, _, since)| since.elapsed() > GRACE) {
            for child in &mut ranks {
                let _ = child.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match failed {
        None => Ok(()),
        Some((rank, status, _)) => Err(ending(rank, status)),
    }
}

/// How a rank ended. With a code it has said why itself.
fn ending(rank: usize, status: ExitStatus) -> CliError {
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => CliError::Said(code),
        _ => CliError::Failed(format!("rank {rank} was ended from outside ({status})")),
    }
}

fn lost(rank: usize, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("rank {rank} can't be started or waited for: {error}"))
}

fn start(count: usize) -> CliResult<Vec<Child>> {
    let program = std::env::current_exe().map_err(|error| lost(0, &error))?;
    let port = free_port().map_err(|error| CliError::Failed(format!("there is no free port: {error}")))?;
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / count).max(1));
    let mut ranks: Vec<Child> = Vec::new();
    for rank in 0..count {
        let mut command = Command::new(&program);
        command
            .args(std::env::args_os().skip(1))
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", count.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env(LEASHED, "1")
            .stdin(Stdio::piped());
        if std::env::var_os("OMP_NUM_THREADS").is_none() {
            command.env("OMP_NUM_THREADS", threads.to_string());
        }
        match command.spawn() {
            Ok(child) => ranks.push(child),
            Err(error) => {
                for child in &mut ranks {
                    let _ = child.kill();
                }
                return Err(lost(rank, &error));
            }
        }
    }
    Ok(ranks)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// In a rank that [`run`] started: listens to it.
pub fn obey() {
    if std::env::var_os(LEASHED).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let mut word = [0; STOP.len()];
        while std::io::stdin().read_exact(&mut word).is_ok() {
            ui::stop();
        }
        yolo_registry::leave(1);
    });
}
