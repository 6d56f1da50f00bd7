//! A component of a library: data in configurations and checkpoints, a handle of the library in memory.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use yolo_abi::{
    TextBuffer, YoloBackboneVt, YoloDistillerVt, YoloMetricVt, YoloNeckBlockVt, YoloOpVt, YoloPrunerVt,
    YoloQuantizerVt, YoloSelf, YoloStr, YoloText, status,
};
use yolo_core::Kind;

use super::fail::Failure;
use super::host::HOST;
use super::library::Library;
use super::table;
use crate::error::{Code, PluginError, Result};

/// The tag of components of libraries in configurations.
pub const TAG: &str = "@dynamic";

/// A component as data: `{type: "@dynamic", plugin, name, options}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Package that it is in.
    pub plugin: String,
    /// Its name there.
    pub name: String,
    /// Its options.
    #[serde(default)]
    pub options: Map<String, Value>,
}

/// Tables of functions, one type per kind.
///
/// # Safety
/// The struct begins with its size and is what a library's `vtable` points at for this kind.
pub(super) unsafe trait Vtable: 'static {
    const KIND: Kind;
}

// SAFETY: each is what yolo_abi says of the kind.
unsafe impl Vtable for YoloBackboneVt {
    const KIND: Kind = Kind::Backbone;
}
// SAFETY: as above.
unsafe impl Vtable for YoloNeckBlockVt {
    const KIND: Kind = Kind::NeckBlock;
}
// SAFETY: as above.
unsafe impl Vtable for YoloOpVt {
    const KIND: Kind = Kind::Op;
}
// SAFETY: as above.
unsafe impl Vtable for YoloMetricVt {
    const KIND: Kind = Kind::Metric;
}
// SAFETY: as above.
unsafe impl Vtable for YoloPrunerVt {
    const KIND: Kind = Kind::Pruner;
}
// SAFETY: as above.
unsafe impl Vtable for YoloQuantizerVt {
    const KIND: Kind = Kind::Quantizer;
}
// SAFETY: as above.
unsafe impl Vtable for YoloDistillerVt {
    const KIND: Kind = Kind::Distiller;
}

/// What `create` made; freed with its last owner.
struct Handle {
    raw: YoloSelf,
    library: &'static Library,
    kind: Kind,
}

// SAFETY: the boundary demands that components may be used from several threads at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(destroy) = self.library.table().destroy {
            // SAFETY: made by `create` of this library for this kind; nobody uses it any more.
            unsafe { destroy(YoloStr::new(self.kind.name()), self.raw) };
        }
    }
}

/// A component with its functions.
pub(super) struct Component<V: Vtable> {
    pub source: Source,
    handle: Arc<Handle>,
    functions: PhantomData<V>,
    vtable: *const V,
}

// SAFETY: the table behind the pointer is constant; for the handle see above.
unsafe impl<V: Vtable> Send for Component<V> {}
// SAFETY: as above.
unsafe impl<V: Vtable> Sync for Component<V> {}

impl<V: Vtable> Clone for Component<V> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            handle: self.handle.clone(),
            functions: PhantomData,
            vtable: self.vtable,
        }
    }
}

impl<V: Vtable> fmt::Debug for Component<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// Why a component could not be made.
#[derive(Debug)]
pub enum Refusal {
    /// It refuses its options, in its own words: the reader of the configuration knows the place.
    Options(String),
    /// Anything else.
    Other(PluginError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(text) => f.write_str(text),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl From<PluginError> for Refusal {
    fn from(error: PluginError) -> Self {
        Self::Other(error)
    }
}

impl From<yolo_core::Error> for Refusal {
    fn from(error: yolo_core::Error) -> Self {
        match error {
            yolo_core::Error::Build { reason, .. } => Self::Options(reason),
            yolo_core::Error::Coded(error) => Self::Other(*error),
            other => Self::Options(other.to_string()),
        }
    }
}

impl<V: Vtable> Component<V> {
    /// Loads the library if need be, and makes the component.
    pub fn create(source: Source) -> Result<Self, Refusal> {
        let library = table::library(&source.plugin)?;
        let Source { name, .. } = &source;
        if library.description(V::KIND, name).is_none() {
            let names: Vec<String> = library
                .descriptions()
                .iter()
                .map(|about| format!("{} {}", about.kind.name(), about.name))
                .collect();
            let message = format!("`{}` has no {} `{name}`", source.plugin, V::KIND.title());
            let error = PluginError::new(Code::ManifestDrift, message)
                .detail("library", library.path().display())
                .detail("has", names.join(", "));
            return Err(error
                .help("it was rebuilt with other components: choose one of these")
                .into());
        }
        let vtable = functions::<V>(library, name)?;
        let (Some(create), options) = (library.table().create, serde_json::to_string(&source.options)) else {
            return Err(Refusal::Options("it can't be made".into()));
        };
        let options = options.map_err(|error| Refusal::Options(error.to_string()))?;
        let mut raw = std::ptr::null_mut();
        let mut error = TextBuffer::new();
        // SAFETY: texts and places are good during the call; the host table lives for ever.
        let code = unsafe {
            let text = YoloStr::new;
            create(
                text(V::KIND.name()),
                text(name),
                text(&options),
                &raw const HOST,
                &raw mut raw,
                error.text(),
            )
        };
        Failure::check(code, &error).map_err(|failure| {
            if failure.code == status::OPTIONS {
                Refusal::Options(failure.text)
            } else {
                failure.plugin_error(name, library.path()).into()
            }
        })?;
        let handle = Handle {
            raw,
            library,
            kind: V::KIND,
        };
        Ok(Self {
            handle: Arc::new(handle),
            source,
            functions: PhantomData,
            vtable,
        })
    }

    pub fn name(&self) -> &str {
        &self.source.name
    }

    pub fn library(&self) -> &'static Library {
        self.handle.library
    }

    /// Its functions.
    pub fn functions(&self) -> &'static V {
        // SAFETY: checked by `functions` when the component was made; tables live as long as the library.
        unsafe { &*self.vtable }
    }

