//! What `yolo detect --source` takes, and what it says of the rest.

use std::path::Path;

use yolo_data::Image;

use crate::support::{Said, files, random_weights, tiny_model, yolo};

/// A folder with a tiny model and some pictures and other files.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let weights = random_weights(&tiny_model(path), path, 2);
    std::fs::rename(weights, path.join("w.safetensors")).expect("weights");
    std::fs::create_dir_all(path.join("mixed/below")).expect("a folder");
    for name in ["mixed/a.png", "mixed/b.jpg", "mixed/below/c.jpg", "d.png"] {
        Image::filled(40, 30, [120; 3])
            .save(&path.join(name))
            .expect("a picture");
    }
    for name in [
        "clip.MP4",
        "old.avi",
        "photo.heic",
        "raw.dng",
        "notes.txt",
        ".DS_Store",
        "._a.png",
        "Thumbs.db",
        "README",
    ] {
        std::fs::write(path.join("mixed").join(name), b"\0\0\0 ftyp").expect("a file");
    }
    folder
}

fn detect(folder: &Path, source: &[&str]) -> Said {
    let base = [
        "detect",
        "--weights",
        "w.safetensors",
        "--img",
        "64",
        "--save-dir",
        "out",
        "--source",
    ];
    yolo(folder, &[&base, source].concat())
}

#[test]
fn a_folder_says_in_one_line_what_it_leaves_out() {
    let folder = place();
    let said = detect(folder.path(), &["mixed"]).ok();
    assert!(said.err.contains("mixed: 2 pictures; left out: "), "{}", said.err);
    for kind in [
        "1 .avi (video)",
        "1 .mp4 (video)",
        "1 .heic",
        "1 .dng",
        "1 .txt",
        "1 without ending",
    ] {
        assert!(said.err.contains(kind), "`{kind}` is missing: {}", said.err);
    }
    for hidden in ["DS_Store", "Thumbs", "._a"] {
        assert!(!said.err.contains(hidden), "{}", said.err);
    }
    assert_eq!(files(&folder.path().join("out")), ["a.png", "b.jpg"]);
    // The advice leads to the picture in the folder below.
    assert!(said.err.contains("--source 'mixed/**/*.jpg'"), "{}", said.err);
    let below = detect(folder.path(), &["mixed/**/*.jpg"]).ok();
    assert!(below.out.contains("mixed/below/c.jpg"), "{}", below.out);
    let silent = detect(folder.path(), &["d.png"]).ok();
    assert!(!silent.err.contains("left out"), "{}", silent.err);
}

