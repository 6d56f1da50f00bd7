//! The C++ compiler of the machine: which one it is, the compilation of all sources side by side, the link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::headers::{self, Extra};
use super::omit::{self, Function};
use super::sources::Source;
use super::{Env, Problem};

/// The generated file, functions of which may be left out.
const GENERATED: &str = "torch_api_generated.cpp";

/// The level for torch-sys' files, which only forward calls; optimising them doubles the time of a build and buys nothing.
const FORWARDS: &str = "-O0";

/// How often a file is compiled before its errors are taken for serious.
const TRIES: usize = 3;

/// Functions that may be left out: one of this many.
const SHARE: usize = 20;

/// A C++ compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// How it is called: `ccache g++`.
    words: Vec<String>,
    /// The first line of what `--version` prints.
    pub version: String,
}

impl Compiler {
    /// $CXX, or the first of `c++`, `g++` and `clang++` on the path.
    ///
    /// # Errors
    /// Where there is none, or $CXX is none.
    pub fn find(env: Env<'_>) -> Result<Self, Problem> {
        let path = env("PATH");
        let said = env("CXX").map(|text| text.to_string_lossy().trim().to_owned());
        if let Some(said) = said.filter(|text| !text.is_empty()) {
            return Self::try_out(&said, path.as_deref()).ok_or_else(|| {
                Problem::new(
                    format!("CXX is `{said}`, which is no C++ compiler that runs"),
                    "correct CXX or unset it",
                )
            });
        }
        let found = ["c++", "g++", "clang++"]
            .into_iter()
            .find_map(|name| Self::try_out(name, path.as_deref()));
        found.ok_or_else(|| {
            Problem::new(
                "there is no C++ compiler (c++, g++ or clang++), which is needed once for this PyTorch",
                "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: conda install gxx), or set CXX",
            )
        })
    }

    fn try_out(call: &str, path: Option<&OsStr>) -> Option<Self> {
        let words: Vec<String> = call.split_whitespace().map(str::to_owned).collect();
        let mut compiler = Self {
            words,
            version: String::new(),
        };
        let mut command = compiler.command()?;
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let out = command
            .arg("--version")
            .output()
            .ok()
            .filter(|out| out.status.success())?;
        compiler.version = String::from_utf8_lossy(&out.stdout).lines().next()?.trim().to_owned();
        Some(compiler)
    }

    fn command(&self) -> Option<Command> {
        let (program, rest) = self.words.split_first()?;
        let mut command = Command::new(program);
        // What the compiler says is read.
        command.args(rest).env("LC_ALL", "C");
        Some(command)
    }

    /// Runs it; what it said where it failed.
    fn run(&self, arguments: &[&OsStr]) -> Result<(), String> {
        let mut command = self.command().ok_or("the compiler has no name")?;
        let out = command.args(arguments).output().map_err(|error| error.to_string())?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(if said.trim().is_empty() {
            format!("it ended with {}", out.status)
        } else {
            said
        })
    }
}

/// A file that is compiled by itself.
#[derive(Debug)]
enum Unit<'a> {
    /// As it is.
    Whole(&'a Source),
    /// Some functions of the generated file.
    Part {
        text: &'a str,
        number: usize,
        functions: &'a [Function],
    },
}

/// What became of a compilation.
#[derive(Debug, Default)]
pub struct Compiled {
    /// The library.
    pub library: PathBuf,
    /// Functions that were left out.
    pub omitted: BTreeSet<String>,
    /// Sources that don't compile with the headers of CUDA, and were compiled without.
    pub without_cuda: Vec<String>,
}

/// A build against one PyTorch in one folder.
#[derive(Debug)]
pub struct Job<'a> {
    /// The compiler.
    pub compiler: &'a Compiler,
    /// The folder of PyTorch.
    pub torch: &'a Path,
    /// Headers of CUDA.
    pub extra: &'a Extra,
    /// Where the sources lie, and all that is made goes.
    pub folder: &'a Path,
    /// Name of the library.
    pub name: &'a str,
}

