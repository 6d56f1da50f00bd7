//! The YAML file of a data set, its images and labels; what wrong ones get.

use yolo_data::dataset::label_path;
use yolo_data::{Dataset, Policy, Split};

use crate::{folder, put, put_picture};

const GOOD: &str = "train: images\nval: images\nnames: [a, b]\n";

#[test]
fn wrong_files_are_errors_with_their_line() {
    let dir = folder();
    put_picture(dir.path(), "images/one.png", 1);
    for (yaml, place, words) in [
        ("train: images\nval: images\n", "", "no `names`"),
        ("names: [a]\n", "", "neither `train` nor `val`"),
        ("names: []\ntrain: images\n", ":1:", "no classes"),
        (
            "train: images\nnc: 3\nnames: [a, b]\n",
            ":2:",
            "nc is 3, but there are 2 names",
        ),
        (
            "train: images\nnames: [a, b, a]\n",
            ":2:",
            "two classes are called `a`: 0 and 2",
        ),
        ("train: images\nnames: a\nnc: 1\n", ":2:", "no list"),
        ("train: images\nnames: [a, [b]]\n", ":2:12:", "no name"),
        ("train: images\nnames:\n- a\n-\n- c\n", ":", "class 1 has no name"),
        ("train: images\nnames: {0: a, 1: ~}\n", ":2:", "class 1 has no name"),
        ("train: images\nnames: {0: a, '00': b}\n", ":2:", "`0` and `00`"),
        ("train: images\nnc: two\nnames: [a, b]\n", ":2:", "whole number"),
        ("train: images\nnc: 1.5\nnames: [a]\n", ":2:", "whole number"),
        ("train: [images, 7]\nnames: [a]\n", ":1:17:", "in quotes"),
        ("train: [images, {a: b}]\nnames: [a]\n", ":1:", "a folder, a list file"),
        ("path: [., .]\ntrain: images\nnames: [a]\n", ":1:", "one folder here"),
        ("path: 2012\ntrain: images\nnames: [a]\n", ":1:", "`path` is a folder"),
        ("train: images\nkpt_shape: 17\nnames: [a]\n", ":2:", "kpt_shape"),
        ("train: images\nkpt_shape: [17, 5]\nnames: [a]\n", ":2:", "kpt_shape"),
        ("train: images\nnames: {0: a, 2: b}\n", ":2:", "class 1 has no name"),
        (
            "train: images\nnames:\n  zero: a\n",
            ":3:",
            "`zero` is not a class number",
        ),
        ("train: 7\nnames: [a]\n", ":1:", "a folder, a list file"),
        (
            "trian: images\nval: images\nnames: [a]\n",
            ":1:",
            "did you mean `train`",
        ),
        ("- images\n", "", "has keys"),
        ("train: [images\nnames: [a]\n", ":", ""),
        ("", "", "has keys"),
    ] {
        let file = put(dir.path(), "data.yaml", yaml);
        let text = Dataset::open(&file).expect_err(yaml).to_string();
        assert!(
            text.contains(&format!("data.yaml{place}")) && text.contains(words),
            "{yaml:?}: {text}"
        );
    }
    let text = Dataset::open(&dir.path().join("none.yaml"))
        .expect_err("there is no file")
        .to_string();
    assert!(
        text.contains("none.yaml") && text.contains("can't read the data set"),
        "{text}"
    );
}

#[test]
fn places_without_images_or_labels_are_errors_with_the_line_of_the_split() {
    let dir = folder();
    put_picture(dir.path(), "images/one.png", 1);
    std::fs::create_dir(dir.path().join("empty")).expect("a folder");
    for (yaml, words) in [
        ("names: [a]\n\ntrain: nowhere\n", "data.yaml:3: `train` points at"),
        (
            "names: [a]\ntrain: empty\n",
            "data.yaml:2: there are no images for `train`",
        ),
        ("names: [a]\ntrain: []\n", "data.yaml:2: `train` is an empty list"),
        (
            "names: [a]\ntrain: images\n",
            "data.yaml:2: no image of `train` has labels",
        ),
        (
            "names: [a]\ntrain: list.txt\n",
            "list.txt, which does not exist; looked at",
        ),
        ("names: [a]\nval: images\n", "data.yaml: it names no `train` images"),
    ] {
        let file = put(dir.path(), "data.yaml", yaml);
        let data = Dataset::open(&file).expect("readable");
        for policy in [Policy::Strict, Policy::Skip] {
            let text = data.samples(Split::Train, policy).expect_err(yaml).to_string();
            assert!(text.contains(words), "{yaml:?}: {text}");
        }
    }
    // Labels that are all empty, and labels of which none can be used.
    let file = put(dir.path(), "data.yaml", "names: [a]\ntrain: images\n");
    put(dir.path(), "labels/one.txt", "");
    put(dir.path(), "images/one.txt", "");
    let data = Dataset::open(&file).expect("readable");
    let text = data
        .samples(Split::Train, Policy::Skip)
        .expect_err("no boxes")
        .to_string();
    assert!(text.contains("are all empty"), "{text}");
    put(dir.path(), "labels/one.txt", "5 0.5 0.5 0.1 0.1\n");
    let text = data
        .samples(Split::Train, Policy::Skip)
        .expect_err("no boxes")
        .to_string();
    assert!(text.contains("one.txt:1") && text.contains("class 5"), "{text}");
}

