//! One call of a metric: a fresh instance, the layer copied in, the scores copied out.
//!
//! Every layer gets an instance of its own. So a metric can't remember anything, layers may be scored in any order and on any
//! number of threads, and nothing that it allocates outlives the call.

use std::fmt;
use std::time::Duration;

use tch::Tensor;
use wasmtime::{Instance, InstancePre, Memory, ResourceLimiter, Store, Trap, WasmBacktrace};
use yolo_core::prune::{GroupTensors, MetricInputs};

use super::engine::{Ticking, ticks};
use super::module::{BASE_FUEL, BASE_MEMORY, Loaded, first_line};
use crate::error::{Code, PluginError, Result};

/// Alignment of everything that is copied in; enough for SIMD.
const ALIGN: u32 = 16;
/// Most elements of a module's tables.
const MAX_TABLE: usize = 100_000;

/// What a call may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Fuel per weight, on top of [`BASE_FUEL`].
    pub(super) fuel_per_weight: u64,
    /// Wall-clock time of a layer.
    pub(super) time: Duration,
}

/// The limits of a store, as wasmtime asks for them.
#[derive(Debug)]
pub(super) struct State {
    memory: usize,
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory {
            return Err(OverLimit {
                wanted: desired,
                allowed: self.memory,
            }
            .into());
        }
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE)
    }
}

/// A metric wanted more memory than it may have.
#[derive(Debug)]
struct OverLimit {
    wanted: usize,
    allowed: usize,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of memory, {} are allowed", self.wanted, self.allowed)
    }
}

impl std::error::Error for OverLimit {}

/// A running instance.
pub(super) struct Guest<'a> {
    store: Store<State>,
    instance: Instance,
    memory: Memory,
    name: &'a str,
    place: &'a str,
    fuel: u64,
    time: Duration,
    _ticking: Ticking,
}

impl<'a> Guest<'a> {
    /// A fresh instance. `place` says in messages where it runs ("on layer 3 of 62 (`model.1.cv1`)").
    pub(super) fn start(
        pre: &InstancePre<State>,
        name: &'a str,
        place: &'a str,
        fuel: u64,
        time: Duration,
        memory: usize,
    ) -> Result<Self> {
        let ticking = Ticking::start();
        let mut store = Store::new(pre.module().engine(), State { memory });
        store.limiter(|state| state);
        let failed = |error: &wasmtime::Error| explain(error, name, place, fuel, time);
        store.set_fuel(fuel).map_err(|error| failed(&error))?;
        store.set_epoch_deadline(ticks(time));
        let instance = pre.instantiate(&mut store).map_err(|error| failed(&error))?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| PluginError::new(Code::WasmExports, format!("metric `{name}` does not export `memory`")))?;
        Ok(Self {
            store,
            instance,
            memory,
            name,
            place,
            fuel,
            time,
            _ticking: ticking,
        })
    }

    /// Calls a function without parameters.
    pub(super) fn ask(&mut self, function: &str) -> Result<i32> {
        let typed = self.instance.get_typed_func::<(), i32>(&mut self.store, function);
        typed
            .and_then(|typed| typed.call(&mut self.store, ()))
            .map_err(|error| self.failed(&error))
    }

    fn call(&mut self, function: &str, a: u32, b: u32) -> Result<u32> {
        let typed = self
            .instance
            .get_typed_func::<(u32, u32), u32>(&mut self.store, function);
        typed
            .and_then(|typed| typed.call(&mut self.store, (a, b)))
            .map_err(|error| self.failed(&error))
    }

    /// Memory for `bytes`, as the module hands it out, checked.
    fn alloc(&mut self, bytes: usize) -> Result<u32> {
        let Ok(wanted) = u32::try_from(bytes) else {
            return Err(self.complain(
                Code::WasmOutOfMemory,
                format!("the layer has {bytes} bytes, more than 32 bits can address"),
            ));
        };
        let address = self.call("yolo_alloc", wanted, ALIGN)?;
        let size = self.memory.data_size(&self.store);
        let reason = if address == 0 {
            "the module has no memory left".to_owned()
        } else if address % ALIGN != 0 {
            format!("it is not aligned to {ALIGN} bytes")
        } else if address as usize + bytes > size {
            format!("the memory ends at {size}")
        } else {
            return Ok(address);
        };
        let message = format!("`yolo_alloc({bytes}, {ALIGN})` returned {address}, but {reason}");
        Err(self
            .complain(Code::WasmAlloc, message)
            .help("grow the memory (`memory.grow`) before returning from `yolo_alloc`"))
    }

    /// The bytes at an address that [`Guest::alloc`] gave.
    fn bytes(&mut self, address: u32, length: usize) -> &mut [u8] {
        &mut self.memory.data_mut(&mut self.store)[address as usize..][..length]
    }

    fn put(&mut self, words: &[u32]) -> Result<u32> {
        let address = self.alloc(4 * words.len())?;
        for (slot, word) in self.bytes(address, 4 * words.len()).chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        Ok(address)
    }

    /// Copies a tensor in; its address, or 0 for none.
    fn put_tensor(&mut self, tensor: Option<&Tensor>) -> Result<u32> {
        let Some(tensor) = tensor else { return Ok(0) };
        let count = tensor.numel();
        let address = self.alloc(4 * count)?;
        let copied = tensor.f_copy_data_u8(self.bytes(address, 4 * count), count);
        copied.map_err(|error| self.complain(Code::Torch, first_line(&error.to_string()).to_owned()))?;
        Ok(address)
    }

    fn failed(&self, error: &wasmtime::Error) -> PluginError {
        explain(error, self.name, self.place, self.fuel, self.time)
    }

    fn complain(&self, code: Code, what: String) -> PluginError {
        PluginError::new(code, format!("metric `{}`: {what}", self.name)).detail("where", self.place)
    }
}

