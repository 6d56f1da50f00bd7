//! The teacher of a training: a checkpoint and a distiller as the engine wants them.

use std::path::Path;

use serde_json::Value;
use yolo_engine::Checkpoint;
use yolo_engine::train::Distillation;

use crate::error::{Error, Result};
use crate::{Session, open};

/// A teacher for `student`, whose classes are `names`; `written` is the distiller, `place` where it stands, for messages.
///
/// # Errors
/// A file that is no checkpoint, a plugin or an option that is not there, networks that don't go together at images of `size` pixels.
pub fn teacher(
    session: Session<'_>,
    weights: &Path,
    (place, written): (&str, Option<&Value>),
    student: (&Checkpoint, &[String]),
    size: usize,
) -> Result<Distillation> {
    let distiller = open::distiller(session, place, written)?;
    let mut teacher = open::checkpoint(session, weights)?;
    let (student, names) = student;
    let classes = |model: &Checkpoint| model.graph.head.as_ref().map_or(0, |head| head.classes);
    if classes(&teacher) != classes(student) {
        return Err(Error::Usage(format!(
            "--teacher {}: it has {} classes, the student {}\n  help: a teacher knows the same classes: train one on this data",
            weights.display(),
            classes(&teacher),
            classes(student)
        )));
    }
    // Checkpoints without names have numbers; those of the data are the student's.
    if teacher
        .meta
        .names
        .iter()
        .enumerate()
        .all(|(class, name)| *name == class.to_string())
    {
        teacher.meta.names = names.to_vec();
    }
    let distillation = Distillation::new(distiller, &teacher)?;
    let mut named = Checkpoint::new(
        student.graph.clone(),
        student.params.shallow_clone(),
        student.meta.clone(),
    );
    named.meta.names = names.to_vec();
    distillation
        .check(&named, size)
        .map_err(|error| Error::Usage(format!("--teacher {}: {error}", weights.display())))?;
    Ok(distillation)
}
