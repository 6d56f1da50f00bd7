//! Which anchors of which cells answer for which label.

use std::collections::HashMap;

/// The assignments of one level, offsets first, then anchors, then labels, as the reference lists them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LevelTargets {
    /// Row of the prediction: `((image * h + row) * w + column) * anchors + anchor`.
    pub cells: Vec<i64>,
    /// Box relative to the cell, in cells: centre x, centre y, width, height.
    pub boxes: Vec<[f32; 4]>,
    /// Size of the anchor, in cells.
    pub anchors: Vec<[f32; 2]>,
    /// Class.
    pub classes: Vec<i64>,
}

impl LevelTargets {
    /// Each cell once, with the position of its last assignment.
    pub fn last_per_cell(&self) -> (Vec<i64>, Vec<i64>) {
        let mut last: HashMap<i64, i64> = HashMap::with_capacity(self.cells.len());
        for (position, cell) in self.cells.iter().enumerate() {
            last.insert(*cell, position as i64);
        }
        self.cells
            .iter()
            .zip(0i64..)
            .filter(|(cell, position)| last.get(cell) == Some(position))
            .map(|(cell, position)| (*cell, position))
            .unzip()
    }
}

/// Assigns labels (image, class, centre x, centre y, width, height; normalised) to anchors of a map of `h` x `w` cells. A label
/// goes to every anchor whose sides differ by less than `anchor_t`, in its own cell and in the two neighbours nearest to its
/// centre.
pub fn assign_level(targets: &[[f32; 6]], anchors: &[[f32; 2]], h: i64, w: i64, anchor_t: f32) -> LevelTargets {
    // (anchor, label in cells)
    let mut matched: Vec<(usize, [f32; 6])> = Vec::with_capacity(targets.len() * anchors.len());
    let (gw, gh) = (w as f32, h as f32);
    for (index, anchor) in anchors.iter().enumerate() {
        for [image, class, x, y, bw, bh] in targets {
            let label = [*image, *class, x * gw, y * gh, bw * gw, bh * gh];
            let ratio = |side: f32, anchor: f32| {
                let r = side / anchor;
                r.max(1.0 / r)
            };
            if ratio(label[4], anchor[0]).max(ratio(label[5], anchor[1])) < anchor_t {
                matched.push((index, label));
            }
        }
    }
    // Own cell, then left, upper, right and lower neighbour.
    const OFFSETS: [[f32; 2]; 5] = [[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [-0.5, 0.0], [0.0, -0.5]];
    let near = |position: f32| position % 1.0 < 0.5 && position > 1.0;
    let mut out = LevelTargets::default();
    for (direction, offset) in OFFSETS.iter().enumerate() {
        for (anchor, [image, class, x, y, bw, bh]) in &matched {
            let applies = match direction {
                0 => true,
                1 => near(*x),
                2 => near(*y),
                3 => near(gw - x),
                _ => near(gh - y),
            };
            if !applies {
                continue;
            }
            let column = ((x - offset[0]) as i64).clamp(0, w - 1);
            let row = ((y - offset[1]) as i64).clamp(0, h - 1);
            let cell = ((*image as i64 * h + row) * w + column) * anchors.len() as i64 + *anchor as i64;
            out.cells.push(cell);
            out.boxes.push([x - column as f32, y - row as f32, *bw, *bh]);
            out.anchors.push(anchors[*anchor]);
            out.classes.push(*class as i64);
        }
    }
    out
}
