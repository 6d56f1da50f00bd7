//! Data sets as other systems and tools write them: names, places, encodings, clutter, folders.

use yolo_data::{Dataset, Policy, Split};

use crate::{folder, put, put_picture};

#[test]
fn names_are_taken_as_they_are_written() {
    let dir = folder();
    for (yaml, wanted) in [
        ("names: [1.10, 1.1, 007, 1e3]\n", &["1.10", "1.1", "007", "1e3"][..]),
        ("names: [True, no, off, 0x1F]\n", &["True", "no", "off", "0x1F"]),
        ("names:\n  0: 2146\n  1: '21008'\nnc: 2.0\n", &["2146", "21008"]),
        ("names: {1: 1st, 0: -5}\nnc: '2'\n", &["-5", "1st"]),
        ("names: ['~', \"null\", '']\n", &[]),
        ("names: [红细胞, Größe, \" a b \"]\n", &["红细胞", "Größe", " a b "]),
    ] {
        let file = put(dir.path(), "data.yaml", format!("train: images\n{yaml}"));
        match Dataset::open(&file) {
            Ok(data) => assert_eq!(data.names, wanted, "{yaml}"),
            Err(error) => assert!(
                wanted.is_empty() && error.to_string().contains("class 2 has no name"),
                "{error}"
            ),
        }
    }
}

