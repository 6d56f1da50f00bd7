//! Drawings of the published networks.

use yolo_core::model::diagram;

use crate::published::graph;

/// Every layer has a box with its type and width, every edge that skips a layer an arrow of its own; YOLO_DRAWINGS names a folder
/// to keep the pictures in.
#[test]
fn layers_and_skip_connections_are_drawn() {
    for name in ["yolov5n", "yolov5x-tph", "yolov5l-ghostnet"] {
        let graph = graph(name);
        let svg = diagram::svg(&graph);
        let boxes = svg.matches("rx=\"5\"").count();
        assert_eq!(boxes, graph.layers.len() + 1, "{name}: a box per layer and the image");
        let edges: usize = graph.layers.iter().map(|layer| layer.from.len()).sum();
        assert_eq!(svg.matches("marker-end").count(), edges, "{name}: an arrow per edge");
        for stride in graph.strides().expect("strides") {
            assert!(svg.contains(&format!("stride {stride} ")), "{name}: stride {stride}");
        }
        let dot = diagram::dot(&graph);
        assert_eq!(dot.matches(" -> ").count(), edges, "{name}: an edge per edge");
        if let Some(folder) = std::env::var_os("YOLO_DRAWINGS") {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.svg")), svg).expect("a picture");
        }
    }
}
