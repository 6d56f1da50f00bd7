//! Which PyTorch this process uses. Decided at the first call into libtorch, so that commands without tensors don't even read a file.
//! Only the program decides; plugins find what it has loaded.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Env, Problem, build, find, sources};

/// Chooses for one command: a path as `yolo torch use` takes it, or `default`.
pub const VARIABLE: &str = "YOLO_TORCH";

/// Who chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Nobody: the library that was built with the program, or lies beside it.
    Default,
    /// Nobody, and there is no such library: the PyTorch of the virtual environment in which the program lies.
    Environment,
    /// The variable YOLO_TORCH.
    Variable,
    /// `yolo torch use`.
    User,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who chose.
    pub by: By,
    /// The library to load; `None` is the default one.
    pub library: Option<PathBuf>,
}

/// What `yolo torch use` remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The folder of PyTorch.
    pub torch: PathBuf,
    /// Its version.
    pub version: String,
    /// Hash of the sources that were built.
    pub sources: String,
    /// What was built from them.
    pub library: PathBuf,
}

/// The file that remembers the choice.
///
/// # Errors
/// Where neither XDG_CONFIG_HOME nor HOME is set.
pub fn file(env: Env<'_>) -> Result<PathBuf, Problem> {
    build::folder(env, "XDG_CONFIG_HOME", ".config", "configuration").map(|folder| folder.join("yolo/torch.json"))
}

/// What is remembered, if anything is.
///
/// # Errors
/// A file that can't be read, or is no such file.
pub fn remembered(env: Env<'_>) -> Result<Option<Remembered>, Problem> {
    // Without a home nothing can have been remembered.
    let Ok(file) = file(env) else { return Ok(None) };
    let bad = |reason: &str| {
        Problem::new(
            format!("{}: {reason}", file.display()),
            "`yolo torch use PATH` writes it anew, `yolo torch use default` removes it",
        )
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad(&format!("it can't be read: {error}"))),
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| bad(&format!("it is no JSON: {error}")))?;
    let text = |key: &str| {
        let text = value.get(key).and_then(Value::as_str);
        text.map(str::to_owned)
            .ok_or_else(|| bad(&format!("it has no text `{key}`")))
    };
    Ok(Some(Remembered {
        torch: text("torch")?.into(),
        version: text("version")?,
        sources: text("sources")?,
        library: text("library")?.into(),
    }))
}

/// Remembers a choice; `None` goes back to the default.
///
/// # Errors
/// A folder that can't be written.
pub fn remember(env: Env<'_>, choice: Option<&Remembered>) -> Result<PathBuf, Problem> {
    let file = file(env)?;
    let failed = |error: std::io::Error| {
        let what = format!("{}: can't write: {error}", file.display());
        Problem::new(
            what,
            "set XDG_CONFIG_HOME to a folder that can be written, or YOLO_TORCH for each command",
        )
    };
    let Some(choice) = choice else {
        return match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(file),
        };
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let value = json!({
        "torch": choice.torch.display().to_string(),
        "version": choice.version,
        "sources": choice.sources,
        "library": choice.library.display().to_string(),
    });
    // Beside the file, so that a reader sees the old one or the new one.
    let making = file.with_extension(format!("making-{}", std::process::id()));
    let written = std::fs::write(&making, format!("{value:#}\n")).and_then(|()| std::fs::rename(&making, &file));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&making)))
        .map_err(failed)?;
    Ok(file)
}

impl Remembered {
    /// Refuses a choice that is no longer what it was.
    ///
    /// # Errors
    /// A PyTorch or a library that has vanished, another version, another program.
    pub fn check(&self) -> Result<(), Problem> {
        let torch = self.torch.display();
        let again = format!("`yolo torch use {torch}` builds for it again; `yolo torch use default` goes back");
        let elsewhere =
            "`yolo torch list` shows what is there, `yolo torch use PATH` chooses, `yolo torch use default` goes back";
        if !self.torch.join("lib/libtorch_cpu.so").exists() {
            let what = format!("the chosen PyTorch {} in {torch} is gone", self.version);
            return Err(Problem::new(what, elsewhere));
        }
        let now = find::version(&self.torch)
            .map(|(version, _)| version)
            .unwrap_or_default();
        if now != self.version {
            let what = format!("the chosen PyTorch in {torch} was {} and is {now} now", self.version);
            return Err(Problem::new(what, again));
        }
        if self.sources != sources::hash() {
            let what = format!("the library for the chosen PyTorch in {torch} was built by another version of yolo");
            return Err(Problem::new(what, again));
        }
        if !self.library.is_file() {
            let what = format!(
                "the library for the chosen PyTorch in {torch} is gone ({})",
                self.library.display()
            );
            return Err(Problem::new(what, again));
        }
        Ok(())
    }
}

