//! Custom sections of a module: how it describes itself, read and written without running or even validating it. The bytes are read by
//! `wasmparser` and written by `wasm-encoder`, which wasmtime brings along.

use wasm_encoder::{CustomSection, Module, RawSection};
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};

/// What every module begins with.
pub const MAGIC: [u8; 4] = *b"\0asm";

/// What is wrong with the bytes, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub reason: String,
    /// Offset in the file.
    pub offset: usize,
}

impl From<BinaryReaderError> for Malformed {
    fn from(error: BinaryReaderError) -> Self {
        Self {
            reason: error.message().to_owned(),
            offset: error.offset(),
        }
    }
}

/// The content of the custom section `name`, if there is one; two are an error.
///
/// # Errors
/// Bytes that are no core module.
pub fn find<'a>(module: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut found = None;
    for payload in payloads(module)? {
        if let Payload::CustomSection(section) = payload?
            && section.name() == name
            && found.replace(section.data()).is_some()
        {
            return Err(Malformed {
                reason: format!("two custom sections `{name}`"),
                offset: section.range().start,
            });
        }
    }
    Ok(found)
}

/// The module with `content` as its only custom section `name`.
///
/// # Errors
/// Bytes that are no core module.
pub fn replace(module: &[u8], name: &str, content: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Module::new();
    for payload in payloads(module)? {
        let payload = payload?;
        if matches!(&payload, Payload::CustomSection(section) if section.name() == name) {
            continue;
        }
        if let Some((id, range)) = payload.as_section() {
            // The size of a section that ends the module is only its own word.
            let data = module.get(range.clone()).ok_or_else(|| Malformed {
                reason: "a section is longer than the module".to_owned(),
                offset: range.start,
            })?;
            out.section(&RawSection { id, data });
        }
    }
    out.section(&CustomSection {
        name: name.into(),
        data: content.into(),
    });
    Ok(out.finish())
}

/// What a core module consists of, in order, once its header has been looked at.
fn payloads(module: &[u8]) -> Result<impl Iterator<Item = Result<Payload<'_>, BinaryReaderError>>, Malformed> {
    let bad = |reason: &str, offset: usize| {
        Err(Malformed {
            reason: reason.to_owned(),
            offset,
        })
    };
    if !module.starts_with(&MAGIC) {
        return bad("it does not begin with `\\0asm`", 0);
    }
    let mut payloads = Parser::new(0).parse_all(module);
    match payloads.next() {
        Some(Ok(Payload::Version {
            encoding: Encoding::Module,
            ..
        })) => Ok(payloads),
        Some(Err(error)) => Err(error.into()),
        _ => bad("it is a component; metrics are core modules", MAGIC.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_section_is_written_read_and_replaced() {
        assert_eq!(find(EMPTY, "a"), Ok(None));
        let long = vec![7u8; 300];
        let once = replace(EMPTY, "a", &long).expect("a module");
        assert_eq!(find(&once, "a"), Ok(Some(long.as_slice())));
        assert_eq!(find(&once, "b"), Ok(None));
        let twice = replace(&replace(&once, "b", b"x").expect("a module"), "a", b"new").expect("a module");
        assert_eq!(find(&twice, "a"), Ok(Some(b"new".as_slice())));
        assert_eq!(find(&twice, "b"), Ok(Some(b"x".as_slice())));
        let mut doubled = once.clone();
        doubled.extend_from_slice(&once[8..]);
        assert!(find(&doubled, "a").is_err_and(|error| error.reason.contains("two custom sections")));
    }

    /// Linkers leave room in front of a section: its size takes five bytes, whatever it is.
    #[test]
    fn sizes_of_any_width_are_read() {
        let mut padded = EMPTY.to_vec();
        padded.extend_from_slice(b"\0\x83\x80\x80\x80\0\x01z\x07");
        assert_eq!(find(&padded, "z"), Ok(Some(b"\x07".as_slice())));
        let described = replace(&padded, "a", b"x").expect("a module");
        assert_eq!(find(&described, "z"), Ok(Some(b"\x07".as_slice())));
        assert_eq!(find(&described, "a"), Ok(Some(b"x".as_slice())));
        // Everything but the section that is written stays as it is.
        let text = r#"(module (memory (export "memory") 1) (func (export "f") (result i32) i32.const 7) (data (i32.const 0) "abc"))"#;
        let module = wat::parse_str(text).expect("text form");
        let described = replace(&module, "a", b"x").expect("a module");
        assert_eq!(
            described.strip_prefix(module.as_slice()),
            Some(b"\0\x03\x01ax".as_slice())
        );
        assert_eq!(replace(&described, "a", b"x"), Ok(described));
    }

    #[test]
    fn damaged_bytes_are_refused_with_their_place() {
        let module = replace(EMPTY, "a", b"content").expect("a module");
        for cut in 0..module.len() {
            let result = find(&module[..cut], "a");
            assert!(result.is_err() || cut == 8, "cut at {cut}: {result:?}");
        }
        let component = b"\0asm\x0d\0\x01\0";
        assert!(find(component, "a").is_err_and(|error| error.reason.contains("component")));
        let huge = b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\x0f";
        assert!(find(huge, "a").is_err_and(|error| (8..=huge.len()).contains(&error.offset)));
        let endless = b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\xff\xff";
        assert!(find(endless, "a").is_err());
    }
}
