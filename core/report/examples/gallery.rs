//! Draws one of everything, to look at: `cargo run -p yolo-report --example gallery -- FOLDER [PHOTO]`.

use std::path::Path;

use yolo_report::{
    Cell, Letters, Mark, MarkStyle, Picture, PrCurve, Result, confidence_curves, confusion_matrix, contact_sheet,
    draw_marks, pr_curves, save_picture, save_text, training_curves,
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "runs/gallery".into());
    let folder = Path::new(&folder);
    let mut photo = match arguments.next() {
        Some(path) => {
            let photo = image::open(path)?.into_rgb8();
            Picture {
                width: photo.width() as usize,
                height: photo.height() as usize,
                data: photo.into_raw(),
            }
        }
        None => Picture::filled(810, 1080, [120, 130, 110]),
    };
    let plain = photo.clone();
    let names: Vec<String> = ["person", "bicycle", "car", "motorcycle", "airplane", "bus"]
        .map(String::from)
        .into();
    let marks: Vec<Mark> = (0..24)
        .map(|i| {
            let (x, y) = ((i * 173 % 700) as f32, (i * 271 % 950) as f32);
            let side = 30.0 + (i * 37 % 200) as f32;
            Mark {
                class: i % 7,
                conf: Some(0.25 + i as f32 / 40.0),
                xyxy: [x, y, x + side, y + side * 1.2],
            }
        })
        .collect();
    draw_marks(
        &mut photo.canvas()?,
        &marks,
        &names,
        &Letters::default(),
        MarkStyle::default(),
    );
    save_picture(&folder.join("marks.jpg"), &photo.data, photo.width, photo.height)?;

    let labels: Vec<Mark> = marks.iter().step_by(3).map(|m| Mark { conf: None, ..*m }).collect();
    let cell = Cell {
        pixels: &plain.data,
        width: plain.width,
        height: plain.height,
        title: "images/val/0000271_01401_d_0000380.jpg",
        labels: &labels,
        predictions: &marks[..8],
    };
    let sheet = contact_sheet(&[cell; 5], &names, &Letters::default(), 320, 2)?;
    save_picture(&folder.join("sheet.png"), &sheet.data, sheet.width, sheet.height)?;

    let csv: String = std::iter::once(
        "epoch,train/box_loss,train/obj_loss,train/cls_loss,metrics/precision,metrics/recall,metrics/mAP_0.5,metrics/mAP_0.5:0.95,\
         val/box_loss,val/obj_loss,val/cls_loss,x/lr0,x/lr1,x/lr2\n"
            .to_owned(),
    )
    .chain((0..30).map(|epoch| {
        let t = f64::from(epoch);
        let fall = (-t / 9.0).exp();
        let wave = (t * 1.7).sin() * 0.01;
        format!(
            "{epoch},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
            0.03 + 0.09 * fall + wave * 0.2,
            0.05 + 0.02 * fall,
            0.01 + 0.05 * fall,
            0.8 - 0.7 * fall + wave,
            0.7 - 0.7 * fall - wave,
            0.62 - 0.6 * fall + wave,
            0.29 - 0.29 * fall + wave,
            0.035 + 0.08 * fall,
            0.052 + 0.02 * fall,
            0.012 + 0.05 * fall,
            0.01 * (1.0 - t / 30.0) + if epoch < 3 { 0.03 } else { 0.0 },
            0.01 * (1.0 - t / 30.0),
            0.01 * (1.0 - t / 30.0),
        )
    }))
    .collect();
    save_text(&folder.join("results.svg"), &training_curves(&csv)?)?;

    let curve = |power: f64| -> Vec<f64> { (0..1000).map(|i| 1.0 - (f64::from(i) / 999.0).powf(power)).collect() };
    let falling: Vec<Vec<f64>> = [2.0, 4.0, 1.2, 8.0, 3.0, 0.8].map(curve).into();
    let rising: Vec<f64> = (0..1000).map(|i| (f64::from(i) / 999.0).sqrt()).collect();
    let classes: Vec<PrCurve<'_>> = names
        .iter()
        .zip(&falling)
        .map(|(name, falling)| PrCurve {
            name,
            ap50: falling.iter().sum::<f64>() / 1000.0,
            precision_at_recall: falling,
            precision: &rising,
            recall: falling,
        })
        .collect();
    save_text(&folder.join("pr_curve.svg"), &pr_curves(&classes))?;
    save_text(&folder.join("confidence_curves.svg"), &confidence_curves(&classes))?;

    let side = names.len() + 1;
    let counts: Vec<u64> = (0..side * side)
        .map(|i| {
            if i % side == i / side {
                40 + 13 * (i % 5) as u64
            } else {
                (i * 7 % 11) as u64
            }
        })
        .collect();
    save_text(
        &folder.join("confusion_matrix.svg"),
        &confusion_matrix(&names, &counts)?,
    )
}
