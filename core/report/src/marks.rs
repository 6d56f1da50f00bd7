//! Boxes with labels on a picture.

use crate::{Canvas, FontSize, Letters, Rect, class_color, ink_on};

/// A box to draw: a detection, or a label from the data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Class.
    pub class: usize,
    /// Confidence of a detection.
    pub conf: Option<f32>,
    /// Corners in pixels of the picture: left, top, right, bottom.
    pub xyxy: [f32; 4],
}

/// How boxes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkStyle {
    /// Thickness of the lines; by the size of the picture if absent.
    pub line: Option<usize>,
    /// Writes class and confidence.
    pub labels: bool,
    /// Writes the confidence beside the class.
    pub confidence: bool,
}

impl Default for MarkStyle {
    fn default() -> Self {
        Self {
            line: None,
            labels: true,
            confidence: true,
        }
    }
}

/// Draws boxes, the surest last so that they lie on top. Labels go where they hide no other label, if there is such a place. A name that
/// `letters` can't write is replaced by `class N`.
pub fn draw_marks(canvas: &mut Canvas<'_>, marks: &[Mark], names: &[String], letters: &Letters, style: MarkStyle) {
    let (width, height) = (canvas.width(), canvas.height());
    let line = style
        .line
        .unwrap_or(((width + height) as f64 / 2.0 * 0.003).round() as usize)
        .clamp(1, 64) as i32;
    let line = if style.line.is_none() { line.max(2) } else { line };
    let mut order: Vec<&Mark> = marks.iter().collect();
    order.sort_by(|a, b| a.conf.unwrap_or(1.0).total_cmp(&b.conf.unwrap_or(1.0)));
    let rect = |mark: &Mark| {
        let [x0, y0, x1, y1] = mark.xyxy.map(|v| v.round() as i32);
        // A box thinner than a line is still seen.
        Rect {
            x0,
            y0,
            x1: x1.max(x0.saturating_add(line)),
            y1: y1.max(y0.saturating_add(line)),
        }
    };
    for mark in &order {
        canvas.frame(rect(mark), line, class_color(mark.class));
    }
    if !style.labels {
        return;
    }
    let size = FontSize::for_picture(width, height);
    let mut taken: Vec<Rect> = Vec::with_capacity(order.len());
    // The surest label chooses its place first and is drawn last.
    let placed: Vec<(Rect, [String; 2], [u8; 3])> = order
        .iter()
        .rev()
        .map(|mark| {
            let parts = label(mark, names, letters, style.confidence);
            let long = parts.iter().map(|part| letters.width(part, size)).sum();
            let place = place_label(rect(mark), long, size, (width as i32, height as i32), &taken);
            taken.push(place);
            (place, parts, class_color(mark.class))
        })
        .collect();
    for (place, parts, color) in placed.iter().rev() {
        canvas.fill(*place, *color);
        let mut x = place.x0.saturating_add(2);
        for part in parts {
            letters.write(canvas, (x, place.y0), part, size, ink_on(*color));
            x = x.saturating_add(letters.width(part, size));
        }
    }
}

/// `car` and ` 0.87`: apart, as a name that is written from right to left would take the number to its left. A class without a name that
/// can be written is its number.
fn label(mark: &Mark, names: &[String], letters: &Letters, confidence: bool) -> [String; 2] {
    let name = match names.get(mark.class) {
        Some(name) if letters.have(name) => name.clone(),
        _ => format!("class {}", mark.class),
    };
    let conf = mark.conf.filter(|_| confidence);
    [name, conf.map_or_else(String::new, |conf| format!(" {conf:.2}"))]
}

