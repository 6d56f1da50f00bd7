//! Drawings of a network, layer by layer: [`svg`] with a column per stride, [`dot`] for Graphviz. Layers are boxes with type,
//! width and parameters; edges that skip layers run in lanes beside the column of their source.

use std::fmt::Write as _;

use crate::graph::{Graph, Layer};

/// One layer as it is drawn.
struct Item {
    title: String,
    detail: String,
    kind: String,
    /// Index into the strides.
    column: usize,
    from: Vec<usize>,
    reads_image: bool,
    wide: bool,
}

struct Picture {
    items: Vec<Item>,
    strides: Vec<i64>,
    kinds: Vec<(String, bool)>,
    heading: String,
}

/// Text for `numbers` of parameters: 912, 1.7 k, 12.3 M.
fn short(count: i64) -> String {
    match count {
        0..=999 => count.to_string(),
        1000..=999_999 => format!("{:.1} k", count as f64 / 1e3),
        _ => format!("{:.2} M", count as f64 / 1e6),
    }
}

impl Picture {
    fn of(graph: &Graph) -> Self {
        let shapes = graph
            .shapes([1, graph.input_channels(), SIDE, SIDE])
            .unwrap_or_default();
        let shape = |layer: &Layer| shapes.get(layer.output.index()).cloned().unwrap_or_default();
        let stride = |layer: &Layer| match shape(layer).as_slice() {
            [_, _, h, _] if *h > 0 => SIDE / h,
            _ => 1,
        };
        let mut strides: Vec<i64> = graph.layers.iter().map(stride).collect();
        strides.sort_unstable();
        strides.dedup();
        let cost = graph.cost(SIDE).ok();
        let mut kinds: Vec<(String, bool)> = Vec::new();
        let items = graph
            .layers
            .iter()
            .map(|layer| {
                let params = cost.as_ref().map_or(0, |cost| cost.layers[layer.index].params);
                if !kinds.iter().any(|(kind, _)| *kind == layer.kind) {
                    kinds.push((layer.kind.clone(), params > 0));
                }
                let outputs: Vec<_> = graph
                    .outputs
                    .iter()
                    .filter(|value| (layer.nodes.0..layer.nodes.1).contains(&value.index()))
                    .collect();
                let wide = outputs.len() > 1;
                let mut detail = if wide {
                    let widths: Vec<String> = outputs
                        .iter()
                        .map(|value| shapes.get(value.index()).map_or(0, |s| s[1]).to_string())
                        .collect();
                    format!("{} ch", widths.join(" / "))
                } else {
                    format!("{} ch", shape(layer).get(1).copied().unwrap_or(0))
                };
                if params > 0 {
                    let _ = write!(detail, " · {}", short(params));
                }
                Item {
                    title: format!("{}  {}", layer.index, layer.kind),
                    detail,
                    kind: layer.kind.clone(),
                    column: strides.iter().position(|s| *s == stride(layer)).unwrap_or(0),
                    from: layer.from.iter().flatten().copied().collect(),
                    reads_image: layer.from.contains(&None),
                    wide,
                }
            })
            .collect();
        let gflops = cost.map_or(0.0, |cost| cost.gflops());
        Self {
            items,
            strides,
            kinds,
            heading: format!(
                "{} layers · {} parameters · {gflops:.1} GFLOPs at {SIDE} x {SIDE} — boxes: index and type, channels of the result, parameters",
                graph.layers.len(),
                short(graph.param_count())
            ),
        }
    }
}

impl Picture {
    /// Room for the longest title and detail side by side (bold 12 px and 11 px sans serif).
    fn box_width(&self) -> f64 {
        self.items
            .iter()
            .filter(|item| !item.wide)
            .map(|item| 30.0 + 7.8 * item.title.chars().count() as f64 + 6.2 * item.detail.chars().count() as f64)
            .fold(150.0, f64::max)
    }
}

/// Fill and border of a kind of layer: grey without parameters, else in the order of appearance.
fn colours(kinds: &[(String, bool)], kind: &str) -> (&'static str, &'static str) {
    const PALETTE: [(&str, &str); 8] = [
        ("#dbeafe", "#3b82f6"),
        ("#dcfce7", "#22a355"),
        ("#fde9c8", "#d98a1b"),
        ("#f3e0ff", "#a345e0"),
        ("#ffe0e3", "#e0455f"),
        ("#d5f5f2", "#159c92"),
        ("#fbf3b5", "#b59b0a"),
        ("#e6e0d8", "#8a6d4a"),
    ];
    let with_params = kinds.iter().filter(|(_, params)| *params);
    match with_params.clone().position(|(name, _)| name == kind) {
        Some(index) => PALETTE[index % PALETTE.len()],
        None => ("#f1f3f5", "#9aa2ab"),
    }
}

