//! What `--source` names: pictures, as files, folders, patterns or lists of them. What can't be read is named, with a way to pictures.
//!
//! What lives here: from words to files. What must not: decoding.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use yolo_data::endings::{self, IMAGE_EXTENSIONS, is_image};
use yolo_data::files;

use crate::error::{CliError, CliResult, io_error};
use crate::ui;

/// Endings of films.
const VIDEOS: [&str; 13] = [
    "asf", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv", "3gp",
];
/// Most kinds of files that a line about what is left out lists.
const KINDS: usize = 6;

/// Pictures of paths, folders, patterns and lists, in the order given and sorted within each folder and pattern. A line says what a folder
/// holds besides.
///
/// # Errors
/// Names what is no picture, does not exist or holds none.
pub fn pictures(given: &[String]) -> CliResult<Vec<PathBuf>> {
    let mut files = Vec::new();
    for text in given {
        files.extend(of(text, Path::new(text))?);
    }
    Ok(files)
}

/// Pictures of one source: `text` is how it was named, `path` where that is.
fn of(text: &str, path: &Path) -> CliResult<Vec<PathBuf>> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|error| io_error("can't read", path, &error))?;
        let inside: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
        return chosen(text, inside.map_err(|error| io_error("can't read", path, &error))?);
    }
    if path.is_file() {
        return match ending(path).as_str() {
            "txt" | "streams" => list(text, path),
            _ if is_image(path) || is_picture(path) => Ok(vec![path.to_owned()]),
            _ => Err(no_picture(text, path)),
        };
    }
    if let Some(error) = no_file(text) {
        return Err(error);
    }
    if text.contains(['*', '?', '[']) {
        let pattern = path.to_string_lossy();
        let found = glob::glob(&pattern)
            .map_err(|error| CliError::Usage(format!("--source {text}: not a pattern: {}", error.msg)))?;
        let found: Vec<PathBuf> = found
            .collect::<Result<_, _>>()
            .map_err(|error| CliError::Failed(format!("--source {text}: {error}")))?;
        if found.is_empty() {
            return Err(CliError::Failed(format!(
                "{text}: there are no pictures: nothing matches this pattern in {}",
                here()
            )));
        }
        return chosen(text, once(text, found));
    }
    Err(CliError::Failed(format!("{text}: there is no such file or folder")))
}

/// Each file once: a link to a folder above leads `**` round and round.
fn once(text: &str, found: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let count = found.len();
    // A link to a file is a name of its own, one to a folder is another way to what is there.
    let place = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let kept: Vec<PathBuf> = found
        .into_iter()
        .filter(|path| place(path).is_none_or(|place| seen.insert(place)))
        .collect();
    if kept.len() < count {
        ui::say(format!(
            "{text}: {} ways to files that are taken already are left out (links to folders)",
            count - kept.len()
        ));
    }
    kept
}

/// The pictures among `entries`, with a line about the rest.
fn chosen(text: &str, entries: Vec<PathBuf>) -> CliResult<Vec<PathBuf>> {
    let (mut taken, rest): (Vec<PathBuf>, Vec<PathBuf>) = entries
        .into_iter()
        .partition(|entry| is_image(entry) && entry.is_file() && !is_hidden(entry));
    taken.sort();
    let left_out = left_out(&rest);
    if taken.is_empty() {
        let there = left_out.map_or_else(|| "nothing else either".to_owned(), |text| format!("it holds {text}"));
        return Err(CliError::Failed(format!(
            "{text}: there are no pictures ({}): {there}{}",
            IMAGE_EXTENSIONS.join(", "),
            help_for(text, &rest)
        )));
    }
    if let Some(left_out) = left_out {
        let n = taken.len();
        ui::say(format!(
            "{text}: {n} picture{}; left out: {left_out}{}",
            if n == 1 { "" } else { "s" },
            help_for(text, &rest)
        ));
    }
    Ok(taken)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(files::is_clutter)
}

