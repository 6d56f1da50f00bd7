//! The networks of the reference as layer lists, written for the tests from their tables in the format `[from, number, module,
//! args]`: what most of them share is a function here.

use std::fmt::Write as _;

use serde_json::Value;

const ANCHORS: [&str; 3] = [
    "10,13, 16,30, 33,23",
    "30,61, 62,45, 59,119",
    "116,90, 156,198, 373,326",
];
const ANCHORS_P6: [&str; 4] = [
    "19,27, 44,40, 38,94",
    "96,68, 86,152, 180,137",
    "140,301, 303,264, 238,542",
    "436,615, 739,380, 925,792",
];

/// Every network, by the name of its figures.
pub const NAMES: [&str; 34] = [
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
    "yolov5x5",
    "yolov5xP2",
    "yolov5xP2CBAM",
    "yolov5xP2CBAM-TPH-BiFPN-SPP",
    "yolov5xP2CBAM-Swin-BiFPN-SPP",
    "yolov5lGhost",
    "yolov5lShffule",
    "yolov5lMobilenetv3Small",
    "yolov5lEfficientLite",
    "yolov5lPP-LC",
    "yolov5n-pruning",
    "yolov5s-pruning",
    "yolov5s-0.6-pruned",
    "yolov5n-DVSPerson-prunedEagle",
    "yolov5n-DVSPerson-prunedSlim",
    "yolov3",
    "yolov3-spp",
    "yolov3-tiny",
    "yolov5-fpn",
    "yolov5-panet",
    "yolov5-p2",
    "yolov5-p6",
    "yolov5-p7",
    "yolov5s-transformer",
];

/// A list under construction.
pub struct List {
    header: String,
    rows: Vec<String>,
    backbone: usize,
}

impl List {
    pub fn new(depth: f64, width: f64, anchors: &[&str]) -> Self {
        let levels: Vec<String> = anchors.iter().map(|level| format!("[{level}]")).collect();
        Self::with_anchors(depth, width, &format!("[{}]", levels.join(", ")))
    }

    fn with_anchors(depth: f64, width: f64, anchors: &str) -> Self {
        let header = format!("nc: 80\ndepth_multiple: {depth}\nwidth_multiple: {width}\nanchors: {anchors}\n");
        Self {
            header,
            rows: Vec::new(),
            backbone: 0,
        }
    }

    /// Adds a row that reads the one before; returns its index.
    pub fn row(&mut self, number: usize, module: &str, args: &str) -> usize {
        self.row_from("-1", number, module, args)
    }

    fn row_from(&mut self, from: &str, number: usize, module: &str, args: &str) -> usize {
        self.rows.push(format!("[{from}, {number}, {module}, [{args}]]"));
        self.rows.len() - 1
    }

    fn conv(&mut self, channels: i64, kernel: i64, stride: i64) -> usize {
        self.row(1, "Conv", &format!("{channels}, {kernel}, {stride}"))
    }

    fn up(&mut self) -> usize {
        self.row(1, "nn.Upsample", "None, 2, 'nearest'")
    }

    fn cat(&mut self, others: &[usize]) -> usize {
        let others: Vec<String> = others.iter().map(usize::to_string).collect();
        self.row_from(&format!("[-1, {}]", others.join(", ")), 1, "Concat", "1")
    }

    /// The rows so far are the backbone.
    pub fn head(&mut self) {
        self.backbone = self.rows.len();
    }

    fn detect(&mut self, levels: &[usize]) {
        let levels: Vec<String> = levels.iter().map(usize::to_string).collect();
        self.row_from(&format!("[{}]", levels.join(", ")), 1, "Detect", "nc, anchors");
    }

    /// The YAML file.
    pub fn text(&self) -> String {
        let mut text = self.header.clone();
        for (index, row) in self.rows.iter().enumerate() {
            match index {
                0 => text.push_str("backbone:\n"),
                _ if index == self.backbone => text.push_str("head:\n"),
                _ => {}
            }
            let _ = writeln!(text, "  - {row}");
        }
        text
    }

