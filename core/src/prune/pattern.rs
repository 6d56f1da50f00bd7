//! Groups by pattern: `model.9` is all of layer 9, `model.*.m.*.cv2` the second convolutions of all bottlenecks.

use super::ChannelGroups;
use super::groups::scope_of;
use super::{CutRole, Side};
use crate::{Error, Result};

/// Positions of the groups that a pattern names: by their own name or by that of any layer that makes their channels. `*` stands for any
/// one part between dots, `**` for any number of parts, `{a,b}` for either; a pattern that names a part of a model names all in it.
///
/// # Errors
/// [`Error::Impossible`] for a pattern that names none.
pub fn find(groups: &ChannelGroups, pattern: &str) -> Result<Vec<usize>> {
    let all = groups.groups.iter().enumerate();
    let found: Vec<usize> = all
        .filter(|(_, group)| {
            let makers = group
                .cuts
                .iter()
                .filter(|cut| cut.side == Side::Producer && cut.role == CutRole::Weight)
                .map(|cut| scope_of(&cut.key));
            std::iter::once(group.name.as_str())
                .chain(makers)
                .any(|name| names(pattern, name))
        })
        .map(|(at, _)| at)
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = crate::suggest::did_you_mean(pattern, groups.groups.iter().map(|g| g.name.as_str()));
    Err(Error::Impossible(format!(
        "`{pattern}` names no group of channels that can be pruned{}; `yolo prune --explain` lists them",
        hint.map(|hint| format!("; {hint}")).unwrap_or_default()
    )))
}

/// Whether a pattern names this layer, or something that it is in.
fn names(pattern: &str, layer: &str) -> bool {
    let pattern = pattern.replace('.', "/");
    let layer = layer.replace('.', "/");
    let ends = layer.match_indices('/').map(|(at, _)| at).chain([layer.len()]);
    let mut scopes = ends.map(|end| &layer[..end]);
    scopes.any(|scope| fast_glob::glob_match(&pattern, scope))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn patterns_name_layers_and_what_is_in_them() {
        for (pattern, layer, named) in [
            ("model.2", "model.2.m.0.cv1.conv", true),
            ("model.2", "model.20.cv1.conv", false),
            ("model.*.cv1", "model.2.cv1.conv", true),
            ("model.*.cv1", "model.2.m.0.cv1.conv", false),
            ("model.*.m.*.cv2", "model.6.m.2.cv2.conv", true),
            ("model.**.cv2", "model.6.m.2.cv2.conv", true),
            ("model.{2,4}.cv1", "model.4.cv1.conv", true),
            ("model.{2,4}.cv1", "model.6.cv1.conv", false),
            ("model.1.conv#2", "model.1.conv#2", true),
            ("", "model.1.conv", false),
        ] {
            assert_eq!(names(pattern, layer), named, "{pattern} {layer}");
        }
    }
}
