//! The other side of the pipes: this program, started a second time as the process of an engine. It does what it is asked until its input
//! ends, and prints nothing: its standard output is the pipe.

use std::io::{self, Read, Write};
use std::path::Path;

use super::protocol::{self, Answer, Ask};
use super::{Array, Port, openvino};

/// An engine in this process. Errors are for a person, in one line.
pub(super) trait Backend {
    /// As the engine says it.
    fn version(&mut self) -> Result<String, String>;

    /// Opens a file; its inputs and outputs.
    fn open(&mut self, path: &Path, threads: usize) -> Result<(Vec<Port>, Vec<Port>), String>;

    /// Runs it; outputs and milliseconds.
    fn run(&mut self, inputs: Vec<Array>) -> Result<(Vec<Array>, f64), String>;
}

/// Serves the engine of a name on standard input and output until the input ends; the exit code.
///
/// # Errors
/// Where there is no such engine, or the pipes are broken.
pub fn serve(engine: &str) -> io::Result<()> {
    let mut backend: Box<dyn Backend> = match engine {
        "openvino" => Box::new(openvino::Library::default()),
        other => return Err(io::Error::other(format!("there is no engine `{other}` to serve"))),
    };
    let mut answers = private_output()?;
    converse(backend.as_mut(), &mut io::stdin().lock(), &mut answers)
}

/// Standard output for messages alone: what a library prints there goes to standard error instead.
fn private_output() -> io::Result<Box<dyn Write>> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        let pipe = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr().as_fd())?;
        Ok(Box::new(io::BufWriter::new(std::fs::File::from(pipe))))
    }
    #[cfg(not(unix))]
    Ok(Box::new(io::BufWriter::new(io::stdout())))
}

fn converse(backend: &mut dyn Backend, asks: &mut impl Read, answers: &mut impl Write) -> io::Result<()> {
    while let Some((ask, arrays)) = protocol::read::<Ask>(asks)? {
        let answered = match ask {
            Ask::Version => backend.version().map(|version| (Answer::Version(version), Vec::new())),
            Ask::Open { path, threads } => backend
                .open(Path::new(&path), threads)
                .map(|(inputs, outputs)| (Answer::Opened { inputs, outputs }, Vec::new())),
            Ask::Run { .. } => backend.run(arrays).map(|(arrays, milliseconds)| {
                let tensors = protocol::heads(&arrays);
                (Answer::Ran { tensors, milliseconds }, arrays)
            }),
        };
        let (answer, arrays) = answered.unwrap_or_else(|reason| (Answer::Error(reason), Vec::new()));
        protocol::write(answers, &answer, &arrays)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles what it gets.
    struct Twice;

    impl Backend for Twice {
        fn version(&mut self) -> Result<String, String> {
            Ok("2".into())
        }

        fn open(&mut self, path: &Path, _: usize) -> Result<(Vec<Port>, Vec<Port>), String> {
            Err(format!("{} is no file", path.display()))
        }

        fn run(&mut self, inputs: Vec<Array>) -> Result<(Vec<Array>, f64), String> {
            let twice = |mut array: Array| {
                array.values.iter_mut().for_each(|value| *value *= 2.0);
                array
            };
            Ok((inputs.into_iter().map(twice).collect(), 1.0))
        }
    }

    #[test]
    fn asks_are_answered_in_turn_and_an_error_ends_nothing() {
        let array = Array {
            name: "x".into(),
            shape: vec![2],
            values: vec![1.0, 2.5],
        };
        let (mut asks, mut answers) = (Vec::new(), Vec::new());
        let open = Ask::Open {
            path: "a".into(),
            threads: 1,
        };
        protocol::write(&mut asks, &open, &[]).unwrap();
        let run = Ask::Run {
            tensors: protocol::heads(std::slice::from_ref(&array)),
        };
        protocol::write(&mut asks, &run, std::slice::from_ref(&array)).unwrap();
        protocol::write(&mut asks, &Ask::Version, &[]).unwrap();
        converse(&mut Twice, &mut asks.as_slice(), &mut answers).unwrap();
        let mut reader = answers.as_slice();
        let mut next = || protocol::read::<Answer>(&mut reader).unwrap().unwrap();
        assert_eq!(next().0, Answer::Error("a is no file".into()));
        assert_eq!(next().1[0].values, [2.0, 5.0]);
        assert_eq!(next().0, Answer::Version("2".into()));
    }

    #[test]
    fn there_is_no_engine_of_any_name() {
        assert!(serve("nothing").unwrap_err().to_string().contains("nothing"));
    }
}
