//! Nothing but a status leaves a function: panics are caught, errors become a code and a sentence.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::Serialize;
use serde::de::DeserializeOwned;
use yolo_abi::{TextBuffer, YoloSelf, YoloStr, YoloText, status};
use yolo_core::{Error, Result};

/// A function of the host failed. The host knows why and gets its own error back.
#[derive(Debug)]
pub(super) struct HostFailed(pub String);

impl fmt::Display for HostFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostFailed {}

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Whether a function of the table is running on this thread.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Panics in functions of the table are told to the host, not printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return before(info);
            }
            let place = info
                .location()
                .map(|at| format!(" ({}:{})", at.file(), at.line()))
                .unwrap_or_default();
            let text = format!("{}{place}", words(info.payload()));
            PANIC.with(|last| *last.borrow_mut() = Some(text));
        }));
    });
}

fn words(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

/// Runs `body`; its error or panic goes to `error`.
pub(super) fn guard(error: YoloText, body: impl FnOnce() -> Result<()>) -> i32 {
    keep_panics();
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(outer);
    let (code, text) = match outcome {
        Ok(Ok(())) => return status::OK,
        Ok(Err(failure)) => verdict(&failure),
        Err(payload) => {
            let told = PANIC.with(|last| last.borrow_mut().take());
            let text = told.unwrap_or_else(|| words(&*payload).to_owned());
            // A payload may panic as it goes.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            (status::PANIC, text)
        }
    };
    // SAFETY: the call that gave `error` is still going on.
    unsafe { error.put(&text) };
    code
}

/// Runs `body` where nobody listens.
pub(super) fn quietly(body: impl FnOnce() -> Result<()>) {
    let mut nobody = TextBuffer::new();
    let _ = guard(nobody.text(), body);
}

/// Code and sentence of an error.
fn verdict(failure: &Error) -> (i32, String) {
    let code = match failure {
        Error::Torch(_) => status::TORCH,
        Error::Cancelled => status::CANCELLED,
        Error::Impossible(_) => status::IMPOSSIBLE,
        Error::Config(_) | Error::Located(_) | Error::Json(_) | Error::Build { .. } => status::OPTIONS,
        Error::Other(inner) if inner.is::<HostFailed>() => status::HOST,
        _ => status::FAILED,
    };
    let text = match failure {
        // The host names the plugin itself.
        Error::Build { reason, .. } | Error::Plugin { reason, .. } => reason.clone(),
        Error::Torch(_) => failure.to_string().trim_start_matches("libtorch: ").to_owned(),
        // In serde's own words, from which the host makes a complaint with a place.
        Error::Json(error) => error.to_string(),
        other => other.to_string(),
    };
    (code, text)
}

/// The other way: what a function of the host returned.
pub(super) fn of_host(code: i32, error: &TextBuffer) -> Result<()> {
    match code {
        status::OK => Ok(()),
        status::CANCELLED => Err(Error::Cancelled),
        status::IMPOSSIBLE => Err(Error::Impossible(error.lossy())),
        _ => Err(Error::other(HostFailed(error.lossy()))),
    }
}

/// A text that the host lends.
///
/// # Safety
/// The text is good for `'a`.
pub(super) unsafe fn read<'a>(text: YoloStr) -> Result<&'a str> {
    // SAFETY: as for this function.
    unsafe { text.text() }.map_err(|_| Error::Config("the host passed text that is not UTF-8".into()))
}

/// A function from JSON to JSON on a component.
///
/// # Safety
/// The component is of kind `T`; the texts are good during the call.
pub(super) unsafe fn json<T: ?Sized, Q: DeserializeOwned, A: Serialize>(
    component: YoloSelf,
    request: YoloStr,
    reply: YoloText,
    error: YoloText,
    answer: impl FnOnce(&T, Q) -> Result<A>,
) -> i32 {
    guard(error, || {
        // SAFETY: as for this function.
        let (component, request) = unsafe { (super::component::<T>(component)?, read(request)?) };
        let answer = answer(component, serde_json::from_str(request)?)?;
        // SAFETY: as for this function.
        unsafe { reply.put(&serde_json::to_string(&answer)?) };
        Ok(())
    })
}

/// The request of functions that need none.
#[derive(serde::Deserialize)]
pub(super) struct Nothing {}
