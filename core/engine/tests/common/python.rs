//! Writes checkpoints as PyTorch does: Python values, the pickled modules of a small YOLOv5, both containers. Also used by the tests of
//! the binary.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;

/// A Python value.
#[derive(Debug, Clone, PartialEq)]
pub enum Py {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Py>),
    Tuple(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    Ordered(Vec<(Py, Py)>),
    /// A tensor; `half` as f16.
    Tensor {
        values: Vec<f32>,
        shape: Vec<usize>,
        half: bool,
    },
    /// A call of `module.name`.
    Call(&'static str, &'static str, Vec<Py>),
    /// An instance of `module.name` with its `__dict__`.
    Object(String, Vec<(Py, Py)>),
}

pub fn text(value: &str) -> Py {
    Py::Str(value.to_owned())
}

pub fn ints(values: &[i64]) -> Py {
    Py::Tuple(values.iter().map(|v| Py::Int(*v)).collect())
}

pub fn dict(pairs: Vec<(&str, Py)>) -> Py {
    Py::Dict(pairs.into_iter().map(|(key, value)| (text(key), value)).collect())
}

impl Py {
    fn pairs(&mut self) -> &mut Vec<(Py, Py)> {
        match self {
            Py::Dict(pairs) | Py::Ordered(pairs) | Py::Object(_, pairs) => pairs,
            other => panic!("{other:?} has no keys"),
        }
    }

    /// The value under a key of a dict, an attribute of an object.
    pub fn at(&mut self, key: &str) -> &mut Py {
        let pairs = self.pairs();
        let index = pairs.iter().position(|(k, _)| *k == text(key));
        &mut pairs[index.unwrap_or_else(|| panic!("there is no {key}"))].1
    }

    /// Sets a key or an attribute.
    pub fn set(&mut self, key: &str, value: Py) {
        let pairs = self.pairs();
        match pairs.iter().position(|(k, _)| *k == text(key)) {
            Some(index) => pairs[index].1 = value,
            None => pairs.push((text(key), value)),
        }
    }

    /// Removes a key or an attribute.
    pub fn take(&mut self, key: &str) -> Py {
        let pairs = self.pairs();
        let index = pairs.iter().position(|(k, _)| *k == text(key)).unwrap();
        pairs.remove(index).1
    }

    /// The module at a path below this one.
    pub fn module(&mut self, path: &str) -> &mut Py {
        path.split('.')
            .filter(|p| !p.is_empty())
            .fold(self, |m, name| m.at("_modules").at(name))
    }

    /// Replaces the class of an object, keeping what it holds.
    pub fn reclass(&mut self, class: &str) {
        match self {
            Py::Object(name, _) => class.clone_into(name),
            other => panic!("{other:?} is no object"),
        }
    }

    /// All modules, this one first, as `visit` likes them.
    pub fn each(&mut self, visit: &mut dyn FnMut(&str, &mut Py)) {
        let Py::Object(class, _) = &*self else { return };
        let class = class.clone();
        visit(&class, self);
        for (_, child) in self.at("_modules").pairs() {
            child.each(visit);
        }
    }

    /// `state_dict()`, each key with `prefix` in front.
    pub fn state_dict(&self, prefix: &str) -> Vec<(Py, Py)> {
        let mut out = Vec::new();
        let mut own = self.clone();
        for store in ["_parameters", "_buffers"] {
            for (key, value) in own.at(store).pairs() {
                if let Py::Str(key) = key
                    && *value != Py::None
                {
                    out.push((text(&format!("{prefix}{key}")), value.clone()));
                }
            }
        }
        for (key, child) in own.at("_modules").pairs() {
            if let Py::Str(key) = key {
                out.extend(child.state_dict(&format!("{prefix}{key}.")));
            }
        }
        out
    }
}

