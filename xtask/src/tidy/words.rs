//! Words and lengths: what no shipped file may contain.

/// Folders on one person's machine. In pieces, so that this file does not complain about itself.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/t", "mp/")];

/// Where `unsafe` is at home: the C boundary, machine code that was compiled earlier, and one view of memory that another library
/// owns.
const UNSAFE: [&str; 7] = [
    "core/abi/",
    "core/sdk/",
    "core/torch/",
    "registry/src/dynamic",
    "registry/src/leave.rs",
    "registry/src/wasm/cache.rs",
    "core/export/src/ort.rs",
];

/// Lines of a source file.
const LONGEST: usize = 700;

/// What a file says that it should not.
pub(super) fn complaints(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if file.ends_with("Cargo.lock") {
        return found;
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(path) = machine_path(line) {
            found.push(format!("{file}:{}: a path of one machine (`{path}`)", index + 1));
        }
    }
    if file.ends_with(".rs") {
        found.extend(rust_complaints(file, text));
    }
    found
}

/// A path of one machine in a line; `target/tmp/` is none, as it goes on from something.
fn machine_path(line: &str) -> Option<&'static str> {
    let goes_on = |before: &str| {
        before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')' | '*'))
    };
    MACHINE_PATHS
        .into_iter()
        .find(|path| line.match_indices(path).any(|(at, _)| !goes_on(&line[..at])))
}

/// Files that are tests as a whole, and what tests and scaffolds are made from.
pub(super) fn is_test(file: &str) -> bool {
    file.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "fixtures" | "benches" | "_template"))
}

/// The part of a Rust file that ships: up to its test module.
pub(super) fn shipped(text: &str) -> &str {
    let is_module = |at: usize| {
        let mut rest = text[at..]
            .lines()
            .skip(1)
            .map(str::trim_start)
            .skip_while(|line| line.starts_with("#["));
        rest.next()
            .is_some_and(|line| line.starts_with("mod ") || line.starts_with("pub mod "))
    };
    let end = text
        .match_indices("#[cfg(test)]")
        .map(|(at, _)| at)
        .find(|at| is_module(*at));
    &text[..end.unwrap_or(text.len())]
}

fn rust_complaints(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if text.contains(concat!("#[ig", "nore")) {
        found.push(format!("{file}: a test is switched off"));
    }
    if is_test(file) {
        return found;
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        found.push(format!("{file}: {lines} lines; split it ({LONGEST} at most)"));
    }
    let within = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
    let build_script = file.ends_with("build.rs") || file == "core/rpath.rs";
    let prints = within(&["core/cli/", "xtask/"]) || file.contains("/examples/") || build_script;
    let loads = within(&["registry/"]);
    let mut safety = None;
    for (index, line) in shipped(text).lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("//") {
            if line.contains("SAFETY:") || line.contains("# Safety") {
                safety = Some(index);
            }
            continue;
        }
        let code = line.split(" // ").next().unwrap_or(line);
        let mut complain = |what: &str| found.push(format!("{file}:{}: {what}", index + 1));
        if code.contains(concat!(".unw", "rap()")) {
            complain("a panic on bad luck; use `?`, or `expect` with the reason");
        }
        if [concat!("to", "do!("), concat!("unimpl", "emented!(")]
            .iter()
            .any(|word| code.contains(word))
        {
            complain("unfinished code");
        }
        let printing = [concat!("print", "ln!("), concat!("print", "!("), concat!("db", "g!(")];
        if !prints && printing.iter().any(|word| code.contains(word)) {
            complain("only core/cli prints");
        }
        if !loads
            && ["libloading::", "wasmtime::"].iter().any(|word| code.contains(word))
            && !file.starts_with("xtask/")
        {
            complain("only registry loads foreign code");
        }
        if has_unsafe(code) {
            if !within(&UNSAFE) {
                complain("`unsafe` away from the C boundary");
            } else if safety.is_none_or(|at| index - at > 12) {
                complain("`unsafe` without a `SAFETY:` comment above it");
            }
        }
    }
    found
}

/// Whether code opens an unsafe block, function, impl or attribute.
fn has_unsafe(code: &str) -> bool {
    code.match_indices("unsafe").any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        let starts = before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '`' | '"'));
        // Types of foreign functions (`unsafe extern "C" fn(...)`) do nothing by themselves.
        starts && (after.starts_with(" {") || after.starts_with(" impl") || after.starts_with(" fn"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_outside_of_tests_only() {
        let text = "fn f() { x.unwrap(); println!(); }\n#[cfg(test)]\nmod t { fn g() { y.unwrap(); } }\n";
        assert_eq!(complaints("core/src/a.rs", text).len(), 2);
        assert_eq!(complaints("core/cli/a.rs", text).len(), 1, "cli prints");
        assert!(complaints("core/tests/a.rs", text).is_empty());
        assert!(complaints("core/src/a.rs", "// never x.unwrap()\nlet a = 1; // or println!()\n").is_empty());
        assert_eq!(
            complaints("core/src/a.rs", "#[cfg(test)]\nuse x;\nfn f() { todo!() }\n").len(),
            1
        );
        assert_eq!(complaints("core/src/a.rs", "use wasmtime::Engine;").len(), 1);
        assert!(complaints("registry/src/wasm.rs", "use wasmtime::Engine;").is_empty());
    }

    #[test]
    fn machine_paths_are_found_where_they_start() {
        for path in MACHINE_PATHS {
            assert_eq!(complaints("README.md", &format!("see {path}main")).len(), 1);
            assert!(complaints("README.md", &format!("target{path}x and $DIR{path}x")).is_empty());
        }
    }

    #[test]
    fn long_files_are_found() {
        let text = "\n".repeat(LONGEST + 1);
        assert_eq!(complaints("core/src/a.rs", &text).len(), 1);
        assert!(complaints("core/tests/a.rs", &text).is_empty());
        assert!(complaints("docs/a.md", &text).is_empty());
    }

    #[test]
    fn unsafe_stays_at_the_boundary_and_says_why() {
        let with = "// SAFETY: the table lives as long as the library.\nlet x = unsafe { f() };\n";
        let without = "let x = unsafe { f() };\n";
        assert!(complaints("core/abi/src/lib.rs", with).is_empty());
        assert_eq!(complaints("core/abi/src/lib.rs", without).len(), 1);
        assert_eq!(complaints("core/src/a.rs", with).len(), 1);
        assert!(complaints("core/src/a.rs", "type F = unsafe extern \"C\" fn();\n").is_empty());
        assert!(!has_unsafe("#![deny(unsafe_op_in_unsafe_fn)]"));
    }
}
