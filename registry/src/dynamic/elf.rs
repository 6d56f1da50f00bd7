//! What an ELF file says of itself, read from the file with `object`: nothing is loaded and no code runs. Enough to tell a plugin from
//! any other library, to name what it lacks, and to read the versions in its table. Only the tables that are asked for are read, since
//! a library with its debug information has hundreds of megabytes.

use std::fs::File;
use std::path::Path;

use object::LittleEndian as Little;
use object::elf::{
    self, DT_NEEDED, DT_NULL, ELFCLASS64, ELFDATA2LSB, ET_DYN, ET_EXEC, ET_REL, FileHeader64, SHN_UNDEF, SHT_DYNAMIC,
    SHT_DYNSYM, SHT_NOBITS, STB_GLOBAL, STB_WEAK, SectionHeader64, Sym64,
};
use object::read::elf::{Dyn as _, FileHeader as _, SectionHeader as _, Sym as _};
use object::read::{ReadCache, ReadRef as _, StringTable};

/// A shared library for this machine.
#[derive(Debug)]
pub struct Elf {
    /// Names that it exports, with address and size.
    pub exports: Vec<(String, u64, u64)>,
    /// Libraries that it needs.
    pub needed: Vec<String>,
    file: ReadCache<File>,
}

/// Largest table that is read: a library with a million symbols has 24 MiB of them.
const MAX_TABLE: u64 = 64 << 20;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = elf::EM_AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: u16 = 0;

type Header = FileHeader64<Little>;
type Section = SectionHeader64<Little>;

impl Elf {
    /// Reads a file; what is wrong with it, if it is no shared library for this machine.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
        let file = ReadCache::new(file);
        let sections = sections(&file)?;
        let (mut exports, mut needed) = (Vec::new(), Vec::new());
        for section in sections {
            match section.sh_type(Little) {
                SHT_DYNSYM => exports.extend(exported(&file, sections, section)?),
                SHT_DYNAMIC => needed.extend(wanted(&file, sections, section)?),
                _ => {}
            }
        }
        Ok(Self { exports, needed, file })
    }

    /// The first `N` bytes at an exported name, as they stand in the file (pointers are not filled in yet).
    pub fn bytes_at<const N: usize>(&self, name: &str) -> Option<[u8; N]> {
        let length = N as u64;
        let (_, address, size) = self.exports.iter().find(|(own, ..)| own == name)?;
        if *size < length {
            return None;
        }
        let place = |section: &Section| {
            let start = section.sh_addr(Little);
            let within = address.checked_sub(start)?;
            let loaded = start != 0 && section.sh_type(Little) != SHT_NOBITS;
            let holds = within.checked_add(length)? <= section.sh_size(Little);
            (loaded && holds).then(|| section.sh_offset(Little).checked_add(within))?
        };
        let offset = sections(&self.file).ok()?.iter().find_map(place)?;
        (&self.file).read_bytes_at(offset, length).ok()?.try_into().ok()
    }
}

/// The section table of a shared library for this machine.
fn sections(file: &ReadCache<File>) -> Result<&[Section], String> {
    let length = file.len().map_err(|()| "its length can't be read")?;
    let head = file.read_bytes_at(0, length.min(64)).map_err(|()| "it can't be read")?;
    if let Some(other) = other_format(head) {
        return Err(other.into());
    }
    if head.len() < 64 {
        return Err("it ends within its header".into());
    }
    if head[4] != ELFCLASS64 || head[5] != ELFDATA2LSB {
        return Err("it is an ELF file, but not a 64-bit little-endian one".into());
    }
    let header = Header::parse(file).map_err(|error| format!("its header is damaged: {error}"))?;
    let machine = header.e_machine(Little);
    if machine != MACHINE && MACHINE != 0 {
        return Err(format!(
            "it was built for another machine (ELF machine {machine}, this one is {MACHINE})"
        ));
    }
    match header.e_type(Little) {
        ET_DYN => {}
        ET_REL => return Err("it is an object file (.o), not a shared library".into()),
        ET_EXEC => return Err("it is a program, not a shared library".into()),
        other => return Err(format!("it is an ELF file of type {other}, not a shared library")),
    }
    let entry = header.e_shentsize(Little);
    if header.e_shoff(Little) == 0 || usize::from(entry) != size_of::<Section>() {
        return Err("it has no section table (was it stripped of it?)".into());
    }
    match header.section_headers(Little, file) {
        Ok([]) => Err("it has no section table (was it stripped of it?)".into()),
        Ok(sections) => Ok(sections),
        Err(_) => Err(CUT_OFF.into()),
    }
}

/// What a file is that lacks what its tables speak of.
const CUT_OFF: &str = "it is shorter than it says: was the copy cut off?";

