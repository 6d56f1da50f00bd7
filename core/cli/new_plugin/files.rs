//! The files of a new plugin: templates of plugins/_template with the names filled in.

use std::path::PathBuf;

use yolo_core::Kind;

/// How a plugin comes into the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Linked in.
    Static,
    /// A shared library.
    Dynamic,
    /// A WebAssembly module.
    Wasm(Language),
}

/// What a WebAssembly module is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust, for the target wasm32-unknown-unknown
    Rust,
    /// C, for clang or zig
    C,
    /// WebAssembly text, which yolo reads as it is
    Wat,
}

impl Language {
    /// What builds the module.
    pub const fn build(self) -> &'static str {
        match self {
            Self::Rust => "yolo plugin build",
            Self::C => "make",
            Self::Wat => "true",
        }
    }
}

/// One file.
#[derive(Debug, Clone)]
pub struct File {
    /// Path in the crate.
    pub path: String,
    /// Content.
    pub text: String,
}

/// What stands in the place of the template's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// As in configurations: `tiny-net`.
    pub name: String,
    /// Of the type: `TinyNet`.
    pub type_name: String,
    /// Of the package: `yolo-plugin-tiny-net`, or as in configurations.
    pub package: String,
    /// Of the crate: the package with `_`.
    pub crate_name: String,
}

/// Words that can't name a crate.
const RESERVED: [&str; 56] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yolo-sdk",
];

impl Names {
    /// The names for a plugin, or what is wrong with its name.
    pub fn new(name: &str, way: Way) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let bad = |why: &str| Err(format!("`{name}` can't be the name of a plugin: {why}"));
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fine) {
            return bad("write lower case letters, digits and `-`, a letter first, for example `my-pruner`");
        }
        if name.ends_with('-') || name.contains("--") || name.len() > 64 {
            return bad("`-` stands between letters, and 64 letters are the most");
        }
        if RESERVED.contains(&name) || yolo_core::Kind::parse(name).is_some() {
            return bad("that word means something else already");
        }
        let package = if way == Way::Static {
            format!("yolo-plugin-{name}")
        } else {
            name.to_owned()
        };
        let capital = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
        Ok(Self {
            name: name.to_owned(),
            type_name: name.split('-').map(capital).collect(),
            crate_name: package.replace('-', "_"),
            package,
        })
    }

    /// `Tiny net`, for headlines.
    fn title(&self) -> String {
        let words = self.name.replace('-', " ");
        words[..1].to_ascii_uppercase() + &words[1..]
    }
}

/// What a crate knows of its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Folder of yolo-sdk.
    pub sdk: PathBuf,
    /// Root of libtorch.
    pub libtorch: Option<PathBuf>,
    /// Build folder of the SDK's workspace.
    pub target: PathBuf,
    /// Versions of dependencies that the SDK's workspace uses.
    pub lock: Option<String>,
}

/// The folder under plugins/ for plugins of a kind.
pub fn folder(kind: Kind) -> &'static str {
    match kind {
        Kind::Backbone => "backbones",
        Kind::NeckBlock => "necks",
        Kind::Op => "ops",
        Kind::Pruner => "pruners",
        Kind::Metric => "metrics",
        Kind::Quantizer => "quantizers",
        Kind::Distiller => "distillers",
    }
}

/// A template of this program.
macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../../../plugins/_template/", $name))
    };
}

fn source(kind: Kind) -> &'static str {
    match kind {
        Kind::Backbone => template!("src/backbone.rs"),
        Kind::NeckBlock => template!("src/neck_block.rs"),
        Kind::Op => template!("src/op.rs"),
        Kind::Pruner => template!("src/pruner.rs"),
        Kind::Metric => template!("src/metric.rs"),
        Kind::Quantizer => template!("src/quantizer.rs"),
        Kind::Distiller => template!("src/distiller.rs"),
    }
}

/// Components of the template, for the manifest.
fn provides(kind: Kind) -> &'static [(Kind, &'static str)] {
    match kind {
        Kind::Backbone => &[(Kind::Backbone, "Strided convolutions and residual blocks")],
        Kind::NeckBlock => &[(Kind::NeckBlock, "Two convolutions with a residual sum")],
        Kind::Op => &[
            (Kind::Op, "tanh with a trained gain per channel"),
            (Kind::NeckBlock, "A convolution and the op of the same name"),
        ],
        Kind::Pruner => &[(Kind::Pruner, "The same share of every group, ranked by a metric")],
        Kind::Metric => &[(Kind::Metric, "Mean of the powers of absolute weights")],
        Kind::Quantizer => &[(Kind::Quantizer, "Int8 with a table of ranges as text")],
        Kind::Distiller => &[(Kind::Distiller, "Mean squared distance of feature maps")],
    }
}

