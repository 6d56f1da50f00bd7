//! Pruners of libraries, and the host that they see.

use std::borrow::Cow;
use std::ffi::c_void;
use std::mem::size_of;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_abi::{
    TextBuffer, YoloEvaluation, YoloFloats, YoloMetricVt, YoloPruneHost, YoloPrunerVt, YoloRegulariserVt, YoloSelf,
    YoloStr, YoloTensor, YoloText, status,
};
use yolo_core::prune::{PruneHost, PrunePlan, Regulariser};
use yolo_core::wire::PruneFacts;
use yolo_core::{Error, Kind, PluginInfo, PruneMetric, Pruner, Result};

use super::component::{Component, Refusal, Source};
use super::host::{give, guard};
use super::library::Library;
use super::metric::LentMetric;
use super::regulariser::RemoteRegulariser;
use super::table;
use crate::error::{Code, PluginError};

/// A pruner of a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct DynamicPruner(Component<YoloPrunerVt>);

impl TryFrom<Source> for DynamicPruner {
    type Error = Refusal;

    fn try_from(source: Source) -> Result<Self, Refusal> {
        Ok(Self(Component::create(source)?))
    }
}

impl From<DynamicPruner> for Source {
    fn from(pruner: DynamicPruner) -> Self {
        pruner.0.source
    }
}

#[typetag::serde(name = "@dynamic")]
impl Pruner for DynamicPruner {
    fn regulariser(&self) -> Option<Box<dyn Regulariser>> {
        let component = &self.0;
        let functions = component.functions();
        let make = functions.regulariser?;
        let mut raw: YoloSelf = std::ptr::null_mut();
        // SAFETY: the place for the result is ours, the function is of a pruner.
        let made = component.call(|pruner, error| unsafe { make(pruner, &raw mut raw, error) });
        let remote = made.and_then(|()| {
            if raw.is_null() {
                return Ok(None);
            }
            // SAFETY: made above, ours to free; the functions are constant and live as long as the library.
            unsafe { RemoteRegulariser::owned(functions.regulariser_vt, raw, component.library()) }.map(Some)
        });
        match remote {
            Ok(Some(remote)) => Some(Box::new(remote)),
            Ok(None) => None,
            // The trait has no room for an error here; it comes with the first step.
            Err(error) => Some(Box::new(Failed(Some(error)))),
        }
    }

    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let component = &self.0;
        let function = component.functions().plan.ok_or_else(|| component.lacks())?;
        let mut cx = Cx {
            host,
            failure: None,
            library: component.library(),
        };
        let functions = YoloPruneHost {
            struct_size: size_of::<YoloPruneHost>() as u32,
            _reserved: 0,
            cx: (&raw mut cx).cast(),
            describe,
            cost,
            scores,
            tensor,
            evaluate,
            train,
            progress,
        };
        let mut reply = TextBuffer::new();
        // SAFETY: host and texts are good during the call, the function is of a pruner.
        let outcome = component.call(|raw, error| unsafe { function(raw, &raw const functions, reply.text(), error) });
        // Where the host failed and the plugin passed it on, the host's own error says more.
        if let (Err(_), Some(own)) = (&outcome, cx.failure.take()) {
            return Err(own);
        }
        outcome?;
        let text = reply
            .finish()
            .map_err(|error| component.bad_result(&error.to_string()))?;
        let plan: PrunePlan = serde_json::from_str(&text)
            .map_err(|error| component.bad_result(&format!("its plan can't be read: {error}")))?;
        plan.check(cx.host.groups())
            .map_err(|error| component.bad_result(&error.to_string()))?;
        Ok(plan)
    }
}

/// A regulariser that could not be made.
#[derive(Debug)]
struct Failed(Option<Error>);

impl Regulariser for Failed {
    fn before_step(
        &mut self,
        _: &yolo_core::prune::ChannelGroups,
        _: &yolo_core::Params,
        _: yolo_core::prune::Step,
    ) -> Result<()> {
        Err(self.0.take().unwrap_or(Error::Cancelled))
    }
}

/// What stands behind `cx` while a pruner plans.
struct Cx<'a> {
    host: &'a mut dyn PruneHost,
    failure: Option<Error>,
    library: &'static Library,
}