/// Decides: YOLO_TORCH, what `yolo torch use` remembers, the library of the program, the PyTorch of the virtual environment in which it
/// lies. `say` gets lines about a build.
///
/// # Errors
/// Those of a PyTorch that can't be used; never is another one taken instead.
pub fn decide(env: Env<'_>, say: &dyn Fn(&str)) -> Result<Decision, Problem> {
    let said = env(VARIABLE).filter(|text| !text.is_empty());
    if let Some(said) = said.as_deref().filter(|said| *said != "default") {
        let built = find::locate(Path::new(said))
            .and_then(|path| find::check(&path))
            .and_then(|torch| build::build(&torch, env, say))
            .map_err(|problem| Problem::new(format!("{VARIABLE}: {}", problem.what), problem.help))?;
        let library = Some(built.library);
        return Ok(Decision {
            by: By::Variable,
            library,
        });
    }
    if said.is_none()
        && let Some(choice) = remembered(env)?
    {
        choice.check()?;
        let library = Some(choice.library);
        return Ok(Decision { by: By::User, library });
    }
    let usual = Decision {
        by: By::Default,
        library: None,
    };
    if default_library().is_some() {
        return Ok(usual);
    }
    // Without any, the message is that of the library which can't be loaded.
    let Some(path) = find::of_executable() else {
        return Ok(usual);
    };
    let built = build::build(&find::check(&path)?, env, say)?;
    let library = Some(built.library);
    Ok(Decision {
        by: By::Environment,
        library,
    })
}

/// The library beside the program, or the one that was built with it, where it is there.
pub fn default_library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let beside = program.parent().map(|folder| folder.join(build::LIBRARY));
    let candidates = [beside, Some(PathBuf::from(env!("YOLO_TORCH_BUILT_AT")))];
    candidates.into_iter().flatten().find(|path| path.is_file())
}

/// The folder of the libtorch that the program was built with, where it is there.
pub fn built_with() -> Option<PathBuf> {
    let lib = Path::new(env!("YOLO_TORCH_LIB"));
    lib.parent().filter(|_| lib.is_dir()).map(Path::to_owned)
}

static DECISION: OnceLock<Result<Decision, Problem>> = OnceLock::new();

/// What this process has decided; `None` before the first call into libtorch.
pub fn decision() -> Option<&'static Result<Decision, Problem>> {
    DECISION.get()
}

/// Makes the first call into libtorch decide. `say` gets lines about a build. For the program alone, before any such call.
pub fn when_needed(say: fn(&str)) {
    #[cfg(lazy_libtorch)]
    lazy::arm(say);
    #[cfg(not(lazy_libtorch))]
    let _ = say;
}

#[cfg(lazy_libtorch)]
mod lazy {
    use std::ffi::{CString, c_char};
    use std::ptr;
    use std::sync::OnceLock;

    use super::{DECISION, Problem, decide};

    type Decide = extern "C" fn(reason: *mut *const c_char) -> *const c_char;

    unsafe extern "C" {
        fn yolo_torch_decide_by(decide: Decide);
    }

    static SAY: OnceLock<fn(&str)> = OnceLock::new();

    pub(super) fn arm(say: fn(&str)) {
        let _ = SAY.set(say);
        // SAFETY: stores the address of a function, which lives as long as the program.
        unsafe { yolo_torch_decide_by(choose) };
    }

