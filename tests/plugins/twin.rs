//! A second workspace beside this one, in which plugins are scaffolded and built as a user would: its crates are links to the real
//! ones, its build folder starts with what has been built here, so that only the new crates are compiled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use yolo_core::Kind;

use crate::support::{root, yolo};

/// The workspace with a plugin of every kind, linked and loaded; built once.
pub struct Twin {
    /// Its root.
    pub root: PathBuf,
    /// Where cargo builds.
    target: PathBuf,
    profile: String,
}

pub fn twin() -> &'static Twin {
    static TWIN: OnceLock<Twin> = OnceLock::new();
    TWIN.get_or_init(Twin::make)
}

/// Name of the plugin of a kind that is linked.
pub fn linked(kind: Kind) -> String {
    format!("linked-{}", kind.name())
}

/// Name of the plugin of a kind that is loaded.
pub fn loaded(kind: Kind) -> String {
    format!("loaded-{}", kind.name())
}

impl Twin {
    fn make() -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let binary = Path::new(env!("CARGO_BIN_EXE_yolo"));
        let built = binary.parent().expect("the folder of the binary");
        let profile = built.file_name().expect("a name").to_string_lossy().into_owned();
        let twin = Self {
            root: base.join("twin"),
            target: base.join("twin-target"),
            profile,
        };
        // What is built depends on the program and its templates, which are in the binary.
        let meta = fs::metadata(binary).expect("the binary");
        let modified = meta
            .modified()
            .expect("a time")
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let stamp = format!("{} {:?}", meta.len(), modified);
        let noted = twin.root.join("stamp");
        if fs::read_to_string(&noted).is_ok_and(|old| old == stamp) {
            return twin;
        }
        let _ = fs::remove_dir_all(&twin.root);
        let _ = fs::remove_dir_all(&twin.target);
        twin.link();
        twin.scaffold();
        seed(built, &twin.target.join(&twin.profile));
        let words = ["build", "-p", "yolo"];
        succeed(
            "cargo build",
            &twin.cargo(&twin.root, &words).output().expect("cargo starts"),
        );
        for kind in Kind::ALL {
            let folder = twin.folder(kind);
            let mut build = twin.command(&folder);
            build
                .args(["plugin", "build"])
                .args((twin.profile == "debug").then_some("--debug"));
            succeed("yolo plugin build", &build.output().expect("yolo starts"));
        }
        fs::write(noted, stamp).expect("a file");
        twin
    }

    /// The workspace: real files where plugins are added, links elsewhere.
    fn link(&self) {
        let link = |from: &Path, to: &Path| std::os::unix::fs::symlink(from, to).expect("a link");
        fs::create_dir_all(&self.root).expect("a folder");
        for name in ["core", "registry", "configs", "docs", "tests", "xtask"] {
            link(&root().join(name), &self.root.join(name));
        }
        for name in ["Cargo.toml", "Cargo.lock"] {
            fs::copy(root().join(name), self.root.join(name)).expect("a copy");
        }
        for kind in root().join("plugins").read_dir().expect("a folder").flatten() {
            let here = self.root.join("plugins").join(kind.file_name());
            fs::create_dir_all(&here).expect("a folder");
            for entry in kind.path().read_dir().into_iter().flatten().flatten() {
                link(&entry.path(), &here.join(entry.file_name()));
            }
        }
        // These two files are changed.
        let builtin = self.root.join("plugins/builtin");
        for name in ["Cargo.toml", "src"] {
            fs::remove_file(builtin.join(name)).expect("a link");
        }
        fs::create_dir(builtin.join("src")).expect("a folder");
        for name in ["Cargo.toml", "src/lib.rs"] {
            fs::copy(root().join("plugins/builtin").join(name), builtin.join(name)).expect("a copy");
        }
    }

    /// One plugin per kind and way, by the command that users type.
    fn scaffold(&self) {
        for kind in Kind::ALL {
            yolo(&self.root, &["new-plugin", kind.name(), &linked(kind), "--static"]).ok();
            let folder = self.folder(kind);
            let words = [
                "new-plugin",
                kind.name(),
                &loaded(kind),
                "--dynamic",
                "--sdk",
                "core/sdk",
                "--dir",
            ];
            yolo(&self.root, &[&words[..], &[folder.to_str().expect("UTF-8")]].concat()).ok();
            self.adopt(&folder);
        }
        for page in ["static", "dynamic"] {
            self.example(page);
        }
    }

    /// Makes a scaffolded crate a member of the workspace, for this test only: what is built is shared then.
    fn adopt(&self, folder: &Path) {
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a file");
        let end = text.find("\n# As yolo itself is built").expect("the profiles");
        fs::write(&manifest, &text[..end]).expect("a file");
        fs::remove_dir_all(folder.join(".cargo")).expect("a folder");
        let manifest = self.root.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a file");
        let member = folder.strip_prefix(&self.root).expect("inside").display();
        fs::write(
            &manifest,
            text.replacen("members = [", &format!("members = [\n    \"{member}\","), 1),
        )
        .expect("a file");
    }

    /// The plugin that a page of the documentation makes: its first command, and its source.
    fn example(&self, page: &str) {
        let text = fs::read_to_string(root().join("docs/plugins").join(format!("{page}.md"))).expect("the page");
        let blocks = super::wasm::blocks(&text);
        let block = |language: &str| &blocks.iter().find(|(own, _)| own == language).expect("a block").1;
        let command = super::wasm::words(block("sh").lines().next().expect("a command"));
        let mut words: Vec<&str> = command.iter().map(String::as_str).skip(1).collect();
        let sdk = self.root.join("core/sdk");
        let here = if page == "static" {
            self.root.clone()
        } else {
            self.pages()
        };
        if page == "dynamic" {
            words.extend(["--sdk", sdk.to_str().expect("UTF-8")]);
        }
        fs::create_dir_all(&here).expect("a folder");
        yolo(&here, &words).ok();
        let source = block("rust");
        let path = source
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("// "))
            .expect("a path first");
        assert!(here.join(path).is_file(), "{path} was scaffolded");
        fs::write(here.join(path), source.split_once('\n').expect("lines").1).expect("a file");
        if page == "dynamic" {
            self.adopt(&here.join("keep-best"));
        }
    }

    /// Where a reader of the documentation works.
    pub fn pages(&self) -> PathBuf {
        self.root.join("pages")
    }

    /// The folder of the loaded plugin of a kind.
    pub fn folder(&self, kind: Kind) -> PathBuf {
        self.root.join("loaded").join(loaded(kind))
    }

    /// The folder of all loaded plugins.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("loaded")
    }

    /// The library of the loaded plugin of a kind.
    pub fn library(&self, kind: Kind) -> PathBuf {
        self.folder(kind)
            .join(format!("lib{}.so", loaded(kind).replace('-', "_")))
    }

    /// The program with the linked plugins.
    pub fn yolo(&self) -> PathBuf {
        self.target.join(&self.profile).join("yolo")
    }

    /// What `yolo plugin build` takes to build as this test was built.
    pub fn debug(&self) -> Option<&'static str> {
        (self.profile == "debug").then_some("--debug")
    }

    /// Cargo in the twin.
    pub fn cargo(&self, folder: &Path, words: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(words)
            .arg("--offline")
            .args((self.profile == "release").then_some("--release"));
        self.surround(cargo, folder)
    }

    /// The program under test in a folder of the twin, as it builds there.
    pub fn command(&self, folder: &Path) -> Command {
        self.surround(Command::new(env!("CARGO_BIN_EXE_yolo")), folder)
    }

    fn surround(&self, mut command: Command, folder: &Path) -> Command {
        command
            .current_dir(folder)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "0");
        command.env("CARGO_NET_OFFLINE", "true");
        command
    }
}