/// The tensors of a group as the module sees them: one row per channel.
struct Layer {
    /// `[channels, elements]`: the rows of all layers that make the channels, one after another.
    weight: Option<Tensor>,
    grad: Option<Tensor>,
    /// `[norms, channels]`.
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
    gamma_grad: Option<Tensor>,
    /// Elements of each layer in a row.
    parts: Vec<u32>,
    norms: u32,
}

impl Layer {
    /// What the module asks for; hosts may have collected more.
    fn of(group: &GroupTensors, needs: MetricInputs) -> yolo_core::Result<Self> {
        fn asked(asked: bool, tensors: &[Tensor]) -> &[Tensor] {
            if asked { tensors } else { &[] }
        }
        let plain = |tensor: Tensor| -> yolo_core::Result<Tensor> {
            Ok(tensor
                .f_detach()?
                .f_to_device(tch::Device::Cpu)?
                .f_to_kind(tch::Kind::Float)?
                .f_contiguous()?)
        };
        let joined = |tensors: &[Tensor]| -> yolo_core::Result<Option<Tensor>> {
            match tensors {
                [] => Ok(None),
                [one] => plain(one.shallow_clone()).map(Some),
                many => plain(Tensor::f_cat(many, 1)?).map(Some),
            }
        };
        let stacked = |tensors: &[Tensor]| -> yolo_core::Result<Option<Tensor>> {
            if tensors.is_empty() {
                Ok(None)
            } else {
                plain(Tensor::f_stack(tensors, 0)?).map(Some)
            }
        };
        Ok(Self {
            weight: joined(asked(needs.weight, &group.weights))?,
            grad: joined(asked(needs.weight && needs.grad, &group.weight_grads))?,
            gamma: stacked(asked(needs.bn, &group.gammas))?,
            beta: stacked(asked(needs.bn, &group.betas))?,
            gamma_grad: stacked(asked(needs.bn && needs.grad, &group.gamma_grads))?,
            parts: asked(needs.weight, &group.weights)
                .iter()
                .map(|weight| weight.size().get(1).copied().unwrap_or(1) as u32)
                .collect(),
            norms: asked(needs.bn, &group.gammas).len() as u32,
        })
    }

    fn tensors(&self) -> [&Option<Tensor>; 5] {
        [&self.weight, &self.grad, &self.gamma, &self.beta, &self.gamma_grad]
    }

    /// Numbers that a metric has to look at.
    fn numbers(&self) -> usize {
        self.tensors().into_iter().flatten().map(Tensor::numel).sum()
    }
}