    /// What the functions take first.
    pub fn raw(&self) -> YoloSelf {
        self.handle.raw
    }

    /// A call whose error is one of this component.
    pub fn call(&self, function: impl FnOnce(YoloSelf, YoloText) -> i32) -> yolo_core::Result<()> {
        let mut error = TextBuffer::new();
        let code = crate::leave::inside(self.library(), || function(self.raw(), error.text()));
        Failure::check(code, &error).map_err(|failure| failure.error(self.name(), self.library().path()))
    }

    /// A function from JSON to text.
    pub fn ask(&self, function: yolo_abi::YoloJsonFn, request: &impl Serialize) -> yolo_core::Result<String> {
        let function = function.ok_or_else(|| self.lacks())?;
        let request = serde_json::to_string(request)?;
        let mut reply = TextBuffer::new();
        // SAFETY: texts stay in their place during the call; the function is of this component's kind.
        self.call(|raw, error| unsafe { function(raw, YoloStr::new(&request), reply.text(), error) })?;
        reply
            .finish()
            .map_err(|error| self.bad_result(&error.to_string()).into())
    }

    /// A function from JSON to JSON.
    pub fn request<T: DeserializeOwned>(
        &self,
        function: yolo_abi::YoloJsonFn,
        request: &impl Serialize,
    ) -> yolo_core::Result<T> {
        let reply = self.ask(function, request)?;
        serde_json::from_str(&reply)
            .map_err(|error| self.bad_result(&format!("its answer can't be read: {error}")).into())
    }

    /// A complaint about what it returned.
    pub fn bad_result(&self, reason: &str) -> PluginError {
        PluginError::new(Code::BadResult, format!("`{}`: {reason}", self.name()))
            .detail("library", self.library().path().display())
            .help("this is a mistake in the plugin, tell its author")
    }

    /// A required function that is not there.
    pub fn lacks(&self) -> PluginError {
        let message = format!(
            "`{}` lacks a function that a {} must have",
            self.name(),
            V::KIND.title()
        );
        PluginError::new(Code::BadTable, message).detail("library", self.library().path().display())
    }
}

/// The functions of a kind, checked.
fn functions<V: Vtable>(library: &'static Library, name: &str) -> Result<*const V> {
    let bad = |reason: String| {
        let message = format!(
            "{}: the functions of `{name}` ({}) {reason}",
            library.path().display(),
            V::KIND.name()
        );
        PluginError::new(Code::BadTable, message)
            .help("rebuild it with this yolo's SDK; in C, set `struct_size` with sizeof")
    };
    let Some(vtable) = library.table().vtable else {
        return Err(bad("are not there".into()));
    };
    // SAFETY: the text is good during the call.
    let pointer = unsafe { vtable(YoloStr::new(V::KIND.name())) };
    if pointer.is_null() {
        return Err(bad("are not there".into()));
    }
    if pointer.addr() % align_of::<V>() != 0 {
        return Err(bad("have a crooked address".into()));
    }
    // SAFETY: tables of functions begin with their size.
    let size = unsafe { *pointer.cast::<u32>() } as usize;
    if size < size_of::<V>() {
        return Err(bad(format!("take {size} bytes, this yolo needs {}", size_of::<V>())));
    }
    Ok(pointer.cast())
}
