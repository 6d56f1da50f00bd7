//! Threads that libtorch computes with: how many there are, and how they wait for each other.
//!
//! What lives here: defaults of environment variables that OpenMP reads once, when it is loaded with libtorch. What must not:
//! anything that has to load libtorch; other threads of the program.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::OnceLock;

/// Rounds that a thread of OpenMP waits at a barrier before it sleeps, where the user said nothing.
///
/// libgomp's own default is 300,000 rounds, or for ever with an active policy: some milliseconds of a core at each of the thousands
/// of barriers of a training step, whenever a thread is not running because another process has its core. 10,000 rounds are longer
/// than the way from one parallel loop to the next, so an idle machine loses nothing (`cargo xtask bench load`).
pub const SPIN_COUNT: usize = 10_000;

const SPIN: &str = "GOMP_SPINCOUNT";
const POLICY: &str = "OMP_WAIT_POLICY";
const COUNT: &str = "OMP_NUM_THREADS";
const MKL_COUNT: &str = "MKL_NUM_THREADS";

/// How this process computes in parallel, as [`prepare`] decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads {
    /// Processors that this process may use at once: its affinity mask and the quota of its control group.
    pub available: usize,
    /// Cores behind them: two processors of one core share its arithmetic.
    pub cores: usize,
    /// Threads of one operation. `None`: the user's environment decides.
    pub count: Option<usize>,
    /// Rounds that a waiting thread spins. `None`: the user's environment decides.
    pub spin_count: Option<usize>,
}

impl Threads {
    /// Threads of one operation in each of `processes` processes on this machine; `None` where the user's environment decides.
    pub fn shared_by(&self, processes: usize) -> Option<usize> {
        self.count.map(|count| (count / processes.max(1)).max(1))
    }

    /// The decision for a machine, given what `environment` has.
    fn decide(available: usize, cores: usize, environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let said = |name: &str| environment(name).is_some_and(|value| !value.is_empty());
        Self {
            available,
            cores,
            count: (!said(COUNT) && !said(MKL_COUNT)).then(|| available.min(cores).max(1)),
            spin_count: (!said(SPIN) && !said(POLICY)).then_some(SPIN_COUNT),
        }
    }
}

static DECIDED: OnceLock<Threads> = OnceLock::new();

/// Puts the defaults into the environment, for OpenMP to read when libtorch is loaded. Variables that the user has set stay:
/// `OMP_NUM_THREADS` or `MKL_NUM_THREADS` for the number, `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` for the waiting.
///
/// To be called first in `main`. A process that has other threads already is left alone, as they may be reading the environment:
/// then OpenMP's own defaults hold, and the result says so.
pub fn prepare() -> &'static Threads {
    DECIDED.get_or_init(|| {
        let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let allowed = allowed_processors();
        let cores = if allowed.is_empty() {
            available
        } else {
            cores_of(&allowed)
        };
        let mut threads = Threads::decide(available, cores, |name| std::env::var_os(name));
        if !alone() {
            (threads.count, threads.spin_count) = (None, None);
        }
        for (name, value) in [(COUNT, threads.count), (SPIN, threads.spin_count)] {
            if let Some(value) = value {
                // SAFETY: this is the only thread of the process, so nobody reads the environment meanwhile.
                unsafe { std::env::set_var(name, value.to_string()) };
            }
        }
        threads
    })
}

/// Whether this process has one thread, for certain.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Numbers of the processors that this process may run on; empty where the system doesn't say.
fn allowed_processors() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(listed).unwrap_or_default()
}

/// `0-3,8` as numbers.
fn listed(text: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        out.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(out)
}

/// Cores that these processors belong to. One whose core is not known counts as a core.
fn cores_of(processors: &[usize]) -> usize {
    let core = |processor: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
        std::fs::read_to_string(path).map_or_else(|_| processor.to_string(), |list| list.trim().to_owned())
    };
    processors.iter().map(core).collect::<HashSet<String>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(available: usize, cores: usize, set: &[(&str, &str)]) -> Threads {
        Threads::decide(available, cores, |name| {
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn one_thread_for_each_core_within_the_quota() {
        assert_eq!(decide(2, 2, &[]).count, Some(2));
        assert_eq!(decide(16, 8, &[]).count, Some(8), "two processors to a core");
        assert_eq!(
            decide(3, 32, &[]).count,
            Some(3),
            "a quota of three processors on a large machine"
        );
        assert_eq!(decide(16, 8, &[]).shared_by(3), Some(2));
        assert_eq!(decide(1, 1, &[]).shared_by(4), Some(1));
    }

    #[test]
    fn what_the_user_said_stays() {
        for name in [COUNT, MKL_COUNT] {
            let threads = decide(8, 8, &[(name, "3")]);
            assert_eq!((threads.count, threads.spin_count), (None, Some(SPIN_COUNT)), "{name}");
            assert_eq!(threads.shared_by(2), None);
        }
        for name in [SPIN, POLICY] {
            let threads = decide(8, 8, &[(name, "passive")]);
            assert_eq!((threads.count, threads.spin_count), (Some(8), None), "{name}");
        }
        assert_eq!(
            decide(8, 8, &[(SPIN, "")]).spin_count,
            Some(SPIN_COUNT),
            "empty is unset"
        );
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(listed("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(listed("7"), Some(vec![7]));
        assert_eq!(listed("none"), None);
        let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let allowed = allowed_processors();
        assert!(
            allowed.len() >= here,
            "{allowed:?} hold the {here} that may be used at once"
        );
        let cores = cores_of(&allowed);
        assert!((1..=allowed.len()).contains(&cores), "{cores} cores of {allowed:?}");
    }
}
