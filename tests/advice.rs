//! Advice that a message gives can be followed: every command and flag that the texts of the program name is one of the program's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::{root, yolo};

/// Folders whose texts reach a person.
const SOURCES: [&str; 8] = [
    "core/cli",
    "core/data/src",
    "core/engine/src",
    "core/export/src",
    "core/report/src",
    "core/src",
    "core/torch/src",
    "registry/src",
];

/// Programs of others whose flags stand in our texts.
const FOREIGN: [&str; 13] = [
    "AssemblyScript",
    "cargo",
    "curl",
    "ffmpeg",
    "git",
    "nohup",
    "npm",
    "nvidia-smi",
    "pip",
    "rustup",
    "torchrun",
    "trtexec",
    "yt-dlp",
];

/// The texts of a Rust source (literals and documentation), each with its line. Comments and tests are left out.
fn texts(source: &str) -> Vec<(usize, String)> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or(source);
    let bytes = source.as_bytes();
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let rest = &source[at..];
        if rest.starts_with("//") {
            let line = rest.lines().next().unwrap_or_default();
            if let Some(text) = line.strip_prefix("///") {
                found.push((line_of(at), text.to_owned()));
            }
            at += line.len();
        } else if let Some(raw) = rest
            .strip_prefix('r')
            .and_then(|r| r.strip_prefix('#').or(r.strip_prefix('"').map(|_| r)))
        {
            // r"..." and r#"..."#.
            let (close, open) = if rest.starts_with("r#\"") {
                ("\"#", 3)
            } else {
                ("\"", 2)
            };
            if !(rest.starts_with("r#\"") || raw.starts_with('"')) {
                at += 1;
                continue;
            }
            let body = rest[open..].split(close).next().unwrap_or_default();
            found.push((line_of(at), body.to_owned()));
            at += open + body.len() + close.len();
        } else if let Some(inside) = rest.strip_prefix('"') {
            let (mut text, mut chars) = (String::new(), inside.char_indices());
            let mut end = rest.len();
            while let Some((index, c)) = chars.next() {
                match c {
                    '"' => {
                        end = index + 2;
                        break;
                    }
                    '\\' => match chars.next().map(|(_, c)| c) {
                        Some('\n') => text.push(' '),
                        Some('n') => text.push('\n'),
                        Some(other) => text.push(other),
                        None => {}
                    },
                    c => text.push(c),
                }
            }
            found.push((line_of(at), text.split_whitespace().collect::<Vec<_>>().join(" ")));
            at += end;
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            at += rest[1..].find('\'').map_or(1, |end| end + 2);
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// `--flag` words of a text.
fn flags(text: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices("--")
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| word(c) || c == '_'))
        .map(|(at, _)| text[at + 2..].chars().take_while(|c| word(*c)).collect::<String>())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|name| name.trim_end_matches('-').to_owned())
        .collect()
}

/// What the program says of its commands: options of each, `data convert` and the like included.
struct Commands(BTreeMap<String, BTreeSet<String>>);

impl Commands {
    fn ask() -> Self {
        let mut commands: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            let words: Vec<&str> = name.split_whitespace().chain(["--help"]).collect();
            let help = yolo(root(), &words).ok().out;
            commands.insert(name.clone(), flags(&help).into_iter().collect());
            let below = help.split("Commands:\n").nth(1).unwrap_or_default();
            for line in below.lines().take_while(|line| line.starts_with("  ")) {
                let command = line.split_whitespace().next().filter(|_| !line.starts_with("   "));
                open.extend(
                    command
                        .filter(|c| *c != "help")
                        .map(|c| format!("{name} {c}").trim().to_owned()),
                );
            }
        }
        assert!(
            commands.len() > 20 && commands["train"].contains("resume"),
            "{:?}",
            commands.keys()
        );
        Self(commands)
    }

    /// The command that words after `yolo` name: the longest that exists.
    fn named(&self, words: &str) -> Option<&str> {
        let words: Vec<&str> = words.split_whitespace().take(2).collect();
        let exists = |count: usize| {
            self.0
                .get_key_value(&words.get(..count)?.join(" "))
                .map(|(name, _)| name.as_str())
        };
        exists(2).or_else(|| exists(1))
    }

    fn somewhere(&self, flag: &str) -> bool {
        self.0.values().any(|options| options.contains(flag))
    }
}

