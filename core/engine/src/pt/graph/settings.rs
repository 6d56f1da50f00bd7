//! Settings of a pickled module, each checked: a value of the wrong kind is an error that names the module.

use serde_json::Value;
use yolo_core::{Error, Result};

use super::super::tree::{Attr, PtModule};

/// Extra tensors that counters of operations leave in a model; they take part in nothing.
const COUNTERS: [&str; 2] = ["total_ops", "total_params"];

/// A complaint about a module.
pub(super) fn refuse(module: &PtModule, reason: impl std::fmt::Display) -> Error {
    let place = if module.path.is_empty() {
        "the model"
    } else {
        &module.path
    };
    Error::Config(format!("`{place}` ({}): {reason}", module.kind()))
}

impl PtModule {
    fn wrong(&self, name: &str, wanted: &str) -> Error {
        let got = match self.attrs.get(name) {
            None => "is not there".to_owned(),
            Some(Attr::Value(value)) => format!("is {value}"),
            Some(Attr::Numbers(values)) => format!("is {values:?}"),
            Some(Attr::Method(method)) => format!("is the method `{method}`"),
            Some(Attr::Other(what)) => format!("is {what}"),
        };
        refuse(self, format!("`{name}` {got}; {wanted} is expected"))
    }

    /// A setting, `None` where it is absent or Python's `None`.
    pub(super) fn setting(&self, name: &str, wanted: &str) -> Result<Option<&Value>> {
        match self.attrs.get(name) {
            None | Some(Attr::Value(Value::Null)) => Ok(None),
            Some(Attr::Value(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(name, wanted)),
        }
    }

    /// A whole number.
    pub(super) fn int(&self, name: &str) -> Result<i64> {
        let value = self.setting(name, "a whole number")?.and_then(whole);
        value.ok_or_else(|| self.wrong(name, "a whole number"))
    }

    /// A number.
    pub(super) fn float(&self, name: &str) -> Result<f64> {
        let value = self.setting(name, "a number")?.and_then(Value::as_f64);
        value.ok_or_else(|| self.wrong(name, "a number"))
    }

    /// A truth value; `default` where it is absent.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.setting(name, "true or false")? {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => whole(value)
                .filter(|n| (0..=1).contains(n))
                .map(|n| n == 1)
                .ok_or_else(|| self.wrong(name, "true or false")),
        }
    }

    /// Text; `default` where it is absent.
    pub(super) fn text<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.setting(name, "text")? {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(name, "text")),
        }
    }

    /// Height and width: `k` or `[h, w]`; `default` where it is absent.
    pub(super) fn pair(&self, name: &str, default: Option<[i64; 2]>) -> Result<[i64; 2]> {
        let wanted = "one or two whole numbers";
        let found = match self.setting(name, wanted)? {
            None => default,
            Some(Value::Array(items)) => match items.as_slice() {
                [h, w] => whole(h).zip(whole(w)).map(|(h, w)| [h, w]),
                [one] => whole(one).map(|k| [k; 2]),
                _ => None,
            },
            Some(one) => whole(one).map(|k| [k; 2]),
        };
        found.ok_or_else(|| self.wrong(name, wanted))
    }

    /// The side of a square.
    pub(super) fn side(&self, name: &str, default: Option<i64>) -> Result<i64> {
        match self.pair(name, default.map(|k| [k; 2]))? {
            [h, w] if h == w => Ok(h),
            _ => Err(self.wrong(name, "the same number for height and width")),
        }
    }

    /// Refuses a setting that is neither absent nor this value.
    pub(super) fn only(&self, name: &str, value: &Value) -> Result<()> {
        match self.setting(name, "a plain value")? {
            None => Ok(()),
            Some(given) if given == value || given.as_f64().is_some_and(|g| Some(g) == value.as_f64()) => Ok(()),
            Some(given) => Err(refuse(
                self,
                format!("`{name}` is {given}, which can't be expressed here (only {value})"),
            )),
        }
    }

    /// Refuses tensors, children and code that the class does not have: somebody changed it, and its computation is not in the file.
    pub(super) fn only_parts(&self, tensors: &[&str], children: &[&str]) -> Result<()> {
        for name in self.tensors.keys().map(String::as_str) {
            if tensors.contains(&name) || COUNTERS.contains(&name) {
                continue;
            }
            let hint = if name.ends_with("_orig") || name.ends_with("_mask") {
                "; pruning of PyTorch is still applied: call `torch.nn.utils.prune.remove` and save again"
            } else {
                ""
            };
            return Err(refuse(
                self,
                format!(
                    "it has a tensor `{name}` that this class has not in YOLOv5, and what is computed with it is not in the file{hint}"
                ),
            ));
        }
        if let Some((name, child)) = self
            .children
            .iter()
            .find(|(name, _)| !children.contains(&name.as_str()))
        {
            return Err(refuse(
                self,
                format!(
                    "it has a part `{name}` ({}) that this class has not in YOLOv5, and what is computed with it is not in the file",
                    child.kind()
                ),
            ));
        }
        for hooks in ["_forward_hooks", "_forward_pre_hooks"] {
            let none = match self.attrs.get(hooks) {
                None => true,
                Some(Attr::Value(Value::Object(map))) => map.is_empty(),
                Some(Attr::Value(value)) => value.is_null(),
                Some(_) => false,
            };
            if !none {
                return Err(refuse(
                    self,
                    format!(
                        "it has {}, code that may change what it computes; remove them and save again",
                        &hooks[1..]
                    ),
                ));
            }
        }
        match self.attrs.get("forward") {
            None => Ok(()),
            // What `fuse()` leaves behind.
            Some(Attr::Method(name)) if name == "forward" || self.is_fused() => Ok(()),
            Some(_) => Err(refuse(
                self,
                "its `forward` was replaced, and what it computes is not in the file",
            )),
        }
    }

    /// Whether `fuse()` replaced its forward: convolution and activation, no batch norm.
    pub(super) fn is_fused(&self) -> bool {
        matches!(self.attrs.get("forward"), Some(Attr::Method(name)) if matches!(name.as_str(), "forward_fuse" | "fuseforward"))
    }

    /// A part that must be there.
    pub(super) fn child(&self, name: &str) -> Result<&Self> {
        self.children
            .get(name)
            .ok_or_else(|| refuse(self, format!("its part `{name}` is not there")))
    }
}

/// A whole number, also as a float.
fn whole(value: &Value) -> Option<i64> {
    let float = || {
        value
            .as_f64()
            .filter(|v| v.fract() == 0.0 && v.abs() < 1e15)
            .map(|v| v as i64)
    };
    value.as_i64().or_else(float)
}
