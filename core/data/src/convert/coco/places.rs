//! Where the images of a COCO file lie: its names are those of the machine that wrote it.

use std::path::{Path, PathBuf};

use crate::convert::Settings;

/// The file of a name: in a folder as the name says, or by its last parts (paths of other machines, with separators of any system).
pub(super) fn look_for(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let turned = name.replace('\\', "/");
    let mut rests = vec![name, turned.as_str()];
    rests.extend(turned.match_indices('/').map(|(at, _)| &turned[at + 1..]));
    rests
        .into_iter()
        .filter(|rest| !rest.is_empty())
        .flat_map(|rest| folders.iter().map(move |folder| folder.join(rest)))
        .find(|path| path.is_file())
}

/// Where the images of `instances_NAME.json` may be.
pub(super) fn image_folders(settings: &Settings, file: &Path, stem: &str) -> Vec<PathBuf> {
    let name = stem.strip_prefix("instances_").unwrap_or(stem);
    let folders = match &settings.images {
        Some(images) => vec![images.clone(), images.join(name)],
        None => {
            let beside = file.parent().unwrap_or(Path::new("")).to_owned();
            let above = beside.join("..");
            vec![
                above.join(name),
                above.join("images").join(name),
                above.join("images"),
                beside.join(name),
                beside.join("images"),
                beside,
                above,
            ]
        }
    };
    folders.into_iter().filter(|folder| folder.is_dir()).collect()
}
