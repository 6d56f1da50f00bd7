//! QDQ files: the grids that stand in them are those of the network, all of them and no others.

use std::collections::{BTreeMap, BTreeSet};

use yolo_export::onnx::proto::ModelProto;

use super::network::Network;

/// The scales of every quantizer, as bits of f32, by initializer.
fn scales(file: &ModelProto) -> Result<BTreeMap<String, Vec<u32>>, String> {
    let graph = file.graph.as_ref().ok_or("no graph")?;
    let mut found = BTreeMap::new();
    for node in &graph.node {
        if matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear") {
            let key = &node.input[1];
            let tensor = graph.initializer.iter().find(|tensor| tensor.name == *key);
            let values = tensor
                .and_then(|tensor| tensor.f32_values())
                .ok_or_else(|| format!("no scale `{key}`"))?;
            found.insert(key.clone(), values.iter().map(|value| value.to_bits()).collect());
        }
    }
    Ok(found)
}

/// Compares a file with the network.
pub fn check(file: &ModelProto, network: &Network) -> Result<(), String> {
    let bits = |scales: &[f64]| -> Vec<u32> { scales.iter().map(|scale| (scale.abs() as f32).to_bits()).collect() };
    let grids = || network.activations.iter().chain(&network.weights);
    let wanted: BTreeSet<Vec<u32>> = grids().map(|grid| bits(&grid.scales)).collect();
    let found: BTreeSet<Vec<u32>> = scales(file)?.into_values().collect();
    if let Some(missing) = grids().find(|grid| !found.contains(&bits(&grid.scales))) {
        return Err(format!("the grid of `{}` is missing", missing.tensor));
    }
    match found.difference(&wanted).next() {
        Some(other) => Err(format!(
            "no tensor has the scales {:?}",
            other.iter().map(|b| f32::from_bits(*b))
        )),
        None => Ok(()),
    }
}

/// Files with one scale a tenth too large, or one quantizer with the scale of another.
pub fn mutations(file: &ModelProto) -> Vec<(String, ModelProto)> {
    let keys: Vec<String> = scales(file).expect("scales").into_keys().collect();
    let set = |key: &str, values: &[f32]| {
        let mut file = file.clone();
        let graph = file.graph.as_mut().expect("a graph");
        let tensor = graph
            .initializer
            .iter_mut()
            .find(|tensor| tensor.name == key)
            .expect("there");
        tensor.raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor.float_data.clear();
        file
    };
    let values = |key: &str| -> Vec<f32> {
        scales(file).expect("scales")[key]
            .iter()
            .map(|b| f32::from_bits(*b))
            .collect()
    };
    let scaled = |key: &str| values(key).iter().map(|value| 1.1 * value).collect::<Vec<_>>();
    let [first, last] = [&keys[0], &keys[keys.len() - 1]];
    [first, last]
        .map(|key| (format!("`{key}` x 1.1"), set(key, &scaled(key))))
        .into()
}
