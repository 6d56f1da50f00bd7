//! Sources with changed bytes.

use yolo_data::convert::{Format, Settings};
use yolo_data::{Dataset, Policy, Split};

use crate::convert_coco::coco;
use crate::convert_odd::{BOX, run, voc};
use crate::{folder, put, put_picture};

/// Whatever is changed in a source, nothing is lost without a word, and what is made can be opened and lies in its image.
#[test]
fn mutated_sources_lose_nothing_without_a_word() {
    let xml = voc(BOX, "<size><width>40</width><height>30</height></size>");
    let mut file = coco();
    file["annotations"][0]["segmentation"] = serde_json::json!([[4, 3, 12, 3, 12, 9, 4, 9]]);
    file["annotations"][1]["ignore"] = serde_json::json!(0);
    file["annotations"][2]["attributes"] = serde_json::json!({"occluded": false, "rotation": 0.0});
    let text = file.to_string();
    let sources: [(Format, &str, &str); 3] = [
        (Format::Coco, "annotations/instances_train.json", &text),
        (Format::Voc, "Annotations/2.xml", &xml),
        (
            Format::VisDrone,
            "annotations/2.txt",
            "4,3,8,6,1,1,0,0\n10,3,8,6,1,2,0,0\n",
        ),
    ];
    let mut state = 1u32;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let (mut whole, mut refused) = (0, 0);
    for (format, name, text) in sources {
        let dir = folder();
        for number in 1..=3 {
            put_picture(dir.path(), &format!("train/images/{number}.png"), number);
            put(dir.path(), &format!("train/Annotations/{number}.xml"), &xml);
            put(
                dir.path(),
                &format!("train/annotations/{number}.txt"),
                "4,3,8,6,1,1,0,0\n",
            );
        }
        for round in 0..250 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] = b"0123456789-.,:\"[]{}<>/ntfN"[random(26)],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"09-.e,\"[]{}<> \n"[random(15)]),
                }
            }
            put(dir.path(), &format!("train/{name}"), &bytes);
            let settings = Settings {
                // COCO's file says its split by its name.
                val_share: if format == Format::Coco {
                    Settings::VAL_SHARE
                } else {
                    0.0
                },
                ..Settings::new(format, &dir.path().join("train"))
            };
            let out = dir.path().join(format!("out{round}"));
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            let Ok(made) = run(&settings, &out) else {
                refused += 1;
                assert!(!out.exists(), "{shown}");
                continue;
            };
            whole += usize::from(made.problems.is_empty());
            assert!(made.images == 3 || !made.problems.is_empty(), "{shown}: {made:?}");
            let data = Dataset::open(&made.yaml).unwrap_or_else(|error| panic!("{shown}: {error}"));
            let read = data
                .samples(Split::Train, Policy::Strict)
                .unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(read.items.len(), made.images, "{shown}");
        }
    }
    assert!(whole > 20 && refused > 20, "{whole} whole, {refused} refused");
}

/// Whatever a list of names or a data set's file holds, it is read, noted or refused in words, and by the check as by training.
#[test]
fn mutated_names_and_keys_are_read_or_refused_by_all_alike() {
    let dir = folder();
    for number in 1..=2 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
        put(
            dir.path(),
            &format!("labels/{number}.txt"),
            "0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.1\n",
        );
    }
    let yaml = "train: images\nval: images\nnames: [cat, dog]\nchannels: 3\ntask: detect\nnum_classes: 2\n";
    let (mut state, mut read, mut refused) = (7u32, 0, 0);
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..300 {
        let mut texts = [yaml.as_bytes().to_vec(), b"cat\ndog\n".to_vec()];
        let text = &mut texts[random(2)];
        for _ in 0..1 + random(3) {
            let at = random(text.len());
            match random(3) {
                0 => text[at] = b"0129catdog:[]{}, \n\0\xff"[random(20)],
                1 => drop(text.remove(at)),
                _ => text.insert(at, b"catdog:[],\n 3"[random(13)]),
            }
        }
        let [yaml, list] = texts;
        let file = put(dir.path(), "data.yaml", &yaml);
        put(dir.path(), "labels/classes.txt", &list);
        let shown = format!(
            "{} / {}",
            String::from_utf8_lossy(&yaml),
            String::from_utf8_lossy(&list)
        );
        let Ok(data) = Dataset::open(&file) else {
            refused += 1;
            continue;
        };
        let report =
            yolo_data::check::check(&data, false, &|_, _| true).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let trains = [Split::Train, Split::Val]
            .iter()
            .all(|split| data.samples(*split, Policy::Strict).is_ok());
        assert_eq!(trains, report.fatal() == 0, "{shown}: {:?}", report.problems);
        read += usize::from(trains);
    }
    assert!(read > 20 && refused > 20, "{read} read, {refused} refused");
}
