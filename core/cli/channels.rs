//! Which channels of a network can be pruned, and what keeps the others.

use comfy_table::{ContentArrangement, Table};
use serde_json::json;
use yolo_core::Graph;
use yolo_core::prune::{Explanation, explain};

use crate::error::CliResult;
use crate::ui;

/// Layers that are named in a line; more are counted.
const NAMED: usize = 3;

/// Prints every group of channels with its layers, and whether it can be pruned.
pub(crate) fn print(graph: &Graph, as_json: bool) -> CliResult {
    let all = explain(graph)?;
    if as_json {
        return ui::print_json(&json!({ "groups": all }));
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["channels", "made by", ""]);
    for group in &all {
        table.add_row([group.channels.to_string(), layers(group), verdict(group)]);
    }
    println!("{table}");
    let count = |held: bool| -> (usize, usize) {
        let these = || all.iter().filter(|group| group.held.is_some() == held);
        (these().count(), these().map(|group| group.channels).sum())
    };
    let ((free, free_channels), (stay, stay_channels)) = (count(false), count(true));
    println!("\n{free} groups ({free_channels} channels) can be pruned, {stay} ({stay_channels} channels) must stay");
    Ok(())
}

fn layers(group: &Explanation) -> String {
    let named = group.layers.iter().take(NAMED).map(String::as_str);
    let text = named.collect::<Vec<_>>().join(" + ");
    match group.layers.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} + {more} more"),
    }
}

fn verdict(group: &Explanation) -> String {
    match &group.held {
        None if group.layers.len() > 1 => "prunable, together".into(),
        None => "prunable".into(),
        Some(held) => format!("stays: {} ({}): {}", held.node, held.op, held.reason),
    }
}