/// An `nn.Module`.
pub fn module(
    class: &str,
    attributes: Vec<(&str, Py)>,
    parameters: Vec<(&str, Py)>,
    children: Vec<(String, Py)>,
) -> Py {
    let named = |pairs: Vec<(&str, Py)>| Py::Ordered(pairs.into_iter().map(|(k, v)| (text(k), v)).collect());
    let is_buffer = |name: &str| ["running_mean", "running_var", "num_batches_tracked", "anchors"].contains(&name);
    let (buffers, parameters) = parameters.into_iter().partition(|(name, _)| is_buffer(name));
    let mut state = vec![
        (text("training"), Py::Bool(false)),
        (text("_parameters"), named(parameters)),
        (text("_buffers"), named(buffers)),
        (text("_forward_hooks"), Py::Ordered(Vec::new())),
        (
            text("_modules"),
            Py::Ordered(children.into_iter().map(|(k, v)| (text(&k), v)).collect()),
        ),
    ];
    state.extend(attributes.into_iter().map(|(k, v)| (text(k), v)));
    Py::Object(class.to_owned(), state)
}

fn tensor(seed: usize, shape: &[usize], scale: f32, offset: f32) -> Py {
    let n: usize = shape.iter().product();
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed as u32 * 7919);
        x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        ((x ^ (x >> 16)) as f32 / 2f32.powi(31) - 1.0) * scale + offset
    };
    Py::Tensor {
        values: (0..n).map(value).collect(),
        shape: shape.to_vec(),
        half: false,
    }
}

/// `nn.Conv2d`.
pub fn conv2d(cin: usize, cout: usize, kernel: usize, stride: i64, padding: i64, bias: bool) -> Py {
    let seed = cin * 31 + cout * 17 + kernel;
    let scale = 2.0 / ((cin * kernel * kernel) as f32).sqrt();
    let mut parameters = vec![("weight", tensor(seed, &[cout, cin, kernel, kernel], scale, 0.0))];
    parameters.push((
        "bias",
        if bias {
            tensor(seed + 1, &[cout], 0.1, 0.0)
        } else {
            Py::None
        },
    ));
    let k = kernel as i64;
    let attributes = vec![
        ("in_channels", Py::Int(cin as i64)),
        ("out_channels", Py::Int(cout as i64)),
        ("kernel_size", ints(&[k, k])),
        ("stride", ints(&[stride, stride])),
        ("padding", ints(&[padding, padding])),
        ("dilation", ints(&[1, 1])),
        ("transposed", Py::Bool(false)),
        ("output_padding", ints(&[0, 0])),
        ("groups", Py::Int(1)),
        ("padding_mode", text("zeros")),
    ];
    module("torch.nn.modules.conv.Conv2d", attributes, parameters, vec![])
}

/// `nn.BatchNorm2d` with YOLOv5's constants.
pub fn batch_norm(channels: usize) -> Py {
    let attributes = vec![
        ("num_features", Py::Int(channels as i64)),
        ("eps", Py::Float(1e-3)),
        ("momentum", Py::Float(0.03)),
        ("affine", Py::Bool(true)),
        ("track_running_stats", Py::Bool(true)),
    ];
    let parameters = vec![
        ("weight", tensor(channels, &[channels], 0.3, 1.0)),
        ("bias", tensor(channels + 1, &[channels], 0.1, 0.0)),
        ("running_mean", tensor(channels + 2, &[channels], 0.1, 0.0)),
        ("running_var", tensor(channels + 3, &[channels], 0.3, 1.0)),
    ];
    module("torch.nn.modules.batchnorm.BatchNorm2d", attributes, parameters, vec![])
}

/// An activation.
pub fn act(class: &str, attributes: Vec<(&str, Py)>) -> Py {
    module(
        &format!("torch.nn.modules.activation.{class}"),
        attributes,
        vec![],
        vec![],
    )
}

