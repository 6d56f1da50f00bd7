//! Custom sections of a module: how it describes itself, read and written without running or even validating it.
//!
//! A module is eight bytes of header and then sections: one byte of id, the size as LEB128, the content. Custom sections have
//! the id 0 and begin with their name, which has its length in front as well (WebAssembly Core 2.0, section 5.5.3).

/// What every module begins with.
pub const MAGIC: [u8; 4] = *b"\0asm";
const CORE_VERSION: [u8; 4] = [1, 0, 0, 0];
const HEADER: usize = 8;
const CUSTOM: u8 = 0;

/// What is wrong with the bytes, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub reason: String,
    /// Offset in the file.
    pub offset: usize,
}

/// One section.
struct Section<'a> {
    /// Where it starts and ends in the module.
    range: std::ops::Range<usize>,
    id: u8,
    content: &'a [u8],
}

/// The content of the custom section `name`, if there is one; two are an error.
///
/// # Errors
/// Bytes that are no core module.
pub fn find<'a>(module: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut found = None;
    for section in sections(module)? {
        if let Some(content) = custom(&section, name)?
            && found.replace(content).is_some()
        {
            return Err(Malformed {
                reason: format!("two custom sections `{name}`"),
                offset: section.range.start,
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
    let mut out = module.get(..HEADER).unwrap_or_default().to_vec();
    for section in sections(module)? {
        if custom(&section, name)?.is_none() {
            out.extend_from_slice(&module[section.range]);
        }
    }
    let mut body = Vec::new();
    write_leb(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(content);
    out.push(CUSTOM);
    write_leb(&mut out, body.len());
    out.extend(body);
    Ok(out)
}

/// What follows the name of a custom section of this name.
fn custom<'a>(section: &Section<'a>, name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    if section.id != CUSTOM {
        return Ok(None);
    }
    let bad = |reason: &str| Malformed {
        reason: reason.to_owned(),
        offset: section.range.start,
    };
    let mut at = 0;
    let length = read_leb(section.content, &mut at).ok_or_else(|| bad("a custom section without a name"))?;
    let end = at.checked_add(length).filter(|end| *end <= section.content.len());
    let end = end.ok_or_else(|| bad("the name of a custom section is longer than the section"))?;
    Ok((&section.content[at..end] == name.as_bytes()).then(|| &section.content[end..]))
}

/// The sections in order, each within the bytes.
fn sections(module: &[u8]) -> Result<Vec<Section<'_>>, Malformed> {
    let bad = |reason: &str, offset: usize| {
        Err(Malformed {
            reason: reason.to_owned(),
            offset,
        })
    };
    if module.get(..4) != Some(&MAGIC) {
        return bad("it does not begin with `\\0asm`", 0);
    }
    match module.get(4..HEADER) {
        Some(version) if version == CORE_VERSION => {}
        Some([_, 0, 1, 0]) => return bad("it is a component; metrics are core modules", 4),
        Some(_) => return bad("it is not of version 1", 4),
        None => return bad("it ends within its header", module.len()),
    }
    let mut found = Vec::new();
    let mut at = HEADER;
    while at < module.len() {
        let start = at;
        let id = module[at];
        at += 1;
        let Some(size) = read_leb(module, &mut at) else {
            return bad("the size of a section can't be read", start);
        };
        let Some(end) = at.checked_add(size).filter(|end| *end <= module.len()) else {
            return bad("a section is longer than the file", start);
        };
        found.push(Section {
            range: start..end,
            id,
            content: &module[at..end],
        });
        at = end;
    }
    Ok(found)
}

/// An unsigned 32-bit LEB128 at `at`, which moves behind it.
fn read_leb(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| value as usize);
        }
    }
    None
}

fn write_leb(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
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
        assert!(find(huge, "a").is_err_and(|error| error.offset == 8));
        let endless = b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\xff\xff";
        assert!(find(endless, "a").is_err());
    }
}
