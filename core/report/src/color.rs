//! Colours of classes: far apart for the first few, then spread by the golden angle.

/// Colours of the first classes, picked to differ in hue and lightness from each other and from street and soil.
const FIRST: [[u8; 3]; 12] = [
    [255, 64, 64],
    [40, 170, 255],
    [255, 200, 0],
    [70, 220, 90],
    [235, 80, 220],
    [255, 140, 30],
    [0, 210, 200],
    [150, 110, 255],
    [180, 230, 40],
    [255, 150, 180],
    [30, 120, 90],
    [160, 80, 40],
];

/// Colour of a class.
pub fn class_color(class: usize) -> [u8; 3] {
    FIRST.get(class).copied().unwrap_or_else(|| {
        // Golden angle: neighbouring classes get far hues, no hue repeats.
        let hue = (class as f64 * 137.507_764).rem_euclid(360.0);
        let value = if class.is_multiple_of(2) { 0.95 } else { 0.7 };
        hsv(hue, 0.75, value)
    })
}

/// Black or white, whichever reads better on a colour (relative luminance, ITU-R BT.709 weights).
pub fn ink_on([r, g, b]: [u8; 3]) -> [u8; 3] {
    let luminance = 0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b);
    if luminance > 128.0 { [0; 3] } else { [255; 3] }
}

/// `#rrggbb`.
pub(crate) fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn hsv(hue: f64, saturation: f64, value: f64) -> [u8; 3] {
    let channel = |n: f64| {
        let k = (n + hue / 60.0).rem_euclid(6.0);
        let level = value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0);
        (level * 255.0).round() as u8
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_classes_have_eighty_colours() {
        let mut colors: Vec<_> = (0..80).map(class_color).collect();
        colors.sort_unstable();
        colors.dedup();
        assert_eq!(colors.len(), 80);
    }

    #[test]
    fn hues_are_where_they_belong() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [255, 0, 0]);
        assert_eq!(hsv(120.0, 1.0, 1.0), [0, 255, 0]);
        assert_eq!(hsv(240.0, 1.0, 1.0), [0, 0, 255]);
        assert_eq!((ink_on([255, 255, 0]), ink_on([0, 0, 160])), ([0; 3], [255; 3]));
    }
}