    /// Stride-2 convolutions with a block each; returns the rows of the blocks.
    fn stages(&mut self, block: &str, stages: &[(i64, usize)]) -> Vec<usize> {
        stages
            .iter()
            .map(|(channels, number)| {
                self.conv(*channels, 3, 2);
                self.row(*number, block, &channels.to_string())
            })
            .collect()
    }

    /// The v6.0 backbone with SPPF; returns the rows of the stages' blocks.
    fn v6(&mut self, tail: &[(i64, usize)]) -> Vec<usize> {
        self.row(1, "Conv", "64, 6, 2, 2");
        let mut blocks = self.stages("C3", &[(128, 3), (256, 6), (512, 9)]);
        blocks.extend(self.stages("C3", tail));
        self.row(1, "SPPF", "1024, 5");
        self.head();
        blocks
    }

    /// The backbone before v6.0: Focus, SPP before the last block; returns the rows of the other blocks.
    fn old(&mut self, block: &str, tail: &[(i64, usize)], top: (i64, &str), last: &str) -> Vec<usize> {
        self.row(1, "Focus", "64, 3");
        let mut blocks = self.stages(block, &[(128, 3), (256, 9), (512, 9)]);
        blocks.extend(self.stages(block, tail));
        self.conv(top.0, 3, 2);
        self.row(1, "SPP", &format!("{}, [{}]", top.0, top.1));
        self.row(3, last, &format!("{}, False", top.0));
        self.head();
        blocks
    }

    /// The head: down to the finest of `widths` and up again; `maps` are rows of the backbone, finest first, one fewer.
    fn pan(&mut self, widths: &[i64], maps: &[usize], block: &str) {
        let path = Path {
            widths,
            maps,
            block,
            finest: 3,
            skip_block: None,
        };
        self.path(&path);
    }

    fn path(&mut self, path: &Path<'_>) {
        let levels = path.widths.len();
        let mut skips = vec![0; levels];
        let mut outputs = Vec::new();
        for level in (0..levels - 1).rev() {
            let width = path.widths[level];
            skips[level + 1] = self.conv(width, 1, 1);
            self.up();
            self.cat(&[path.maps[level]]);
            let number = if level == 0 { path.finest } else { 3 };
            let block = self.row(number, path.block, &format!("{width}, False"));
            if level == 0 {
                outputs.push(block);
            }
        }
        for (level, &skip) in skips.iter().enumerate().skip(1) {
            self.conv(path.widths[level - 1], 3, 2);
            let skip = if path.skip_block == Some(level) {
                self.block_of(path, level)
            } else {
                skip
            };
            self.cat(&[skip]);
            outputs.push(self.row(3, path.block, &format!("{}, False", path.widths[level])));
        }
        self.detect(&outputs);
    }

    /// Row of the block on the way down at `level`.
    fn block_of(&self, path: &Path<'_>, level: usize) -> usize {
        self.backbone + 4 * (path.widths.len() - 1 - level) - 1
    }
}

struct Path<'a> {
    widths: &'a [i64],
    maps: &'a [usize],
    block: &'a str,
    /// Repeats of the finest block.
    finest: usize,
    /// The level where the way up takes the block instead of the lateral convolution.
    skip_block: Option<usize>,
}

/// Depth and width of a size.
fn scale(size: char) -> (f64, f64) {
    match size {
        'n' => (0.33, 0.25),
        's' => (0.33, 0.5),
        'm' => (0.67, 0.75),
        'l' => (1.0, 1.0),
        _ => (1.33, 1.25),
    }
}