/// Scores a group: one finite number per channel.
pub(super) fn score(
    module: &Loaded,
    params: &[f32],
    limits: Limits,
    group: &GroupTensors,
) -> yolo_core::Result<Vec<f32>> {
    let name = module.about.name.as_str();
    let layer = Layer::of(group, module.needs)?;
    let elements: u32 = layer.parts.iter().sum();
    let (index, count) = group.index;
    let layer_name = format!("layer {} of {count} (`{}`)", index + 1, group.name);
    let place = format!(
        "on {}, {} channels x {elements})",
        layer_name.trim_end_matches(')'),
        group.channels
    );
    let numbers = layer.numbers();
    let fuel = (numbers as u64)
        .saturating_mul(limits.fuel_per_weight)
        .saturating_add(BASE_FUEL);
    let memory = 4 * (4 * numbers) + BASE_MEMORY;
    let mut guest = Guest::start(&module.pre, name, &place, fuel, limits.time, memory)?;

    let params_at = if params.is_empty() {
        0
    } else {
        guest.put(&params.iter().map(|p| p.to_bits()).collect::<Vec<_>>())?
    };
    let parts_at = if layer.parts.is_empty() {
        0
    } else {
        guest.put(&layer.parts)?
    };
    let weight = guest.put_tensor(layer.weight.as_ref())?;
    let grad = guest.put_tensor(layer.grad.as_ref())?;
    let gamma = guest.put_tensor(layer.gamma.as_ref())?;
    let beta = guest.put_tensor(layer.beta.as_ref())?;
    let gamma_grad = guest.put_tensor(layer.gamma_grad.as_ref())?;
    // Scores that are not written must not look like scores.
    let out = guest.put(&vec![f32::NAN.to_bits(); group.channels])?;
    let mut desc = [
        0, // size, below
        group.channels as u32,
        elements,
        index as u32,
        count as u32,
        elements, // numbers from one row to the next
        weight,
        gamma,
        beta,
        0, // running mean: not in this version
        0, // running variance: not in this version
        grad,
        0, // activations: not in this version
        params.len() as u32,
        params_at,
        layer.norms,
        layer.parts.len() as u32,
        parts_at,
        gamma_grad,
    ];
    desc[0] = 4 * desc.len() as u32;
    let desc_at = guest.put(&desc)?;

    let status = guest.call("yolo_score", desc_at, out)? as i32;
    if status != 0 {
        let message = format!("metric `{name}` returned error {status} {place}");
        return Err(PluginError::new(Code::WasmFailed, message)
            .help("what it means stands in the metric's documentation")
            .into());
    }
    let scores: Vec<f32> = guest
        .bytes(out, 4 * group.channels)
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    if let Some(channel) = scores.iter().position(|score| !score.is_finite()) {
        let message = format!(
            "metric `{name}` gave {} for channel {channel} of {layer_name}",
            scores[channel]
        );
        let help = "every channel needs a finite score; what is not written stays NaN";
        return Err(PluginError::new(Code::WasmBadResult, message).help(help).into());
    }
    Ok(scores)
}

/// What stopped a module.
fn explain(error: &wasmtime::Error, name: &str, place: &str, fuel: u64, time: Duration) -> PluginError {
    let about = |code: Code, what: String| PluginError::new(code, format!("metric `{name}` {what}"));
    if let Some(over) = error.downcast_ref::<OverLimit>() {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let what = format!(
            "wanted {:.1} MiB of memory {place}, it may have {:.1} MiB",
            mib(over.wanted),
            mib(over.allowed)
        );
        return about(Code::WasmOutOfMemory, what).help(
            "a metric may use 4 times the size of its inputs and 16 MiB; work row by row instead of keeping copies",
        );
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => about(
            Code::WasmOutOfFuel,
            format!("used its whole budget ({:.0} M fuel) {place}", fuel as f64 / 1e6),
        )
        .help(
            "it may loop for ever; a plain norm needs about 20 fuel per weight. Raise it with `fuel_per_weight: 1000`",
        ),
        Some(Trap::Interrupt) => about(
            Code::WasmOutOfTime,
            format!("ran for more than {} s {place}", time.as_secs_f64()),
        )
        .help("it may loop for ever; on a slow machine, raise it with `seconds: 60`"),
        Some(trap) => {
            let what = trap.to_string();
            let what = what.trim_start_matches("wasm trap: ");
            let error = about(Code::WasmTrap, format!("trapped {place}: {what}")).detail("in", frames(error));
            error
                .help("this is a mistake in the metric; `yolo plugin test FILE` runs it on small layers of many shapes")
        }
        None => about(
            Code::WasmTrap,
            format!("stopped {place}: {}", first_line(&error.root_cause().to_string())),
        ),
    }
}

/// The innermost functions, from the module's name section.
fn frames(error: &wasmtime::Error) -> String {
    const SHOWN: usize = 6;
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return "unknown code".to_owned();
    };
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .take(SHOWN)
        .map(|frame| match frame.func_name() {
            Some(name) => name.chars().filter(|c| !c.is_control()).take(60).collect(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    names.join(" <- ")
}
