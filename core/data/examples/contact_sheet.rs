//! Synthetic pictures with their boxes on one sheet: `cargo run -p yolo-data --example contact_sheet -- OUT.png [SIZE] [SEED]`.

use std::path::Path;

use yolo_data::{Image, Result, synth};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().unwrap_or_else(|| "sheet.png".into());
    let size: usize = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(192);
    let seed: u64 = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(0);
    let (columns, rows) = (5, 3);
    let mut sheet = Image::filled(size * columns, size * rows, [0; 3]);
    let colors = [[255, 64, 64], [64, 255, 64], [64, 160, 255], [255, 255, 0]];
    for index in 0..columns * rows {
        let (mut image, labels) = synth::picture(size, seed, index as u64);
        for [class, cx, cy, w, h] in labels.iter().filter(|_| index % 2 == 0) {
            let s = size as f32;
            let edge = |value: f32| ((value * s) as usize).min(size - 1);
            let (x1, x2, y1, y2) = (
                edge(cx - w / 2.0),
                edge(cx + w / 2.0),
                edge(cy - h / 2.0),
                edge(cy + h / 2.0),
            );
            let mut dot =
                |x: usize, y: usize| image.data[(y * size + x) * 3..][..3].copy_from_slice(&colors[*class as usize]);
            (x1..=x2).for_each(|x| [y1, y2].into_iter().for_each(|y| dot(x, y)));
            (y1..=y2).for_each(|y| [x1, x2].into_iter().for_each(|x| dot(x, y)));
        }
        let (left, top) = (index % columns * size, index / columns * size);
        for y in 0..size {
            let to = ((top + y) * sheet.width + left) * 3;
            sheet.data[to..to + size * 3].copy_from_slice(&image.data[y * size * 3..][..size * 3]);
        }
    }
    sheet.save(Path::new(&out))
}