/// The list of a network.
pub fn list(name: &str) -> List {
    match name {
        "yolov5n" | "yolov5s" | "yolov5m" | "yolov5l" | "yolov5x" => v6(name),
        "yolov5n6" | "yolov5s6" | "yolov5m6" | "yolov5l6" | "yolov5x6" => {
            let (depth, width) = scale(name.as_bytes()[6] as char);
            let mut list = List::new(depth, width, &ANCHORS_P6);
            let blocks = list.v6(&[(768, 3), (1024, 3)]);
            list.pan(&[256, 512, 768, 1024], &blocks[1..4], "C3");
            list
        }
        "yolov5x5" => old(1.33, 1.25, "C3", "C3"),
        "yolov5s-transformer" => old(0.33, 0.5, "C3", "C3TR"),
        "yolov5-panet" => old(1.0, 1.0, "BottleneckCSP", "BottleneckCSP"),
        "yolov5-p2" | "yolov5-p6" | "yolov5-p7" => more_levels(name),
        "yolov5-fpn" => fpn(),
        "yolov5xP2" => {
            let mut list = x_with_p2();
            let blocks = list.old("C3", &[], (1024, "5, 9, 13"), "C3");
            list.pan(&[256, 256, 512, 1024], &blocks[..3], "C3");
            list
        }
        "yolov5xP2CBAM" => p2_cbam(),
        "yolov5xP2CBAM-TPH-BiFPN-SPP" => {
            let anchors = [
                "7,9, 9,17, 17,15, 13,27",
                "21,28, 36,18, 23,47, 35,33",
                "58,29, 43,60, 82,46, 66,88",
                "133,77, 111,135, 206,137, 197,290",
            ];
            bifpn("C3TR", &anchors)
        }
        "yolov5xP2CBAM-Swin-BiFPN-SPP" => {
            let anchors = [
                "3,4, 4,9, 7,6, 7,13",
                "13,7, 12,12, 10,19, 22,11",
                "19,17, 16,26, 33,18, 28,32",
                "47,28, 40,58, 86,53, 97,126",
            ];
            bifpn("C3STR", &anchors)
        }
        "yolov5lGhost" => light(&ghost(), (5, 9), None),
        "yolov5lShffule" => light(&shuffle(), (2, 4), None),
        "yolov5lMobilenetv3Small" => light(&mobile(), (3, 8), None),
        "yolov5lEfficientLite" => light(&efficient(), (5, 11), None),
        "yolov5lPP-LC" => light(&lcnet(), (5, 7), Some(1)),
        "yolov3" | "yolov3-spp" => yolov3(name == "yolov3-spp"),
        "yolov3-tiny" => tiny(),
        pruned => self::pruned(pruned),
    }
}

/// One of n, s, m, l, x.
pub fn v6(name: &str) -> List {
    let (depth, width) = scale(name.as_bytes()[6] as char);
    let small = ["3,4, 4,8, 7,6", "7,12, 15,9, 12,18", "27,15, 23,29, 46,36"];
    let mut list = List::new(depth, width, if name == "yolov5s" { &small } else { &ANCHORS });
    let blocks = list.v6(&[(1024, 3)]);
    list.pan(&[256, 512, 1024], &blocks[1..3], "C3");
    list
}

fn old(depth: f64, width: f64, block: &str, last: &str) -> List {
    let mut list = List::new(depth, width, &ANCHORS);
    let blocks = list.old(block, &[], (1024, "5, 9, 13"), last);
    list.pan(&[256, 512, 1024], &blocks[1..3], block);
    list
}

/// Lists whose anchors are only counted.
fn more_levels(name: &str) -> List {
    let mut list = List::with_anchors(1.0, 1.0, "3");
    match name {
        "yolov5-p2" => {
            let maps = list.old("C3", &[], (1024, "5, 9, 13"), "C3");
            let path = Path {
                widths: &[128, 256, 512, 1024],
                maps: &maps,
                block: "C3",
                finest: 1,
                skip_block: None,
            };
            list.path(&path);
        }
        "yolov5-p6" => {
            let maps = list.old("C3", &[(768, 3)], (1024, "3, 5, 7"), "C3");
            list.pan(&[256, 512, 768, 1024], &maps[1..], "C3");
        }
        _ => {
            let maps = list.old("C3", &[(768, 3), (1024, 3)], (1280, "3, 5"), "C3");
            list.pan(&[256, 512, 768, 1024, 1280], &maps[1..], "C3");
        }
    }
    list
}