/// The files of a plugin.
pub fn files(kind: Kind, way: Way, names: &Names, settings: &Settings) -> Vec<File> {
    let fill = |text: &str| fill(text, kind, way, names, settings);
    let file = |path: &str, text: &str| File {
        path: path.to_owned(),
        text: fill(text),
    };
    let mut all = Vec::new();
    match way {
        Way::Static | Way::Dynamic => {
            all.push(file(
                "Cargo.toml",
                if way == Way::Static {
                    template!("static.toml")
                } else {
                    template!("dynamic.toml")
                },
            ));
            all.push(file("build.rs", template!("build.rs")));
            all.push(file("src/lib.rs", source(kind)));
            all.push(file("tests/conformance.rs", template!("tests/conformance.rs")));
            all.push(file(
                "README.md",
                if way == Way::Static {
                    template!("static.md")
                } else {
                    template!("dynamic.md")
                },
            ));
        }
        Way::Wasm(language) => {
            match language {
                Language::Rust => {
                    all.push(file("Cargo.toml", template!("wasm/rust.toml")));
                    all.push(file("src/lib.rs", template!("wasm/metric.rs")));
                }
                Language::C => {
                    all.push(file("metric.c", template!("wasm/metric.c")));
                    all.push(file("Makefile", template!("wasm/Makefile")));
                }
                Language::Wat => all.push(file(&wasm_file(names, language), template!("wasm/metric.wat"))),
            }
            all.push(file("README.md", template!("wasm.md")));
        }
    }
    if way != Way::Static {
        all.push(file("yolo-plugin.toml", template!("manifest.toml")));
        all.push(file(".gitignore", template!("gitignore")));
    }
    if let (Way::Dynamic, Some(_)) = (way, &settings.libtorch) {
        all.push(file(".cargo/config.toml", template!("config.toml")));
    }
    if let (Way::Dynamic, Some(lock)) = (way, &settings.lock) {
        all.push(File {
            path: "Cargo.lock".into(),
            text: lock.clone(),
        });
    }
    all
}

fn wasm_file(names: &Names, language: Language) -> String {
    format!(
        "{}.{}",
        names.crate_name,
        if language == Language::Wat { "wat" } else { "wasm" }
    )
}

fn fill(text: &str, kind: Kind, way: Way, names: &Names, settings: &Settings) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let path = |path: &std::path::Path| quoted(&path.display().to_string());
    let module = if let Way::Wasm(language) = way {
        wasm_file(names, language)
    } else {
        String::new()
    };
    let packing = if module.is_empty() {
        let (major, minor) = yolo_registry::LIBTORCH
            .split_once('.')
            .unwrap_or((yolo_registry::LIBTORCH, "0"));
        let minor = minor.split('.').next().unwrap_or_default();
        let abi = yolo_registry::abi_version();
        format!(
            "dynamic = {}\nabi = {}\nlibtorch = \"{major}.{minor}\"",
            quoted(&names.crate_name),
            quoted(&abi)
        )
    } else {
        format!("wasm = {}", quoted(&module))
    };
    let entry = |(kind, summary): &(Kind, &str)| {
        format!(
            "[[provides]]\nkind = \"{}\"\nname = {}\nsummary = {}",
            kind.name(),
            quoted(&names.name),
            quoted(summary)
        )
    };
    let components: Vec<String> = match way {
        Way::Wasm(_) => vec![entry(&(Kind::Metric, "Sum of absolute weights"))],
        _ => provides(kind).iter().map(entry).collect(),
    };
    let build = match way {
        Way::Wasm(Language::Rust) => "rustup target add wasm32-unknown-unknown       # once\nyolo plugin build",
        Way::Wasm(Language::C) => "make                                   # clang with lld, or zig: see Makefile",
        _ => "yolo plugin check .                    # what yolo sees of it",
    };
    [
        ("\"template-sdk\"", path(&settings.sdk)),
        (
            "\"template-libtorch\"",
            settings.libtorch.as_deref().map(path).unwrap_or_default(),
        ),
        ("\"template-target\"", path(&settings.target)),
        ("template-packing", packing),
        ("template-provides", components.join("\n\n")),
        ("template-package", names.package.clone()),
        ("template_crate", names.crate_name.clone()),
        ("template-kind", kind.title().to_owned()),
        ("template-build", build.to_owned()),
        ("template-file", module),
        ("template-name", names.name.clone()),
        ("TemplateName", names.type_name.clone()),
        ("Template title", names.title()),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_types_and_crates() {
        let names = Names::new("tiny-net2", Way::Static).expect("a good name");
        assert_eq!(
            (names.type_name.as_str(), names.package.as_str()),
            ("TinyNet2", "yolo-plugin-tiny-net2")
        );
        assert_eq!(names.crate_name, "yolo_plugin_tiny_net2");
        assert_eq!(names.title(), "Tiny net2");
        assert_eq!(
            Names::new("tiny-net", Way::Dynamic).expect("a good name").package,
            "tiny-net"
        );
        for bad in [
            "",
            "-a",
            "a-",
            "a--b",
            "A",
            "2d",
            "a_b",
            "a/b",
            "..",
            "type",
            "metric",
            "core",
            &"a".repeat(65),
        ] {
            assert!(Names::new(bad, Way::Dynamic).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_template_word_is_left() {
        let ways = [
            Way::Static,
            Way::Dynamic,
            Way::Wasm(Language::Rust),
            Way::Wasm(Language::C),
            Way::Wasm(Language::Wat),
        ];
        for way in ways {
            for kind in Kind::ALL {
                if matches!(way, Way::Wasm(_)) && kind != Kind::Metric {
                    continue;
                }
                let names = Names::new("my-thing", way).expect("a good name");
                let settings = Settings {
                    sdk: "a \"b\"/sdk".into(),
                    libtorch: Some("t".into()),
                    ..Settings::default()
                };
                for file in files(kind, way, &names, &settings) {
                    assert!(
                        !file.text.to_lowercase().contains("template"),
                        "{way:?} {kind:?} {}:\n{}",
                        file.path,
                        file.text
                    );
                    if file.path.ends_with(".toml") {
                        let parsed: Result<toml_edit::DocumentMut, _> = file.text.parse();
                        assert!(parsed.is_ok(), "{}:\n{}", file.path, file.text);
                    }
                }
            }
        }
    }
}
