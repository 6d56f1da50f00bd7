//! Mean absolute values of channels, for metrics that look at them.

use std::collections::{BTreeMap, HashMap};

use tch::{Kind, Tensor};
use yolo_core::prune::{ChannelGroups, readings};
use yolo_core::{Mode, Program};
use yolo_data::Loader;

use crate::Result;
use crate::batch::image_tensor;
use crate::checkpoint::Checkpoint;

/// By name of the group, for each value that layers read its channels from, the mean absolute value `[channels]` over `batches` batches:
/// f32, on the CPU.
///
/// # Errors
/// `Error::Core` names the node that can't be run. `Error::Data` names an image that can't be read.
pub(super) fn mean_activations(
    model: &Checkpoint,
    groups: &ChannelGroups,
    images: &Loader,
    batches: usize,
) -> Result<BTreeMap<String, Vec<Tensor>>> {
    let readings = readings(&model.graph, groups);
    let axes: HashMap<usize, usize> = readings.iter().map(|r| (r.value.index(), r.axis)).collect();
    let mut sums: HashMap<usize, Tensor> = HashMap::new();
    let mut seen = 0.0;
    tch::no_grad(|| -> Result<()> {
        let program = Program::new(&model.graph, &model.params)?;
        for batch in images.epoch(0).take(batches.max(1)) {
            let batch = batch?;
            let weight = batch.len() as f64;
            seen += weight;
            // Reduced as soon as it is made: all values of a batch at once may not fit into memory.
            program.run_observed(&image_tensor(&batch, program.device())?, Mode::Eval, |value, tensor| {
                let Some(axis) = axes.get(&value.index()) else {
                    return Ok(());
                };
                let others: Vec<i64> = (0..tensor.dim() as i64).filter(|dim| *dim != *axis as i64).collect();
                let mean = tensor.f_abs()?.f_mean_dim(others.as_slice(), false, Kind::Float)?;
                let mean = mean.f_mul_scalar(weight)?;
                match sums.get_mut(&value.index()) {
                    Some(sum) => drop(sum.f_add_(&mean)?),
                    None => drop(sums.insert(value.index(), mean)),
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let mut found: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for reading in &readings {
        let Some(sum) = sums.get(&reading.value.index()) else {
            continue;
        };
        let positions = Tensor::f_from_slice(&reading.positions)?.f_to_device(sum.device())?;
        let own = sum.f_index_select(0, &positions)?.f_div_scalar(seen)?;
        let name = groups.groups[reading.group].name.clone();
        found.entry(name).or_default().push(own.f_to_device(tch::Device::Cpu)?);
    }
    Ok(found)
}