#[test]
fn a_folder_without_pictures_is_an_error_that_says_what_is_there() {
    let folder = place();
    for name in ["empty", "films", "hidden"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    std::fs::write(folder.path().join("films/my clip.mov"), "x").expect("a file");
    std::fs::write(folder.path().join("hidden/.DS_Store"), "x").expect("a file");
    detect(folder.path(), &["empty"]).fails(1, &["empty: there are no pictures", "nothing else"]);
    detect(folder.path(), &["hidden"]).fails(1, &["there are no pictures", "nothing else"]);
    detect(folder.path(), &["films"]).fails(
        1,
        &[
            "1 .mov (video)",
            "videos can't be read",
            "ffmpeg -i 'films/my clip.mov'",
        ],
    );
    detect(folder.path(), &["empty/*.jpg"]).fails(1, &["empty/*.jpg", "nothing matches"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn lists_name_pictures_from_their_folder_or_the_working_folder() {
    let folder = place();
    let path = folder.path();
    std::fs::create_dir(path.join("lists")).expect("a folder");
    std::fs::create_dir(path.join("lists/near")).expect("a folder");
    std::fs::copy(path.join("d.png"), path.join("lists/near/e.png")).expect("a copy");
    let absolute = path.join("mixed/b.jpg").display().to_string();
    let text =
        format!("\u{feff}near/e.png\r\n\r\n# a remark\r\n  d.png \r\n{absolute}\r\nnear\\e.png\r\nmixed/below\r\n");
    std::fs::write(path.join("lists/all.txt"), text).expect("a list");
    let said = detect(path, &["lists/all.txt", "--nosave", "--json"]).ok().json();
    let seen: Vec<String> = said["images"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            row["path"]
                .as_str()
                .expect("a path")
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(seen, ["e.png", "d.png", "b.jpg", "e.png", "c.jpg"]);

    for (name, text, expected) in [
        (
            "missing.txt",
            "d.png\nnot/there.jpg\n",
            &[
                "missing.txt:2",
                "not/there.jpg is not there",
                "lists/not/there.jpg and not/there.jpg",
            ][..],
        ),
        ("empty.txt", "\n# nothing\n", &["empty.txt", "names no pictures"]),
        (
            "cams.streams",
            "rtsp://10.0.0.1/live\n",
            &["cams.streams:1", "streams can't be read", "ffmpeg"],
        ),
        ("loop.txt", "d.png\nall.txt\n", &["loop.txt:2", "another list"]),
        (
            "film.txt",
            "../mixed/clip.MP4\n",
            &["film.txt:1", "videos can't be read"],
        ),
    ] {
        let list = format!("lists/{name}");
        std::fs::write(path.join(&list), text).expect("a list");
        let said = detect(path, &[&list]);
        let code = said.code;
        assert!(code == 1 || code == 2, "{name}");
        said.fails(code, expected);
    }
    std::fs::write(path.join("lists/latin.txt"), b"d.png\nstra\xdfe.jpg\n").expect("a list");
    detect(path, &["lists/latin.txt"]).fails(1, &["lists/latin.txt:2", "UTF-8"]);
}

#[test]
fn videos_streams_cameras_and_pages_are_refused_with_what_to_do() {
    let folder = place();
    for (source, expected) in [
        ("0", &["cameras can't be read", "ffmpeg"][..]),
        (
            "rtsp://127.0.0.1:9/live",
            &["streams can't be read", "ffmpeg -i rtsp://127.0.0.1:9/live"],
        ),
        ("https://youtu.be/LNwODJXcvt4", &["yt-dlp"]),
        (
            "https://example.org/bus.jpg",
            &["curl -L -o bus.jpg https://example.org/bus.jpg", "--source bus.jpg"],
        ),
        ("screen", &["the screen can't be read"]),
        (
            "mixed/clip.MP4",
            &[
                "videos can't be read",
                "mkdir -p clip-frames && ffmpeg -i mixed/clip.MP4",
                "--source clip-frames",
            ],
        ),
        (
            "mixed/photo.heic",
            &["photo.heic", ".heic", "convert them to JPEG or PNG"],
        ),
        ("mixed/README", &["README", "no picture"]),
    ] {
        detect(folder.path(), &[source]).fails(2, expected);
    }
    detect(folder.path(), &["nowhere.jpg"]).fails(1, &["nowhere.jpg", "no such file"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn endings_are_no_obstacle_to_a_picture_that_is_named() {
    let folder = place();
    std::fs::copy(folder.path().join("mixed/b.jpg"), folder.path().join("B.JPE")).expect("a copy");
    std::fs::copy(folder.path().join("d.png"), folder.path().join("picture")).expect("a copy");
    std::fs::copy(folder.path().join("mixed/b.jpg"), folder.path().join("x.JPG")).expect("a copy");
    for name in ["B.JPE", "picture", "x.JPG"] {
        let said = detect(folder.path(), &[name, "--json", "--nosave"]).ok().json();
        assert_eq!(said["images"][0]["width"], 40, "{name}");
    }
}

#[test]
fn pictures_behind_the_first_one_of_a_file_are_said() {
    let folder = place();
    let path = folder.path().join("moving.gif");
    let mut encoder = image::codecs::gif::GifEncoder::new(std::fs::File::create(path).expect("a file"));
    for value in [40, 160] {
        let frame = image::RgbaImage::from_pixel(40, 30, image::Rgba([value, value, 9, 255]));
        encoder.encode_frame(image::Frame::new(frame)).expect("a frame");
    }
    drop(encoder);
    let said = detect(folder.path(), &["moving.gif"]).ok();
    assert!(
        said.err
            .contains("note: moving.gif: the picture is animated; its first frame is used"),
        "{}",
        said.err
    );
    assert!(!detect(folder.path(), &["d.png"]).ok().err.contains("note:"));
}

/// Names of files that are no UTF-8, as old archives leave them.
#[cfg(unix)]
#[test]
fn names_of_other_encodings_are_no_obstacle() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = place();
    let odd = folder.path().join("odd");
    std::fs::create_dir(&odd).expect("a folder");
    std::fs::copy(
        folder.path().join("d.png"),
        odd.join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png")),
    )
    .expect("a copy");
    let said = detect(folder.path(), &["odd", "--save-txt", "--json"]).ok();
    assert_eq!(said.json()["images"][0]["width"], 40);
    let mut named = crate::support::command(folder.path());
    named
        .args(["detect", "--weights", "w.safetensors", "--source"])
        .arg(std::ffi::OsStr::from_bytes(b"odd/\xff\xfe.png"));
    let done = named.output().expect("it runs");
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(2) && text.contains("no UTF-8 text"),
        "{text}"
    );
}

#[test]
fn crops_are_written_by_class_and_stay_on_the_picture() {
    let folder = place();
    let said = detect(
        folder.path(),
        &[
            "d.png",
            "--save-crop",
            "--nosave",
            "--conf-thres",
            "0",
            "--max-det",
            "3",
            "--agnostic-nms",
            "--json",
        ],
    );
    let found = said.ok().json();
    let count = found["images"][0]["detections"].as_array().expect("detections").len();
    let crops = files(&folder.path().join("out/crops"));
    assert_eq!(crops.len(), count, "{crops:?}");
    for crop in crops {
        assert!(crop.starts_with("thing") && crop.contains("/d"), "{crop}");
        let image = Image::open(&folder.path().join("out/crops").join(crop)).expect("a picture");
        assert!(image.width <= 40 && image.height <= 30);
    }
}
