//! What a plugin folder needs: a README that names its paper, a place in the workspace, a line in plugins/builtin.

use super::{members, read_toml};
use crate::{Outcome, root};

/// Every plugin folder that lacks something.
pub(super) fn complaints(files: &[String]) -> Outcome<Vec<String>> {
    let members = members(&read_toml("Cargo.toml")?)?;
    let builtin = read_toml("plugins/builtin/Cargo.toml")?;
    let linked = |name: &str| {
        builtin
            .get("dependencies")
            .is_some_and(|dependencies| dependencies.get(name).is_some())
    };
    let mut complaints = Vec::new();
    for file in files {
        let parts: Vec<&str> = file.split('/').collect();
        let ["plugins", kind, folder, "Cargo.toml"] = parts[..] else {
            continue;
        };
        if kind.starts_with('_') || !root().join(file).exists() {
            continue;
        }
        let folder = format!("plugins/{kind}/{folder}");
        let manifest = read_toml(file)?;
        let name = manifest
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(toml::Value::as_str);
        let readme = std::fs::read_to_string(root().join(&folder).join("README.md")).ok();
        complaints.extend(readme_complaint(&folder, readme.as_deref()));
        if !members.contains(&folder) {
            complaints.push(format!("{folder}: not a member of the workspace in Cargo.toml"));
        }
        if !name.is_some_and(linked) {
            complaints.push(format!("{folder}: not linked by plugins/builtin"));
        }
    }
    Ok(complaints)
}

fn readme_complaint(folder: &str, readme: Option<&str>) -> Option<String> {
    match readme {
        None => Some(format!("{folder}: no README.md (paper, what differs from it)")),
        Some(text) if !text.contains("https://") && !text.to_lowercase().contains("no paper") => Some(format!(
            "{folder}/README.md: link the paper, or say that there is no paper"
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_links_its_paper_or_says_that_there_is_none() {
        assert!(readme_complaint("p", None).is_some());
        assert!(readme_complaint("p", Some("# p\n")).is_some());
        assert!(readme_complaint("p", Some("Paper: <https://arxiv.org/abs/1608.08710>")).is_none());
        assert!(readme_complaint("p", Some("No paper: a control.")).is_none());
    }
}