#[test]
fn a_bad_row_stops_a_training_and_is_skipped_elsewhere() {
    let dir = folder();
    put_picture(dir.path(), "images/good.png", 1);
    put_picture(dir.path(), "images/bad.png", 2);
    put_picture(dir.path(), "images/background.png", 3);
    put(
        dir.path(),
        "labels/good.txt",
        "0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n",
    );
    let file = put(dir.path(), "data.yaml", GOOD);
    let data = Dataset::open(&file).expect("readable");
    for (row, words) in [
        ("2 0.5 0.5 0.1 0.1", "class 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 wide 0.1", "`wide` is not a number"),
        ("0 0.5 0.5 1.2 0.1", "above 1"),
    ] {
        put(dir.path(), "labels/bad.txt", format!("0 0.5 0.5 0.2 0.2\n\n{row}\n"));
        let text = data.samples(Split::Train, Policy::Strict).expect_err(row).to_string();
        assert!(
            text.contains("labels/bad.txt:3: ") && text.contains(words),
            "{row}: {text}"
        );
        let samples = data.samples(Split::Train, Policy::Skip).expect("the rest");
        // With a part of its boxes an image would say that there are no others.
        assert_eq!(samples.items.len(), 2, "{row}");
        assert_eq!(
            samples.items.iter().map(|sample| sample.boxes.len()).sum::<usize>(),
            2,
            "{row}"
        );
        assert!(
            matches!(&samples.problems[..], [row, note] if row.line == 3 && note.kind == "label-missing"),
            "{row}: {:?}",
            samples.problems
        );
    }
    // An image that can't be read.
    put(dir.path(), "labels/bad.txt", "");
    put(dir.path(), "images/bad.png", "no picture");
    let text = data
        .samples(Split::Train, Policy::Strict)
        .expect_err("a broken image")
        .to_string();
    assert!(text.contains("images/bad.png: "), "{text}");
    let samples = data.samples(Split::Train, Policy::Skip).expect("the rest");
    assert_eq!((samples.items.len(), samples.problems[0].kind), (2, "image-unreadable"));
}

#[test]
fn folders_lists_and_several_places_are_found() {
    let dir = folder();
    for (number, name) in ["a/images/1.png", "a/images/deep/2.png", "b/images/3.png", "c/4.JPG"]
        .into_iter()
        .enumerate()
    {
        put_picture(dir.path(), name, number as u8);
    }
    put(dir.path(), "a/images/notes.md", "no image");
    put(dir.path(), "a/labels/deep/2.txt", "0 0.5 0.5 0.5 0.5");
    put(
        dir.path(),
        "list.txt",
        "\u{feff}a/images/1.png\r\n\r\n./b/images/3.png\r\n",
    );
    let yaml =
        "path: .\ntrain: [a/images, b/images]\nval: list.txt\ntest: c/4.JPG\nnames: {1: b, 0: a}\nroboflow: {x: 1}\n";
    let data = Dataset::open(&put(dir.path(), "data.yaml", yaml)).expect("readable");
    assert_eq!(data.names, ["a", "b"]);
    let count = |split| data.images(split).expect("images").len();
    assert_eq!((count(Split::Train), count(Split::Val), count(Split::Test)), (3, 2, 1));
    let samples = data.samples(Split::Train, Policy::Strict).expect("good");
    assert_eq!(
        samples
            .items
            .iter()
            .map(|sample| sample.boxes.len())
            .collect::<Vec<_>>(),
        [0, 1, 0]
    );
    assert_eq!(samples.items[0].size, [40, 30]);
    // `path` may also be meant from the working folder.
    assert_eq!(
        label_path("x/images/y/images/a.jpeg".as_ref()),
        std::path::Path::new("x/images/y/labels/a.txt")
    );
    assert_eq!(label_path("plain/a.png".as_ref()), std::path::Path::new("plain/a.txt"));
    // `nc` alone names the classes by number.
    let data = Dataset::open(&put(dir.path(), "nc.yaml", "train: a/images\nnc: 2\n")).expect("readable");
    assert_eq!(data.names, ["class0", "class1"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_picture_that_is_gone_is_named() {
    let dir = folder();
    put_picture(dir.path(), "images/one.png", 1);
    put(dir.path(), "labels/one.txt", "0 0.5 0.5 0.5 0.5");
    std::os::unix::fs::symlink(dir.path().join("gone.png"), dir.path().join("images/two.png")).expect("a link");
    let data = Dataset::open(&put(dir.path(), "data.yaml", GOOD)).expect("readable");
    let text = data
        .samples(Split::Train, Policy::Strict)
        .expect_err("a link to nothing")
        .to_string();
    assert!(text.contains("two.png") && text.contains("can't read it"), "{text}");
}