/// The way down only.
fn fpn() -> List {
    let mut list = List::new(1.0, 1.0, &ANCHORS);
    list.row(1, "Focus", "64, 3");
    list.conv(128, 3, 2);
    list.row(3, "Bottleneck", "128");
    let maps = list.stages("BottleneckCSP", &[(256, 9), (512, 9)]);
    list.conv(1024, 3, 2);
    list.row(1, "SPP", "1024, [5, 9, 13]");
    list.row(6, "BottleneckCSP", "1024");
    list.head();
    let mut outputs = vec![list.row(3, "BottleneckCSP", "1024, False")];
    for (channels, map) in [(512, maps[1]), (256, maps[0])] {
        list.up();
        list.cat(&[map]);
        list.conv(channels, 1, 1);
        outputs.insert(0, list.row(3, "BottleneckCSP", &format!("{channels}, False")));
    }
    list.detect(&outputs);
    list
}

fn x_with_p2() -> List {
    let anchors = ["5,6, 8,14, 15,11", ANCHORS[0], ANCHORS[1], ANCHORS[2]];
    List::new(1.33, 1.25, &anchors)
}

/// Attention after each block of the head but the last; the outputs are the blocks.
fn p2_cbam() -> List {
    let mut list = x_with_p2();
    let maps = list.old("C3", &[], (1024, "5, 9, 13"), "C3");
    let block = |list: &mut List, channels: i64| {
        let block = list.row(3, "C3", &format!("{channels}, False"));
        (block, list.row(1, "CBAM", &channels.to_string()))
    };
    let top = list.conv(512, 1, 1);
    list.up();
    list.cat(&[maps[2]]);
    let (_, side16) = block(&mut list, 512);
    list.conv(256, 1, 1);
    list.up();
    list.cat(&[maps[1]]);
    let (side8, _) = block(&mut list, 256);
    list.conv(256, 1, 1);
    list.up();
    list.cat(&[maps[0]]);
    let mut outputs = vec![block(&mut list, 256).0];
    for (down, side, channels) in [(256, side8, 256), (256, side16, 512)] {
        list.conv(down, 3, 2);
        list.cat(&[side]);
        outputs.push(block(&mut list, channels).0);
    }
    list.conv(512, 3, 2);
    list.cat(&[top]);
    outputs.push(list.row(3, "C3", "1024, False"));
    list.detect(&outputs);
    list
}

/// Four heads, backbone maps once more on the way up, SPP and CBAM at every output.
fn bifpn(block: &str, anchors: &[&str]) -> List {
    let mut list = List::new(1.33, 1.25, anchors);
    list.row(1, "Conv", "64, 6, 2, 2");
    let maps = list.stages("C3", &[(128, 3), (256, 6), (512, 9)]);
    list.conv(1024, 3, 2);
    list.row(3, block, "1024");
    list.row(1, "SPPF", "1024, 5");
    list.head();
    let mut sides = Vec::new();
    for (channels, map) in [(512, maps[2]), (256, maps[1]), (128, maps[0])] {
        sides.push(list.conv(channels, 1, 1));
        list.up();
        list.cat(&[map]);
        if channels != 128 {
            list.row(3, "C3", &format!("{channels}, False"));
        }
    }
    let output = |list: &mut List, channels: i64, kernels: &str, block: &str| {
        list.row(1, "SPP", &format!("{channels}, [{kernels}]"));
        list.row(3, block, &format!("{channels}, False"));
        list.row(1, "CBAM", &channels.to_string())
    };
    let mut outputs = vec![output(&mut list, 128, "5, 9, 13", "C3")];
    list.conv(128, 3, 2);
    list.cat(&[sides[2], maps[1]]);
    outputs.push(output(&mut list, 256, "5, 9, 13", "C3"));
    list.conv(256, 3, 2);
    list.cat(&[sides[1], maps[2]]);
    outputs.push(output(&mut list, 512, "3, 7, 11", "C3"));
    list.conv(512, 3, 2);
    list.cat(&[sides[0]]);
    outputs.push(output(&mut list, 1024, "3, 5, 7", block));
    list.detect(&outputs);
    list
}

/// Rows of a light backbone under the head of l.
fn light(rows: &[(usize, &str, String)], maps: (usize, usize), skip_block: Option<usize>) -> List {
    let mut list = List::new(1.0, 1.0, &ANCHORS);
    for (number, module, args) in rows {
        list.row(*number, module, args);
    }
    list.row(1, "SPPF", "1024, 5");
    list.head();
    let path = Path {
        widths: &[256, 512, 1024],
        maps: &[maps.0, maps.1],
        block: "C3",
        finest: 3,
        skip_block,
    };
    list.path(&path);
    list
}

