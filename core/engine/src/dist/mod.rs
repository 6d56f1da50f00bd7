//! Several processes that train one model: who they are, what they add up and send to each other, and what happens when one is lost.
//!
//! What lives here: [`World`], which is carried to whoever needs it; there is no global. A world of one process costs nothing: its
//! sums are what they are given. What must not: what is trained and measured, starting processes.
//!
//! Every collective call must be made by all ranks in the same order. What is decided, rank 0 decides ([`World::share`]).

mod environment;
mod heart;
mod norm;

pub use environment::{Environment, VARIABLES};
pub use norm::SyncNorm;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use yolo_data::Shard;
use yolo_torch::native::dist::{Group, Store};

use crate::{Error, Result};
use heart::Heart;

/// How long a rank waits for the others at the start, unless `YOLO_DIST_TIMEOUT` (in seconds) says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Longest time between two calls of one rank: another may draw, measure or read meanwhile. Lost ranks are noticed by their heartbeat,
/// not by this.
const LONGEST_CALL: Duration = Duration::from_secs(24 * 3600);

/// Called, once, when another rank is lost and this one does not end by itself (it may hang in a call of NCCL that nobody answers).
pub type OnLost = Box<dyn FnOnce(&str) + Send>;

/// The processes that train together, as one of them sees them.
#[derive(Debug)]
pub struct World {
    shard: Shard,
    local_rank: usize,
    link: Option<Link>,
}

/// Fields drop in this order: the heart stops before the store closes.
#[derive(Debug)]
struct Link {
    group: Arc<Group>,
    heart: Heart,
    store: Store,
    backend: &'static str,
}

impl Default for World {
    fn default() -> Self {
        Self::single()
    }
}

/// Two are equal if they have the same place among as many processes.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.shard == other.shard
    }
}

impl World {
    /// One process.
    pub fn single() -> Self {
        Self {
            shard: Shard::default(),
            local_rank: 0,
            link: None,
        }
    }

    /// Meets the other ranks. Tensors on `device` are summed there; NCCL does it on CUDA, Gloo on the CPU.
    ///
    /// # Errors
    /// [`Error::Lost`] with the address of what can't be reached in `patience`, or the ranks that did not come.
    pub fn join(environment: &Environment, device: Device, patience: Duration, on_lost: OnLost) -> Result<Self> {
        let e = environment;
        let store = open(e, patience)?;
        let arrived = meet(e, &store, patience)?;
        // A connection of its own: the first one may be waiting for a key. It beats before the ranks connect, which may fail, too.
        let second = Environment {
            hosted: true,
            ..e.clone()
        };
        let heart = Heart::start(e, open(&second, patience)?, arrived, on_lost)?;
        let lost = |error: tch::TchError| {
            let said = || format!("the ranks at {} can't connect: {}", e.address(), line(&error));
            Error::Lost(heart.verdict().unwrap_or_else(said))
        };
        let group = Group::join(&store, e.rank, e.world_size, device, e.local_address(), LONGEST_CALL).map_err(lost)?;
        Ok(Self {
            shard: Shard {
                rank: e.rank,
                ranks: e.world_size,
            },
            local_rank: e.local_rank,
            link: Some(Link {
                group: Arc::new(group),
                heart,
                store,
                backend: if device.is_cuda() { "nccl" } else { "gloo" },
            }),
        })
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.shard.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.shard.ranks
    }