#[test]
fn places_are_found_as_tools_write_them_and_named_where_they_are_not() {
    let dir = folder();
    put_picture(dir.path(), "set/train/images/1.png", 1);
    put(dir.path(), "set/train/labels/1.txt", "0 0.5 0.5 0.5 0.5");
    put_picture(dir.path(), "set/other/train/images/1.png", 1);
    let count = |yaml: &str| {
        let file = put(dir.path(), "set/data.yaml", format!("{yaml}\nnames: [a]\n"));
        Dataset::open(&file)
            .expect("readable")
            .samples(Split::Train, Policy::Strict)
    };
    for yaml in [
        "train: ../train/images",
        "train: train\\images",
        "train: ..\\train\\images",
        "path: ../set\ntrain: train/images",
        "path: .\\train\ntrain: images",
        "path:\ntrain: ./train/images/",
        "path: other/..\ntrain: ../train/images",
    ] {
        let samples = count(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
        assert_eq!((samples.items.len(), samples.items[0].boxes.len()), (1, 1), "{yaml}");
    }
    // What is there as written counts before all guesses.
    put_picture(dir.path(), "train/images/1.png", 1);
    put_picture(dir.path(), "train/images/2.png", 2);
    put(dir.path(), "train/labels/1.txt", "0 0.5 0.5 0.5 0.5");
    assert_eq!(count("train: ../train/images").expect("two").items.len(), 2);
    // All places are named.
    for (yaml, places) in [
        ("train: mydata/images", &["set/mydata/images", " mydata/images"][..]),
        (
            "path: here\ntrain: there",
            &["set/here/there", " here/there", "set/there", " there"],
        ),
        ("train: ../up/images", &["set/../up/images", "set/up/images"]),
    ] {
        let error = count(yaml).expect_err(yaml).to_string();
        assert!(error.contains("data.yaml:") && error.contains("looked at"), "{error}");
        assert!(places.iter().all(|place| error.contains(place)), "{yaml}: {error}");
    }
}

#[test]
fn text_of_other_systems_is_read_or_named_with_its_line() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    let utf16 = |text: &str| -> Vec<u8> {
        let units = [0xfeff].into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    let yaml = "train: list.txt\r\nnames: [细胞]\r\n";
    let (list, label) = ("images\\1.png\r\n\r\n", "0 0.5 0.5 0.5 0.5\r\n");
    for (yaml, list, label) in [
        (utf16(yaml), utf16(list), utf16(label)),
        (
            format!("\u{feff}{yaml}").into_bytes(),
            list.into(),
            format!("\u{feff}{label}").into_bytes(),
        ),
        (yaml.into(), format!("\u{feff}{list}").into_bytes(), label.into()),
    ] {
        let file = put(dir.path(), "data.yaml", yaml);
        put(dir.path(), "list.txt", list);
        put(dir.path(), "labels/1.txt", label);
        let data = Dataset::open(&file).expect("readable");
        let samples = data.samples(Split::Train, Policy::Strict).expect("good");
        assert_eq!((samples.items[0].boxes.len(), data.names[0].as_str()), (1, "细胞"));
    }
    put(
        dir.path(),
        "labels/1.txt",
        b"0 0.5 0.5 0.5 0.5\n\xb0\xfb 0.1 0.1 0.1 0.1\n",
    );
    let data = Dataset::open(&dir.path().join("data.yaml")).expect("readable");
    let error = data.samples(Split::Train, Policy::Strict).expect_err("GBK").to_string();
    assert!(
        error.contains("1.txt:2: ") && error.contains("save the file as UTF-8"),
        "{error}"
    );
    put(dir.path(), "list.txt", b"images/1.png\nimages/\xba\xec.png\n");
    let error = data.samples(Split::Train, Policy::Skip).expect_err("GBK").to_string();
    assert!(error.contains("list.txt:2: ") && error.contains("GBK"), "{error}");
    let gbk = put(dir.path(), "gbk.yaml", b"train: images\nnames:\n  0: \xba\xec\n");
    let error = Dataset::open(&gbk).expect_err("GBK").to_string();
    assert!(
        error.contains("gbk.yaml:3: ") && error.contains("save the file as UTF-8"),
        "{error}"
    );
}

#[test]
fn lines_of_a_list_that_lead_nowhere_are_named() {
    let dir = folder();
    for number in [1, 2] {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
        put(dir.path(), &format!("labels/{number}.txt"), "0 0.5 0.5 0.5 0.5");
    }
    put(dir.path(), "images/3.avif", "other");
    put(dir.path(), "images/notes.md", "other");
    let file = put(dir.path(), "data.yaml", "train: list.txt\nnames: [a]\n");
    let data = Dataset::open(&file).expect("readable");
    for (line, words) in [
        ("images/gone.png", "there is no image `images/gone.png`; looked at"),
        ("images/3.avif", "AVIF"),
        ("images/notes.md", "none of a picture's"),
    ] {
        put(dir.path(), "list.txt", format!("images/1.png\n{line}\nimages/2.png\n"));
        let error = data.samples(Split::Train, Policy::Strict).expect_err(line).to_string();
        assert!(
            error.contains("list.txt:2: ") && error.contains(words),
            "{line}: {error}"
        );
        let samples = data.samples(Split::Train, Policy::Skip).expect("the rest");
        let found: Vec<_> = samples.problems.iter().map(|p| (p.line, p.kind, p.fatal)).collect();
        assert_eq!(
            (samples.items.len(), found),
            (2, vec![(2, "image-missing", true)]),
            "{line}"
        );
    }
}

/// Lines that are repeated on purpose (oversampling) count in training, however they are spelled; validation counts each image once.
#[test]
fn an_image_is_learned_as_often_as_it_is_listed() {
    let dir = folder();
    for n in 1..=3 {
        put_picture(dir.path(), &format!("images/{n}.png"), n);
        put(dir.path(), &format!("labels/{n}.txt"), format!("0 0.5 0.5 0.{n} 0.5"));
    }
    let own = dir.path().join("images/1.png");
    let lines = format!(
        "images/1.png\n{}\nimages/2.png\nimages/../images/1.png\n",
        own.display()
    );
    put(dir.path(), "list.txt", lines);
    let file = put(
        dir.path(),
        "data.yaml",
        "train: [list.txt, images]\nval: list.txt\nnames: [a]\n",
    );
    let data = Dataset::open(&file).expect("readable");
    for (split, times, said) in [
        (Split::Train, [4, 2, 1], "2 images are listed more than once in `train`"),
        (Split::Val, [1, 1, 0], "1 image is listed more than once in `val`"),
    ] {
        let samples = data.samples(split, Policy::Strict).expect("good");
        let count = |n: i64| {
            let name = format!("{n}.png");
            samples
                .items
                .iter()
                .filter(|sample| sample.image.ends_with(&name))
                .count()
        };
        assert_eq!([1, 2, 3].map(count), times, "{split:?}");
        let notes: Vec<String> = (samples.problems.iter())
            .filter(|problem| problem.kind == "image-listed-twice")
            .map(ToString::to_string)
            .collect();
        assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
        assert!(
            notes[0].contains("list.txt:1 and") && notes[0].contains("list.txt:2"),
            "{notes:?}"
        );
    }
}

/// Labelling tools save beside the image what nobody reads where a folder `labels` is; captions there are none.
#[test]
fn labels_beside_images_that_differ_are_said() {
    let dir = folder();
    for n in 1..=3 {
        put_picture(dir.path(), &format!("images/{n}.png"), n);
        put(dir.path(), &format!("labels/{n}.txt"), "0 0.5 0.5 0.25 0.5");
    }
    let file = put(dir.path(), "data.yaml", "train: images\nnames: [a]\n");
    let said = || {
        let data = Dataset::open(&file).expect("readable");
        let samples = data.samples(Split::Train, Policy::Strict).expect("good");
        let of_kind = samples.problems.iter().filter(|problem| problem.kind == "label-second");
        of_kind.map(ToString::to_string).collect::<Vec<String>>()
    };
    put(dir.path(), "images/1.txt", "0 0.5 0.5 0.25 0.5");
    put(dir.path(), "images/2.txt", "a cat on a mat");
    assert!(said().is_empty(), "{:?}", said());
    put(dir.path(), "images/3.txt", "0 0.25 0.5 0.25 0.5");
    assert!(
        said().len() == 1 && said()[0].contains("1 label files") && said()[0].contains("3.txt"),
        "{:?}",
        said()
    );
}

/// A box that two classes share is one object where all classes are one.
#[test]
fn merged_classes_leave_one_box_of_two() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put(
        dir.path(),
        "labels/1.txt",
        "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.5 0.5\n",
    );
    let file = put(dir.path(), "data.yaml", "train: images\nnames: [a, b]\n");
    let mut data = Dataset::open(&file).expect("readable");
    let boxes = |data: &Dataset| {
        data.samples(Split::Train, Policy::Strict).expect("good").items[0]
            .boxes
            .len()
    };
    assert_eq!(boxes(&data), 3);
    data.merge_classes();
    assert_eq!(boxes(&data), 2);
}