/// `1 video (.mp4), 2 .heic, 1 folder`; `None` if there is nothing but hidden files.
fn left_out(rest: &[PathBuf]) -> Option<String> {
    let mut kinds: BTreeMap<(u8, String), usize> = BTreeMap::new();
    for path in rest.iter().filter(|path| !is_hidden(path)) {
        let ending = ending(path);
        let kind = if path.is_dir() {
            (2, "folder".to_owned())
        } else if !path.exists() {
            (1, "broken link".to_owned())
        } else if VIDEOS.contains(&ending.as_str()) {
            (0, format!(".{ending} (video)"))
        } else if ending.is_empty() {
            (1, "without ending".to_owned())
        } else {
            (1, format!(".{ending}"))
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let mut parts: Vec<String> = kinds
        .iter()
        .take(KINDS)
        .map(|((_, kind), n)| format!("{n} {kind}"))
        .collect();
    let more: usize = kinds.values().skip(KINDS).sum();
    if more > 0 {
        parts.push(format!("{more} others"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What to do about the first kind of file that could be turned into pictures.
fn help_for(text: &str, rest: &[PathBuf]) -> String {
    let shown: Vec<&PathBuf> = rest.iter().filter(|path| !is_hidden(path)).collect();
    if let Some(folder) = shown.iter().find(|path| path.is_dir() && Path::new(text).is_dir()) {
        let inside = folder.parent().unwrap_or(folder).join("**").join("*.jpg");
        return format!(
            "\n  help: pictures in folders below: --source {}",
            quoted(&inside.to_string_lossy())
        );
    }
    let video = shown.iter().find(|path| VIDEOS.contains(&ending(path).as_str()));
    video.map_or(String::new(), |video| {
        format!("\n  help: videos can't be read; {}", frames_of_file(video))
    })
}

/// A file that holds the paths of pictures, one a line, beside it or from the working folder.
fn list(text: &str, path: &Path) -> CliResult<Vec<PathBuf>> {
    let bytes = std::fs::read(path).map_err(|error| io_error("can't read", path, &error))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let lines = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        CliError::Failed(format!(
            "{text}:{line}: this list of pictures is not UTF-8; save it as UTF-8"
        ))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let named = |error| at_line(text, index + 1, error);
        let entry = places(folder, line).into_iter().find(|place| exists(place));
        match entry {
            Some(place) if matches!(ending(&place).as_str(), "txt" | "streams") && place.is_file() => {
                return Err(named(CliError::Failed(format!(
                    "{line}: a list can't name another list"
                ))));
            }
            Some(place) => files.extend(of(&place.to_string_lossy(), &place).map_err(named)?),
            None => {
                let error = no_file(line).unwrap_or_else(|| {
                    let places: Vec<String> = places(folder, line).iter().map(|p| p.display().to_string()).collect();
                    CliError::Failed(format!("{line} is not there; looked at {}", places.join(" and ")))
                });
                return Err(named(error));
            }
        }
    }
    if files.is_empty() {
        return Err(CliError::Failed(format!("{text}: this list names no pictures")));
    }
    Ok(files)
}

/// Where a line of a list in `folder` may mean.
fn places(folder: &Path, line: &str) -> Vec<PathBuf> {
    let mut places = vec![folder.join(line)];
    if !folder.as_os_str().is_empty() {
        places.push(PathBuf::from(line));
    }
    if line.contains('\\') {
        // Written on Windows.
        places.push(folder.join(line.replace('\\', "/")));
    }
    places.dedup();
    places
}

fn exists(path: &Path) -> bool {
    let text = path.to_string_lossy();
    path.exists() || (text.contains(['*', '?', '[']) && glob::glob(&text).is_ok_and(|mut found| found.next().is_some()))
}

fn at_line(list: &str, line: usize, error: CliError) -> CliError {
    match error {
        CliError::Usage(text) => CliError::Usage(format!("{list}:{line}: {text}")),
        CliError::Failed(text) => CliError::Failed(format!("{list}:{line}: {text}")),
        other => other,
    }
}

/// Sources of other programs that are no files: cameras, streams, pages, the screen.
fn no_file(text: &str) -> Option<CliError> {
    let what = |what: &str, help: String| {
        Some(CliError::Usage(format!(
            "--source {text}: {what} can't be read\n  help: {help}"
        )))
    };
    let then = |folder: &str| format!("then `--source {folder}`");
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        let command = format!("ffmpeg -f v4l2 -i /dev/video{text} -frames:v 1 camera.jpg");
        return what(
            "cameras",
            format!("take a picture first: `{command}`, {}", then("camera.jpg")),
        );
    }
    if text.split_whitespace().next() == Some("screen") {
        let command = "ffmpeg -f x11grab -i :0 -frames:v 1 screen.png";
        return what(
            "the screen",
            format!("take a picture first: `{command}`, {}", then("screen.png")),
        );
    }
    let (scheme, rest) = text.split_once("://")?;
    let address = quoted(text);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if host.ends_with("youtube.com") || host.ends_with("youtu.be") {
        let command = format!("yt-dlp -o clip.mp4 {address} && {}", frames("clip.mp4", "clip"));
        return what(
            "videos of the net",
            format!("get its frames first: `{command}`, {}", then("clip")),
        );
    }
    let file = Path::new(rest.split(['?', '#']).next().unwrap_or_default());
    if matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") && is_image(file) {
        let name = quoted(&file.file_name().unwrap_or_default().to_string_lossy());
        let command = format!("curl -L -o {name} {address}");
        return what(
            "pictures of the net",
            format!("download it first: `{command}`, {}", then(&name)),
        );
    }
    // Ten seconds, two frames each.
    let command = format!("mkdir -p frames && ffmpeg -i {address} -t 10 -vf fps=2 -qscale:v 2 frames/%06d.jpg");
    what("streams", format!("get frames first: `{command}`, {}", then("frames")))
}

fn no_picture(text: &str, path: &Path) -> CliError {
    let ending = ending(path);
    if VIDEOS.contains(&ending.as_str()) {
        return CliError::Usage(format!(
            "{text}: videos can't be read\n  help: {}",
            frames_of_file(path)
        ));
    }
    let what = endings::why_not(path).unwrap_or("this is no picture");
    CliError::Usage(format!(
        "{text}: {what} (known endings: {})",
        IMAGE_EXTENSIONS.join(", ")
    ))
}

/// Whether the content is a picture that can be read, whatever the name says.
fn is_picture(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| yolo_data::probe::probe(&bytes).is_ok())
}

fn frames_of_file(video: &Path) -> String {
    let stem = video.file_stem().unwrap_or_default().to_string_lossy();
    let folder = format!("{stem}-frames");
    format!(
        "get its frames first: `{}`, then `--source {}`",
        frames(&video.to_string_lossy(), &folder),
        quoted(&folder)
    )
}

/// A command that writes all frames of a video into a new folder.
fn frames(video: &str, folder: &str) -> String {
    format!(
        "mkdir -p {} && ffmpeg -i {} -qscale:v 2 {}",
        quoted(folder),
        quoted(video),
        quoted(&format!("{folder}/%06d.jpg"))
    )
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-%:+@=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn here() -> String {
    std::env::current_dir().map_or_else(
        |_| "the working folder".to_owned(),
        |folder| folder.display().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_gets_a_command_that_makes_pictures() {
        for (source, words) in [
            ("0", ["cameras can't be read", "/dev/video0"]),
            ("screen 0 100 100 512 256", ["the screen can't be read", "x11grab"]),
            (
                "rtsp://10.0.0.7:554/live",
                ["streams can't be read", "ffmpeg -i rtsp://10.0.0.7:554/live"],
            ),
            (
                "https://youtu.be/LNwODJXcvt4",
                ["videos of the net can't be read", "yt-dlp"],
            ),
            (
                "https://example.org/a/b.jpg?x=1&y=2",
                [
                    "curl -L -o b.jpg 'https://example.org/a/b.jpg?x=1&y=2'",
                    "--source b.jpg",
                ],
            ),
        ] {
            let error = no_file(source).expect("an error").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{source}: {error}");
        }
        assert!(no_file("photos/a.jpg").is_none());
    }

    #[test]
    fn words_for_a_shell_are_quoted_where_they_must_be() {
        assert_eq!(quoted("my clip.avi"), "'my clip.avi'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("clip-1.avi"), "clip-1.avi");
    }
}
