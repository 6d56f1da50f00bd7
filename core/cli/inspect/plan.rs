//! A prune plan: what it keeps of each group of channels.

use std::path::Path;

use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use yolo_core::prune::PlanFile;
use yolo_jobs::files;
use yolo_report::{Width, widths_chart};

use crate::error::{CliError, CliResult};
use crate::ui;

/// One group.
struct Row {
    name: String,
    /// Nothing in a plan that does not say what network it is for.
    before: Option<usize>,
    after: usize,
    /// The largest score that goes, the lowest that stays.
    edge: [Option<f32>; 2],
}

/// Shows the plan in a file; draws its widths if asked to.
pub(super) fn run(path: &Path, as_json: bool, graph: Option<&Path>) -> CliResult {
    let plan = PlanFile::read(&files::read_text(path)?)
        .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    let rows = rows(&plan);
    if let Some(file) = graph {
        draw(file, path, &rows)?;
    }
    if as_json {
        return ui::print_json(&to_json(&plan, &rows));
    }
    print!("{}", text(path, &plan, &rows));
    Ok(())
}

fn rows(plan: &PlanFile) -> Vec<Row> {
    let widths = plan.network.as_ref().map(|network| &network.widths);
    let whole = widths.into_iter().flatten().map(|(name, _)| name);
    let mut names: Vec<&String> = plan.keep.keys().chain(whole).collect();
    names.sort_by_cached_key(|name| natural(name));
    names.dedup();
    let row = |name: &String| {
        let before = widths.and_then(|widths| widths.get(name)).copied();
        let keep = plan.keep.get(name);
        let edge = match (keep, plan.scores.get(name)) {
            (Some(keep), Some(scores)) => {
                let side = |stays: bool| {
                    let own = scores.iter().enumerate();
                    own.filter(move |(channel, _)| keep.binary_search(channel).is_ok() == stays)
                        .map(|(_, score)| *score)
                };
                [side(false).max_by(f32::total_cmp), side(true).min_by(f32::total_cmp)]
            }
            _ => [None; 2],
        };
        Row {
            name: name.clone(),
            before,
            after: keep.map_or(before.unwrap_or(0), Vec::len),
            edge,
        }
    };
    names.into_iter().map(row).collect()
}

/// Numbers in names by their value: `model.9` before `model.10`.
fn natural(name: &str) -> Vec<(usize, String)> {
    let parts = name.split('.');
    parts
        .map(|part| (part.parse().unwrap_or(usize::MAX), part.to_owned()))
        .collect()
}

fn draw(file: &Path, plan: &Path, rows: &[Row]) -> CliResult {
    if file.extension().is_none_or(|extension| extension != "svg") {
        return Err(CliError::Usage(format!(
            "{}: a drawing of a plan is .svg",
            file.display()
        )));
    }
    let widths: Option<Vec<Width>> = rows
        .iter()
        .map(|row| {
            Some(Width {
                name: row.name.clone(),
                before: row.before?,
                after: row.after,
            })
        })
        .collect();
    let widths = widths.ok_or_else(|| {
        CliError::Usage(format!(
            "{}: it does not say how wide the network was, so there is nothing to draw\n  help: `yolo prune --save-plan` writes that",
            plan.display()
        ))
    })?;
    let title = plan.file_name().unwrap_or_default().to_string_lossy();
    files::write(file, widths_chart(&title, &widths).as_bytes())?;
    ui::say(format!("wrote {}", file.display()));
    Ok(())
}

fn to_json(plan: &PlanFile, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "group": row.name, "before": row.before, "after": row.after,
            "largest_removed": row.edge[0], "lowest_kept": row.edge[1],
        })
    };
    json!({
        "fingerprint": plan.network.as_ref().map(|network| &network.fingerprint),
        "metric": plan.metric,
        "groups": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn text(path: &Path, plan: &PlanFile, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["group", "before", "after", "stays", "largest removed", "lowest kept"]);
    let number = |value: Option<f32>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    for row in rows {
        let before = row.before.map_or_else(|| "?".to_owned(), |before| before.to_string());
        let share = row.before.map_or_else(
            || "?".to_owned(),
            |before| format!("{:.0} %", 100.0 * row.after as f64 / before.max(1) as f64),
        );
        table.add_row([
            row.name.clone(),
            before,
            row.after.to_string(),
            share,
            number(row.edge[0]),
            number(row.edge[1]),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = format!("{}: a prune plan\n", path.display());
    if let Some(network) = &plan.network {
        let before: usize = network.widths.values().sum();
        let after: usize = rows.iter().map(|row| row.after).sum();
        let cut = rows.iter().filter(|row| row.before != Some(row.after)).count();
        out += &format!(
            "  {after} of {before} channels stay; {cut} of {} groups are cut\n",
            rows.len()
        );
        if !network.fingerprint.is_empty() {
            out += &format!("  for networks with the fingerprint {}\n", network.fingerprint);
        }
    }
    if let Some(metric) = &plan.metric {
        out += &format!("  scores: {}\n", super::options::flow(metric));
    }
    out + "\n" + &table.to_string() + "\n"
}
