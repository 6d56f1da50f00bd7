//! From the loader's bytes to the network's input.

use tch::{Device, Kind, Tensor};
use yolo_data::Batch;

use crate::Result;

/// `[N, 3, H, W]` in 0..1, channels last: one copy of the bytes, one pass that converts and lays them out.
pub fn image_tensor(batch: &Batch, device: Device) -> Result<Tensor> {
    let [h, w] = batch.size;
    let bytes = Tensor::f_from_data_size(&batch.pixels, &[batch.len() as i64, 3, h as i64, w as i64], Kind::Uint8)?;
    let image = yolo_core::exec::channels_last(&bytes.f_to_device(device)?);
    Ok(image.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?)
}