    /// Path of the library, or null: with a reason where it is an error, without for the default.
    extern "C" fn choose(reason: *mut *const c_char) -> *const c_char {
        static PATH: OnceLock<Result<Option<CString>, CString>> = OnceLock::new();
        let path = PATH.get_or_init(|| {
            let say = |line: &str| SAY.get().into_iter().for_each(|say| say(line));
            let decision = DECISION.get_or_init(|| decide(&|name| std::env::var_os(name), &say));
            let text = |problem: &Problem| CString::new(problem.to_string().replace('\0', " ")).unwrap_or_default();
            let decision = decision.as_ref().map_err(text)?;
            let path = decision
                .library
                .as_ref()
                .map(|path| CString::new(path.as_os_str().as_encoded_bytes()));
            // A path from the system has no zero in it.
            path.transpose().map_err(|_| CString::default())
        });
        let (path, text) = match path {
            Ok(path) => (path.as_ref().map_or(ptr::null(), |path| path.as_ptr()), ptr::null()),
            Err(text) => (ptr::null(), text.as_ptr()),
        };
        // SAFETY: the caller, bind.c, gives the address of a variable of its own.
        unsafe { *reason = text };
        path
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn home(folder: &Path) -> impl Fn(&str) -> Option<OsString> {
        let folder = folder.as_os_str().to_owned();
        move |name: &str| (name == "HOME").then(|| folder.clone())
    }

    fn choice(torch: &Path, library: &Path) -> Remembered {
        Remembered {
            torch: torch.to_owned(),
            version: "2.11.0".to_owned(),
            sources: sources::hash(),
            library: library.to_owned(),
        }
    }

    #[test]
    fn a_choice_is_remembered_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let env = home(folder.path());
        assert_eq!(remembered(&env).unwrap(), None);
        let choice = choice(Path::new("/a b/torch"), Path::new("/c/lib.so"));
        let file = remember(&env, Some(&choice)).unwrap();
        assert_eq!(file, folder.path().join(".config/yolo/torch.json"));
        assert_eq!(remembered(&env).unwrap(), Some(choice));
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        remember(&env, None).unwrap();
        remember(&env, None).unwrap();
        assert_eq!(remembered(&env).unwrap(), None);
        assert_eq!(remembered(&|_| None).unwrap(), None);
        assert!(remember(&|_| None, None).unwrap_err().help.contains("XDG_CONFIG_HOME"));
    }

    #[test]
    fn a_broken_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let env = home(folder.path());
        let file = file(&env).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, what) in [
            ("{", "it is no JSON"),
            ("{\"torch\": \"/a\"}", "it has no text `version`"),
        ] {
            std::fs::write(&file, text).unwrap();
            let problem = decide(&env, &|_| ()).unwrap_err();
            assert!(
                problem.what.contains(what) && problem.what.contains("torch.json"),
                "{problem}"
            );
            assert!(problem.help.contains("yolo torch use default"), "{problem}");
        }
    }

    #[test]
    fn what_has_changed_since_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let torch = find::tests::made_up(folder.path(), "2.11.0");
        let library = folder.path().join("library.so");
        std::fs::write(&library, "").unwrap();
        let sound = choice(&torch, &library);
        sound.check().unwrap();
        let refused = |choice: &Remembered, what: &str| {
            let problem = choice.check().unwrap_err();
            assert!(
                problem.what.contains(what) && problem.help.contains("yolo torch use"),
                "{problem}"
            );
        };
        refused(
            &Remembered {
                sources: "0".to_owned(),
                ..sound.clone()
            },
            "built by another version of yolo",
        );
        refused(
            &Remembered {
                version: "2.12.0".to_owned(),
                ..sound.clone()
            },
            "was 2.12.0 and is 2.11.0 now",
        );
        std::fs::remove_file(&library).unwrap();
        refused(&sound, "is gone");
        std::fs::remove_dir_all(&torch).unwrap();
        refused(&sound, "the chosen PyTorch 2.11.0 in");
        let env = home(folder.path());
        remember(&env, Some(&sound)).unwrap();
        assert!(
            decide(&env, &|_| ()).unwrap_err().what.contains("is gone"),
            "never another one instead"
        );
    }

    #[test]
    fn the_variable_comes_first_and_names_itself() {
        let folder = tempfile::tempdir().unwrap();
        let torch = find::tests::made_up(folder.path(), "2.3.0");
        let home = home(folder.path());
        let with = |value: &str| {
            let value = OsString::from(value);
            let env = |name: &str| {
                if name == VARIABLE {
                    Some(value.clone())
                } else {
                    home(name)
                }
            };
            decide(&env, &|_| ())
        };
        let problem = with(&torch.display().to_string()).unwrap_err();
        assert!(
            problem.what.starts_with("YOLO_TORCH: ") && problem.what.contains("2.3.0 is too old"),
            "{problem}"
        );
        assert!(with("/nowhere/at/all").unwrap_err().what.contains("no such folder"));
        // What is remembered doesn't count then.
        remember(&home, Some(&choice(&torch, Path::new("/gone.so")))).unwrap();
        assert_eq!(with("default").unwrap().by, By::Default);
    }
}
