//! What a file is that is given as weights and holds none that can be read: files of other programs, by their first bytes or their
//! ending, and the way out.

use std::path::Path;

/// Number in the first line of a `.param` file of ncnn.
const NCNN: &[u8] = b"7767517";

/// What `path`, which starts with `head`, is; `None` where nothing is known about it.
pub(crate) fn describe(path: &Path, head: &[u8]) -> Option<String> {
    let ends = |ending: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending));
    // Field 1 of a ModelProto is its version, field 2 who wrote it.
    let onnx = matches!(head, [0x08, 1..=31, 0x12, ..]) || ends("onnx");
    // Version 0.1 or 0.2, each number in 4 bytes.
    let darknet = matches!(head, [0, 0, 0, 0, 1 | 2, 0, 0, 0, ..]) || ends("weights");
    let ncnn = head.starts_with(NCNN) || ends("param") || ends("bin") && path.with_extension("param").exists();
    let tflite = head.get(4..8) == Some(b"TFL3") || ends("tflite");
    let picture = matches!(
        head,
        [0xff, 0xd8, 0xff, ..] | [0x89, b'P', b'N', b'G', ..] | [b'G', b'I', b'F', b'8', ..]
    );
    let text = ["json", "yaml", "yml", "txt", "csv"]
        .into_iter()
        .find(|ending| ends(ending));
    Some(if onnx {
        "this is an ONNX file, an exported network: `yolo val`, `yolo detect` and `yolo bench` run it, all else needs the `.pt` or \
         `.safetensors` that it was made from"
            .to_owned()
    } else if ncnn {
        "this is a file of ncnn, an exported network: `yolo val`, `yolo detect` and `yolo bench` run the `.param`, all else needs the `.pt` or \
         `.safetensors` that it was made from"
            .to_owned()
    } else if darknet {
        "these are weights of Darknet (YOLOv2 to YOLOv4), which are not read: YOLOv5 has weights of its own, `.pt`"
            .to_owned()
    } else if tflite {
        "this is a TensorFlow Lite file, an exported network: use the `.pt` or `.safetensors` that it was made from"
            .to_owned()
    } else if picture {
        "this is a picture, not weights: pictures go to `yolo detect --source`".to_owned()
    } else if let Some(ending) = text {
        format!("this is a .{ending} file, not weights: give a `.pt` or `.safetensors`")
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_programs_are_known_by_content_or_ending() {
        let told = |name: &str, head: &[u8]| describe(Path::new(name), head).unwrap_or_default();
        for (name, head, wanted) in [
            (
                "d.onnx",
                &b"\x08\x08\x12\x07pytorch"[..],
                "`yolo val`, `yolo detect` and `yolo bench` run it",
            ),
            ("d.safetensors", b"\x08\x08\x12\x07pytorch", "ONNX"),
            ("d.ONNX", b"?", "ONNX"),
            ("x.param", b"7767517\n3 3\n", "ncnn"),
            ("x.safetensors", b"7767517\n3 3\n", "ncnn"),
            ("y.weights", b"\0\0\0\0\x02\0\0\0\x05\0\0\0", "Darknet"),
            ("y", b"\0\0\0\0\x02\0\0\0\x05\0\0\0", "Darknet"),
            ("z.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
            ("bus.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture"),
            ("x.json", b"{}", "a .json file"),
        ] {
            assert!(told(name, head).contains(wanted), "{name}: {}", told(name, head));
        }
        for (name, head) in [
            ("noise.pt", &b"hello"[..]),
            ("a.bin", b"hello"),
            ("w.safetensors", b"\xff\x00"),
        ] {
            assert_eq!(describe(Path::new(name), head), None, "{name}");
        }
    }
}
