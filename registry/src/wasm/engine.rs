//! The WebAssembly engine: what modules may use, and the clock that ends those that run too long.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel};

use crate::error::{Code, PluginError, Result};

/// Resolution of the time limit.
const TICK: Duration = Duration::from_millis(10);
/// Stack of a metric.
const STACK: usize = 512 << 10;

/// The engine of the process.
///
/// # Errors
/// [`Code::Unsupported`] on a machine that the compiler has no back end for.
pub(super) fn engine() -> Result<&'static Engine> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    ENGINE
        .get_or_init(|| {
            let engine = Engine::new(&config()).map_err(|error| error.to_string())?;
            let ticking = engine.clone();
            std::thread::Builder::new()
                .name("wasm clock".into())
                .spawn(move || tick(&ticking))
                .map_err(|error| error.to_string())?;
            Ok(engine)
        })
        .as_ref()
        .map_err(|error| {
            PluginError::new(
                Code::Unsupported,
                format!("WASM metrics can't run on this machine: {error}"),
            )
        })
}

/// Same scores on every machine: no threads, no randomness in the bits of NaN, relaxed SIMD as the specification's strict form.
/// One memory of 32-bit addresses, so that what a metric can reach is known.
fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .max_wasm_stack(STACK);
    config
}

/// How many ticks of the clock this time takes (never fewer than one full tick).
pub(super) fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis() / TICK.as_millis())
        .unwrap_or(u64::MAX / 2)
        .saturating_add(2)
}

/// Calls that are running; the clock stands still without any.
struct Running {
    calls: Mutex<usize>,
    started: Condvar,
}

static RUNNING: Running = Running {
    calls: Mutex::new(0),
    started: Condvar::new(),
};

/// While this lives, the clock ticks.
pub(super) struct Ticking(());

impl Ticking {
    pub(super) fn start() -> Self {
        *RUNNING.calls.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        RUNNING.started.notify_one();
        Self(())
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        *RUNNING.calls.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

fn tick(engine: &Engine) {
    loop {
        let mut calls = RUNNING.calls.lock().unwrap_or_else(PoisonError::into_inner);
        while *calls == 0 {
            calls = RUNNING.started.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        drop(calls);
        std::thread::sleep(TICK);
        engine.increment_epoch();
    }
}
