//! A file that is open in an engine in a process of its own. Whatever happens there (a refusal, a crash, a library that ends the process)
//! is one error here, which names the engine and the file.

use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use super::protocol::{self, Answer, Ask};
use super::{Array, Network, Port};
use crate::{Error, Result};

/// How this program is started as an engine.
static PROGRAM: OnceLock<(PathBuf, Vec<String>)> = OnceLock::new();

/// Says how to start a process that calls [`super::worker::serve`]: a program, and what comes before the name of the engine. The first
/// word counts. Without it, engines that are libraries of such a process are not available.
pub fn started_by(program: PathBuf, arguments: &[&str]) {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    PROGRAM.get_or_init(|| (program, arguments));
}

/// The command that starts this program as an engine.
pub(super) fn worker(engine: &str) -> Option<Command> {
    let (program, arguments) = PROGRAM.get()?;
    let mut command = Command::new(program);
    command.args(arguments).arg(engine);
    Some(command)
}

/// The process of an engine.
#[derive(Debug)]
pub struct Process {
    engine: &'static str,
    child: Child,
    // Closing it is how the process is told to end.
    to: Option<BufWriter<ChildStdin>>,
    from: BufReader<ChildStdout>,
    /// What it says about itself: for errors only.
    said: std::fs::File,
}

impl Process {
    /// Starts a process that speaks the [`protocol`] on its standard input and output. What it writes to its standard error is shown only
    /// where it fails.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(engine: &'static str, mut command: Command) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Engine {
            engine,
            reason: format!("can't start its process: {error}"),
        };
        let said = tempfile::tempfile().map_err(failed)?;
        // Ctrl-C is for this process, which then ends that one.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        Ok(Self {
            engine,
            child,
            to: Some(BufWriter::new(to)),
            from: BufReader::with_capacity(1 << 20, from),
            said,
        })
    }

    /// Asks, and waits for the answer. `path` is the file that errors name.
    ///
    /// # Errors
    /// What the engine answers, and its end.
    pub fn ask(&mut self, path: &Path, ask: &Ask, arrays: &[Array]) -> Result<(Answer, Vec<Array>)> {
        let sent = self.to.as_mut().map(|to| protocol::write(to, ask, arrays));
        let received = match sent {
            Some(Ok(())) => protocol::read::<Answer>(&mut self.from),
            _ => Ok(None),
        };
        match received {
            Ok(Some((Answer::Error(reason), _))) => {
                let said = self.last_words();
                let more = if said.is_empty() {
                    said
                } else {
                    format!("; it said: {said}")
                };
                Err(super::refused(self.engine, path, &format!("{reason}{more}")))
            }
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.ended(path)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.ended(path)),
            Err(error) => Err(super::refused(self.engine, path, &format!("its process says {error}"))),
        }
    }

    /// The error of a process that is no more.
    fn ended(&mut self, path: &Path) -> Error {
        self.to = None;
        let how = self.child.wait().map_or_else(|error| error.to_string(), describe);
        let said = self.last_words();
        Error::EngineCrashed {
            engine: self.engine,
            path: path.to_owned(),
            how: if said.is_empty() {
                how
            } else {
                format!("{how}; it said: {said}")
            },
        }
    }

    /// The last lines of its standard error.
    fn last_words(&mut self) -> String {
        const MOST: u64 = 600;
        let mut text = Vec::new();
        let length = self.said.seek(SeekFrom::End(0)).unwrap_or_default();
        let read = self.said.seek(SeekFrom::Start(length.saturating_sub(MOST)));
        if read.and_then(|_| self.said.read_to_end(&mut text)).is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends at the end of its input; one that hangs in its engine does not.
        self.to = None;
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `was ended by a segmentation fault (signal 11)`.
fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            libc::SIGSEGV => "a segmentation fault, ",
            libc::SIGABRT => "an abort, ",
            libc::SIGILL => "an instruction that this processor does not have, ",
            libc::SIGBUS => "a bus error, ",
            libc::SIGFPE => "an arithmetic exception, ",
            libc::SIGKILL => "a kill (out of memory?), ",
            _ => "",
        };
        return format!("{name}signal {signal}");
    }
    status
        .code()
        .map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// An opened file in its process.