/// YOLOv5's `Conv`.
pub fn conv(cin: usize, cout: usize, kernel: usize, stride: i64) -> Py {
    let padding = if kernel == 6 { 2 } else { kernel as i64 / 2 };
    let children = vec![
        ("conv".into(), conv2d(cin, cout, kernel, stride, padding, false)),
        ("bn".into(), batch_norm(cout)),
        ("act".into(), act("SiLU", vec![("inplace", Py::Bool(true))])),
    ];
    module("models.common.Conv", vec![], vec![], children)
}

fn sequence(class: &str, children: Vec<Py>) -> Py {
    let children = children
        .into_iter()
        .enumerate()
        .map(|(i, child)| (i.to_string(), child));
    module(
        &format!("torch.nn.modules.container.{class}"),
        vec![],
        vec![],
        children.collect(),
    )
}

fn c3(cin: usize, cout: usize, repeats: usize, add: bool) -> Py {
    let h = cout / 2;
    let bottleneck = || {
        let children = vec![("cv1".into(), conv(h, h, 1, 1)), ("cv2".into(), conv(h, h, 3, 1))];
        module(
            "models.common.Bottleneck",
            vec![("add", Py::Bool(add))],
            vec![],
            children,
        )
    };
    let children = vec![
        ("cv1".into(), conv(cin, h, 1, 1)),
        ("cv2".into(), conv(cin, h, 1, 1)),
        ("cv3".into(), conv(2 * h, cout, 1, 1)),
        (
            "m".into(),
            sequence("Sequential", (0..repeats).map(|_| bottleneck()).collect()),
        ),
    ];
    module("models.common.C3", vec![], vec![], children)
}

fn sppf(width: usize) -> Py {
    let h = width / 2;
    let pool = vec![
        ("kernel_size", Py::Int(5)),
        ("stride", Py::Int(1)),
        ("padding", Py::Int(2)),
        ("dilation", Py::Int(1)),
        ("return_indices", Py::Bool(false)),
        ("ceil_mode", Py::Bool(false)),
    ];
    let children = vec![
        ("cv1".into(), conv(width, h, 1, 1)),
        ("cv2".into(), conv(4 * h, width, 1, 1)),
        (
            "m".into(),
            module("torch.nn.modules.pooling.MaxPool2d", pool, vec![], vec![]),
        ),
    ];
    module("models.common.SPPF", vec![], vec![], children)
}

fn upsample() -> Py {
    let attributes = vec![
        ("size", Py::None),
        ("scale_factor", Py::Float(2.0)),
        ("mode", text("nearest")),
        ("align_corners", Py::None),
    ];
    module("torch.nn.modules.upsampling.Upsample", attributes, vec![], vec![])
}

fn detect(widths: [usize; 2], classes: usize) -> Py {
    let no = classes + 5;
    let anchors = [
        1.25, 1.625, 2.0, 3.75, 4.125, 2.875, 1.875, 3.8125, 3.875, 2.8125, 3.6875, 7.4375,
    ];
    let anchors = Py::Tensor {
        values: anchors.to_vec(),
        shape: vec![2, 3, 2],
        half: false,
    };
    let strides = Py::Tensor {
        values: vec![8.0, 16.0],
        shape: vec![2],
        half: false,
    };
    let attributes = vec![
        ("nc", Py::Int(classes as i64)),
        ("no", Py::Int(no as i64)),
        ("nl", Py::Int(2)),
        ("na", Py::Int(3)),
        ("inplace", Py::Bool(true)),
        ("stride", strides),
    ];
    let convs = widths.map(|width| conv2d(width, 3 * no, 1, 1, 0, true)).to_vec();
    let children = vec![("m".into(), sequence("ModuleList", convs))];
    module("models.yolo.Detect", attributes, vec![("anchors", anchors)], children)
}

/// The layer list of [`network`].
pub const LIST: &str = "
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10,13, 16,30, 33,23], [30,61, 62,45, 59,119]]
backbone:
  [[-1, 1, Conv, [8, 6, 2, 2]],
   [-1, 1, Conv, [8, 3, 2]],
   [-1, 2, C3, [8]],
   [-1, 1, Conv, [16, 3, 2]],
   [-1, 1, Conv, [16, 3, 2]],
   [-1, 1, SPPF, [16, 5]]]
