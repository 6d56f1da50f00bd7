//! The outlines of objects as signed distances, in pixels, negative inside, in the object's own turned frame.

/// Names of the classes.
pub const CLASSES: [&str; 4] = ["vehicle", "tank", "tent", "plane"];

/// An outline of a half-length; the frame's x axis runs along it.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Half length and half width.
    Vehicle(f32, f32),
    /// Radius.
    Tank(f32),
    /// A triangle: half height (x axis) and half base.
    Tent(f32, f32),
    /// Half length: a fuselage, wings and a tail.
    Plane(f32),
}

/// The three bars of a plane: centre along the axis, half length along it, half width across, as shares of its half length.
const BARS: [(f32, f32, f32); 3] = [(0.0, 1.0, 0.13), (0.12, 0.18, 0.92), (-0.84, 0.13, 0.38)];

impl Shape {
    /// Index of the class.
    pub fn class(self) -> usize {
        match self {
            Self::Vehicle(..) => 0,
            Self::Tank(..) => 1,
            Self::Tent(..) => 2,
            Self::Plane(..) => 3,
        }
    }

    /// Distance to the outline.
    pub fn distance(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Vehicle(a, b) => bar(x, y, a, b),
            Self::Tank(r) => x.hypot(y) - r,
            Self::Tent(a, b) => {
                // Sides from the tip (a, 0) to the base (-a, +-b).
                let length = (2.0 * a).hypot(b);
                let side = ((x - a) * b + y.abs() * 2.0 * a) / length;
                side.max(-a - x)
            }
            Self::Plane(l) => {
                let distance = |(at, a, b): (f32, f32, f32)| bar(x - at * l, y, a * l, b * l);
                BARS.into_iter().map(distance).fold(f32::INFINITY, f32::min)
            }
        }
    }

    /// Half the size of the box around the outline, turned by an angle, and the middle of that box.
    pub fn extent(self, angle: f32) -> ([f32; 2], [f32; 2]) {
        let (sin, cos) = angle.sin_cos();
        let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
        let mut add = |x: f32, y: f32| {
            for (axis, value) in [x * cos - y * sin, x * sin + y * cos].into_iter().enumerate() {
                low[axis] = low[axis].min(value);
                high[axis] = high[axis].max(value);
            }
        };
        let mut corners = |at: f32, a: f32, b: f32| {
            for (sx, sy) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
                add(at + sx * a, sy * b);
            }
        };
        match self {
            Self::Vehicle(a, b) => corners(0.0, a, b),
            Self::Plane(l) => BARS.into_iter().for_each(|(at, a, b)| corners(at * l, a * l, b * l)),
            Self::Tent(a, b) => {
                add(a, 0.0);
                add(-a, b);
                add(-a, -b);
            }
            Self::Tank(r) => (low, high) = ([-r; 2], [r; 2]),
        }
        let half = [(high[0] - low[0]) / 2.0, (high[1] - low[1]) / 2.0];
        (half, [low[0] + half[0], low[1] + half[1]])
    }

    /// Light and dark parts inside, -1 to 1: windows, rims, ridges.
    pub fn relief(self, x: f32, y: f32) -> f32 {
        match self {
            // Windscreen and rear window across, a paler roof between.
            Self::Vehicle(a, _) => match x / a {
                along if (0.25..0.55).contains(&along) => -0.75,
                along if (-0.8..-0.6).contains(&along) => -0.6,
                along if (-0.6..0.25).contains(&along) => 0.15,
                _ => 0.0,
            },
            // A rim, and light falling from one side.
            Self::Tank(r) => {
                let rim = if x.hypot(y) > 0.8 * r { -0.45 } else { 0.0 };
                rim + 0.3 * (x + y) / r
            }
            // One slope in the light, one in the shade.
            Self::Tent(..) => 0.4 * y.signum(),
            Self::Plane(l) => {
                if y.abs() < 0.05 * l {
                    0.35
                } else {
                    0.0
                }
            }
        }
    }
}

/// Distance to a bar around the origin.
fn bar(x: f32, y: f32, a: f32, b: f32) -> f32 {
    (x.abs() - a).max(y.abs() - b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_hold_the_outline_closely() {
        for shape in [
            Shape::Vehicle(20.0, 9.0),
            Shape::Tank(12.0),
            Shape::Tent(14.0, 10.0),
            Shape::Plane(18.0),
        ] {
            for step in 0..12 {
                let angle = step as f32 * 0.55;
                let (sin, cos) = angle.sin_cos();
                let ([hw, hh], [mx, my]) = shape.extent(angle);
                let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
                for i in 0..400 * 400 {
                    let (u, v) = ((i % 400) as f32 * 0.15 - 30.0, (i / 400) as f32 * 0.15 - 30.0);
                    if shape.distance(u * cos + v * sin, v * cos - u * sin) <= 0.0 {
                        low = [low[0].min(u), low[1].min(v)];
                        high = [high[0].max(u), high[1].max(v)];
                    }
                }
                // The scan has steps of 0.15; a sharp corner may fall between them.
                for (edge, seen) in [
                    (mx - hw, low[0]),
                    (mx + hw, high[0]),
                    (my - hh, low[1]),
                    (my + hh, high[1]),
                ] {
                    assert!((edge - seen).abs() < 0.5, "{shape:?} at {angle}: {edge} against {seen}");
                }
            }
        }
    }
}
