//! What this program and the process of an engine say to each other: a message is the length of its head (u32, little-endian), the head
//! in JSON, and the elements of its tensors one after the other (f32, little-endian).

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Array, Port};

/// Heads hold names and sizes; what is longer is no head.
const LONGEST_HEAD: usize = 16 << 20;
/// Elements of a tensor; what has more is no tensor of ours.
const MOST_ELEMENTS: usize = 1 << 32;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Ask {
    /// Say the version.
    Version,
    /// Open a file.
    Open {
        /// The file.
        path: String,
        /// 0: as many as the engine takes by itself.
        threads: usize,
    },
    /// Run it on the tensors that follow.
    Run {
        /// Names and sizes of the tensors.
        tensors: Vec<Port>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Ask::Version`].
    Version(String),
    /// To [`Ask::Open`].
    Opened {
        /// What the file takes.
        inputs: Vec<Port>,
        /// What it gives.
        outputs: Vec<Port>,
    },
    /// To [`Ask::Run`]; the tensors follow.
    Ran {
        /// Names and sizes of the tensors.
        tensors: Vec<Port>,
        /// What the engine needed.
        milliseconds: f64,
    },
    /// To any: why not.
    Error(String),
}

/// A head that announces tensors.
pub trait Head: Serialize + DeserializeOwned {
    /// Names and sizes of the tensors that follow it.
    fn tensors(&self) -> &[Port];
}

impl Head for Ask {
    fn tensors(&self) -> &[Port] {
        match self {
            Self::Run { tensors } => tensors,
            Self::Version | Self::Open { .. } => &[],
        }
    }
}

impl Head for Answer {
    fn tensors(&self) -> &[Port] {
        match self {
            Self::Ran { tensors, .. } => tensors,
            Self::Version(_) | Self::Opened { .. } | Self::Error(_) => &[],
        }
    }
}

/// The heads of tensors.
pub fn heads(arrays: &[Array]) -> Vec<Port> {
    let head = |array: &Array| Port {
        name: array.name.clone(),
        shape: array.shape.clone(),
        kind: None,
    };
    arrays.iter().map(head).collect()
}

/// Writes a message.
///
/// # Errors
/// Those of the pipe.
pub fn write(to: &mut impl Write, head: &impl Head, arrays: &[Array]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    to.write_all(&u32::try_from(head.len()).map_err(io::Error::other)?.to_le_bytes())?;
    to.write_all(&head)?;
    for array in arrays {
        let bytes: Vec<u8> = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        to.write_all(&bytes)?;
    }
    to.flush()
}

/// Reads a message; `None` where the other side has ended.
///
/// # Errors
/// Those of the pipe, and what is no message.
pub fn read<H: Head>(from: &mut impl Read) -> io::Result<Option<(H, Vec<Array>)>> {
    let mut length = [0u8; 4];
    let mut got = 0;
    while got < length.len() {
        match from.read(&mut length[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST_HEAD {
        return Err(no_message(format!("a head of {length} bytes")));
    }
    let mut head = vec![0u8; length];
    from.read_exact(&mut head)?;
    let head: H = serde_json::from_slice(&head).map_err(|error| no_message(error.to_string()))?;
    let arrays = head
        .tensors()
        .iter()
        .map(|port| read_array(from, port))
        .collect::<io::Result<_>>()?;
    Ok(Some((head, arrays)))
}

fn read_array(from: &mut impl Read, port: &Port) -> io::Result<Array> {
    let elements = port
        .shape
        .iter()
        .try_fold(1usize, |product, size| {
            product.checked_mul(usize::try_from(*size).ok()?)
        })
        .filter(|elements| *elements <= MOST_ELEMENTS)
        .ok_or_else(|| no_message(format!("`{}` of the sizes {:?}", port.name, port.shape)))?;
    let mut bytes = vec![0u8; 4 * elements];
    from.read_exact(&mut bytes)?;
    let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(Array {
        name: port.name.clone(),
        shape: port.shape.clone(),
        values: bytes.chunks_exact(4).map(value).collect(),
    })
}

fn no_message(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no message: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array() -> Array {
        Array {
            name: "x".into(),
            shape: vec![2, 1, 3],
            values: vec![0.0, -1.5, f32::MIN_POSITIVE, 3.0, f32::INFINITY, 5.0],
        }
    }

    fn sent() -> Vec<u8> {
        let arrays = [array(), array()];
        let mut bytes = Vec::new();
        let head = Ask::Run {
            tensors: heads(&arrays),
        };
        write(&mut bytes, &head, &arrays).unwrap();
        bytes
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let mut bytes = sent();
        let version = Answer::Version("1".into());
        write(&mut bytes, &version, &[]).unwrap();
        let mut reader = bytes.as_slice();
        let (head, arrays) = read::<Ask>(&mut reader).unwrap().unwrap();
        assert_eq!(arrays, [array(), array()]);
        assert_eq!(head.tensors(), heads(&arrays));
        assert_eq!(read::<Answer>(&mut reader).unwrap().unwrap().0, version);
        assert!(read::<Answer>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_or_no_message_is_an_error() {
        let bytes = sent();
        for length in [1, 3, 4, 20, bytes.len() - 1] {
            assert!(read::<Ask>(&mut &bytes[..length]).is_err(), "{length}");
        }
        // A long head, another text, sizes that nobody has.
        assert!(read::<Ask>(&mut [255u8; 64].as_slice()).is_err());
        let text = |head: &str| [&(head.len() as u32).to_le_bytes(), head.as_bytes()].concat();
        assert!(read::<Ask>(&mut text("hello").as_slice()).is_err());
        for shape in ["[-1]", "[9223372036854775807, 9]", "[1048576, 1048576]"] {
            let head = format!(r#"{{"do":"run","tensors":[{{"name":"x","shape":{shape}}}]}}"#);
            assert!(read::<Ask>(&mut text(&head).as_slice()).is_err(), "{shape}");
        }
    }
}
