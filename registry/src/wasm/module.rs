//! A module that has been checked and compiled, and the table of those that this process has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{ExternType, FuncType, InstancePre, Linker, Module, ValType};
use yolo_core::prune::MetricInputs;

use super::cache::Cache;
use super::call::{Guest, State};
use super::{ABI, engine};
use crate::describe::Description;
use crate::error::{Code, PluginError, Result};
use crate::package::{Package, sha256};

/// Bits of `yolo_needs`.
const NEEDS_WEIGHT: u32 = 1;
const NEEDS_BN: u32 = 2;
const NEEDS_GRAD: u32 = 4;
const NEEDS_ACTIVATION: u32 = 8;

/// What a call may use apart from what its layer brings.
pub(super) const BASE_FUEL: u64 = 10_000_000;
pub(super) const BASE_MEMORY: usize = 16 << 20;

/// A module, ready to be called from any thread.
pub struct Loaded {
    /// How it describes itself.
    pub about: Description,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Version of the metric ABI that it speaks.
    pub abi: (u16, u16),
    /// What it wants to see.
    pub needs: MetricInputs,
    pub(super) pre: InstancePre<State>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("name", &self.about.name)
            .field("abi", &self.abi)
            .finish_non_exhaustive()
    }
}

/// The metric `name` of a package: read, checked, compiled (or taken from the cache), and asked for its ABI and needs. A module is
/// compiled once per process.
///
/// # Errors
/// Everything that can be wrong with a module, by its own code.
pub fn load(package: &Package, name: &str) -> Result<Arc<Loaded>> {
    type Table = Mutex<HashMap<([u8; 32], String), Arc<Loaded>>>;
    static TABLE: OnceLock<Table> = OnceLock::new();
    let bytes = super::read(&package.file)?;
    let hash = sha256(&bytes);
    package.check_sum(&hash)?;
    let table = TABLE.get_or_init(Table::default);
    let key = (hash, name.to_owned());
    if let Some(known) = table.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(known.clone());
    }
    let about = about(package, name, &bytes)?;
    let loaded = Arc::new(compile(package, about, &bytes, hash)?);
    table
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, loaded.clone());
    Ok(loaded)
}

/// The description of `name`: the module's own, which must agree with the manifest, or the manifest's.
fn about(package: &Package, name: &str, bytes: &[u8]) -> Result<Description> {
    let own = super::described(&package.file, bytes)?;
    let Some(manifest) = &package.manifest else {
        return match own {
            Some(own) => Ok(own),
            None => super::describe(&package.file),
        };
    };
    let Some(entry) = manifest.provides.iter().find(|entry| entry.name == name) else {
        return Err(drift(
            package,
            format!("`{}`: the manifest does not offer metric `{name}`", manifest.name),
        ));
    };
    let Some(own) = own else {
        return Ok(Description {
            kind: entry.kind,
            name: entry.name.clone(),
            aliases: entry.aliases.clone(),
            summary: entry.summary.clone(),
            version: manifest.version.clone(),
            authors: manifest.authors.clone(),
            license: manifest.license.clone(),
            paper: entry.paper.clone(),
            stability: "stable".to_owned(),
            package: manifest.name.clone(),
            schema: serde_json::Value::Null,
            example: serde_json::Value::Null,
        });
    };
    if own.name != entry.name {
        let message = format!(
            "`{}`: the manifest offers metric `{}`, the module is `{}`",
            manifest.name, entry.name, own.name
        );
        return Err(drift(package, message));
    }
    Ok(Description {
        package: manifest.name.clone(),
        ..own
    })
}

fn drift(package: &Package, message: String) -> PluginError {
    PluginError::new(Code::ManifestDrift, message)
        .detail("module", package.file.display())
        .help("bring `[[provides]]` and the section `yolo.plugin` together")
}

fn compile(package: &Package, about: Description, bytes: &[u8], hash: [u8; 32]) -> Result<Loaded> {
    let engine = engine::engine()?;
    let cache = Cache::of_user();
    let file = package.file.display();
    let module = match cache.as_ref().and_then(|cache| cache.load(engine, &hash)) {
        Some(module) => module,
        None => {
            let module = Module::new(engine, bytes).map_err(|error| {
                let cause = error.root_cause().to_string();
                PluginError::new(
                    Code::WasmBadModule,
                    format!("{file} is no WebAssembly module: {}", first_line(&cause)),
                )
            })?;
            if let Some(cache) = &cache {
                cache.store(engine, &hash, &module);
            }
            module
        }
    };
    check_imports(package, &module)?;
    check_exports(package, &module)?;
    let pre = Linker::new(engine).instantiate_pre(&module).map_err(|error| {
        PluginError::new(
            Code::WasmBadModule,
            format!("{file}: {}", first_line(&error.to_string())),
        )
    })?;
    let name = about.name.clone();
    let mut guest = Guest::start(
        &pre,
        &name,
        "while it was loaded",
        BASE_FUEL,
        Duration::from_secs(10),
        BASE_MEMORY,
    )?;
    let abi = guest.ask("yolo_metric_abi")? as u32;
    let abi = ((abi >> 16) as u16, abi as u16);
    if abi.0 != ABI.0 || abi.1 > ABI.1 {
        let message = format!(
            "metric `{name}` speaks metric ABI {}.{}, this yolo speaks {}.{}",
            abi.0, abi.1, ABI.0, ABI.1
        );
        return Err(PluginError::new(Code::WasmAbi, message)
            .detail("module", file)
            .help("`yolo_metric_abi` returns major << 16 | minor: 0x10000 for version 1.0"));
    }
    let bits = guest.ask("yolo_needs")? as u32;
    let needs = needs(&name, bits)?;
    Ok(Loaded {
        about,
        sha256: hash,
        abi,
        needs,
        pre,
    })
}

