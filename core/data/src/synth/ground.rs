//! Textured ground: smooth noise in several grains, fields, roads.

use rand::{Rng, RngExt as _};

use super::scene::Canvas;
use crate::augment::uniform;

/// Smooth random heights between 0 and 1, from a lattice with cells of some pixels.
pub struct Noise {
    cell: f32,
    columns: usize,
    lattice: Vec<f32>,
}

impl Noise {
    /// For a square of `size` pixels.
    pub fn new(size: usize, cell: f32, rng: &mut impl Rng) -> Self {
        let columns = (size as f32 / cell) as usize + 3;
        Self {
            cell,
            columns,
            lattice: (0..columns * columns).map(|_| rng.random()).collect(),
        }
    }

    /// The height at a pixel.
    pub fn at(&self, x: usize, y: usize) -> f32 {
        let ease = |value: f32| {
            (
                value as usize,
                value.fract() * value.fract() * (3.0 - 2.0 * value.fract()),
            )
        };
        let ((ix, fx), (iy, fy)) = (ease(x as f32 / self.cell), ease(y as f32 / self.cell));
        let row = |y: usize| {
            let pair = &self.lattice[y * self.columns + ix..][..2];
            pair[0] + (pair[1] - pair[0]) * fx
        };
        row(iy) + (row(iy + 1) - row(iy)) * fy
    }
}

/// Colours of bare ground: grass, dry grass, soil, sand, concrete, asphalt.
const GROUNDS: [[f32; 3]; 6] = [
    [86.0, 112.0, 62.0],
    [134.0, 130.0, 78.0],
    [122.0, 96.0, 70.0],
    [184.0, 164.0, 122.0],
    [150.0, 148.0, 142.0],
    [84.0, 86.0, 90.0],
];

/// Fills the canvas.
pub fn paint(canvas: &mut Canvas, rng: &mut impl Rng) {
    let size = canvas.size;
    let pick = |rng: &mut _| GROUNDS[Rng::next_u32(rng) as usize % GROUNDS.len()];
    let (base, other) = (pick(rng), pick(rng));
    let scale = size as f32;
    let coarse = Noise::new(size, scale * 0.35, rng);
    let middle = Noise::new(size, scale * 0.07, rng);
    let fine = Noise::new(size, 3.0, rng);
    let blend = uniform(rng, 0.2, 0.8) as f32;
    let roughness = uniform(rng, 12.0, 42.0) as f32;
    for y in 0..size {
        for x in 0..size {
            let (c, m, f) = (coarse.at(x, y), middle.at(x, y), fine.at(x, y));
            let share = ((c + 0.25 * (m - 0.5) - blend) * 8.0 + 0.5).clamp(0.0, 1.0);
            let rough = roughness * ((m - 0.5) + 0.8 * (f - 0.5));
            canvas.pixels[y * size + x] = std::array::from_fn(|i| base[i] + (other[i] - base[i]) * share + rough);
        }
    }
    if rng.random::<f32>() < 0.45 {
        furrows(canvas, rng);
    }
    for _ in 0..rng.random_range(0..3) {
        road(canvas, rng);
    }
}

/// A band across the picture, with a dashed line.
fn road(canvas: &mut Canvas, rng: &mut impl Rng) {
    let size = canvas.size as f32;
    let half = size * uniform(rng, 0.02, 0.07) as f32;
    let angle = uniform(rng, 0.0, std::f64::consts::PI) as f32;
    let (x0, y0) = (
        size * uniform(rng, 0.1, 0.9) as f32,
        size * uniform(rng, 0.1, 0.9) as f32,
    );
    let (sin, cos) = angle.sin_cos();
    let tone = uniform(rng, 66.0, 132.0) as f32;
    let (dash, marked) = (half * 1.2, rng.random::<f32>() < 0.6);
    for y in 0..canvas.size {
        for x in 0..canvas.size {
            let (dx, dy) = (x as f32 - x0, y as f32 - y0);
            let (along, across) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let cover = (half - across.abs() + 0.5).clamp(0.0, 1.0);
            if cover > 0.0 {
                let line = marked && across.abs() < half * 0.08 + 0.4 && along.rem_euclid(2.0 * dash) < dash;
                let tone = if line { 196.0 } else { tone };
                canvas.mix(x as i64, y as i64, [tone, tone, tone * 1.02], 0.85 * cover);
            }
        }
    }
}

/// Ploughed rows over a half-plane.
fn furrows(canvas: &mut Canvas, rng: &mut impl Rng) {
    let size = canvas.size as f32;
    let (sin, cos) = (uniform(rng, 0.0, std::f64::consts::TAU) as f32).sin_cos();
    let period = uniform(rng, 4.0, 12.0) as f32;
    let edge = size * uniform(rng, -0.3, 0.3) as f32;
    let depth = uniform(rng, 6.0, 18.0) as f32;
    for y in 0..canvas.size {
        for x in 0..canvas.size {
            let (dx, dy) = (x as f32 - size / 2.0, y as f32 - size / 2.0);
            if dx * cos + dy * sin > edge {
                let wave = depth * ((dy * cos - dx * sin) * std::f32::consts::TAU / period).sin();
                let pixel = &mut canvas.pixels[y * canvas.size + x];
                *pixel = pixel.map(|value| value + wave);
            }
        }
    }
}
