//! What a file finds on pictures in the engine that it is for, beside what the quantized network finds: boxes after suppression, and mAP.

use serde::Serialize;
use yolo_engine::Checkpoint;
use yolo_engine::eval::{Detection, NmsOptions, box_iou};
use yolo_engine::val::ImageResult;
use yolo_export::checked::Prepared;
use yolo_export::engine::{Engine, OnnxRuntime, OpenVino};
use yolo_export::onnx::Profile;

use super::Quantization;
use crate::error::Result;
use crate::measure;

/// Detections of a file and of its network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The engine that ran the file.
    pub engine: &'static str,
    /// Training images that were looked at.
    pub images: usize,
    /// What the network finds with a confidence of 0.25 or more.
    pub detections: usize,
    /// Of those, what the file finds as well: a box of the class with an IoU of 0.5 or more.
    pub matched: usize,
    /// Mean and largest distance of the sides of matched boxes, in pixels of the picture.
    pub boxes: [f64; 2],
    /// Mean and largest difference of their confidences.
    pub scores: [f64; 2],
    /// mAP of network and file on these images.
    pub map: [f64; 2],
}

/// Least confidence of what is compared.
const SURE: f32 = 0.25;
/// Least IoU of what counts as the same.
const SAME: f32 = 0.5;

impl Agreement {
    /// One line for a person.
    pub fn summary(&self) -> String {
        format!(
            "{} finds {} of the {} boxes that the network finds on {} images, {:.2} px and {:.4} in score away in the mean ({:.1} px and \
             {:.3} at most), mAP {:.4} and {:.4}",
            self.engine,
            self.matched,
            self.detections,
            self.images,
            self.boxes[0],
            self.scores[0],
            self.boxes[1],
            self.scores[1],
            self.map[1],
            self.map[0]
        )
    }

    fn compare(&mut self, network: &[Vec<Detection>], file: &[Vec<Detection>]) {
        let (mut boxes, mut scores) = (Vec::new(), Vec::new());
        for (wanted, found) in network.iter().zip(file) {
            for own in wanted.iter().filter(|own| own.conf >= SURE) {
                self.detections += 1;
                let same = found.iter().filter(|other| other.class == own.class);
                let near = same.map(|other| (box_iou(own.xyxy, other.xyxy), other));
                if let Some((_, other)) = near.filter(|(iou, _)| *iou >= SAME).max_by(|a, b| a.0.total_cmp(&b.0)) {
                    let apart = own.xyxy.iter().zip(other.xyxy).map(|(a, b)| f64::from((a - b).abs()));
                    boxes.extend(apart);
                    scores.push(f64::from((own.conf - other.conf).abs()));
                }
            }
        }
        self.matched = scores.len();
        [self.boxes, self.scores] = [mean_and_largest(&boxes), mean_and_largest(&scores)];
    }
}

fn mean_and_largest(values: &[f64]) -> [f64; 2] {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    [mean, values.iter().copied().fold(0.0, f64::max)]
}

impl Quantization<'_> {
    /// Runs a file that is not written yet; `None` where the engine that it is for is not there, or is none that can run here.
    pub(super) fn agreement(&self, model: &Checkpoint, file: &Prepared, profile: Profile) -> Result<Option<Agreement>> {
        let engine: &'static dyn Engine = match profile {
            Profile::Ort | Profile::QLinear => &OnnxRuntime,
            Profile::OpenVino => &OpenVino,
            Profile::TensorRt | Profile::Strip => return Ok(None),
        };
        if engine.find().is_err() {
            return Ok(None);
        }
        let loader = self.still(model, self.settings.select_images)?;
        let nms = NmsOptions::validation();
        let mut of_network = Vec::new();
        let mut keep = |result: &ImageResult<'_>| {
            of_network.push(result.detections.to_vec());
            Ok(())
        };
        let (network, _) = measure::closely(self.session, model, &loader, &nms, "simulated", &mut keep)?;
        let (mut opened, _folder) = file.open(engine, 0)?;
        let mut of_file = Vec::new();
        let mut keep = |result: &ImageResult<'_>| {
            of_file.push(result.detections.to_vec());
            Ok(())
        };
        let (deployed, _) = measure::deployed(self.session, &mut opened, &loader, &nms, engine.name(), &mut keep)?;
        let mut found = Agreement {
            engine: engine.title(),
            images: loader.samples().len(),
            detections: 0,
            matched: 0,
            boxes: [0.0; 2],
            scores: [0.0; 2],
            map: [network.metrics.map, deployed.metrics.map],
        };
        found.compare(&of_network, &of_file);
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_matched_by_class_and_place() {
        let at = |x: f32, conf, class| Detection {
            xyxy: [x, 0.0, x + 10.0, 10.0],
            conf,
            class,
        };
        let network = [
            vec![at(0.0, 0.9, 0), at(50.0, 0.8, 1), at(90.0, 0.1, 0)],
            vec![at(5.0, 0.5, 2)],
        ];
        let file = [
            vec![at(1.0, 0.8, 0), at(50.0, 0.8, 0), at(4.0, 0.85, 0)],
            vec![at(5.0, 0.5, 2)],
        ];
        let mut found = Agreement {
            engine: "e",
            images: 2,
            detections: 0,
            matched: 0,
            boxes: [0.0; 2],
            scores: [0.0; 2],
            map: [0.0; 2],
        };
        found.compare(&network, &file);
        // The unsure one does not count, one has another class, the nearer of two is taken.
        assert_eq!((found.detections, found.matched), (3, 2));
        assert_eq!(found.boxes, [0.25, 1.0]);
        assert!((found.scores[1] - 0.1).abs() < 1e-6 && (found.scores[0] - 0.05).abs() < 1e-6);
    }
}