#[test]
fn clutter_is_passed_over_and_other_pictures_are_said() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put_picture(dir.path(), "images/2.png", 2);
    put_picture(dir.path(), "images/@eaDir/1.png", 1);
    put_picture(dir.path(), "images/.hidden/1.png", 1);
    put(dir.path(), "labels/1.txt", "0 0.5 0.5 0.5 0.5");
    put(dir.path(), "labels/2.txt", "0 0.5 0.5 0.25 0.5");
    put(dir.path(), "labels/._1.txt", b"\0\x05\x16\x07");
    for name in [
        "._1.png",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "__MACOSX/._1.png",
        "__MACOSX/1.png",
    ] {
        put(dir.path(), &format!("images/{name}"), b"\0\x05\x16\x07");
    }
    let file = put(dir.path(), "data.yaml", "train: images\nval: images\nnames: [a]\n");
    let data = Dataset::open(&file).expect("readable");
    let samples = data.samples(Split::Train, Policy::Strict).expect("good");
    assert_eq!(
        (samples.items.len(), samples.problems.len()),
        (2, 0),
        "{:?}",
        samples.problems
    );
    let report = yolo_data::check::check(&data, true, &|_, _| true).expect("a report");
    assert_eq!(report.fatal(), 0, "{:?}", report.problems);
    for name in ["a.heic", "b.avif", "c.mp4", "d.heic"] {
        put(dir.path(), &format!("images/{name}"), "other");
    }
    let samples = data.samples(Split::Train, Policy::Strict).expect("good");
    let [note] = &samples.problems[..] else {
        panic!("{:?}", samples.problems);
    };
    assert!(
        !note.fatal && note.kind == "image-left-out" && note.message.contains("4 files"),
        "{note}"
    );
    assert!(
        ["2 .heic", "1 .avif", "1 .mp4"]
            .iter()
            .all(|words| note.message.contains(words)),
        "{note}"
    );
    // A folder whose name is hidden is meant where the user names it.
    put_picture(dir.path(), ".cache/images/1.png", 1);
    let file = put(dir.path(), "data.yaml", "train: .cache/images\nnames: [a]\n");
    assert_eq!(
        Dataset::open(&file)
            .expect("readable")
            .images(Split::Train)
            .expect("one")
            .len(),
        1
    );
}

