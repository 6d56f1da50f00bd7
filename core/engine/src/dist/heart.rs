//! Whether the other ranks live: each writes a number that grows into the store, and all look at all numbers.
//!
//! A process that is killed, a machine that is gone, a store that does not answer: a number stands still. A rank that ends by an error
//! says so. Either way the verdict names the rank and its place.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use yolo_torch::native::dist::Store;

use super::{Environment, OnLost, line};
use crate::{Error, Result};

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// A rank that has not been heard of for so long is lost.
const SILENCE: Duration = Duration::from_secs(15);
/// As [`SILENCE`], once a call to the others has failed.
const SUSPICIOUS: Duration = Duration::from_secs(3);
/// A rank that knows that another is lost ends by itself within this time, or is ended.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct State {
    /// Last number of each rank, and when it was first seen.
    beats: Vec<(i64, Instant)>,
    /// When the store last answered.
    answered: Instant,
    /// A call to the others failed: silence means more.
    suspicious: bool,
    /// What is known to be wrong.
    verdict: Option<String>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    places: Vec<String>,
    rank: usize,
    address: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.lock().stop
    }
}

/// Two threads: one talks to the store, one looks at the clock, as a store may not answer at all.
#[derive(Debug)]
pub(super) struct Heart {
    shared: Arc<Shared>,
}

const FAILED: &str = "failed";

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}

impl Heart {
    /// Starts beating over a connection of its own. `places` says where each rank is.
    pub(super) fn start(e: &Environment, store: Store, places: Vec<String>, on_lost: OnLost) -> Result<Self> {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                beats: vec![(0, now); e.world_size],
                answered: now,
                suspicious: false,
                verdict: None,
                stop: false,
            }),
            changed: Condvar::new(),
            places,
            rank: e.rank,
            address: e.address(),
        });
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let refused = |error: std::io::Error| Error::Settings(format!("no thread can be started: {error}"));
        let own = shared.clone();
        thread("heartbeat").spawn(move || beat(&own, &store)).map_err(refused)?;
        let own = shared.clone();
        thread("heart").spawn(move || watch(&own, on_lost)).map_err(refused)?;
        Ok(Self { shared })
    }

    /// Why a call to the others failed, as soon as that is known; `None` if all of them live.
    pub(super) fn verdict(&self) -> Option<String> {
        let mut state = self.shared.lock();
        state.suspicious = true;
        let start = Instant::now();
        let longest = SUSPICIOUS + 4 * BEAT;
        while state.verdict.is_none() && start.elapsed() < longest {
            let left = longest.saturating_sub(start.elapsed());
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // It is going to end with this error: nobody has to end it.
        state.stop = true;
        state.verdict.clone()
    }

    /// Tells all ranks why this one ends.
    pub(super) fn fail(&self, store: &Store, reason: &str) {
        let heard = {
            let mut state = self.shared.lock();
            state.stop = true;
            state.verdict.is_some()
        };
        // Who ends because of another has nothing new to say. A store that is gone has nobody to tell it to.
        if !heard {
            let rank = self.shared.rank;
            let place = self.shared.places.get(rank).map_or("", String::as_str);
            let _ = store.set(FAILED, format!("rank {rank} ({place}) ended: {reason}").as_bytes());
            // The store lives in rank 0: the others read it before that is gone.
            std::thread::sleep(3 * BEAT);
        }
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Writes this rank's number and reads the others'.
fn beat(shared: &Shared, store: &Store) {
    while !shared.stopped() {
        let read = |rank: usize| store.add(&beat_key(rank), 0);
        let round = || -> Result<(Vec<i64>, Option<String>), tch::TchError> {
            store.add(&beat_key(shared.rank), 1)?;
            let all = (0..shared.places.len()).map(read).collect::<Result<_, _>>()?;
            let failed = store.has(FAILED)?.then(|| store.get(FAILED)).transpose()?;
            Ok((all, failed.map(|text| String::from_utf8_lossy(&text).into_owned())))
        };
        match round() {
            Ok((numbers, failed)) => {
                let mut state = shared.lock();
                let now = Instant::now();
                state.answered = now;
                for (known, number) in state.beats.iter_mut().zip(numbers) {
                    if known.0 != number {
                        *known = (number, now);
                    }
                }
                if let Some(reason) = failed {
                    conclude(shared, &mut state, reason);
                }
            }
            Err(error) => {
                let mut state = shared.lock();
                let reason = format!("the store of rank 0 at {} is gone: {}", shared.address, line(&error));
                conclude(shared, &mut state, reason);
                return;
            }
        }
        std::thread::sleep(BEAT);
    }
}

fn conclude(shared: &Shared, state: &mut State, reason: String) {
    state.verdict.get_or_insert(reason);
    shared.changed.notify_all();
}

/// Looks at the clock; ends the process by `on_lost` if it does not end by itself.
fn watch(shared: &Shared, on_lost: OnLost) {
    let mut known: Option<Instant> = None;
    loop {
        std::thread::sleep(BEAT);
        let mut state = shared.lock();
        if state.stop {
            return;
        }
        let limit = if state.suspicious { SUSPICIOUS } else { SILENCE };
        if state.verdict.is_none()
            && let Some(reason) = silent(shared, &state, limit)
        {
            conclude(shared, &mut state, reason);
        }
        if let Some(verdict) = state.verdict.clone()
            && known.get_or_insert_with(Instant::now).elapsed() > GRACE
        {
            drop(state);
            on_lost(&verdict);
            return;
        }
    }
}

/// Who has not been heard of for longer than `limit`.
fn silent(shared: &Shared, state: &State, limit: Duration) -> Option<String> {
    let seconds = limit.as_secs();
    if state.answered.elapsed() > limit {
        return Some(format!(
            "rank 0 ({}) at {} has not answered for {seconds} s",
            shared.places.first().map_or("", String::as_str),
            shared.address
        ));
    }
    let lost = |(rank, (_, heard)): &(usize, &(i64, Instant))| *rank != shared.rank && heard.elapsed() > limit;
    let (rank, _) = state.beats.iter().enumerate().find(lost)?;
    let place = shared.places.get(rank).map_or("", String::as_str);
    Some(format!("rank {rank} ({place}) has not been heard of for {seconds} s"))
}