head:
  [[-1, 1, Conv, [16, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 3], 1, Concat, [1]],
   [-1, 1, C3, [16, False]],
   [[9, 6], 1, Detect, [nc, anchors]]]
";

/// The pickled modules of a small YOLOv5 with the classes `cell` and `gap`, as `parse_model` builds them from [`LIST`].
pub fn network() -> Py {
    let layers = vec![
        conv(3, 8, 6, 2),
        conv(8, 8, 3, 2),
        c3(8, 8, 2, true),
        conv(8, 16, 3, 2),
        conv(16, 16, 3, 2),
        sppf(16),
        conv(16, 16, 1, 1),
        upsample(),
        module("models.common.Concat", vec![("d", Py::Int(1))], vec![], vec![]),
        c3(32, 16, 1, false),
        detect([16, 16], 2),
    ];
    let mut layers = sequence("Sequential", layers);
    for index in 0..=10 {
        let layer = layers.module(&index.to_string());
        layer.set("i", Py::Int(index));
        layer.set(
            "f",
            match index {
                8 => Py::List(vec![Py::Int(-1), Py::Int(3)]),
                10 => Py::List(vec![Py::Int(9), Py::Int(6)]),
                _ => Py::Int(-1),
            },
        );
    }
    let attributes = vec![
        ("names", Py::List(vec![text("cell"), text("gap")])),
        ("nc", Py::Int(2)),
        ("inplace", Py::Bool(true)),
    ];
    module(
        "models.yolo.DetectionModel",
        attributes,
        vec![],
        vec![("model".into(), layers)],
    )
}

/// What training saves around a model.
pub fn checkpoint(model: Py) -> Py {
    dict(vec![
        ("epoch", Py::Int(-1)),
        ("best_fitness", Py::None),
        ("model", model),
        ("ema", Py::None),
    ])
}

/// Folds the batch norm of every `Conv`, as `fuse()` does, and leaves its forward behind.
pub fn fuse(model: &mut Py) {
    model.each(&mut |class, m| {
        if class != "models.common.Conv" {
            return;
        }
        let mut bn = m.at("_modules").take("bn");
        let mut values = |store: &str, key: &str| match bn.at(store).at(key) {
            Py::Tensor { values, .. } => values.clone(),
            other => panic!("{other:?}"),
        };
        let (gamma, beta) = (values("_parameters", "weight"), values("_parameters", "bias"));
        let (mean, var) = (values("_buffers", "running_mean"), values("_buffers", "running_var"));
        let scale: Vec<f32> = gamma.iter().zip(&var).map(|(g, v)| g / (v + 1e-3).sqrt()).collect();
        let bias = beta
            .iter()
            .zip(&mean)
            .zip(&scale)
            .map(|((b, m), s)| b - m * s)
            .collect();
        let parameters = m.module("conv").at("_parameters");
        if let Py::Tensor { values, .. } = parameters.at("weight") {
            let per_channel = values.len() / scale.len();
            for (value, scale) in values
                .chunks_mut(per_channel)
                .zip(&scale)
                .flat_map(|(c, s)| c.iter_mut().map(move |v| (v, s)))
            {
                *value *= scale;
            }
        }
        parameters.set(
            "bias",
            Py::Tensor {
                values: bias,
                shape: vec![scale.len()],
                half: false,
            },
        );
        m.set(
            "forward",
            Py::Call("__builtin__", "getattr", vec![Py::None, text("forward_fuse")]),
        );
    });
}

/// Bytes of a pickle (protocol 2) and of the storages that it refers to: class and elements.
#[derive(Debug, Default)]
struct Pickler {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
    legacy: bool,
}

