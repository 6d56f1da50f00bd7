//! Names of tensors without what wrappers put before them: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of a
//! trainer's own class.

use std::collections::{HashMap, HashSet};

/// The same keys, in order, as a plain model has them: `module.model.0.conv.weight` becomes `model.0.conv.weight`. Only the most
/// frequent prefix comes off (of two copies of a model in one dict the first stays the model), and none that would make two keys one.
pub fn plain_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let keys: Vec<&str> = keys.into_iter().collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (prefix, _) in keys.iter().filter_map(|key| split(key)) {
        *counts.entry(prefix).or_default() += 1;
    }
    let mut prefixes: Vec<(&str, usize)> = counts.into_iter().collect();
    prefixes.sort_by_key(|(prefix, count)| (std::cmp::Reverse(*count), prefix.len(), *prefix));
    let unchanged = || keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let Some((prefix, _)) = prefixes.first() else {
        return all_modules(&keys).unwrap_or_else(unchanged);
    };
    let plain = |key: &str| match split(key) {
        Some((found, rest)) if found == *prefix => format!("model.{rest}"),
        _ => key.to_owned(),
    };
    let renamed: Vec<String> = keys.iter().map(|key| plain(key)).collect();
    if renamed.iter().collect::<HashSet<_>>().len() == keys.len() {
        renamed
    } else {
        unchanged()
    }
}

/// What stands before the number of a layer, and the rest from the number on: `module.` and `0.conv.weight`.
fn split(key: &str) -> Option<(&str, &str)> {
    let numbered = |rest: &str| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest[digits..].starts_with('.')
    };
    // The layers themselves, saved without the model around them, and wrapped inside of it.
    if numbered(key) {
        return Some((LAYERS, key));
    }
    for inside in ["model.module.", "model._orig_mod."] {
        if let Some(at) = key.find(inside)
            && numbered(&key[at + inside.len()..])
        {
            return Some((&key[..at + inside.len()], &key[at + inside.len()..]));
        }
    }
    let mut from = 0;
    while let Some(at) = key[from..].find("model.").map(|at| from + at) {
        let begins = at == 0 || key[..at].ends_with('.');
        let rest = &key[at + "model.".len()..];
        if begins && numbered(rest) {
            return Some((&key[..at], rest));
        }
        from = at + 1;
    }
    None
}

/// Stands for the prefix of keys that start with the number of a layer.
const LAYERS: &str = "0";

/// Keys of other models: `module.` comes off where every key has it.
fn all_modules(keys: &[&str]) -> Option<Vec<String>> {
    let mut keys = keys.to_vec();
    let mut changed = false;
    while !keys.is_empty() {
        let Some(short) = ["module.", "_orig_mod."].iter().find_map(|prefix| {
            keys.iter()
                .map(|key| key.strip_prefix(prefix))
                .collect::<Option<Vec<_>>>()
        }) else {
            break;
        };
        (keys, changed) = (short, true);
    }
    changed.then(|| keys.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain<const N: usize>(keys: [&str; N]) -> Vec<String> {
        plain_keys(keys)
    }

    #[test]
    fn prefixes_of_wrappers_come_off() {
        for prefix in [
            "",
            "module.",
            "module.module.",
            "_orig_mod.",
            "_orig_mod.module.",
            "model.",
            "model.module.",
            "ema.module.",
            "net.",
        ] {
            let keys = [
                format!("{prefix}model.0.conv.weight"),
                format!("{prefix}model.24.m.0.bias"),
            ];
            let found = plain_keys(keys.iter().map(String::as_str));
            assert_eq!(found, ["model.0.conv.weight", "model.24.m.0.bias"], "{prefix}");
        }
        assert_eq!(plain(["model.module.0.conv.weight"]), ["model.0.conv.weight"]);
        assert_eq!(
            plain(["0.conv.weight", "24.m.0.bias"]),
            ["model.0.conv.weight", "model.24.m.0.bias"]
        );
        assert_eq!(plain(["module.fc.weight", "module.fc.bias"]), ["fc.weight", "fc.bias"]);
    }

    #[test]
    fn what_is_no_prefix_of_the_model_stays() {
        let keys = ["model.0.conv.weight", "model.0.bn.weight", "loss.weight"];
        assert_eq!(plain(keys), keys);
        // Two copies: the more complete one is the model, else the plain one.
        let two = ["module.model.0.a", "model.0.a", "model.1.a"];
        assert_eq!(plain(two), two);
        let two = ["ema.model.0.a", "ema.model.1.a", "student.model.0.a"];
        assert_eq!(plain(two), ["model.0.a", "model.1.a", "student.model.0.a"]);
        let never_one = ["module.model.0.a", "module.model.1.a", "model.0.a"];
        assert_eq!(plain(never_one), never_one);
        assert_eq!(plain(["fc.weight", "module.x"]), ["fc.weight", "module.x"]);
        assert_eq!(plain([]), [""; 0]);
    }
}