impl Job<'_> {
    /// Compiles all sources on `workers` threads and links them.
    ///
    /// # Errors
    /// What the compiler said, whole.
    pub fn run(&self, sources: &[Source], workers: usize) -> Result<Compiled, String> {
        let generated = sources
            .iter()
            .find(|source| source.name == GENERATED)
            .ok_or("there is no generated file")?;
        let text = std::str::from_utf8(&generated.text).map_err(|error| error.to_string())?;
        let functions = omit::functions(text);
        // The generated file takes as long as all others together; where there are cores, its parts are compiled side by side.
        let parts = (workers / 3).clamp(1, 4);
        let mut units: Vec<Unit<'_>> = functions
            .chunks(functions.len().div_ceil(parts).max(1))
            .enumerate()
            .map(|(number, functions)| Unit::Part {
                text,
                number,
                functions,
            })
            .collect();
        let whole = sources
            .iter()
            .filter(|source| source.name.ends_with(".cpp") && source.name != GENERATED);
        units.extend(whole.map(Unit::Whole));
        let result = Mutex::new((Compiled::default(), Vec::new(), None));
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed)
                && let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let done = self.unit(unit, &functions);
                let mut guard = result.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match done {
                    Ok((object, omitted, without_cuda)) => {
                        guard.0.omitted.extend(omitted);
                        guard.0.without_cuda.extend(without_cuda);
                        guard.1.push(object);
                    }
                    Err(log) => {
                        failed.store(true, Ordering::Relaxed);
                        guard.2.get_or_insert(log);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (1..workers.min(units.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        let (mut compiled, mut objects, log) = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(log) = log {
            return Err(log);
        }
        objects.sort();
        compiled.library = self.link(&objects)?;
        Ok(compiled)
    }

    /// Compiles one unit: the object, functions left out, whether the headers of CUDA were.
    fn unit(&self, unit: &Unit<'_>, all: &[Function]) -> Result<(PathBuf, BTreeSet<String>, Option<String>), String> {
        match unit {
            Unit::Whole(source) => {
                let (object, without) = self.whole(&source.name)?;
                Ok((object, BTreeSet::new(), without.then(|| source.name.clone())))
            }
            Unit::Part {
                text,
                number,
                functions,
            } => {
                let (object, omitted) = self.part(text, all, *number, functions)?;
                Ok((object, omitted, None))
            }
        }
    }

    fn whole(&self, name: &str) -> Result<(PathBuf, bool), String> {
        let source = self.folder.join(name);
        let object = source.with_extension("o");
        if name.starts_with("torch_api") {
            let done = self.compile(&source, &object, FORWARDS, &Extra::default());
            return done.map(|()| (object, false));
        }
        let mut own = Extra::default();
        own.defines.extend(headers::DEFINES);
        let mut extra = self.extra.clone();
        extra.defines.extend(headers::DEFINES);
        match self.compile(&source, &object, "-O2", &extra) {
            Ok(()) => Ok((object, false)),
            // Headers of CUDA may be incomplete, or of another version; what needs them is then not there, all else is.
            Err(log) if extra != own => self
                .compile(&source, &object, "-O2", &own)
                .map(|()| (object, true))
                .map_err(|_| log),
            Err(log) => Err(log),
        }
    }

    /// Some functions of the generated file, without those that don't compile.
    fn part(
        &self,
        text: &str,
        all: &[Function],
        number: usize,
        functions: &[Function],
    ) -> Result<(PathBuf, BTreeSet<String>), String> {
        let file = format!("generated_{number}.cpp");
        let source = self.folder.join(&file);
        let object = source.with_extension("o");
        let own: BTreeSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        let mut omitted = BTreeSet::new();
        let mut last = String::new();
        for _ in 0..TRIES {
            let kept = omit::keep(text, all, &|name| own.contains(name) && !omitted.contains(name));
            std::fs::write(&source, kept).map_err(|error| format!("{}: {error}", source.display()))?;
            let Err(log) = self.compile(&source, &object, FORWARDS, &Extra::default()) else {
                return Ok((object, omitted));
            };
            let lines = omit::lines_with_errors(&log, &file);
            let Some(more) = omit::enclosing(functions, &lines).filter(|more| !more.is_empty()) else {
                return Err(log);
            };
            omitted.extend(more);
            last = log;
            if omitted.len() * SHARE > functions.len() {
                break;
            }
        }
        Err(format!(
            "{} of {} functions don't compile\n{last}",
            omitted.len(),
            functions.len()
        ))
    }

    fn compile(&self, source: &Path, object: &Path, level: &str, extra: &Extra) -> Result<(), String> {
        let include = self.torch.join("include");
        let api = include.join("torch/csrc/api/include");
        let mut arguments: Vec<&OsStr> = [
            "-std=c++17",
            "-fPIC",
            "-w",
            level,
            "-D_GLIBCXX_USE_CXX11_ABI=1",
            "-DGLOG_USE_GLOG_EXPORT",
        ]
        .map(OsStr::new)
        .to_vec();
        if self.compiler.version.contains("clang") {
            // All errors of a file are wanted.
            arguments.push(OsStr::new("-ferror-limit=0"));
        }
        let defines: Vec<String> = extra.defines.iter().map(|name| format!("-D{name}")).collect();
        arguments.extend(defines.iter().map(OsStr::new));
        let declared = self.folder.join(headers::DECLARED);
        for folder in [&include, &api].into_iter().chain(&extra.include).chain([&declared]) {
            arguments.extend([OsStr::new("-I"), folder.as_os_str()]);
        }
        arguments.extend([
            OsStr::new("-c"),
            source.as_os_str(),
            OsStr::new("-o"),
            object.as_os_str(),
        ]);
        self.compiler.run(&arguments)
    }

    fn link(&self, objects: &[PathBuf]) -> Result<PathBuf, String> {
        let library = self.folder.join(self.name);
        let soname = format!("-Wl,-soname,{}", self.name);
        let torch = headers::link_arguments(&self.torch.join("lib"));
        let mut arguments: Vec<&OsStr> = vec![
            OsStr::new("-shared"),
            OsStr::new("-o"),
            library.as_os_str(),
            OsStr::new(&soname),
        ];
        arguments.extend(objects.iter().map(|object| object.as_os_str()));
        arguments.extend(torch.iter().map(OsStr::new));
        arguments.push(OsStr::new(headers::SHARED_RUNTIME));
        if self.compiler.run(&arguments).is_err() {
            arguments.pop();
            self.compiler.run(&arguments)?;
        }
        Ok(library)
    }
}

/// The first lines of a compiler's log that are errors.
pub fn errors_of(log: &str) -> String {
    let mut errors: Vec<&str> = log.lines().filter(|line| line.contains("error")).take(3).collect();
    if errors.is_empty() {
        errors = log.lines().take(3).collect();
    }
    errors.join("\n    ")
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSymbol as _};

    use super::*;

    /// Uses what the C++ library has in its archive, not in its headers.
    const SOURCE: &str = "#include <sstream>\nextern \"C\" int f() { std::ostringstream s; s << std::locale().name(); return (int)s.str().size(); }\n";

    /// Names that a library gives to others.
    fn given(library: &Path) -> Vec<String> {
        let bytes = std::fs::read(library).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let given = file.dynamic_symbols().filter(|symbol| symbol.is_definition());
        given.map(|symbol| symbol.name().unwrap().to_owned()).collect()
    }

    /// A compiler that links the C++ library statically would give the process a second copy of it.
    #[test]
    fn the_cpp_library_stays_shared() {
        let dir = tempfile::tempdir().unwrap();
        let torch = dir.path().join("torch");
        std::fs::create_dir_all(torch.join("lib")).unwrap();
        let usual = Compiler::find(&|name| std::env::var_os(name)).unwrap();
        let mut words = usual.words.clone();
        words.push("-static-libstdc++".to_owned());
        let compiler = Compiler { words, ..usual };
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("empty.cpp"), "").unwrap();
        std::fs::write(path("f.cpp"), SOURCE).unwrap();
        let run = |arguments: &[&Path]| {
            let arguments: Vec<&OsStr> = arguments.iter().map(|word| word.as_os_str()).collect();
            compiler.run(&arguments).unwrap();
        };
        for name in ["torch_cpu", "torch", "c10"] {
            let library = torch.join(format!("lib/lib{name}.so"));
            run(&["-shared".as_ref(), "-o".as_ref(), &library, &path("empty.cpp")]);
        }
        run(&[
            "-fPIC".as_ref(),
            "-c".as_ref(),
            "-o".as_ref(),
            &path("f.o"),
            &path("f.cpp"),
        ]);
        let job = Job {
            compiler: &compiler,
            torch: &torch,
            extra: &Extra::default(),
            folder: dir.path(),
            name: "libours.so",
        };
        let ours = given(&job.link(&[path("f.o")]).unwrap());
        assert!(ours.contains(&"f".to_owned()), "{ours:?}");
        let runtime = |name: &String| name.starts_with("_ZNSt6locale");
        assert!(
            !ours.iter().any(runtime),
            "{:?}",
            ours.iter().find(|name| runtime(name))
        );
        // What this compiler does if left alone, so that the test sees the fault.
        run(&["-shared".as_ref(), "-o".as_ref(), &path("alone.so"), &path("f.o")]);
        assert!(given(&path("alone.so")).iter().any(runtime));
    }
}
