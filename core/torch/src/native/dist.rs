//! Several processes: the store that all of them reach, sums and copies between them, batch norm over the images of all.
//!
//! What lives here: safe functions over libtorch's c10d, with libtorch's own words as errors. What must not: who the ranks are, when
//! one counts as lost, what is summed.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Device, TchError, Tensor};

use super::{Handle, Result, checked, free, handle, handles, index};

unsafe extern "C" {
    fn yolo_store_open(
        address: *const c_char,
        port: c_int,
        host: c_int,
        milliseconds: i64,
        prefix: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn yolo_store_close(store: *mut c_void);
    fn yolo_store_set(store: *mut c_void, key: *const c_char, bytes: *const u8, length: usize) -> *mut c_char;
    fn yolo_store_has(store: *mut c_void, key: *const c_char, there: *mut c_int) -> *mut c_char;
    fn yolo_store_get(store: *mut c_void, key: *const c_char, bytes: *mut *mut u8, length: *mut usize) -> *mut c_char;
    fn yolo_store_add(store: *mut c_void, key: *const c_char, value: i64, sum: *mut i64) -> *mut c_char;
    fn yolo_group_join(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        device: c_int,
        address: *const c_char,
        milliseconds: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn yolo_group_leave(group: *mut c_void);
    fn yolo_group_abort(group: *mut c_void) -> *mut c_char;
    fn yolo_group_sum(group: *mut c_void, tensors: *const Handle, count: usize, bucket_bytes: i64) -> *mut c_char;
    fn yolo_group_broadcast(
        group: *mut c_void,
        tensors: *const Handle,
        count: usize,
        root: c_int,
        bucket_bytes: i64,
    ) -> *mut c_char;
    fn yolo_group_gather(group: *mut c_void, tensor: Handle, out: Handle) -> *mut c_char;
    fn yolo_sync_batch_norm(
        group: *mut c_void,
        x: Handle,
        params: *const Handle,
        momentum: f64,
        eps: f64,
        counted: c_int,
        out: Handle,
    ) -> *mut c_char;
}

/// Tensors travel in flat pieces of about this size, as in PyTorch's `DistributedDataParallel`.
const BUCKET_BYTES: i64 = 25 << 20;

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| TchError::Torch(format!("`{}` has a zero byte", text.escape_debug())))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn small(number: usize) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

/// A connection to the table of keys that all ranks share (c10d's `TCPStore`).
#[derive(Debug)]
pub struct Store {
    raw: NonNull<c_void>,
}

// SAFETY: c10d's store guards its connection with a mutex.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `yolo_store_open`, and nobody uses it any more.
        unsafe { yolo_store_close(self.raw.as_ptr()) };
    }
}

