//! Detection: boxes on single images.

use tch::{Device, Tensor};
use yolo_data::letterbox::{Letterbox, letterbox};
use yolo_data::{Batch, Image};

use crate::Result;
use crate::batch::image_tensor;
use crate::eval::{self, Detection, Nms, NmsOptions};
use crate::val::Detector;

/// Finds objects in an image: letterboxed into `size` (height, width; multiples of the detector's stride) with as little border as its
/// stride allows, boxes in pixels of the image, best first.
///
/// # Errors
/// Those of [`Detector::predict`]; `Error::NotFinite` where the network gives values that are not finite.
pub fn detect(detector: &Detector, image: &Image, size: [usize; 2], options: &NmsOptions) -> Result<Vec<Detection>> {
    let into = Letterbox {
        size,
        ..Letterbox::square(size[0], true, detector.stride())
    };
    let mut run = |images: &Tensor| detector.predict(images);
    detect_with(&mut run, detector.device(), detector.classes(), image, &into, options)
}

/// As [`detect`], with anything that turns images `[N, 3, H, W]` on `device` into boxes `[N, M, 5 + classes]` in pixels of them (f32, on
/// the CPU, contiguous), and with a letterbox of its own.
///
/// # Errors
/// Those of `run`; `Error::Torch` where its boxes are not f32, or memory is short.
pub fn detect_with(
    run: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    device: Device,
    classes: usize,
    image: &Image,
    into: &Letterbox,
    options: &NmsOptions,
) -> Result<Vec<Detection>> {
    let (boxed, fit) = letterbox(image, into);
    let plane = boxed.width * boxed.height;
    let mut pixels = vec![0u8; 3 * plane];
    for (index, pixel) in boxed.data.chunks_exact(3).enumerate() {
        for (channel, value) in pixel.iter().enumerate() {
            pixels[channel * plane + index] = *value;
        }
    }
    let batch = Batch {
        pixels,
        size: [boxed.height, boxed.width],
        images: vec![yolo_data::loader::Origin::default()],
        ..Batch::default()
    };
    let predictions = run(&image_tensor(&batch, device)?)?;
    let mut rows = vec![0f32; predictions.numel()];
    predictions.f_copy_data(&mut rows, predictions.numel())?;
    let mut found = Vec::new();
    Nms::default().run(&rows, classes + 5, &[], options, &mut found);
    let gain = fit.ratio[0].min(fit.ratio[1]) as f32;
    let pad = fit.pad.map(|p| p as f32);
    eval::scale_boxes(
        found.iter_mut().map(|d| &mut d.xyxy),
        gain,
        pad,
        image.width as f32,
        image.height as f32,
    );
    Ok(found)
}