/// The global symbols of a symbol table that have a place in the library.
fn exported(
    file: &ReadCache<File>,
    sections: &[Section],
    section: &Section,
) -> Result<Vec<(String, u64, u64)>, String> {
    let strings = strings(file, sections, section)?;
    let bytes = content(file, section)?;
    let symbols: &[Sym64<Little>] =
        object::pod::slice_from_all_bytes(bytes).map_err(|()| "its symbol table is damaged")?;
    let exported = symbols
        .iter()
        .filter(|symbol| matches!(symbol.st_bind(), STB_GLOBAL | STB_WEAK) && symbol.st_shndx(Little) != SHN_UNDEF);
    let named = exported.map(|symbol| {
        let name = string(&strings, symbol.st_name(Little));
        (name, symbol.st_value(Little), symbol.st_size(Little))
    });
    Ok(named.collect())
}

/// The libraries that a dynamic section asks for.
fn wanted(file: &ReadCache<File>, sections: &[Section], section: &Section) -> Result<Vec<String>, String> {
    let strings = strings(file, sections, section)?;
    content(file, section)?;
    let entries = section
        .dynamic(Little, file)
        .map_err(|_| "its dynamic section is damaged")?;
    let entries = entries.map_or(&[][..], |(entries, _)| entries);
    let needed = entries
        .iter()
        .take_while(|entry| entry.tag(Little) != DT_NULL)
        .filter(|entry| entry.tag(Little) == DT_NEEDED);
    Ok(needed
        .map(|entry| entry.val32(Little).map_or(String::new(), |at| string(&strings, at)))
        .collect())
}

/// The strings that a section's names point into.
fn strings<'a>(file: &'a ReadCache<File>, sections: &[Section], section: &Section) -> Result<StringTable<'a>, String> {
    let home = sections
        .get(section.sh_link(Little) as usize)
        .ok_or("its section table is damaged")?;
    // As one piece: a read for each name of a large library takes seconds.
    let bytes = content(file, home)?;
    Ok(StringTable::new(bytes, 0, bytes.len() as u64))
}

/// The bytes of a section.
fn content<'a>(file: &'a ReadCache<File>, section: &Section) -> Result<&'a [u8], String> {
    let size = section.sh_size(Little);
    if size > MAX_TABLE {
        return Err(format!("it has a table of {size} bytes"));
    }
    section.data(Little, file).map_err(|_| CUT_OFF.to_owned())
}

fn string(table: &StringTable<'_>, at: u32) -> String {
    String::from_utf8_lossy(table.get(at).unwrap_or_default()).into_owned()
}

/// What a file is that is no ELF file.
fn other_format(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"\x7fELF") {
        return None;
    }
    Some(match head {
        [] => "it is empty",
        [b'M', b'Z', ..] => "it is a Windows library; this yolo loads ELF libraries",
        [0xCF, 0xFA, 0xED, 0xFE, ..] | [0xCA, 0xFE, 0xBA, 0xBE, ..] => {
            "it is a macOS library; this yolo loads ELF libraries"
        }
        [b'\0', b'a', b's', b'm', ..] => "it is a WebAssembly module; give it the ending `.wasm`",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => {
            "it is a static library (.a, .rlib); build it with crate-type = [\"cdylib\"]"
        }
        text if text.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => "it is a text file",
        _ => "it is no ELF file",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real library, this very program, and every way of cutting it off: an answer each time.
    #[test]
    fn files_are_told_apart_and_damage_is_survived() {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        let libc = maps
            .split_whitespace()
            .find(|word| word.contains("/libc.so"))
            .expect("libc is loaded");
        let elf = Elf::read(Path::new(libc)).expect("a library");
        assert!(
            elf.exports.iter().any(|(name, ..)| name == "malloc"),
            "malloc is exported"
        );
        assert!(
            elf.needed.iter().any(|name| name.starts_with("ld-linux")),
            "{:?}",
            elf.needed
        );

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lib.so");
        let whole = std::fs::read(libc).expect("a file");
        for cut in [0, 1, 4, 63, 64, 100, 5000, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..cut]).expect("a file");
            let error = Elf::read(&file).expect_err("cut off");
            assert!(error.starts_with("it "), "{cut}: {error}");
        }
        let mut random = 1u64;
        for _ in 0..200 {
            let mut damaged = whole[..4096.min(whole.len())].to_vec();
            for _ in 0..8 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 33) as usize % 64;
                damaged[at.max(4)] = (random >> 20) as u8;
            }
            std::fs::write(&file, &damaged).expect("a file");
            let _ = Elf::read(&file).map(|elf| elf.bytes_at::<16>("x"));
        }
        for (content, words) in [
            (&b"#!/bin/sh\n"[..], "text file"),
            (b"MZ\x90\0", "Windows"),
            (b"!<arch>\n", "static"),
        ] {
            std::fs::write(&file, content).expect("a file");
            assert!(Elf::read(&file).expect_err("no library").contains(words));
        }
    }
}