    /// Number of this process on its machine: its device.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Whether this is the process that writes and prints.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// This process's part of what is shared out.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// What carries tensors between ranks: `gloo`, `nccl`; `None` for one process.
    pub fn backend(&self) -> Option<&'static str> {
        self.link.as_ref().map(|link| link.backend)
    }

    /// Batch norm over the images of all ranks; `None` for one process.
    pub fn sync_norm(&self) -> Option<SyncNorm> {
        self.link.as_ref().map(|link| SyncNorm::new(link.group.clone()))
    }

    /// Each number becomes its sum over all ranks. On the host.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let tensor = Tensor::f_from_slice(numbers)?;
        link.call(|group| group.sum(std::slice::from_ref(&tensor)))?;
        tensor.f_copy_data(numbers, numbers.len())?;
        Ok(())
    }

    /// Each tensor, of any shape, but the same on all ranks, becomes its sum over all ranks, with the same bits everywhere.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn sum_tensors(&self, tensors: &[Tensor]) -> Result<()> {
        self.link
            .as_ref()
            .map_or(Ok(()), |link| link.call(|group| group.sum(tensors)))
    }

    /// Each tensor, of any shape, but the same on all ranks, becomes that of rank 0.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn broadcast(&self, tensors: &[Tensor]) -> Result<()> {
        let send = |link: &Link| link.call(|group| group.broadcast(tensors, 0));
        self.link.as_ref().map_or(Ok(()), send)
    }

    /// The bytes of rank 0, everywhere.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn share(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if self.link.is_none() {
            return Ok(bytes);
        }
        let length = Tensor::f_from_slice(&[bytes.len() as i64])?;
        self.broadcast(std::slice::from_ref(&length))?;
        let length = usize::try_from(length.f_int64_value(&[0])?).unwrap_or_default();
        let mut bytes = if self.is_main() { bytes } else { vec![0; length] };
        let tensor = Tensor::f_from_slice(&bytes)?;
        self.broadcast(std::slice::from_ref(&tensor))?;
        tensor.f_copy_data(&mut bytes, length)?;
        Ok(bytes)
    }

    /// The bytes of every rank, in their order, on rank 0; `None` elsewhere.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn gather(&self, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(link) = &self.link else {
            return Ok(Some(vec![bytes]));
        };
        let mut lengths = vec![0.0; self.size()];
        lengths[self.rank()] = bytes.len() as f64;
        self.sum(&mut lengths)?;
        let longest = lengths.iter().fold(0.0, |a: f64, b| a.max(*b)) as i64;
        let padded = Tensor::f_zeros([longest.max(1)].as_slice(), (Kind::Uint8, Device::Cpu))?;
        padded
            .f_narrow(0, 0, bytes.len() as i64)?
            .f_copy_(&Tensor::f_from_slice(&bytes)?)?;
        let Some(rows) = link.call(|group| group.gather(&padded))? else {
            return Ok(None);
        };
        let part = |(rank, length): (usize, &f64)| {
            let mut bytes = vec![0u8; *length as usize];
            rows.f_get(rank as i64)?.f_copy_data(&mut bytes, *length as usize)?;
            Ok(bytes)
        };
        lengths.iter().enumerate().map(part).collect::<Result<_>>().map(Some)
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn barrier(&self) -> Result<()> {
        self.sum(&mut [0.0])
    }

    /// Whether all ranks say yes.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn all(&self, yes: bool) -> Result<bool> {
        let mut no = [f64::from(u8::from(!yes))];
        self.sum(&mut no)?;
        Ok(no[0] == 0.0)
    }

    /// What rank 0 says.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn decide(&self, yes: bool) -> Result<bool> {
        self.all(yes || !self.is_main())
    }

    /// Tells the others why this rank ends early: all of them end with that reason.
    pub fn fail(&self, reason: &str) {
        if let Some(link) = &self.link {
            link.heart.fail(&link.store, reason);
        }
    }

    /// Ends together with the others: the store must not close while one still needs it.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn leave(&self) -> Result<()> {
        self.barrier()?;
        let Some(link) = &self.link else { return Ok(()) };
        link.heart.stop();
        // Whoever hosts the store is the last to go; that others are gone without a word is no harm any more.
        if link.store.add("left", 1).is_ok() && self.is_main() {
            let (start, size) = (Instant::now(), self.size() as i64);
            while link.store.add("left", 0).is_ok_and(|left| left < size) && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Link {
    /// A collective call; if it fails because of another rank, that rank's name.
    fn call<T>(&self, work: impl FnOnce(&Group) -> Result<T, tch::TchError>) -> Result<T> {
        work(&self.group).map_err(|error| match self.heart.verdict() {
            Some(verdict) => Error::Lost(verdict),
            None => Error::Torch(error),
        })
    }
}

fn line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The store of the ranks: rank 0 hosts it, unless somebody (`torchrun`) does already.
fn open(e: &Environment, patience: Duration) -> Result<Store> {
    let host = e.rank == 0 && !e.hosted;
    let opened = Store::open(&e.master_addr, e.master_port, host, patience, &e.prefix());
    opened.map_err(|error| {
        let (address, said) = (e.address(), line(&error));
        if host && said.contains("EADDRINUSE") {
            return Error::Lost(format!(
                "{address}: the port is taken; set MASTER_PORT to a free one, the same for all ranks"
            ));
        }
        if host {
            return Error::Lost(format!("{address}: rank 0 can't listen there: {said}"));
        }
        Error::Lost(format!(
            "rank {}: nobody answers at {address} (MASTER_ADDR, MASTER_PORT) within {} s: is rank 0 running there, and can it be reached? ({said})",
            e.rank,
            patience.as_secs()
        ))
    })
}

/// Waits until all ranks are there; returns where each of them is.
fn meet(e: &Environment, store: &Store, patience: Duration) -> Result<Vec<String>> {
    let lost = |error: tch::TchError| Error::Lost(format!("{}: {}", e.address(), line(&error)));
    if store.add(&format!("came/{}", e.rank), 1).map_err(lost)? > 1 {
        return Err(Error::Settings(format!(
            "there are two processes with RANK={} at {}",
            e.rank,
            e.address()
        )));
    }
    store
        .set(&format!("where/{}", e.rank), e.place().as_bytes())
        .map_err(lost)?;
    let start = Instant::now();
    let mut missing: Vec<usize> = (0..e.world_size).collect();
    while !missing.is_empty() {
        let mut still = Vec::new();
        for rank in missing {
            if !store.has(&format!("where/{rank}")).map_err(lost)? {
                still.push(rank);
            }
        }
        missing = still;
        if missing.is_empty() {
            break;
        }
        if start.elapsed() > patience {
            let names: Vec<String> = missing.iter().map(usize::to_string).collect();
            return Err(Error::Lost(format!(
                "rank {} of {} did not come to {} within {} s: start it with the same MASTER_ADDR and MASTER_PORT, or set \
                 YOLO_DIST_TIMEOUT to more seconds",
                names.join(", "),
                e.world_size,
                e.address(),
                patience.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let place = |rank| -> Result<String> {
        let bytes = store.get(&format!("where/{rank}")).map_err(lost)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    (0..e.world_size).map(place).collect()
}
