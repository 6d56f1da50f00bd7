//! One picture: ground, clutter, objects with shadows, things that hide parts of them, light and sensor noise.

use rand::{Rng, RngExt as _};

use super::ground::{self, Noise};
use super::shape::Shape;
use crate::Image;
use crate::augment::uniform;
use crate::labels::Label;

/// A square picture in floating point.
pub struct Canvas {
    /// Side in pixels.
    pub size: usize,
    /// Red, green, blue, nominally 0 to 255.
    pub pixels: Vec<[f32; 3]>,
}

impl Canvas {
    /// Blends a colour in; outside of the picture nothing happens.
    pub fn mix(&mut self, x: i64, y: i64, color: [f32; 3], share: f32) {
        let inside = 0..self.size as i64;
        if inside.contains(&x) && inside.contains(&y) {
            let pixel = &mut self.pixels[y as usize * self.size + x as usize];
            *pixel = std::array::from_fn(|i| pixel[i] + (color[i] - pixel[i]) * share);
        }
    }

    /// Calls `paint(x, y, dx, dy)` for each pixel within a radius of a place.
    fn around(&mut self, [cx, cy]: [f32; 2], radius: f32, mut paint: impl FnMut(&mut Self, i64, i64, f32, f32)) {
        for y in (cy - radius).floor() as i64..=(cy + radius).ceil() as i64 {
            for x in (cx - radius).floor() as i64..=(cx + radius).ceil() as i64 {
                paint(self, x, y, x as f32 + 0.5 - cx, y as f32 + 0.5 - cy);
            }
        }
    }
}

/// An object where it stands.
struct Object {
    shape: Shape,
    place: [f32; 2],
    angle: f32,
    /// Left, top, right, bottom.
    corners: [f32; 4],
}

/// Draws a picture, with objects of the first `classes` classes `zoom` times as large as usual, and tells where they are.
pub fn draw(size: usize, classes: usize, zoom: f32, rng: &mut impl Rng) -> (Image, Vec<Label>) {
    let mut canvas = Canvas {
        size,
        pixels: vec![[0.0; 3]; size * size],
    };
    ground::paint(&mut canvas, rng);
    let sun = uniform(rng, 0.0, std::f64::consts::TAU) as f32;
    for _ in 0..rng.random_range(2..9) {
        clutter(&mut canvas, rng);
    }
    let wanted = if rng.random::<f32>() < 0.04 {
        0
    } else {
        rng.random_range(3..11)
    };
    let mut objects: Vec<Object> = Vec::new();
    for _ in 0..wanted {
        if let Some(object) = place(size, classes, zoom, &objects, rng) {
            shade(&mut canvas, &object, sun);
            paint(&mut canvas, &object, rng);
            objects.push(object);
        }
    }
    for object in &objects {
        if rng.random::<f32>() < 0.18 {
            hide(&mut canvas, object, rng);
        }
    }
    let labels = objects.iter().map(|object| label(object, size)).collect();
    (develop(&canvas, rng), labels)
}

fn random_shape(size: usize, classes: usize, zoom: f32, rng: &mut impl Rng) -> Shape {
    // Small objects are more frequent than large ones.
    let draw = rng.random::<f32>();
    let length = zoom * size as f32 * (0.030 + 0.055 * draw * draw);
    match rng.random_range(0..classes as u32) {
        0 => Shape::Vehicle(length, length * uniform(rng, 0.42, 0.55) as f32),
        1 => Shape::Tank(length * 0.8),
        2 => Shape::Tent(length * 0.85, length * uniform(rng, 0.75, 0.95) as f32),
        _ => Shape::Plane(length * 1.25),
    }
}

