//! From the loader's bytes to the network's input.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use yolo_core::exec::channels_last;
use yolo_data::Batch;
use yolo_torch::native::device::Carrier;

use crate::Result;

/// `[N, 3, H, W]` in 0..1, channels last: one copy of the bytes, one pass that converts and lays them out.
///
/// # Errors
/// `Error::Torch` where the host or the device has no memory left.
pub fn image_tensor(batch: &Batch, device: Device) -> Result<Tensor> {
    let bytes = Tensor::f_from_data_size(&batch.pixels, &shape(batch), Kind::Uint8)?;
    to_shares(&bytes.f_to_device(device)?, Kind::Float)
}

/// Carries batches to a device: beside its work where it is a CUDA device.
#[derive(Debug)]
pub struct Feeder {
    device: Device,
    carrier: Option<Carrier>,
    kind: Kind,
}

impl Feeder {
    /// Images on `device` in `kind` (that of mixed precision, so that nothing is converted twice).
    ///
    /// # Errors
    /// `Error::Torch` where `device` is a CUDA device that this process does not have.
    pub fn new(device: Device, kind: Kind) -> Result<Self> {
        let carrier = device.is_cuda().then(|| Carrier::new(device)).transpose()?;
        Ok(Self { device, carrier, kind })
    }

    /// `[N, 3, H, W]` in 0..1, channels last. Does not wait for the device.
    ///
    /// # Errors
    /// `Error::Torch` where the host or the device has no memory left.
    pub fn images(&self, batch: &Batch) -> Result<Tensor> {
        let bytes = match &self.carrier {
            Some(carrier) => carrier.carry(&shape(batch), |pinned| copy(&batch.pixels, pinned))?,
            None => Tensor::f_from_data_size(&batch.pixels, &shape(batch), Kind::Uint8)?.f_to_device(self.device)?,
        };
        to_shares(&bytes, self.kind)
    }
}

/// One thread alone can't keep up with a GPU.
fn copy(from: &[u8], to: &mut [u8]) {
    const PART: usize = 2 << 20;
    to.par_chunks_mut(PART)
        .zip(from.par_chunks(PART))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

fn shape(batch: &Batch) -> [i64; 4] {
    let [h, w] = batch.size;
    [batch.len() as i64, 3, h as i64, w as i64]
}

fn to_shares(bytes: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(channels_last(bytes).f_to_kind(kind)?.f_div_scalar(255.0)?)
}