/// Runs `body` on the host; its error is kept for the caller of the pruner, the plugin gets a status and the text.
///
/// # Safety
/// `cx` is that of the running call of `plan`.
unsafe fn on_host(cx: *mut c_void, error: YoloText, body: impl FnOnce(&mut Cx<'_>) -> Result<()>) -> i32 {
    let mut code = status::HOST;
    let outcome = guard(error, || {
        // SAFETY: as for this function; the plugin calls from the thread that runs `plan`, one call at a time.
        let cx = unsafe { cx.cast::<Cx<'_>>().as_mut() }.ok_or("the context is null")?;
        body(cx).map_err(|failure| {
            let text = failure.to_string();
            code = match failure {
                Error::Cancelled => status::CANCELLED,
                Error::Impossible(_) => status::IMPOSSIBLE,
                _ => status::HOST,
            };
            cx.failure = Some(failure);
            text
        })
    });
    if outcome == status::OK { status::OK } else { code }
}

/// A text that the plugin lends.
///
/// # Safety
/// The text is good for `'a`.
unsafe fn read<'a>(text: YoloStr) -> Result<&'a str> {
    // SAFETY: as for this function.
    let text = unsafe { text.text() };
    text.map_err(|_| PluginError::new(Code::BadResult, "a pruner passed text that is not UTF-8").into())
}

fn no_place() -> Error {
    PluginError::new(Code::BadResult, "a pruner passed no place for a result").into()
}

unsafe extern "C" fn describe(cx: *mut c_void, reply: YoloText, error: YoloText) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        let host = &*cx.host;
        let facts = PruneFacts {
            groups: Cow::Borrowed(&host.groups().groups),
            cost: Cow::Borrowed(host.cost()),
            budget: host.budget(),
            rounding: host.rounding(),
            seed: host.seed(),
        };
        // SAFETY: the plugin takes the text during this call.
        unsafe { reply.put(&serde_json::to_string(&facts)?) };
        Ok(())
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

unsafe extern "C" fn cost(
    cx: *mut c_void,
    widths: *const u64,
    len: usize,
    macs: *mut i64,
    params: *mut i64,
    error: YoloText,
) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        let groups = cx.host.groups().groups.len();
        if len != groups || widths.is_null() {
            return Err(PluginError::new(Code::BadResult, format!("{len} widths for {groups} groups")).into());
        }
        // SAFETY: the pruner passes so many widths.
        let kept: Vec<usize> = unsafe { std::slice::from_raw_parts(widths, len) }
            .iter()
            .zip(cx.host.cost().full())
            .map(|(width, full)| (*width as usize).min(*full))
            .collect();
        // SAFETY: the pruner passes places for the results.
        let (macs, params) = unsafe { (macs.as_mut(), params.as_mut()) };
        let (Some(macs), Some(params)) = (macs, params) else {
            return Err(no_place());
        };
        (*macs, *params) = (cx.host.cost().macs(&kept), cx.host.cost().params(&kept));
        Ok(())
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

unsafe extern "C" fn scores(
    cx: *mut c_void,
    named: YoloStr,
    vt: *const YoloMetricVt,
    component: YoloSelf,
    rows: YoloFloats,
    error: YoloText,
) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        let scores = if vt.is_null() {
            // SAFETY: the pruner lends the text for this call.
            let config: Value = serde_json::from_str(unsafe { read(named)? })?;
            cx.host.scores(&*find(config)?)?
        } else {
            // SAFETY: the pruner lends the metric for this call.
            cx.host
                .scores(&unsafe { LentMetric::new(vt, component, cx.library)? })?
        };
        for row in scores {
            // SAFETY: the pruner copies the row during the call.
            unsafe { (rows.put)(rows.cx, row.as_ptr(), row.len()) };
        }
        Ok(())
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

/// The metric of a configuration `{"type": NAME, ...options}`: linked in, or from outside.
fn find(config: Value) -> Result<Box<dyn PruneMetric>> {
    let Value::Object(mut options) = config else {
        return Err(Error::Config(
            "a metric is named as {\"type\": NAME, ...options}".into(),
        ));
    };
    let name = options
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let linked = PluginInfo::linked();
    if let Some(info) = linked
        .iter()
        .find(|info| info.kind == Kind::Metric && info.answers_to(&name))
    {
        options["type"] = info.name.into();
        return Ok(serde_json::from_value(Value::Object(options))?);
    }
    let Some(part) = table::part(Kind::Metric, &name) else {
        let names: Vec<&str> = linked
            .iter()
            .filter(|info| info.kind == Kind::Metric)
            .map(|info| info.name)
            .collect();
        let mut error = PluginError::new(Code::UnknownName, format!("there is no prune metric `{name}`"));
        error = error.help(match yolo_core::suggest::did_you_mean(&name, names.iter().copied()) {
            Some(hint) => hint,
            None => format!(
                "linked in are {}; others are found through --plugin and YOLO_PLUGIN_PATH",
                names.join(", ")
            ),
        });
        return Err(error.into());
    };
    options.remove("type");
    let mut found = json!({"type": part.tag});
    if let Value::Object(found) = &mut found {
        found.extend(part.fields);
        found.insert("options".into(), Value::Object(options));
    }
    Ok(serde_json::from_value(found)?)
}

unsafe extern "C" fn tensor(cx: *mut c_void, key: YoloStr, out: *mut YoloTensor, error: YoloText) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        // SAFETY: the pruner lends the text and passes a place for the result.
        let (key, out) = unsafe { (read(key)?, out.as_mut().ok_or_else(no_place)?) };
        *out = give(cx.host.tensor(key)?);
        Ok(())
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

unsafe extern "C" fn evaluate(
    cx: *mut c_void,
    plan: YoloStr,
    steps: u64,
    out: *mut YoloEvaluation,
    error: YoloText,
) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        // SAFETY: the pruner lends the text and passes a place for the result.
        let (plan, out) = unsafe { (read(plan)?, out.as_mut().ok_or_else(no_place)?) };
        let plan: PrunePlan = serde_json::from_str(plan)?;
        plan.check(cx.host.groups())?;
        let result = if steps == 0 {
            cx.host.evaluate(&plan)?
        } else {
            cx.host.evaluate_tuned(&plan, steps as usize)?
        };
        *out = YoloEvaluation {
            map50: result.map50,
            map: result.map,
        };
        Ok(())
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

unsafe extern "C" fn train(
    cx: *mut c_void,
    epochs: u64,
    vt: *const YoloRegulariserVt,
    regulariser: YoloSelf,
    error: YoloText,
) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        // SAFETY: the pruner lends the regulariser for this call.
        let mut remote = unsafe { RemoteRegulariser::lent(vt, regulariser, cx.library)? };
        cx.host.train(epochs as usize, &mut remote)
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}

unsafe extern "C" fn progress(cx: *mut c_void, done: u64, total: u64, note: YoloStr, error: YoloText) -> i32 {
    let body = |cx: &mut Cx<'_>| {
        // SAFETY: the pruner lends the text for this call.
        let note = super::fail::printable(&String::from_utf8_lossy(unsafe { note.bytes() }));
        cx.host.progress(done as usize, total as usize, &note)
    };
    // SAFETY: called by the pruner while it plans.
    unsafe { on_host(cx, error, body) }
}