const HIGH: f64 = 34.0;
const ROW: f64 = 52.0;
const LANE: f64 = 11.0;
const TOP: f64 = 118.0;
const LEFT: f64 = 24.0;

/// A lane beside a column: which rows are taken.
type Lane = Vec<(usize, usize)>;

fn free_lane(lanes: &mut Vec<Lane>, rows: (usize, usize)) -> usize {
    let fits = |lane: &Lane| lane.iter().all(|taken| rows.1 < taken.0 || taken.1 < rows.0);
    let index = lanes.iter().position(fits).unwrap_or_else(|| {
        lanes.push(Vec::new());
        lanes.len() - 1
    });
    lanes[index].push(rows);
    index
}

/// Side of the image that shapes, cost and sizes of maps are drawn for.
const SIDE: i64 = 640;

/// The network as an SVG picture: rows in order of execution, a column per stride.
pub fn svg(graph: &Graph) -> String {
    let picture = Picture::of(graph);
    let columns = picture.strides.len().max(1);
    // Skip connections first: their lanes decide how far apart the columns stand.
    let mut lanes: Vec<Vec<Lane>> = vec![Vec::new(); columns];
    let mut skips = Vec::new();
    for (row, item) in picture.items.iter().enumerate() {
        for from in item.from.iter().copied().filter(|from| from + 1 != row) {
            let column = picture.items[from].column;
            skips.push((from, row, column, free_lane(&mut lanes[column], (from, row))));
        }
    }
    let box_width = picture.box_width();
    let mut lefts = Vec::with_capacity(columns);
    let mut x = LEFT;
    for lanes in &lanes {
        lefts.push(x);
        x += box_width + 26.0 + LANE * lanes.len() as f64;
    }
    let width = x.max(520.0);
    let height = TOP + ROW * (picture.items.len() as f64 + 1.0) + 10.0;
    let bottom_of = |row: usize| TOP + ROW * (row as f64 + 1.0) + HIGH;
    let top_of = |row: usize| TOP + ROW * (row as f64 + 1.0);
    let centre = |column: usize| lefts[column] + box_width / 2.0;

    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"Helvetica, Arial, sans-serif\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0.8 L7.5 4 L0 7.2 z\" fill=\"context-stroke\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"15\" font-weight=\"bold\" fill=\"#1f2933\">{}</text>",
        escape(&picture.heading)
    );
    legend(&mut out, &picture, width);
    for (column, stride) in picture.strides.iter().enumerate() {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#fafbfc\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" text-anchor=\"middle\" fill=\"#5b6670\">stride {stride} · {} x {}</text>",
            lefts[column] - 8.0,
            TOP - 26.0,
            box_width + 16.0,
            height - TOP + 18.0,
            centre(column),
            TOP - 10.0,
            SIDE / stride,
            SIDE / stride,
        );
    }
    // The image, then the edges below the boxes.
    let image_column = picture.items.first().map_or(0, |item| item.column);
    let box_left = |row: usize| lefts[picture.items[row].column];
    for (row, item) in picture.items.iter().enumerate() {
        let to = (centre_of(item, &lefts, width, box_width), top_of(row));
        let mut straight = |from: (f64, f64)| {
            let middle = (from.1 + to.1) / 2.0;
            let path = if (from.0 - to.0).abs() < 0.5 {
                format!("M{:.1} {:.1} V{:.1}", from.0, from.1, to.1 - 1.0)
            } else {
                format!(
                    "M{:.1} {:.1} V{middle:.1} H{:.1} V{:.1}",
                    from.0,
                    from.1,
                    to.0,
                    to.1 - 1.0
                )
            };
            edge(&mut out, &path, "#6b7680", "");
        };
        if item.reads_image {
            straight((centre(image_column), TOP + HIGH));
        }
        if row > 0 && item.from.contains(&(row - 1)) {
            let before = &picture.items[row - 1];
            let from = if item.wide {
                centre(before.column)
            } else {
                centre_of(before, &lefts, width, box_width)
            };
            if item.wide {
                let path = format!("M{from:.1} {:.1} V{:.1}", bottom_of(row - 1), to.1 - 1.0);
                edge(&mut out, &path, "#6b7680", "");
            } else {
                straight((from, bottom_of(row - 1)));
            }
        }
    }
    let mut arrivals = vec![0usize; picture.items.len()];
    for (from, to, column, lane) in skips {
        const COLOURS: [&str; 6] = ["#d1495b", "#2e86ab", "#8a5fbf", "#3a9d5d", "#c77b14", "#536878"];
        let colour = COLOURS[(from + lane) % COLOURS.len()];
        let right = box_left(from) + box_width;
        let x = right + 14.0 + LANE * lane as f64;
        let start = top_of(from) + HIGH / 2.0;
        let target = &picture.items[to];
        let path = if target.wide {
            format!("M{right:.1} {start:.1} H{x:.1} V{:.1}", top_of(to) - 1.0)
        } else {
            // Several arrows into one box stay apart.
            let end = top_of(to) + HIGH / 2.0 + 8.0 * arrivals[to] as f64;
            arrivals[to] += 1;
            let edge_x = lefts[target.column] + if target.column > column { 0.0 } else { box_width };
            let inwards = if target.column > column { -1.0 } else { 1.0 };
            format!("M{right:.1} {start:.1} H{x:.1} V{end:.1} H{:.1}", edge_x + inwards)
        };
        edge(&mut out, &path, colour, " stroke-width=\"1.8\"");
    }
    boxed(
        &mut out,
        (lefts[image_column], TOP, box_width),
        ("#ffffff", "#9aa2ab"),
        ("image", &format!("{} ch", graph.input_channels())),
    );
    for (row, item) in picture.items.iter().enumerate() {
        let (left, wide) = if item.wide {
            (lefts[0], width - lefts[0] - LEFT)
        } else {
            (lefts[item.column], box_width)
        };
        boxed(
            &mut out,
            (left, top_of(row), wide),
            colours(&picture.kinds, &item.kind),
            (&item.title, &item.detail),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn centre_of(item: &Item, lefts: &[f64], width: f64, box_width: f64) -> f64 {
    if item.wide {
        width / 2.0
    } else {
        lefts[item.column] + box_width / 2.0
    }
}

fn legend(out: &mut String, picture: &Picture, width: f64) {
    let (mut x, mut y) = (LEFT, 44.0);
    for (kind, _) in &picture.kinds {
        let (fill, border) = colours(&picture.kinds, kind);
        let needs = 24.0 + 7.2 * kind.chars().count() as f64;
        if x + needs > width - LEFT && x > LEFT {
            x = LEFT;
            y += 18.0;
        }
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{fill}\" stroke=\"{border}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"#3b454e\">{}</text>",
            x + 16.0,
            y + 10.0,
            escape(kind)
        );
        x += needs;
    }
}

fn edge(out: &mut String, path: &str, colour: &str, more: &str) {
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\" marker-end=\"url(#a)\"{more}/>"
    );
}