impl Store {
    /// Connects to the store at `address` and `port`, or opens it there where `host` is set. Every key gets `prefix`; calls give up
    /// after `timeout`.
    ///
    /// # Errors
    /// A port that is taken, an address that nobody answers at in time.
    pub fn open(address: &str, port: u16, host: bool, timeout: Duration, prefix: &str) -> Result<Self> {
        let (address, prefix) = (c_string(address)?, c_string(prefix)?);
        let mut raw = ptr::null_mut();
        // SAFETY: two C strings; a pointer is written.
        checked(unsafe {
            yolo_store_open(
                address.as_ptr(),
                c_int::from(port),
                c_int::from(host),
                milliseconds(timeout),
                prefix.as_ptr(),
                &raw mut raw,
            )
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| TchError::Torch("no store was opened".into()))?;
        Ok(Self { raw })
    }

    /// Writes a key.
    ///
    /// # Errors
    /// A lost connection.
    pub fn set(&self, key: &str, value: &[u8]) -> Result {
        let key = c_string(key)?;
        // SAFETY: a live store, a C string, as many bytes as said.
        checked(unsafe { yolo_store_set(self.raw.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Whether a key is there. Does not wait.
    ///
    /// # Errors
    /// A lost connection.
    pub fn has(&self, key: &str) -> Result<bool> {
        let key = c_string(key)?;
        let mut there = 0;
        // SAFETY: a live store and a C string; a number is written.
        checked(unsafe { yolo_store_has(self.raw.as_ptr(), key.as_ptr(), &raw mut there) })?;
        Ok(there != 0)
    }

    /// Waits for a key.
    ///
    /// # Errors
    /// A lost connection; a key that nobody writes in time.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let key = c_string(key)?;
        let (mut bytes, mut length) = (ptr::null_mut(), 0);
        // SAFETY: a live store and a C string; a pointer and a length are written.
        checked(unsafe { yolo_store_get(self.raw.as_ptr(), key.as_ptr(), &raw mut bytes, &raw mut length) })?;
        // SAFETY: no error, so `length` bytes from `malloc` that are ours.
        let value = unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec();
        // SAFETY: as above; they are not used afterwards.
        unsafe { free(bytes.cast()) };
        Ok(value)
    }

    /// Adds to the number of a key (0 where there is none) and returns the sum.
    ///
    /// # Errors
    /// A lost connection.
    pub fn add(&self, key: &str, value: i64) -> Result<i64> {
        let key = c_string(key)?;
        let mut sum = 0;
        // SAFETY: a live store and a C string; a number is written.
        checked(unsafe { yolo_store_add(self.raw.as_ptr(), key.as_ptr(), value, &raw mut sum) })?;
        Ok(sum)
    }
}

/// Processes that compute together. All of them must make the same calls in the same order.
#[derive(Debug)]
pub struct Group {
    raw: NonNull<c_void>,
    size: usize,
}

// SAFETY: c10d's process groups take calls of any thread.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `yolo_group_join`, and nobody uses it any more.
        unsafe { yolo_group_leave(self.raw.as_ptr()) };
    }
}

impl Group {
    /// Joins as `rank` of `size` ranks of a store: over Gloo, and for tensors on `device` over NCCL if that is a CUDA device. Gloo
    /// listens at `local`, or at the address of the machine's name. Calls give up after `timeout`.
    ///
    /// # Errors
    /// Ranks that don't join in time; no NCCL.
    pub fn join(
        store: &Store,
        rank: usize,
        size: usize,
        device: Device,
        local: Option<&str>,
        timeout: Duration,
    ) -> Result<Self> {
        let local = c_string(local.unwrap_or_default())?;
        let mut raw = ptr::null_mut();
        // SAFETY: a live store, a C string; a pointer is written.
        checked(unsafe {
            yolo_group_join(
                store.raw.as_ptr(),
                small(rank),
                small(size),
                index(device),
                local.as_ptr(),
                milliseconds(timeout),
                &raw mut raw,
            )
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| TchError::Torch("no group was made".into()))?;
        Ok(Self { raw, size })
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Each tensor becomes its sum over all ranks, with the same bits on each.
    ///
    /// # Errors
    /// A lost rank; kinds that can't be summed.
    pub fn sum(&self, tensors: &[Tensor]) -> Result {
        let tensors = handles(tensors);
        // SAFETY: a live group; the list holds as many live tensors as said.
        checked(unsafe { yolo_group_sum(self.raw.as_ptr(), tensors.as_ptr(), tensors.len(), BUCKET_BYTES) })
    }

    /// Each tensor becomes that of rank `root`.
    ///
    /// # Errors
    /// A lost rank.
    pub fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result {
        let tensors = handles(tensors);
        // SAFETY: a live group; the list holds as many live tensors as said.
        checked(unsafe {
            yolo_group_broadcast(
                self.raw.as_ptr(),
                tensors.as_ptr(),
                tensors.len(),
                small(root),
                BUCKET_BYTES,
            )
        })
    }

    /// `[ranks, ...]` of a contiguous tensor on the host that has the same shape on all ranks; `None` but on rank 0.
    ///
    /// # Errors
    /// A lost rank.
    pub fn gather(&self, tensor: &Tensor) -> Result<Option<Tensor>> {
        let out = Tensor::new();
        // SAFETY: a live group, a live tensor, a handle that the function may fill.
        checked(unsafe { yolo_group_gather(self.raw.as_ptr(), handle(tensor), handle(&out)) })?;
        Ok(out.defined().then_some(out))
    }

    /// Batch norm of `x` `[N, C, ...]` in training, over the images of all ranks; updates the running statistics. `params`: weight,
    /// bias, running mean, running variance. The images of a rank without `counted` don't count: it only takes part. Gradients of
    /// weight and bias are those of this rank's images.
    ///
    /// # Errors
    /// A lost rank; tensors that don't fit each other.
    pub fn batch_norm(
        &self,
        x: &Tensor,
        params: [&Tensor; 4],
        momentum: f64,
        eps: f64,
        counted: bool,
    ) -> Result<Tensor> {
        let out = Tensor::new();
        let params = params.map(handle);
        // SAFETY: a live group, live tensors, a handle that the function fills. The graph of autograd keeps the group alive.
        checked(unsafe {
            yolo_sync_batch_norm(
                self.raw.as_ptr(),
                handle(x),
                params.as_ptr(),
                momentum,
                eps,
                c_int::from(counted),
                handle(&out),
            )
        })?;
        Ok(out)
    }

    /// Gives up the calls that wait for other ranks.
    ///
    /// # Errors
    /// Those of the backends.
    pub fn abort(&self) -> Result {
        // SAFETY: a live group.
        checked(unsafe { yolo_group_abort(self.raw.as_ptr()) })
    }
}
