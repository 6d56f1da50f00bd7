//! "Did you mean": the closest names to one that is unknown.

/// Lower case, without `-`, `_`, `.` and blanks.
pub fn normalise(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | '.' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Up to three candidates that look like `wanted`, best first.
///
/// A candidate counts if one normalised name contains the other, if their Damerau-Levenshtein distance is at most
/// `min(2, len / 3)`, or if their Jaro-Winkler similarity is above 0.87.
pub fn closest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = normalise(wanted);
    let mut hits: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let name = normalise(candidate);
            let similarity = strsim::jaro_winkler(&wanted, &name);
            let limit = 2.min(wanted.chars().count() / 3);
            let near = strsim::damerau_levenshtein(&wanted, &name) <= limit;
            let contains = wanted.len() >= 3 && (name.contains(&wanted) || wanted.contains(&name));
            (near || contains || similarity > 0.87).then_some((similarity, candidate))
        })
        .collect();
    hits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    hits.dedup_by_key(|hit| hit.1);
    hits.into_iter().take(3).map(|hit| hit.1).collect()
}

/// The sentence that follows an unknown name: "did you mean `a` or `b`?", or nothing.
pub fn did_you_mean<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let hits = closest(wanted, candidates);
    if hits.is_empty() {
        return None;
    }
    let quoted: Vec<String> = hits.iter().map(|hit| format!("`{hit}`")).collect();
    Some(format!("did you mean {}?", quoted.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "ghostnet",
        "shufflenet-v2",
        "pp-lcnet",
        "mobilenet-v3-small",
        "efficientnet-lite0",
    ];

    #[test]
    fn typos_find_their_name_and_strangers_find_none() {
        assert_eq!(closest("ghotsnet", NAMES), ["ghostnet"]);
        assert_eq!(closest("shufflenetv2", NAMES), ["shufflenet-v2"]);
        assert_eq!(closest("pplcnet", NAMES), ["pp-lcnet"]);
        assert!(closest("xyz", NAMES).is_empty());
        assert!(closest("swin", NAMES).is_empty());
    }
}