/// A box at `(left, top, width)` with a title at its left and a detail at its right.
fn boxed(out: &mut String, at: (f64, f64, f64), colour: (&str, &str), text: (&str, &str)) {
    let (left, top, width) = at;
    let base = top + HIGH / 2.0 + 4.0;
    let _ = writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HIGH}\" rx=\"5\" fill=\"{}\" stroke=\"{}\"/>\
         <text x=\"{:.1}\" y=\"{base:.1}\" font-size=\"12\" font-weight=\"bold\" fill=\"#1f2933\">{}</text>\
         <text x=\"{:.1}\" y=\"{base:.1}\" font-size=\"11\" text-anchor=\"end\" fill=\"#46515b\">{}</text>",
        colour.0,
        colour.1,
        left + 8.0,
        escape(text.0),
        left + width - 8.0,
        escape(text.1)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The network for Graphviz: `dot -Tsvg`.
pub fn dot(graph: &Graph) -> String {
    let picture = Picture::of(graph);
    let mut out = String::from(
        "digraph network {\n  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=11];\n  image [label=\"image\", fillcolor=\"#ffffff\"];\n",
    );
    for (row, item) in picture.items.iter().enumerate() {
        let (fill, border) = colours(&picture.kinds, &item.kind);
        let stride = picture.strides.get(item.column).copied().unwrap_or(1);
        let _ = writeln!(
            out,
            "  l{row} [label=\"{}\\n{} · stride {stride}\", fillcolor=\"{fill}\", color=\"{border}\"];",
            item.title.replace('"', "'"),
            item.detail
        );
        if item.reads_image {
            let _ = writeln!(out, "  image -> l{row};");
        }
        for from in &item.from {
            let skip = if from + 1 == row {
                ""
            } else {
                " [constraint=false, color=\"#d1495b\"]"
            };
            let _ = writeln!(out, "  l{from} -> l{row}{skip};");
        }
    }
    out.push_str("}\n");
    out
}
