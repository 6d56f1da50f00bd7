//! Text files of users: UTF-8 with or without a byte order mark, UTF-16, and (where a file declares it) older encodings. What can't be
//! read as text is an error that names the encoding, the line and the way out.

use std::borrow::Cow;
use std::path::Path;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::{Error, Result};

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoText {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads a text file; `action` says what for (`read the data set`).
///
/// # Errors
/// [`Error::Io`] where the file can't be read; [`Error::Label`] names file and line of what is no text.
pub fn read(path: &Path, action: &'static str) -> Result<String> {
    let bytes = crate::files::bytes(path).map_err(Error::io(path, action))?;
    match decode(&bytes) {
        Ok(text) => Ok(text.into_owned()),
        Err(NoText { line, message }) => Err(Error::label(path, line, message)),
    }
}

/// UTF-8 or UTF-16 without its byte order mark.
///
/// # Errors
/// [`NoText`] where bytes are no text in that encoding, or a file of UTF-8 holds zero bytes; with the line (1 for UTF-16).
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    let (encoding, rest) = marked(bytes);
    match encoding {
        Some(encoding) if encoding != UTF_8 => strictly(encoding, rest),
        _ => utf8(rest),
    }
}

/// As [`decode`], but XML may declare its encoding, and what it declares counts.
///
/// # Errors
/// As [`decode`], and where the declared encoding is not known.
pub fn decode_xml(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    let (marked, rest) = marked(bytes);
    match (marked, declared(rest)) {
        (Some(encoding), _) if encoding != UTF_8 => strictly(encoding, rest),
        (None, Some(label)) => match Encoding::for_label(label.as_bytes()) {
            // A file of single bytes that says UTF-16 was written by a program that converted it afterwards.
            Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE || encoding == UTF_8 => utf8(rest),
            Some(encoding) => strictly(encoding, rest),
            None => Err(NoText {
                line: 1,
                message: format!("it declares the encoding `{label}`, which is not known; save it as UTF-8"),
            }),
        },
        _ => utf8(rest),
    }
}

/// The encoding that the first bytes show, and what follows the mark. UTF-16 without a mark shows by its zeros.
fn marked(bytes: &[u8]) -> (Option<&'static Encoding>, &[u8]) {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        return (Some(encoding), &bytes[length..]);
    }
    let head = &bytes[..bytes.len().min(1024) & !1];
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let many = (head.len() / 4).max(4);
    match (zeros(0), zeros(1)) {
        (0, odd) if odd > 0 && odd >= many => (Some(UTF_16LE), bytes),
        (even, 0) if even > 0 && even >= many => (Some(UTF_16BE), bytes),
        _ => (None, bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(NoText {
            line: line_of(bytes, bytes.iter().position(|byte| *byte == 0).unwrap_or(0)),
            message: "this is not a text file (it holds zero bytes)".into(),
        }),
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(error) => Err(NoText {
            line: line_of(bytes, error.valid_up_to()),
            message: "the line is not UTF-8 text (GBK, Latin-1 or another older encoding?); save the file as UTF-8"
                .into(),
        }),
    }
}

fn strictly<'a>(encoding: &'static Encoding, bytes: &'a [u8]) -> Result<Cow<'a, str>, NoText> {
    encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .ok_or_else(|| NoText {
            line: 1,
            message: format!(
                "it should be {} by its first bytes, but other bytes are in it; save it as UTF-8",
                encoding.name()
            ),
        })
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The encoding in `<?xml version="1.0" encoding="..."?>`.
fn declared(bytes: &[u8]) -> Option<String> {
    let head = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = head.windows(2).position(|pair| pair == b"?>")?;
    // Bytes of a declaration are ASCII; whatever else stands there names no encoding.
    let head = String::from_utf8_lossy(&head[..end]);
    let (_, value) = head.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    value[1..].split_once(quote).map(|(label, _)| label.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, little: bool, mark: bool) -> Vec<u8> {
        let units = text.encode_utf16();
        let bytes = |unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() };
        let mark = if mark { bytes(0xfeff).to_vec() } else { Vec::new() };
        mark.into_iter().chain(units.flat_map(bytes)).collect()
    }

    #[test]
    fn text_is_the_same_in_every_encoding_that_shows_itself() {
        let text = "names: [红细胞, Größe]\r\ntrain: images\r\n";
        let mut files = vec![text.as_bytes().to_vec(), format!("\u{feff}{text}").into_bytes()];
        for little in [true, false] {
            files.extend([utf16(text, little, true), utf16(text, little, false)]);
        }
        for bytes in files {
            assert_eq!(decode(&bytes).as_deref(), Ok(text), "{bytes:?}");
        }
        assert_eq!(decode(b"").as_deref(), Ok(""));
    }

    #[test]
    fn what_is_no_text_is_named_with_its_line() {
        for (bytes, line, words) in [
            (&b"a\nb\n\xba\xec: 1\n"[..], 3, "not UTF-8"),
            (b"a\nb\0c", 2, "zero bytes"),
            (b"\xff\xfea", 1, "UTF-16LE"),
        ] {
            let error = decode(bytes).expect_err(words);
            assert!(error.line == line && error.message.contains(words), "{error:?}");
            assert!(
                error.message.contains("save") || error.message.contains("zero"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn xml_is_read_as_it_declares_itself() {
        for (label, name, bytes) in [
            ("GBK", "细胞", &b"\xcf\xb8\xb0\xfb"[..]),
            ("gb2312", "细胞", b"\xcf\xb8\xb0\xfb"),
            ("ISO-8859-1", "Größe", b"Gr\xf6\xdfe"),
            ("Shift_JIS", "細胞", b"\x8d\xd7\x96\x45"),
            ("utf-8", "Größe", "Größe".as_bytes()),
            // As .NET's string writers do.
            ("utf-16", "Größe", "Größe".as_bytes()),
        ] {
            let head = format!("<?xml version='1.0' encoding='{label}'?><a>");
            let file = [head.as_bytes(), bytes, b"</a>"].concat();
            let text = decode_xml(&file).expect(label);
            assert!(text.ends_with(&format!("<a>{name}</a>")), "{label}: {text}");
        }
        for (file, words) in [
            (&b"<?xml version=\"1.0\" encoding=\"klingon\"?><a/>"[..], "klingon"),
            (b"<?xml version=\"1.0\"?>\n<a>\xcf\xb8\xb0\xfb</a>", "not UTF-8"),
            (b"<?xml version=\"1.0\" encoding=\"GBK\"?><a>\xff\xff</a>", "GBK"),
        ] {
            assert!(decode_xml(file).expect_err(words).message.contains(words));
        }
    }
}