/// Fails the test with what a command said, unless it succeeded.
#[track_caller]
pub fn succeed(what: &str, output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{what}:\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// Gives a build folder what another one holds: small files as copies with their times, large ones as links, nothing of the crates
/// that differ.
fn seed(from: &Path, to: &Path) {
    let copy = |from: &Path, to: &Path| {
        // Files of a build that is going on beside this test may go away; cargo builds what is missing.
        let Ok(meta) = fs::metadata(from) else { return };
        if meta.len() > 64 << 10 {
            let _ = fs::hard_link(from, to);
        } else if fs::copy(from, to).is_ok()
            && let (Ok(file), Ok(time)) = (fs::File::options().append(true).open(to), meta.modified())
        {
            let _ = file.set_modified(time);
        }
    };
    fn walk(from: &Path, to: &Path, copy: &dyn Fn(&Path, &Path)) {
        fs::create_dir_all(to).expect("a folder");
        for entry in from.read_dir().into_iter().flatten().flatten() {
            let (path, goal) = (entry.path(), to.join(entry.file_name()));
            if path.is_dir() {
                walk(&path, &goal, copy);
            } else {
                copy(&path, &goal);
            }
        }
    }
    walk(&from.join(".fingerprint"), &to.join(".fingerprint"), &copy);
    walk(&from.join("build"), &to.join("build"), &copy);
    fs::create_dir_all(to.join("deps")).expect("a folder");
    for entry in from.join("deps").read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Programs are linked anew, and so is what links the plugins.
        let library = [".rlib", ".rmeta", ".so", ".d"]
            .iter()
            .any(|ending| name.ends_with(ending));
        if library && !name.starts_with("libyolo_builtin") && !name.starts_with("libyolo-") {
            copy(&entry.path(), &to.join("deps").join(&name));
        }
    }
}