impl Pickler {
    fn string(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn int(&mut self, value: i64) {
        self.out.extend([0x8a, 8]);
        self.out.extend(value.to_le_bytes());
    }

    fn tuple(&mut self, items: &[Py]) {
        self.out.push(b'(');
        for item in items {
            self.put(item);
        }
        self.out.push(b't');
    }

    fn set_items(&mut self, pairs: &[(Py, Py)]) {
        self.out.push(b'(');
        for (key, value) in pairs {
            self.put(key);
            self.put(value);
        }
        self.out.push(b'u');
    }

    fn put(&mut self, value: &Py) {
        match value {
            Py::None => self.out.push(b'N'),
            Py::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Py::Int(value) => self.int(*value),
            Py::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Py::Str(text) => self.string(text),
            Py::Tuple(items) => self.tuple(items),
            Py::List(items) => {
                self.out.extend(b"](");
                for item in items {
                    self.put(item);
                }
                self.out.push(b'e');
            }
            Py::Dict(pairs) => {
                self.out.push(b'}');
                self.set_items(pairs);
            }
            Py::Ordered(pairs) => {
                self.global("collections", "OrderedDict");
                self.out.extend(b")R");
                self.set_items(pairs);
            }
            Py::Call(module, name, arguments) => {
                self.global(module, name);
                self.tuple(arguments);
                self.out.push(b'R');
            }
            Py::Object(class, state) => {
                let (module, name) = class.rsplit_once('.').unwrap();
                self.global(module, name);
                self.out.extend(b")\x81}");
                self.set_items(state);
                self.out.push(b'b');
            }
            Py::Tensor { values, shape, half } => self.tensor(values, shape, *half),
        }
    }

    fn tensor(&mut self, values: &[f32], shape: &[usize], half: bool) {
        let key = self.storages.len().to_string();
        let bytes: Vec<u8> = if half {
            values
                .iter()
                .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
                .collect()
        } else {
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        };
        self.storages.push(bytes);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.out.extend(b"((");
        self.string("storage");
        self.global("torch", if half { "HalfStorage" } else { "FloatStorage" });
        self.string(&key);
        self.string("cpu");
        self.int(values.len() as i64);
        if self.legacy {
            self.out.push(b'N');
        }
        self.out.extend(b"tQ");
        self.int(0);
        let shape: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        self.put(&ints(&shape));
        self.put(&ints(&strides));
        self.out.push(0x89);
        self.put(&Py::Ordered(Vec::new()));
        self.out.extend(b"tR");
    }
}

fn pickled(value: &Py, legacy: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut pickler = Pickler {
        legacy,
        out: vec![0x80, 2],
        ..Pickler::default()
    };
    pickler.put(value);
    pickler.out.push(b'.');
    (pickler.out, pickler.storages)
}

/// Writes a checkpoint in the zip container.
pub fn save(path: &Path, value: &Py) {
    let (pickle, storages) = pickled(value, false);
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut put = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put("data.pkl", &pickle);
    for (key, storage) in storages.iter().enumerate() {
        put(&format!("data/{key}"), storage);
    }
    put("version", b"3\n");
    zip.finish().unwrap();
}

/// The bytes of a checkpoint in the container of PyTorch before 1.6; its tensors are f32.
pub fn legacy(value: &Py) -> Vec<u8> {
    let (pickle, storages) = pickled(value, true);
    let mut out = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    out.extend(pickled(&Py::Int(1001), true).0);
    out.extend(
        pickled(
            &dict(vec![
                ("protocol_version", Py::Int(1001)),
                ("little_endian", Py::Bool(true)),
            ]),
            true,
        )
        .0,
    );
    out.extend(pickle);
    let keys = (0..storages.len()).map(|key| text(&key.to_string())).collect();
    out.extend(pickled(&Py::List(keys), true).0);
    for storage in storages {
        out.extend((storage.len() as u64 / 4).to_le_bytes());
        out.extend(storage);
    }
    out
}