fn needs(name: &str, bits: u32) -> Result<MetricInputs> {
    let unknown = bits & !(NEEDS_WEIGHT | NEEDS_BN | NEEDS_GRAD);
    if unknown != 0 {
        let what = if unknown == NEEDS_ACTIVATION {
            "activations (bit 8), which modules are not given".to_owned()
        } else {
            format!("unknown inputs (bits {unknown:#x})")
        };
        return Err(
            PluginError::new(Code::WasmNeeds, format!("metric `{name}` asks for {what}"))
                .help("`yolo_needs` returns a sum of 1 (weights), 2 (batch norm) and 4 (gradients)"),
        );
    }
    if bits & (NEEDS_WEIGHT | NEEDS_BN) == 0 {
        return Err(PluginError::new(
            Code::WasmNeeds,
            format!("metric `{name}` asks for neither weights nor batch norm"),
        )
        .help("`yolo_needs` returns a sum of 1 (weights), 2 (batch norm) and 4 (gradients)"));
    }
    Ok(MetricInputs {
        weight: bits & NEEDS_WEIGHT != 0,
        bn: bits & NEEDS_BN != 0,
        grad: bits & NEEDS_GRAD != 0,
        ..MetricInputs::default()
    })
}

fn check_imports(package: &Package, module: &Module) -> Result<()> {
    let imports: Vec<String> = module
        .imports()
        .map(|import| format!("{}.{}", import.module(), import.name()))
        .collect();
    let Some(first) = imports.first() else { return Ok(()) };
    let shown = |name: &str| name.chars().filter(|c| !c.is_control()).take(80).collect::<String>();
    let more = if imports.len() > 1 {
        format!(" (and {} more)", imports.len() - 1)
    } else {
        String::new()
    };
    let message = format!(
        "{} imports `{}`{more}; metrics may not import anything",
        package.file.display(),
        shown(first)
    );
    let help = if first.starts_with("wasi") {
        "build for wasm32-unknown-unknown instead of WASI, and do not print"
    } else if first == "env.abort" {
        "AssemblyScript: build with `--use abort=`"
    } else {
        "build for wasm32-unknown-unknown, and do not print"
    };
    Err(PluginError::new(Code::WasmImports, message).help(help))
}

/// What a metric exports: name, parameters, results.
pub(super) const EXPORTS: [(&str, usize, usize); 4] = [
    ("yolo_metric_abi", 0, 1),
    ("yolo_alloc", 2, 1),
    ("yolo_needs", 0, 1),
    ("yolo_score", 2, 1),
];

fn check_exports(package: &Package, module: &Module) -> Result<()> {
    let file = package.file.display();
    let complain = |what: String, help: String| {
        let mut names: Vec<&str> = module.exports().map(|export| export.name()).take(20).collect();
        names.sort_unstable();
        let names = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        Err(PluginError::new(Code::WasmExports, format!("{file} {what}"))
            .detail("it exports", names)
            .help(help))
    };
    match module.get_export("memory") {
        Some(ExternType::Memory(memory)) if !memory.is_64() && !memory.is_shared() => {}
        Some(_) => {
            return complain(
                "exports `memory`, but not as a plain 32-bit memory".into(),
                "export the module's own memory".into(),
            );
        }
        None => {
            return complain(
                "does not export `memory`".into(),
                "export the module's own memory under this name".into(),
            );
        }
    }
    for (name, parameters, results) in EXPORTS {
        let words = |count| vec!["i32"; count].join(", ");
        let help = format!("it must be a function ({}) -> {}", words(parameters), words(results));
        match module.get_export(name) {
            Some(ExternType::Func(function)) if is_of(&function, parameters, results) => {}
            Some(_) => return complain(format!("exports `{name}` with another type"), help),
            None => return complain(format!("does not export `{name}`"), help),
        }
    }
    Ok(())
}

fn is_of(function: &FuncType, parameters: usize, results: usize) -> bool {
    let i32s = |mut types: Box<dyn ExactSizeIterator<Item = ValType> + '_>, count: usize| {
        types.len() == count && types.all(|kind| matches!(kind, ValType::I32))
    };
    i32s(Box::new(function.params()), parameters) && i32s(Box::new(function.results()), results)
}

pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
