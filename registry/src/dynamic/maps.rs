//! Which copies of libtorch are in this process. Two would each have tensors that the other can't read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that holds libtorch's operators: loaded once in a sound process.
const NAME: &str = "libtorch_cpu.so";

/// Every loaded copy, by its device and inode: one file under two names is one copy.
pub(super) fn loaded() -> Vec<PathBuf> {
    std::fs::read_to_string("/proc/self/maps")
        .map(|maps| copies(&maps))
        .unwrap_or_default()
}

fn copies(maps: &str) -> Vec<PathBuf> {
    let mut found: BTreeMap<(String, String), PathBuf> = BTreeMap::new();
    for line in maps.lines() {
        // address perms offset device inode path
        let mut words = line.split_ascii_whitespace();
        let (Some(device), Some(inode)) = (words.nth(3), words.next()) else {
            continue;
        };
        let Some(at) = line.find('/') else { continue };
        let path = line[at..].trim_end_matches(" (deleted)");
        let name = Path::new(path)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with(NAME) {
            found
                .entry((device.to_owned(), inode.to_owned()))
                .or_insert_with(|| PathBuf::from(path));
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_by_file() {
        let maps = "\
7f00-7f01 r-xp 00000000 08:01 100  /a b/libtorch_cpu.so
7f01-7f02 r--p 00001000 08:01 100  /a b/libtorch_cpu.so
7f02-7f03 r-xp 00000000 08:01 100  /other name/libtorch_cpu.so
7f03-7f04 rw-p 00000000 00:00 0
7f04-7f05 r-xp 00000000 08:01 7    /a/libtorch_cuda.so
7f05-7f06 r-xp 00000000 08:02 100  /c/libtorch_cpu.so.2 (deleted)
7f06-7f07 rw-p 00000000 00:00 0    [heap]
";
        let found = copies(maps);
        assert_eq!(
            found,
            [Path::new("/a b/libtorch_cpu.so"), Path::new("/c/libtorch_cpu.so.2")]
        );
    }

    #[test]
    fn this_process_has_one() {
        let _ = tch::Tensor::from(1.0);
        assert_eq!(loaded().len(), 1, "{:?}", loaded());
    }
}
