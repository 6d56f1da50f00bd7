//! What an ELF file says of itself, read from the file: nothing is loaded and no code runs. Enough to tell a plugin from any other
//! library, to name what it lacks, and to read the versions in its table.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// A shared library for this machine.
#[derive(Debug, Clone, Default)]
pub struct Elf {
    /// Names that it exports, with address and size.
    pub exports: Vec<(String, u64, u64)>,
    /// Libraries that it needs.
    pub needed: Vec<String>,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Section {
    kind: u32,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
}

const DYNAMIC: u32 = 6;
const NOBITS: u32 = 8;
const DYNSYM: u32 = 11;
/// Largest table that is read: a library with a million symbols has 24 MiB of them.
const MAX_TABLE: u64 = 64 << 20;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: u16 = 0;

impl Elf {
    /// Reads a file; what is wrong with it, if it is no shared library for this machine.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
        let mut head = [0u8; 64];
        let got = read_some(&mut file, &mut head).map_err(|error| format!("it can't be read: {error}"))?;
        if let Some(other) = other_format(&head[..got]) {
            return Err(other.into());
        }
        if got < head.len() {
            return Err("it ends within its header".into());
        }
        if head[4] != 2 || head[5] != 1 {
            return Err("it is an ELF file, but not a 64-bit little-endian one".into());
        }
        let machine = u16_at(&head, 18);
        if machine != MACHINE && MACHINE != 0 {
            return Err(format!(
                "it was built for another machine (ELF machine {machine}, this one is {MACHINE})"
            ));
        }
        match u16_at(&head, 16) {
            3 => {}
            1 => return Err("it is an object file (.o), not a shared library".into()),
            2 => return Err("it is a program, not a shared library".into()),
            other => return Err(format!("it is an ELF file of type {other}, not a shared library")),
        }
        let (start, entry, count) = (
            u64_at(&head, 40),
            u64::from(u16_at(&head, 58)),
            u64::from(u16_at(&head, 60)),
        );
        if start == 0 || entry != 64 || count == 0 {
            return Err("it has no section table (was it stripped of it?)".into());
        }
        let table = part(&mut file, start, entry * count)?;
        let sections: Vec<Section> = table.chunks_exact(64).map(section).collect();
        let mut elf = Self {
            sections,
            ..Self::default()
        };
        for section in elf.sections.clone() {
            match section.kind {
                DYNSYM => elf.read_symbols(&mut file, section)?,
                DYNAMIC => elf.read_needed(&mut file, section)?,
                _ => {}
            }
        }
        Ok(elf)
    }

    fn read_symbols(&mut self, file: &mut File, section: Section) -> Result<(), String> {
        let symbols = part(file, section.offset, section.size)?;
        let names = self.strings(file, section)?;
        for symbol in symbols.chunks_exact(24) {
            let (name, info, home) = (u32_at(symbol, 0), symbol[4], u16_at(symbol, 6));
            let global = matches!(info >> 4, 1 | 2);
            if global && home != 0 {
                let name = string(&names, name as usize);
                self.exports.push((name, u64_at(symbol, 8), u64_at(symbol, 16)));
            }
        }
        Ok(())
    }

    fn read_needed(&mut self, file: &mut File, section: Section) -> Result<(), String> {
        let entries = part(file, section.offset, section.size)?;
        let names = self.strings(file, section)?;
        for entry in entries.chunks_exact(16) {
            match u64_at(entry, 0) {
                0 => break,
                1 => self.needed.push(string(&names, u64_at(entry, 8) as usize)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The strings that a section's names point into.
    fn strings(&self, file: &mut File, section: Section) -> Result<Vec<u8>, String> {
        let strings = self
            .sections
            .get(section.link as usize)
            .ok_or("its section table is damaged")?;
        part(file, strings.offset, strings.size)
    }

    /// The first `N` bytes at an exported name, as they stand in the file (pointers are not filled in yet).
    pub fn bytes_at<const N: usize>(&self, path: &Path, name: &str) -> Option<[u8; N]> {
        let (_, address, size) = self.exports.iter().find(|(own, ..)| own == name)?;
        if *size < N as u64 {
            return None;
        }
        let holds = |s: &&Section| {
            s.address != 0 && s.kind != NOBITS && *address >= s.address && address - s.address + N as u64 <= s.size
        };
        let home = self.sections.iter().find(holds)?;
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::Start(home.offset + (address - home.address)))
            .ok()?;
        let mut bytes = [0u8; N];
        file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
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

fn read_some(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

fn part(file: &mut File, offset: u64, size: u64) -> Result<Vec<u8>, String> {
    if size > MAX_TABLE {
        return Err(format!("it has a table of {size} bytes"));
    }
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|_| "it is shorter than it says: was the copy cut off?".to_owned())?;
    Ok(bytes)
}

fn section(bytes: &[u8]) -> Section {
    Section {
        kind: u32_at(bytes, 4),
        address: u64_at(bytes, 16),
        offset: u64_at(bytes, 24),
        size: u64_at(bytes, 32),
        link: u32_at(bytes, 40),
    }
}

fn string(table: &[u8], at: usize) -> String {
    let rest = table.get(at..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
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
            let _ = Elf::read(&file).map(|elf| elf.bytes_at::<16>(&file, "x"));
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