#[test]
fn folders_of_other_tools_have_their_labels() {
    let dir = folder();
    for (images, labels, own) in [
        ("a/Images/train", "a/Labels/train", true),
        ("b/JPEGImages", "b/labels", true),
        ("c/images", "c/Labels", true),
        ("d/IMAGES/x", "d/labels/x", true),
        ("e/images/2024/images", "e/images/2024/labels", true),
        ("f/photos", "f/photos", true),
        ("g/Images", "g/Images", true),
        ("h/photos", "h/labels", false),
    ] {
        put_picture(dir.path(), &format!("{images}/1.png"), 1);
        put(dir.path(), &format!("{labels}/1.txt"), "0 0.5 0.5 0.5 0.5");
        let file = put(
            dir.path(),
            "data.yaml",
            format!("train: {images}\nval: {images}\nnames: [a]\n"),
        );
        let data = Dataset::open(&file).expect("readable");
        let read = data.samples(Split::Train, Policy::Strict);
        let report = yolo_data::check::check(&data, true, &|_, _| true).expect("a report");
        // The check refuses what training refuses, in the same words.
        assert_eq!((read.is_ok(), report.fatal() == 0), (own, own), "{images}");
        match read {
            Ok(samples) => assert_eq!((samples.items[0].boxes.len(), report.boxes), (1, 1), "{images}"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("has labels; "), "{error}");
                let said = report
                    .problems
                    .iter()
                    .filter(|p| p.fatal)
                    .map(|p| format!("{}:{}: {}", p.file, p.line, p.message));
                assert!(
                    said.into_iter().any(|said| said == error),
                    "{error}: {:?}",
                    report.problems
                );
            }
        }
    }
}

#[test]
fn two_images_with_one_label_file_are_named() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put_picture(dir.path(), "images/1.bmp.png", 2);
    put_picture(dir.path(), "images/1.jpg", 3);
    put(dir.path(), "labels/1.txt", "0 0.5 0.5 0.5 0.5");
    let file = put(dir.path(), "data.yaml", "train: images\nnames: [a]\n");
    let samples = Dataset::open(&file)
        .and_then(|data| data.samples(Split::Train, Policy::Strict))
        .expect("good");
    // The second has the name `1.bmp`, and no labels.
    let [note, missing] = &samples.problems[..] else {
        panic!("{:?}", samples.problems);
    };
    assert_eq!(missing.kind, "label-missing");
    assert!(
        note.kind == "label-shared" && note.file.ends_with("1.png") && note.message.contains("1.jpg"),
        "{note}"
    );
}

#[test]
fn key_points_are_told_by_the_data_set() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    let points: Vec<String> = (0..16).map(|i| format!("{}", 0.4 + f64::from(i) / 100.0)).collect();
    put(
        dir.path(),
        "labels/1.txt",
        format!("0 0.6 0.5 0.2 0.3 {}", points.join(" ")),
    );
    let read = |shape: &str| {
        let file = put(dir.path(), "data.yaml", format!("train: images\n{shape}names: [a]\n"));
        Dataset::open(&file).and_then(|data| data.samples(Split::Train, Policy::Strict))
    };
    let told = read("kpt_shape: [8, 2]\n").expect("good").items[0].boxes[0];
    assert_eq!(told, [0.0, 0.6, 0.5, 0.2, 0.3]);
    // Without it an odd number of columns is a polygon.
    assert!(read("").expect("good").items[0].boxes[0] != told);
    for shape in ["kpt_shape: [17, 3]\n", "kpt_shape: [8, 3]\n", "kpt_shape: [9, 2]\n"] {
        let error = read(shape).expect_err(shape).to_string();
        assert!(
            error.contains("labels/1.txt:1: ") && error.contains("kpt_shape"),
            "{error}"
        );
    }
}