/// Finds a free place; up to a third of an object may lie outside of the picture.
fn place(size: usize, classes: usize, zoom: f32, objects: &[Object], rng: &mut impl Rng) -> Option<Object> {
    let shape = random_shape(size, classes, zoom, rng);
    let angle = uniform(rng, 0.0, std::f64::consts::TAU) as f32;
    let ([hw, hh], [mx, my]) = shape.extent(angle);
    let limit = size as f32;
    for _ in 0..20 {
        let [x, y] = [rng.random::<f32>() * limit, rng.random::<f32>() * limit];
        let corners = [x + mx - hw, y + my - hh, x + mx + hw, y + my + hh];
        let seen = clipped(corners, limit);
        let visible = (seen[2] - seen[0]).max(0.0) * (seen[3] - seen[1]).max(0.0) / (4.0 * hw * hh);
        let free = objects.iter().all(|other| overlap(corners, other.corners) < 0.08);
        if visible > 0.67 && free && seen[2] - seen[0] > 4.0 && seen[3] - seen[1] > 4.0 {
            return Some(Object {
                shape,
                place: [x, y],
                angle,
                corners,
            });
        }
    }
    None
}

fn clipped(corners: [f32; 4], limit: f32) -> [f32; 4] {
    corners.map(|value| value.clamp(0.0, limit))
}

/// Shared area as a share of the smaller box.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    w * h / area(a).min(area(b))
}

fn label(object: &Object, size: usize) -> Label {
    let limit = size as f32;
    let [x1, y1, x2, y2] = clipped(object.corners, limit);
    let class = object.shape.class() as f32;
    [
        class,
        (x1 + x2) / 2.0 / limit,
        (y1 + y2) / 2.0 / limit,
        (x2 - x1) / limit,
        (y2 - y1) / limit,
    ]
}

/// Radius of a circle around the object.
fn reach(object: &Object) -> f32 {
    let [x1, y1, x2, y2] = object.corners;
    (x2 - x1).hypot(y2 - y1)
}

/// The shadow, away from the sun.
fn shade(canvas: &mut Canvas, object: &Object, sun: f32) {
    let (sin, cos) = object.angle.sin_cos();
    let offset = reach(object) * 0.06;
    let [x, y] = [
        object.place[0] + offset * sun.cos(),
        object.place[1] + offset * sun.sin(),
    ];
    canvas.around([x, y], reach(object) + 2.0, |canvas, px, py, dx, dy| {
        let distance = object.shape.distance(dx * cos + dy * sin, dy * cos - dx * sin);
        canvas.mix(px, py, [18.0, 20.0, 26.0], 0.5 * (0.5 - distance / 1.5).clamp(0.0, 1.0));
    });
}

fn paint(canvas: &mut Canvas, object: &Object, rng: &mut impl Rng) {
    let (sin, cos) = object.angle.sin_cos();
    // Any colour: a class must be told by form, not by paint. Some are near the ground's.
    let gray = uniform(rng, 60.0, 225.0) as f32;
    let tint = uniform(rng, 0.0, 70.0) as f32;
    let color: [f32; 3] = std::array::from_fn(|_| gray + tint * (rng.random::<f32>() * 2.0 - 1.0));
    canvas.around(object.place, reach(object) + 2.0, |canvas, px, py, dx, dy| {
        let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
        let cover = (0.5 - object.shape.distance(u, v)).clamp(0.0, 1.0);
        if cover > 0.0 {
            let light = 1.0 + 0.55 * object.shape.relief(u, v);
            canvas.mix(px, py, color.map(|value| value * light), cover);
        }
    });
}

/// A tree's crown over an edge of an object.
fn hide(canvas: &mut Canvas, object: &Object, rng: &mut impl Rng) {
    let [x1, y1, x2, y2] = object.corners;
    let direction = uniform(rng, 0.0, std::f64::consts::TAU) as f32;
    let radius = (x2 - x1).min(y2 - y1) * 0.38;
    let centre = [
        (x1 + x2) / 2.0 + direction.cos() * (x2 - x1) * 0.5,
        (y1 + y2) / 2.0 + direction.sin() * (y2 - y1) * 0.5,
    ];
    crown(canvas, centre, radius, rng);
}