/// What is wrong with the advice of a text.
fn wrong(text: &str, commands: &Commands) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rest = text.to_owned();
    // Commands in backquotes and in examples; their flags are theirs.
    let lead = text.len() - text.trim_start().len();
    // Further lines of examples in documentation.
    let line = text
        .trim_start()
        .strip_prefix("yolo ")
        .filter(|_| lead > 0)
        .map(|_| lead + "yolo ".len());
    let starts: Vec<usize> = ["`yolo ", "Example: yolo ", "Examples: yolo "]
        .iter()
        .flat_map(|s| text.match_indices(s).map(|(at, s)| at + s.len()))
        .chain(line)
        .collect();
    for start in starts {
        let end = text[start..].find('`').map_or(text.len(), |end| start + end);
        let call = text[start..end].split('#').next().unwrap_or_default();
        // Several commands in one.
        for call in call.split(" && ").map(|call| call.trim_start_matches("yolo ")) {
            let first = call.split_whitespace().next().unwrap_or_default();
            if first.is_empty() || first.starts_with(['{', '-', 'C', '<', '.']) {
                continue;
            }
            match commands.named(call) {
                None => wrong.push(format!("there is no command `yolo {first}`")),
                Some(name) => {
                    let unknown = flags(call)
                        .into_iter()
                        .filter(|flag| !commands.0[name].contains(flag) && !commands.0[""].contains(flag));
                    wrong.extend(unknown.map(|flag| format!("`yolo {name}` has no --{flag}")));
                }
            }
        }
        rest = rest.replace(call, "");
    }
    // A word alone is an argument for another program.
    let alone = !text.contains(char::is_whitespace);
    let foreign = FOREIGN.iter().any(|program| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .any(|word| word == *program)
    });
    if !foreign && !alone {
        let unknown = flags(&rest).into_iter().filter(|flag| !commands.somewhere(flag));
        wrong.extend(unknown.map(|flag| format!("no command has --{flag}")));
    }
    wrong
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            found.push(path);
        }
    }
}

#[test]
fn every_flag_and_command_in_a_message_exists() {
    let commands = Commands::ask();
    let mut files = Vec::new();
    SOURCES
        .iter()
        .for_each(|folder| sources(&root().join(folder), &mut files));
    assert!(files.len() > 100);
    let (mut problems, mut seen) = (Vec::new(), 0);
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a source");
        for (line, text) in texts(&source) {
            seen += usize::from(text.contains("--") || text.contains("`yolo "));
            let place = file.strip_prefix(root()).expect("a file of ours").display().to_string();
            problems.extend(
                wrong(&text, &commands)
                    .into_iter()
                    .map(|problem| format!("{place}:{line}: {problem}: {text}")),
            );
        }
    }
    assert!(seen > 150, "the texts are found: {seen}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn advice_that_nobody_can_follow_is_found() {
    let commands = Commands::ask();
    for (source, expected) in [
        (r#"f("name the model with --cgf")"#, "no command has --cgf"),
        (r#"f("run `yolo trian --data D`")"#, "no command `yolo trian`"),
        (
            r#"f("use `yolo detect --weights W \
             --cfg yolov5n`")"#,
            "`yolo detect` has no --cfg",
        ),
        (
            "/// Example: yolo export --weight-file w.pt\n",
            "`yolo export` has no --weight-file",
        ),
        (
            r##"f(r#"see `yolo data convrt`"#, '"', "use --nothing")"##,
            "no command has --nothing",
        ),
    ] {
        let found: Vec<String> = texts(source)
            .iter()
            .flat_map(|(_, text)| wrong(text, &commands))
            .collect();
        assert!(found.iter().any(|text| text.contains(expected)), "{source}: {found:?}");
    }
    for source in [
        r#"f("use `yolo train --weights W --data D`, or --nc")"#,
        r#"// --gone is a remark"#,
        r#"f("trtexec --fp16 reads it")"#,
    ] {
        let found: Vec<String> = texts(source)
            .iter()
            .flat_map(|(_, text)| wrong(text, &commands))
            .collect();
        assert!(found.is_empty(), "{source}: {found:?}");
    }
}
