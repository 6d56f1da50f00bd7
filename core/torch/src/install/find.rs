//! Where a PyTorch is, and whether it can be used. Nothing is imported: files say it all, in milliseconds.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Env, OLDEST, Problem};

/// A PyTorch that can be built against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torch {
    /// Its folder, with `lib` and `include` in it.
    pub path: PathBuf,
    /// Its version, `2.11.0+cu130`.
    pub version: String,
    /// Version of its CUDA, `13.0`; `None` in a build for CPUs.
    pub cuda: Option<String>,
}

/// A folder that looks like a PyTorch, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    /// `built with`, `LIBTORCH`, `VIRTUAL_ENV`, `python3`, `beside yolo`, `chosen`.
    pub source: &'static str,
}

/// Folders in which a PyTorch was found, each once: that of the program, those that the environment speaks of, that of `python3`, that
/// of the virtual environment in which the program lies.
pub fn places(built_with: Option<PathBuf>, env: Env<'_>) -> Vec<Place> {
    let named = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let python = || torch_of_python(Path::new("python3"), env("PATH").as_deref()).ok();
    let candidates = [
        ("built with", built_with.filter(|path| is_torch(path))),
        ("LIBTORCH", named("LIBTORCH").filter(|path| is_torch(path))),
        (
            "VIRTUAL_ENV",
            named("VIRTUAL_ENV").and_then(|venv| torch_of_venv(&venv)),
        ),
        ("python3", python()),
        ("beside yolo", of_executable()),
    ];
    let mut found: Vec<Place> = Vec::new();
    for (source, path) in candidates {
        let Some(path) = path.map(real) else { continue };
        if !found.iter().any(|place| place.path == path) {
            found.push(Place { path, source });
        }
    }
    found
}

/// The folder of PyTorch that a person means: it itself, the folder that holds it, a virtual environment or an executable of Python.
///
/// # Errors
/// Where there is none.
pub fn locate(said: &Path) -> Result<PathBuf, Problem> {
    const HELP: &str = "give the folder of a PyTorch (.../site-packages/torch), a virtual environment or a python executable; \
                        `yolo torch list` shows what is found";
    if said.is_file() {
        return torch_of_python(said, None)
            .map(real)
            .map_err(|reason| Problem::new(format!("{}: {reason}", said.display()), HELP));
    }
    if !said.is_dir() {
        return Err(Problem::new(
            format!("{}: there is no such folder", said.display()),
            HELP,
        ));
    }
    let direct = [said.to_owned(), said.join("torch"), said.join("..")];
    let direct = direct.into_iter().find(|path| is_torch(path));
    let python = || {
        let python = said.join("bin/python");
        python.exists().then(|| torch_of_python(&python, None).ok()).flatten()
    };
    let found = direct.or_else(|| torch_of_venv(said)).or_else(python);
    found
        .map(real)
        .ok_or_else(|| Problem::new(format!("{}: there is no PyTorch in it", said.display()), HELP))
}

fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

fn is_torch(path: &Path) -> bool {
    path.join("lib/libtorch_cpu.so").exists()
}

/// `lib/python3.*/site-packages/torch` of a virtual environment, of its newest Python.
pub fn torch_of_venv(venv: &Path) -> Option<PathBuf> {
    let minor = |name: &str| name.strip_prefix("python3.")?.parse::<u32>().ok();
    let entries = std::fs::read_dir(venv.join("lib")).ok()?.flatten();
    let mut pythons: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((minor(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    pythons.sort();
    let packages = pythons
        .into_iter()
        .rev()
        .flat_map(|(_, path)| ["site-packages", "dist-packages"].map(|folder| path.join(folder).join("torch")));
    packages.into_iter().find(|path| is_torch(path))
}

/// The PyTorch of the environment in whose `bin` this program lies; also one that a virtual environment takes from its system.
pub fn of_executable() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let environment = program.parent()?.parent()?;
    let of_system = || {
        let python = environment.join("bin/python");
        let is_virtual = environment.join("pyvenv.cfg").exists();
        is_virtual.then(|| torch_of_python(&python, None).ok()).flatten()
    };
    torch_of_venv(environment).or_else(of_system)
}

/// Asks an interpreter where it would import torch from, which it doesn't.
fn torch_of_python(python: &Path, path: Option<&std::ffi::OsStr>) -> Result<PathBuf, String> {
    // A folder `torch` where the command runs is none that is installed.
    const SCRIPT: &str = "import sys\nsys.path[:] = [p for p in sys.path if p]\nimport importlib.util as u\ns = u.find_spec('torch')\n\
                          print(list(s.submodule_search_locations)[0] if s and s.submodule_search_locations else '')";
    let mut command = Command::new(python);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let out = command
        .args(["-c", SCRIPT])
        .output()
        .map_err(|error| format!("it can't be run: {error}"))?;
    if !out.status.success() {
        return Err("it is no Python 3".to_owned());
    }
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    match PathBuf::from(&text) {
        _ if text.is_empty() => Err("this Python has no torch".to_owned()),
        path if is_torch(&path) => Ok(path),
        path => Err(format!(
            "this Python's torch ({}) has no lib/libtorch_cpu.so",
            path.display()
        )),
    }
}

/// Version and CUDA of the PyTorch in a folder, whether or not it can be used.
pub fn version(path: &Path) -> Option<(String, Option<String>)> {
    if let Ok(text) = std::fs::read_to_string(path.join("version.py")) {
        let value = |name: &str| {
            let line = text.lines().find(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', ':', '=']))
            })?;
            let value = line.rsplit_once('=')?.1.trim();
            let quoted = value.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
            Some(quoted.to_owned())
        };
        if let Some(version) = value("__version__") {
            return Some((version, value("cuda")));
        }
    }
    let version = std::fs::read_to_string(path.join("build-version"))
        .map(|text| text.trim().to_owned())
        .ok()
        .or_else(|| version_of_header(path))?;
    // `+cu130` is 13.0.
    let cuda = version.split_once("+cu").and_then(|(_, digits)| {
        let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
        let all_digits = !major.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        all_digits.then(|| format!("{major}.{minor}"))
    });
    Some((version, cuda))
}

fn version_of_header(path: &Path) -> Option<String> {
    let header = path.join("include/torch/csrc/api/include/torch/version.h");
    let text = std::fs::read_to_string(header).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("#define TORCH_VERSION \""))?;
    line.strip_suffix('"').map(str::to_owned)
}