/// Above the box, else inside its top, else below; never off the picture if it fits there at all.
fn place_label(mark: Rect, long: i32, size: FontSize, (width, height): (i32, i32), taken: &[Rect]) -> Rect {
    let (w, h) = (long.saturating_add(4), size.height());
    let x = mark.x0.clamp(0, (width - w).max(0));
    let rows = [mark.y0.saturating_sub(h), mark.y0, mark.y1];
    let candidates = rows.map(|y| Rect::new(x, y, w, h));
    let fits = |place: &&Rect| place.y0 >= 0 && place.y1 <= height;
    let free = |place: &&Rect| !taken.iter().any(|other| other.overlaps(place));
    let found = candidates
        .iter()
        .filter(fits)
        .find(free)
        .or_else(|| candidates.iter().find(fits));
    found
        .copied()
        .unwrap_or_else(|| Rect::new(x, mark.y0.clamp(0, (height - h).max(0)), w, h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;
    use crate::text::text_width;

    fn names() -> Vec<String> {
        vec!["car".into(), "bus".into()]
    }

    fn mark(class: usize, conf: f32, xyxy: [f32; 4]) -> Mark {
        Mark {
            class,
            conf: Some(conf),
            xyxy,
        }
    }

    #[test]
    fn frames_have_the_colour_of_their_class_and_hug_the_box() {
        let mut picture = Picture::filled(200, 200, [10; 3]);
        let style = MarkStyle {
            labels: false,
            ..MarkStyle::default()
        };
        draw_marks(
            &mut picture.canvas().unwrap(),
            &[mark(1, 0.9, [50.0, 60.0, 120.0, 140.0])],
            &names(),
            &Letters::built_in(),
            style,
        );
        let color = Some(class_color(1));
        assert_eq!(picture.pixel(50, 60), color);
        assert_eq!(picture.pixel(119, 139), color);
        assert_eq!(picture.pixel(120, 140), Some([10; 3]));
        assert_eq!(picture.pixel(85, 100), Some([10; 3]), "the inside stays");
    }

    #[test]
    fn labels_avoid_each_other_and_stay_on_the_picture() {
        let size = FontSize::Small;
        let first = place_label(
            Rect::new(50, 50, 30, 60),
            text_width("car 0.90", size),
            size,
            (200, 200),
            &[],
        );
        assert_eq!(first.y1, 50, "above the box");
        let second = place_label(
            Rect::new(50, 50, 30, 60),
            text_width("bus 0.80", size),
            size,
            (200, 200),
            &[first],
        );
        assert_eq!(second.y0, 50, "inside its top, as the place above is taken");
        let corner = place_label(
            Rect::new(190, 0, 30, 300),
            text_width("bus 0.80", size),
            size,
            (200, 200),
            &[],
        );
        assert!(corner.x1 <= 200 && corner.y0 >= 0, "{corner:?}");
    }

    #[test]
    fn absurd_boxes_and_unknown_classes_do_no_harm() {
        let mut picture = Picture::filled(40, 30, [0; 3]);
        let marks = [
            mark(0, f32::NAN, [f32::NAN; 4]),
            mark(7, 0.5, [-1e30, -1e30, 1e30, 1e30]),
            mark(1, 0.5, [30.0, 20.0, 10.0, 5.0]),
        ];
        let letters = Letters::built_in();
        draw_marks(
            &mut picture.canvas().unwrap(),
            &marks,
            &names(),
            &letters,
            MarkStyle::default(),
        );
        let text = |mark: &Mark| label(mark, &names(), &letters, true).concat();
        assert_eq!(text(&marks[1]), "class 7 0.50");
        assert_eq!(text(&Mark { conf: None, ..marks[2] }), "bus");
    }

    #[test]
    fn a_name_that_no_font_has_is_its_number_and_never_question_marks() {
        let letters = Letters::built_in();
        let foreign = ["红细胞".to_owned(), "пёс".to_owned(), "قط".to_owned()];
        for class in 0..3 {
            let drawn = |names: &[String], class| {
                let mut picture = Picture::filled(160, 60, [9; 3]);
                let marks = [mark(class, 0.5, [5.0, 30.0, 150.0, 55.0])];
                draw_marks(
                    &mut picture.canvas().unwrap(),
                    &marks,
                    names,
                    &letters,
                    MarkStyle::default(),
                );
                picture.data
            };
            let numbers: Vec<String> = (0..3).map(|class| format!("class {class}")).collect();
            assert_eq!(drawn(&foreign, class), drawn(&numbers, class));
        }
        assert!(letters.take_note().is_some_and(|note| note.contains("红细胞, пёс, قط")));
    }
}
