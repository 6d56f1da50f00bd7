//! The model files of `configs/models`, embedded so that their names work from any folder.

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../configs/models/", $name, ".yaml")))),*]
    };
}

/// Name and text of every embedded model file.
pub fn published() -> &'static [(&'static str, &'static str)] {
    embedded![
        "yolov5n",
        "yolov5s",
        "yolov5m",
        "yolov5l",
        "yolov5x",
        "yolov5n6",
        "yolov5s6",
        "yolov5m6",
        "yolov5l6",
        "yolov5x6",
        "yolov5x-p2",
        "yolov5x-p2-cbam",
        "yolov5x-tph",
        "yolov5x-swin",
        "yolov5l-ghostnet",
        "yolov5l-shufflenetv2",
        "yolov5l-mobilenetv3-small",
        "yolov5l-efficientlite0",
        "yolov5l-pplcnet",
    ]
}

/// The embedded model file of this name (with or without `.yaml`; case, `-` and `_` don't matter).
pub fn find(name: &str) -> Option<(&'static str, &'static str)> {
    let wanted = crate::suggest::normalise(name.strip_suffix(".yaml").unwrap_or(name));
    published()
        .iter()
        .copied()
        .find(|(name, _)| crate::suggest::normalise(name) == wanted)
}