/// The PyTorch in a folder, if the shared library can be built against it.
///
/// # Errors
/// An old version, another system, an old C++ ABI, no headers.
pub fn check(path: &Path) -> Result<Torch, Problem> {
    let at = path.display();
    let oldest = format!("{}.{}", OLDEST.0, OLDEST.1);
    let install = format!("install a PyTorch from {oldest} on (`pip install torch`), then `yolo torch use PATH`");
    if !is_torch(path) {
        return Err(Problem::new(format!("{at}: there is no lib/libtorch_cpu.so"), install));
    }
    let (version, cuda) =
        version(path).ok_or_else(|| Problem::new(format!("{at}: it doesn't say its version"), install.clone()))?;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let pair = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if pair < OLDEST {
        return Err(Problem::new(
            format!("{at}: PyTorch {version} is too old, {oldest} is needed"),
            install,
        ));
    }
    library(path).map_err(|reason| Problem::new(format!("{at}: PyTorch {version}: {reason}"), install.clone()))?;
    for header in [
        "ATen/ATen.h",
        "c10/core/Device.h",
        "torch/csrc/api/include/torch/torch.h",
    ] {
        if !path.join("include").join(header).exists() {
            let what = format!("{at}: PyTorch {version} has no C++ headers (include/{header} is missing)");
            return Err(Problem::new(
                what,
                "reinstall it from a wheel (`pip install --force-reinstall torch`), which has them",
            ));
        }
    }
    Ok(Torch {
        path: path.to_owned(),
        version,
        cuda: cuda.filter(|_| is_cuda(path)),
    })
}

/// Whether the PyTorch in a folder is a CUDA build.
pub fn is_cuda(path: &Path) -> bool {
    super::headers::is_cuda(path)
}

/// Whether NCCL is loaded in this process; a CUDA build of PyTorch brings it along.
pub fn has_nccl() -> bool {
    std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("/libnccl.so"))
}

