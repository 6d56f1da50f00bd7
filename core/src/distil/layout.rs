//! The head of a network as distillation sees it, where its maps are in the graph, and whether two networks fit together.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::DistilNeeds;
use crate::{Error, Graph, Op, Result, ValueId};

/// One level of a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Pixels of the image per cell.
    pub stride: i64,
    /// Channels of the map that the head reads.
    pub channels: i64,
    /// Anchors in pixels: width, height.
    pub anchors: Vec<[f64; 2]>,
}

/// A head: its classes and its levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Number of classes.
    pub classes: i64,
    /// Levels that are compared, in the student's order.
    pub levels: Vec<Level>,
}

impl Layout {
    /// The raw map `[N, A * (5 + classes), h, w]` of a level as `[N, A, h, w, 5 + classes]`: x, y, width, height, objectness, classes,
    /// all before their sigmoid.
    ///
    /// # Errors
    /// Where the map has other channels.
    pub fn predictions(&self, level: usize, map: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = map.size4()?;
        let anchors = self.levels.get(level).map_or(0, |level| level.anchors.len()) as i64;
        Ok(map
            .f_reshape([n, anchors, self.classes + 5, h, w])?
            .f_permute([0, 1, 3, 4, 2])?)
    }

    fn strides(&self) -> Vec<i64> {
        self.levels.iter().map(|level| level.stride).collect()
    }
}

/// Where the maps of a head are in its graph.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadMaps {
    /// What they are.
    pub layout: Layout,
    /// For each level, the value that the head reads.
    pub necks: Vec<ValueId>,
    /// For each level, the node that makes the raw map.
    pub convs: Vec<ValueId>,
}

impl HeadMaps {
    /// Those of a network with a detection head. A fake quantizer behind the head's convolution is stepped over; one before it belongs to
    /// what the head reads.
    ///
    /// # Errors
    /// Where there is no head, or a raw map is made by something else than a convolution.
    pub fn of(graph: &Graph) -> Result<Self> {
        let head = graph
            .head
            .as_ref()
            .ok_or_else(|| Error::Config("the model has no detection head, so there is nothing to distil".into()))?;
        let mut found = Self {
            layout: Layout {
                classes: head.classes,
                levels: Vec::new(),
            },
            necks: Vec::new(),
            convs: Vec::new(),
        };
        for ((output, stride), anchors) in graph.outputs.iter().zip(&head.strides).zip(&head.anchors) {
            let mut value = *output;
            while let Op::FakeQuant { .. } = graph.node(value).op {
                value = graph.node(value).inputs[0];
            }
            let node = graph.node(value);
            let Op::Conv2d { cin, .. } = node.op else {
                return Err(Error::Graph(format!(
                    "the raw map at stride {stride} comes from `{}` ({}), not from a convolution",
                    node.name,
                    node.op.name()
                )));
            };
            found.layout.levels.push(Level {
                stride: *stride,
                channels: cin,
                anchors: anchors.clone(),
            });
            found.necks.push(node.inputs[0]);
            found.convs.push(value);
        }
        Ok(found)
    }
}

/// Why a student can't learn from a teacher. Each names both sides.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Misfit {
    /// Other numbers of classes.
    #[error(
        "the student has {student} classes, the teacher {teacher}\n  help: train the teacher on the student's data set first, it must know \
         the same classes in the same order"
    )]
    Classes {
        /// Of the student.
        student: i64,
        /// Of the teacher.
        teacher: i64,
    },
    /// Other classes.
    #[error(
        "class {index} of the student is `{student}`, that of the teacher `{teacher}`\n  help: a teacher must know the same classes in the \
         same order: train it on the student's data set"
    )]
    Names {
        /// The first class that differs.
        index: usize,
        /// Its name in the student.
        student: String,
        /// Its name in the teacher.
        teacher: String,
    },
    /// A level of the student that the teacher lacks.
    #[error(
        "the student predicts at strides {student:?}, the teacher at {teacher:?}\n  help: use a teacher that has all strides of the student; \
         it may have more"
    )]
    Strides {
        /// Of the student.
        student: Vec<i64>,
        /// Of the teacher.
        teacher: Vec<i64>,
    },
    /// Other anchors, where predictions are compared.
    #[error(
        "at stride {stride} the student has the anchors {student:?}, the teacher {teacher:?}, so their boxes can't be compared number by \
         number\n  help: start the student with the teacher's anchors (--noautoanchor keeps them), or use a distiller that compares feature \
         maps (cwd, pkd)"
    )]
    Anchors {
        /// The level.
        stride: i64,
        /// Of the student, in pixels.
        student: Vec<[f64; 2]>,
        /// Of the teacher, in pixels.
        teacher: Vec<[f64; 2]>,
    },
    /// Images of other channels.
    #[error("the student reads images of {student} channels, the teacher of {teacher}")]
    Images {
        /// Of the student.
        student: i64,
        /// Of the teacher.
        teacher: i64,
    },
    /// Images of a size that the teacher can't read.
    #[error(
        "the student is trained on images of {size} pixels, the teacher reads multiples of {teacher} (the student of {student})\n  help: use \
         an image size that both divide"
    )]
    Size {
        /// Side of the images.
        size: i64,
        /// What sizes of the student are multiples of.
        student: i64,
        /// What sizes of the teacher are multiples of.
        teacher: i64,
    },
    /// Maps of other sizes from the same image.
    #[error(
        "of an image of {size} pixels the student makes a map of {student:?} at stride {stride}, the teacher one of {teacher:?}\n  help: use \
         an image size that both divide"
    )]
    Maps {
        /// Side of the image.
        size: i64,
        /// The level.
        stride: i64,
        /// Height and width in the student.
        student: [i64; 2],
        /// Height and width in the teacher.
        teacher: [i64; 2],
    },
    /// The distiller runs the teacher's head, which is no plain convolution.
    #[error(
        "the student would be seen through the teacher's head, but `{node}` is no plain convolution of one cell\n  help: use the float \
         model that the teacher was quantized from, or another distiller (logits, cwd, pkd)"
    )]
    Head {
        /// The node of the teacher's head.
        node: String,
    },
}