/// A ragged green blob.
fn crown(canvas: &mut Canvas, centre: [f32; 2], radius: f32, rng: &mut impl Rng) {
    let lobes: [f32; 8] = std::array::from_fn(|_| uniform(rng, 0.65, 1.15) as f32);
    let green = [
        uniform(rng, 30.0, 70.0) as f32,
        uniform(rng, 70.0, 110.0) as f32,
        uniform(rng, 25.0, 55.0) as f32,
    ];
    let texture = Noise::new(16, 2.5, rng);
    canvas.around(centre, radius * 1.3 + 1.0, |canvas, px, py, dx, dy| {
        let turn = (dy.atan2(dx) / std::f32::consts::TAU + 0.5) * 8.0;
        let (index, share) = (turn as usize % 8, turn.fract());
        let edge = radius * (lobes[index] + (lobes[(index + 1) % 8] - lobes[index]) * share);
        let cover = ((edge - dx.hypot(dy)) / 1.5 + 0.5).clamp(0.0, 1.0);
        let speckle = 0.6 + 0.8 * texture.at(px.rem_euclid(16) as usize, py.rem_euclid(16) as usize);
        canvas.mix(px, py, green.map(|value| value * speckle), cover);
    });
}

/// Things without a label: bushes, bars that are too long, rings, patches, stones.
fn clutter(canvas: &mut Canvas, rng: &mut impl Rng) {
    let size = canvas.size as f32;
    let centre = [rng.random::<f32>() * size, rng.random::<f32>() * size];
    let tone = uniform(rng, 50.0, 200.0) as f32;
    let radius = size * uniform(rng, 0.02, 0.06) as f32;
    match rng.random_range(0..5) {
        0 | 1 => crown(canvas, centre, radius, rng),
        2 => {
            // A wall or a pipe.
            let (sin, cos) = (uniform(rng, 0.0, std::f64::consts::TAU) as f32).sin_cos();
            let (half, width) = (radius * 3.0, size * 0.006 + 0.5);
            canvas.around(centre, half + 2.0, |canvas, px, py, dx, dy| {
                let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
                let cover = (0.5 - (u.abs() - half).max(v.abs() - width)).clamp(0.0, 1.0);
                canvas.mix(px, py, [tone; 3], 0.9 * cover);
            });
        }
        3 => {
            // A worn patch with soft edges.
            let stain = [tone, tone * 0.95, tone * 0.85];
            canvas.around(centre, radius * 1.5, |canvas, px, py, dx, dy| {
                let cover = (1.0 - dx.hypot(dy * 1.4) / (radius * 1.5)).clamp(0.0, 1.0);
                canvas.mix(px, py, stain, 0.6 * cover);
            });
        }
        _ => {
            // Scattered stones.
            for _ in 0..6 {
                let at = [
                    centre[0] + radius * uniform(rng, -1.5, 1.5) as f32,
                    centre[1] + radius * uniform(rng, -1.5, 1.5) as f32,
                ];
                let small = size * 0.004 + rng.random::<f32>();
                canvas.around(at, small + 1.0, |canvas, px, py, dx, dy| {
                    canvas.mix(px, py, [tone; 3], (0.5 + small - dx.hypot(dy)).clamp(0.0, 1.0));
                });
            }
        }
    }
}

/// Exposure, uneven light, colour cast, sensor noise; then 8 bits.
fn develop(canvas: &Canvas, rng: &mut impl Rng) -> Image {
    let size = canvas.size;
    let exposure = uniform(rng, 0.65, 1.3) as f32;
    let contrast = uniform(rng, 0.8, 1.15) as f32;
    let cast: [f32; 3] = std::array::from_fn(|_| uniform(rng, 0.94, 1.06) as f32);
    let (slope_x, slope_y) = (uniform(rng, -0.15, 0.15) as f32, uniform(rng, -0.15, 0.15) as f32);
    let grain = uniform(rng, 2.0, 12.0) as f32;
    let mut data = Vec::with_capacity(size * size * 3);
    for (index, pixel) in canvas.pixels.iter().enumerate() {
        let (x, y) = (
            (index % size) as f32 / size as f32 - 0.5,
            (index / size) as f32 / size as f32 - 0.5,
        );
        let light = exposure * (1.0 + slope_x * x + slope_y * y);
        let noise = grain * (rng.random::<f32>() + rng.random::<f32>() - 1.0);
        for (value, cast) in pixel.iter().zip(cast) {
            let value = (value - 110.0) * contrast + 110.0;
            data.push((value * light * cast + noise).round().clamp(0.0, 255.0) as u8);
        }
    }
    Image {
        width: size,
        height: size,
        data,
    }
}