/// Machine and C++ ABI, as libc10.so tells them.
fn library(path: &Path) -> Result<(), String> {
    let file = path.join("lib/libc10.so");
    let bytes = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    // Magic, 64 bits, little end first; the machine (62 is x86-64) stands at byte 18.
    if !bytes.starts_with(b"\x7fELF\x02\x01") || bytes.get(18..20) != Some(&[62, 0]) {
        return Err("it is not for Linux on x86-64".to_owned());
    }
    // Strings in the names of its functions: those of the ABI of 2011 are in a namespace of their own.
    if !contains(&bytes, b"7__cxx11") {
        return Err("it was built with the old C++ ABI (_GLIBCXX_USE_CXX11_ABI=0)".to_owned());
    }
    Ok(())
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
pub mod tests {
    //! Also lends its folders to the tests of the choice.

    use std::ffi::OsString;
    use std::fs;

    use super::*;

    /// A folder that looks like PyTorch: its library is a head and a name.
    pub fn made_up(folder: &Path, version: &str) -> PathBuf {
        let torch = folder.join("torch");
        for header in [
            "ATen/ATen.h",
            "c10/core/Device.h",
            "torch/csrc/api/include/torch/torch.h",
        ] {
            let path = torch.join("include").join(header);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(18, 0);
        elf.extend([62, 0]);
        elf.extend(b"_ZNSt7__cxx1112basic_string");
        fs::write(torch.join("lib/libc10.so"), elf).unwrap();
        let text = format!(
            "from typing import Optional\n__version__ = '{version}'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
        );
        fs::write(torch.join("version.py"), text).unwrap();
        torch.canonicalize().unwrap()
    }

    fn none(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn all_forms_of_a_place_lead_to_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("lib/python3.12/site-packages");
        let torch = made_up(&packages, "2.11.0+cu130");
        made_up(&folder.path().join("lib/python3.9/site-packages"), "2.1.0");
        for said in [torch.clone(), torch.join("lib"), packages, folder.path().to_owned()] {
            assert_eq!(locate(&said).unwrap(), torch, "{}", said.display());
        }
        let empty = folder.path().join("lib/python3.12");
        let problem = locate(&empty).unwrap_err();
        assert!(problem.what.contains("there is no PyTorch in it"), "{problem}");
        let problem = locate(&folder.path().join("absent")).unwrap_err();
        assert!(
            problem.what.contains("no such folder") && problem.help.contains("yolo torch list"),
            "{problem}"
        );
        let file = folder.path().join("python");
        fs::write(&file, "no program").unwrap();
        let problem = locate(&file).unwrap_err();
        assert!(problem.what.contains("it can't be run"), "{problem}");
    }

    #[cfg(unix)]
    #[test]
    fn an_interpreter_says_where_its_torch_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let torch = made_up(folder.path(), "2.12.1");
        let python = folder.path().join("python3");
        let mode = fs::Permissions::from_mode(0o755);
        fs::write(&python, format!("#!/bin/sh\necho {}\n", torch.display())).unwrap();
        fs::set_permissions(&python, mode.clone()).unwrap();
        assert_eq!(locate(&python).unwrap(), torch);
        let env = |name: &str| (name == "PATH").then(|| folder.path().as_os_str().to_owned());
        let found = places(None, &env);
        assert_eq!((found.len(), found[0].source), (1, "python3"));
        fs::write(&python, "#!/bin/sh\necho\n").unwrap();
        assert!(locate(&python).unwrap_err().what.contains("has no torch"));
        assert!(places(None, &env).is_empty());
    }

    #[test]
    fn each_folder_is_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().join("venv");
        let torch = made_up(&venv.join("lib/python3.12/site-packages"), "2.11.0");
        let own = made_up(&folder.path().join("own"), "2.13.0");
        let env = |name: &str| match name {
            "LIBTORCH" => Some(torch.clone().into_os_string()),
            "VIRTUAL_ENV" => Some(venv.clone().into_os_string()),
            "PATH" => Some(OsString::from("/nowhere")),
            _ => None,
        };
        let found = places(Some(own.clone()), &env);
        let expected = [
            Place {
                path: own,
                source: "built with",
            },
            Place {
                path: torch.clone(),
                source: "LIBTORCH",
            },
        ];
        assert_eq!(found, expected);
        assert!(
            places(Some(folder.path().join("gone")), &none)
                .iter()
                .all(|place| place.source == "python3")
        );
    }

    #[test]
    fn versions_are_read_from_each_kind_of_distribution() {
        let folder = tempfile::tempdir().unwrap();
        let torch = made_up(folder.path(), "2.11.0a0+eb65b36914.nv26.02");
        let cuda = Some("13.0".to_owned());
        assert_eq!(
            version(&torch),
            Some(("2.11.0a0+eb65b36914.nv26.02".to_owned(), cuda.clone()))
        );
        assert_eq!(
            check(&torch).unwrap().cuda,
            None,
            "without libtorch_cuda.so it is a build for CPUs"
        );
        fs::write(torch.join("lib/libtorch_cuda.so"), "").unwrap();
        assert_eq!(check(&torch).unwrap().cuda, cuda);
        fs::remove_file(torch.join("version.py")).unwrap();
        assert_eq!(version(&torch), None);
        let header = torch.join("include/torch/csrc/api/include/torch/version.h");
        fs::write(
            &header,
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION \"2.13.0\"\n",
        )
        .unwrap();
        assert_eq!(version(&torch), Some(("2.13.0".to_owned(), None)));
        fs::write(torch.join("build-version"), "2.12.0+cu130\n").unwrap();
        assert_eq!(version(&torch), Some(("2.12.0+cu130".to_owned(), cuda)));
    }

    #[test]
    fn what_can_not_be_used_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |torch: &Path, what: &str| {
            let problem = check(torch).unwrap_err();
            assert!(problem.what.contains(what), "{problem}");
            assert!(problem.what.contains(&torch.display().to_string()), "{problem}");
        };
        let torch = made_up(&folder.path().join("old"), "2.10.1+cu128");
        refused(&torch, "PyTorch 2.10.1+cu128 is too old, 2.11 is needed");
        let torch = made_up(&folder.path().join("headers"), "2.11.0");
        fs::remove_file(torch.join("include/ATen/ATen.h")).unwrap();
        refused(&torch, "has no C++ headers (include/ATen/ATen.h is missing)");
        let torch = made_up(&folder.path().join("machine"), "2.11.0");
        let library = torch.join("lib/libc10.so");
        let sound = fs::read(&library).unwrap();
        let mut arm = sound.clone();
        arm[18] = 183;
        fs::write(&library, arm).unwrap();
        refused(&torch, "not for Linux on x86-64");
        fs::write(&library, &sound[..20]).unwrap();
        refused(&torch, "old C++ ABI");
        fs::remove_dir_all(torch.join("lib")).unwrap();
        refused(&torch, "there is no lib/libtorch_cpu.so");
    }
}