/// For each level of the student the level of the teacher with the same stride: a teacher may have more of them.
///
/// # Errors
/// Other classes, strides that the teacher lacks, and other anchors where raw maps are compared.
pub fn pair_levels(student: &Layout, teacher: &Layout, needs: DistilNeeds) -> Result<Vec<usize>, Misfit> {
    if student.classes != teacher.classes {
        return Err(Misfit::Classes {
            student: student.classes,
            teacher: teacher.classes,
        });
    }
    let find = |level: &Level| teacher.levels.iter().position(|other| other.stride == level.stride);
    let pairs: Option<Vec<usize>> = student.levels.iter().map(find).collect();
    let pairs = pairs.ok_or_else(|| Misfit::Strides {
        student: student.strides(),
        teacher: teacher.strides(),
    })?;
    if needs.raw || needs.head {
        for (own, index) in student.levels.iter().zip(&pairs) {
            let other = &teacher.levels[*index];
            if !same_anchors(&own.anchors, &other.anchors) {
                return Err(Misfit::Anchors {
                    stride: own.stride,
                    student: own.anchors.clone(),
                    teacher: other.anchors.clone(),
                });
            }
        }
    }
    Ok(pairs)
}

/// Checkpoints hold anchors as f32 in cells, so the last digits may differ.
fn same_anchors(a: &[[f64; 2]], b: &[[f64; 2]]) -> bool {
    let near = |(x, y): (&f64, &f64)| (x - y).abs() <= 1e-3 * x.abs().max(y.abs());
    a.len() == b.len() && a.iter().flatten().zip(b.iter().flatten()).all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(strides: &[i64], classes: i64) -> Layout {
        let level = |stride: &i64| Level {
            stride: *stride,
            channels: 4 * stride,
            anchors: vec![[*stride as f64, 2.0 * *stride as f64]; 3],
        };
        Layout {
            classes,
            levels: strides.iter().map(level).collect(),
        }
    }

    const ALL: DistilNeeds = DistilNeeds {
        raw: true,
        neck: true,
        head: true,
    };
    const NECK: DistilNeeds = DistilNeeds {
        raw: false,
        neck: true,
        head: false,
    };

    #[test]
    fn levels_are_paired_by_stride() {
        let student = layout(&[8, 16, 32], 3);
        assert_eq!(
            pair_levels(&student, &layout(&[4, 8, 16, 32], 3), ALL),
            Ok(vec![1, 2, 3])
        );
        assert_eq!(pair_levels(&student, &student, ALL), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn what_does_not_fit_names_both_sides() {
        let student = layout(&[8, 16, 32], 3);
        let refused =
            |teacher: &Layout, needs| pair_levels(&student, teacher, needs).expect_err("a misfit").to_string();
        assert!(refused(&layout(&[8, 16, 32], 80), NECK).starts_with("the student has 3 classes, the teacher 80\n"));
        let text = refused(&layout(&[16, 32, 64], 3), NECK);
        assert!(text.contains("[8, 16, 32]") && text.contains("[16, 32, 64]"), "{text}");
        let mut other = student.clone();
        other.levels[1].anchors[2][0] *= 1.01;
        let text = refused(&other, ALL);
        assert!(
            text.contains("stride 16") && text.contains("16.16") && text.contains("[16.0, 32.0]"),
            "{text}"
        );
        assert_eq!(
            pair_levels(&student, &other, NECK),
            Ok(vec![0, 1, 2]),
            "feature maps have no anchors"
        );
        other.levels[1].anchors[2][0] = 16.0 * (1.0 + 1e-5);
        assert_eq!(
            pair_levels(&student, &other, ALL),
            Ok(vec![0, 1, 2]),
            "rounding is no difference"
        );
    }
}