type Rows = Vec<(usize, &'static str, String)>;

/// Rows of one module, one each.
fn each(module: &'static str, args: &[&str]) -> Rows {
    args.iter().map(|args| (1, module, (*args).to_owned())).collect()
}

fn ghost() -> Rows {
    let mut rows = each("Conv", &["16, 3, 2, 1"]);
    rows.extend(each(
        "GhostBottleneck",
        &[
            "16, 16, 3, 1",
            "24, 48, 3, 2",
            "24, 72, 3, 1",
            "40, 72, 3, 2, True",
            "40, 120, 3, 1, True",
            "80, 240, 3, 2",
        ],
    ));
    rows.push((3, "GhostBottleneck", "80, 184, 3, 1".into()));
    rows.extend(each(
        "GhostBottleneck",
        &[
            "112, 480, 3, 1, True",
            "112, 480, 3, 1, True",
            "160, 672, 3, 2, True",
            "160, 960, 3, 1",
            "160, 960, 3, 1, True",
            "160, 960, 3, 1",
            "160, 960, 3, 1, True",
        ],
    ));
    rows.extend(each("Conv", &["960"]));
    rows
}

fn shuffle() -> Rows {
    let mut rows = each("Conv_maxpool", &["24"]);
    for (channels, same) in [(116, 3), (232, 7), (464, 3)] {
        rows.push((1, "ShuffleNetV2_InvertedResidual", format!("{channels}, 2")));
        rows.push((same, "ShuffleNetV2_InvertedResidual", format!("{channels}, 1")));
    }
    rows
}

fn mobile() -> Rows {
    let mut rows = each("conv_bn_hswish", &["16, 2"]);
    rows.extend(each(
        "MobileNetV3_InvertedResidual",
        &[
            "16, 16, 3, 2, 1, 0",
            "24, 72, 3, 2, 0, 0",
            "24, 88, 3, 1, 0, 0",
            "40, 96, 5, 2, 1, 1",
            "40, 240, 5, 1, 1, 1",
            "40, 240, 5, 1, 1, 1",
            "48, 120, 5, 1, 1, 1",
            "48, 144, 5, 1, 1, 1",
            "96, 288, 5, 2, 1, 1",
            "96, 576, 5, 1, 1, 1",
            "96, 576, 5, 1, 1, 1",
        ],
    ));
    rows
}

fn efficient() -> Rows {
    let mut rows = each("stem", &["32, 'ReLU6'"]);
    rows.extend(each(
        "MBConvBlock",
        &[
            "16, 3, 1, 1, 0",
            "24, 3, 2, 6, 0.028, True",
            "24, 3, 1, 6, 0.057",
            "40, 5, 2, 6, 0.085",
            "40, 5, 1, 6, 0.114",
            "80, 3, 2, 6, 0.142",
            "80, 3, 1, 6, 0.171",
            "80, 3, 1, 6, 0.200",
            "112, 5, 1, 6, 0.228",
            "112, 5, 1, 6, 0.257",
            "112, 5, 1, 6, 0.285",
            "192, 5, 2, 6, 0.314",
            "192, 5, 1, 6, 0.342",
            "192, 5, 1, 6, 0.371",
            "192, 5, 1, 6, 0.400",
            "320, 3, 1, 6, 0.428",
        ],
    ));
    rows
}

fn lcnet() -> Rows {
    let mut rows = each("Conv", &["16, 3, 2, 1"]);
    rows.extend(each(
        "DepthSepConv",
        &[
            "32, 3, 1, False",
            "64, 3, 2, False",
            "64, 3, 1, False",
            "128, 3, 2, False",
            "128, 3, 1, False",
            "256, 3, 2, False",
        ],
    ));
    rows.push((5, "DepthSepConv", "256, 5, 1, False".into()));
    rows.extend(each("DepthSepConv", &["512, 5, 2, True", "512, 5, 1, True"]));
    rows
}

fn yolov3(spp: bool) -> List {
    let mut list = List::new(1.0, 1.0, &ANCHORS);
    list.conv(32, 3, 1);
    let blocks = list.stages("Bottleneck", &[(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)]);
    list.head();
    list.row(1, "Bottleneck", "1024, False");
    if spp {
        list.row(1, "SPP", "512, [5, 9, 13]");
    } else {
        list.row(1, "Conv", "512, [1, 1]");
    }
    list.conv(1024, 3, 1);
    list.conv(512, 1, 1);
    let coarse = list.conv(1024, 3, 1);
    let step = |list: &mut List, channels: i64, map: usize| {
        list.row_from("-2", 1, "Conv", &format!("{channels}, 1, 1"));
        list.up();
        list.cat(&[map]);
        list.row(1, "Bottleneck", &format!("{}, False", 2 * channels));
    };
    step(&mut list, 256, blocks[3]);
    list.row(1, "Bottleneck", "512, False");
    list.conv(256, 1, 1);
    let middle = list.conv(512, 3, 1);
    step(&mut list, 128, blocks[2]);
    let fine = list.row(2, "Bottleneck", "256, False");
    list.detect(&[fine, middle, coarse]);
    list
}

/// Max pools, zero padding and a head that goes from coarse to fine.
fn tiny() -> List {
    let mut list = List::new(1.0, 1.0, &["10,14, 23,27, 37,58", "81,82, 135,169, 344,319"]);
    for (index, channels) in [16, 32, 64, 128, 256, 512].into_iter().enumerate() {
        if index > 0 {
            list.row(1, "nn.MaxPool2d", "2, 2, 0");
        }
        list.conv(channels, 3, 1);
    }
    list.row(1, "nn.ZeroPad2d", "[0, 1, 0, 1]");
    list.row(1, "nn.MaxPool2d", "2, 1, 0");
    list.head();
    list.conv(1024, 3, 1);
    list.conv(256, 1, 1);
    let coarse = list.conv(512, 3, 1);
    list.row_from("-2", 1, "Conv", "128, 1, 1");
    list.row(1, "nn.Upsample", "None, 2, nearest");
    list.cat(&[8]);
    let fine = list.conv(256, 3, 1);
    list.detect(&[fine, coarse]);
    list
}

/// The v6.0 list with the kept parts of the channels that `tests/fixtures/pruned_lists.json` names.
fn pruned(name: &str) -> List {
    let all: Value = serde_json::from_str(include_str!("../../../../tests/fixtures/pruned_lists.json")).expect("JSON");
    let kept = &all[name];
    assert!(kept.is_object(), "no kept parts of {name}");
    let mut list = v6(if name.starts_with("yolov5s") {
        "yolov5s"
    } else {
        "yolov5n"
    });
    list.header = List::new(0.33, if name.starts_with("yolov5s") { 0.5 } else { 0.25 }, &ANCHORS).header;
    let mut convs = kept["conv"].as_array().expect("a list").iter();
    let mut blocks = kept["c3"].as_array().expect("a list").iter();
    // Some lists spell every argument of a convolution.
    let spelt = kept["spelt"].as_bool().expect("a flag");
    for row in &mut list.rows {
        let open = row.trim_end_matches(']').to_owned();
        *row = if row.contains("Conv,") {
            let rest = match (spelt, open.contains("6, 2, 2")) {
                (false, _) => "",
                (true, true) => ", 1, True",
                (true, false) => ", None, 1, True",
            };
            format!("{open}{rest}, {}]]", convs.next().expect("a part"))
        } else if row.contains("C3,") {
            let [branch, inner, out] = blocks.next().expect("parts").as_array().expect("three").as_slice() else {
                panic!("three parts of a C3 in {name}");
            };
            let shortcut = if open.ends_with("False") { "" } else { ", True" };
            format!("{open}{shortcut}, 1, [0.5, {branch}], {inner}, {out}]]")
        } else if row.contains("SPPF") {
            format!("{open}, {}]]", kept["sppf"])
        } else {
            row.clone()
        };
    }
    assert!(
        convs.next().is_none() && blocks.next().is_none(),
        "{name}: parts are left"
    );
    list
}