#[derive(Debug)]
pub struct Opened {
    process: Process,
    path: PathBuf,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    milliseconds: f64,
}

impl Opened {
    /// Opens a file.
    ///
    /// # Errors
    /// What the engine says against it, and its end.
    pub fn new(mut process: Process, path: &Path, threads: usize) -> Result<Self> {
        // The process may stand in another folder.
        let absolute = std::path::absolute(path).map_err(|source| Error::read(path, source))?;
        std::fs::metadata(&absolute).map_err(|source| Error::read(path, source))?;
        let ask = Ask::Open {
            path: absolute.display().to_string(),
            threads,
        };
        match process.ask(path, &ask, &[])? {
            (Answer::Opened { inputs, outputs }, _) => Ok(Self {
                process,
                path: path.to_owned(),
                inputs,
                outputs,
                milliseconds: 0.0,
            }),
            (other, _) => Err(misunderstood(process.engine, path, &other)),
        }
    }
}

/// The version that the engine in a process says it has.
///
/// # Errors
/// What it answers, and its end.
pub(super) fn version(mut process: Process, path: &Path) -> Result<String> {
    match process.ask(path, &Ask::Version, &[])? {
        (Answer::Version(version), _) => Ok(version),
        (other, _) => Err(misunderstood(process.engine, path, &other)),
    }
}

fn misunderstood(engine: &'static str, path: &Path, answer: &Answer) -> Error {
    super::refused(engine, path, &format!("its process gives another answer: {answer:?}"))
}

impl Network for Opened {
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        if let Some(broken) = inputs.iter().find(|input| !input.is_whole()) {
            let reason = format!(
                "input `{}`: {} values do not fill the shape {:?}",
                broken.name,
                broken.values.len(),
                broken.shape
            );
            return Err(super::refused(self.process.engine, &self.path, &reason));
        }
        let ask = Ask::Run {
            tensors: protocol::heads(inputs),
        };
        match self.process.ask(&self.path, &ask, inputs)? {
            (Answer::Ran { milliseconds, .. }, arrays) => {
                self.milliseconds = milliseconds;
                Ok(arrays)
            }
            (other, _) => Err(misunderstood(self.process.engine, &self.path, &other)),
        }
    }

    fn milliseconds(&self) -> f64 {
        self.milliseconds
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    /// A process that does what a shell is told.
    fn process(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("test-engine", command).unwrap()
    }

    fn fails(script: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        Opened::new(process(script), file.path(), 1).unwrap_err().to_string()
    }

    #[test]
    fn a_crash_names_engine_file_and_signal() {
        let error = fails("echo loading >&2; kill -SEGV $$");
        for part in [
            "test-engine",
            ".tmp",
            "segmentation fault",
            "signal 11",
            "it said: loading",
        ] {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }

    #[test]
    fn an_exit_names_code_and_last_words() {
        let error = fails("echo first >&2; echo no such library >&2; exit 3");
        assert!(
            error.contains("exit code 3") && error.contains("no such library"),
            "{error}"
        );
    }

    #[test]
    fn another_language_is_an_error() {
        let error = fails("echo hello, this is no message; cat > /dev/null");
        assert!(error.contains("test-engine") && error.contains("no message"), "{error}");
    }

    #[test]
    fn a_refusal_is_an_error_with_its_reason() {
        let answer = r#"{"error":"an op that it does not have"}"#;
        let error = fails(&format!(
            r#"printf '\{:o}\000\000\000{answer}'; cat > /dev/null"#,
            answer.len()
        ));
        assert!(
            error.contains("test-engine") && error.contains("an op that it does not have"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Opened::new(process("cat > /dev/null"), Path::new("no/such.onnx"), 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("can't read no/such.onnx"), "{error}");
    }

    #[test]
    fn a_process_that_hangs_is_ended() {
        let hanging = process("exec sleep 60");
        let start = std::time::Instant::now();
        drop(hanging);
        assert!(start.elapsed().as_secs() < 10);
    }
}
