//! What both sides need to write and to read text and numbers.

use std::ffi::c_void;

use crate::{YoloFloats, YoloStr, YoloText};

/// Most bytes that are taken of one text: graphs of the largest models need a hundredth of it.
pub const MAX_TEXT: usize = 256 << 20;

impl YoloStr {
    /// The bytes; none for a null pointer.
    ///
    /// # Safety
    /// `ptr` is null or points at `len` bytes that stay as they are for `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() || self.len > MAX_TEXT {
            return &[];
        }
        // SAFETY: the caller vouches for pointer and length.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// The text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    ///
    /// # Safety
    /// As for [`YoloStr::bytes`].
    pub unsafe fn text<'a>(self) -> Result<&'a str, std::str::Utf8Error> {
        // SAFETY: as for this function.
        std::str::from_utf8(unsafe { self.bytes() })
    }
}

impl YoloText {
    /// Writes a text to whoever gave this.
    ///
    /// # Safety
    /// The call that gave this has not returned yet.
    pub unsafe fn put(self, text: &str) {
        // SAFETY: the caller vouches for the callback; the text outlives the call.
        unsafe { (self.write)(self.cx, YoloStr::new(text)) }
    }
}

/// What has been written to a [`YoloText`] of ours.
#[derive(Debug, Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
    too_long: bool,
}

/// Why a text can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    /// The byte at this position is no UTF-8.
    NotUtf8(usize),
    /// It is longer than [`MAX_TEXT`].
    TooLong,
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotUtf8(at) => write!(f, "its text is not UTF-8 (byte {at})"),
            Self::TooLong => write!(f, "its text is longer than {} MiB", MAX_TEXT >> 20),
        }
    }
}

impl std::error::Error for TextError {}

impl TextBuffer {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the other side writes, while `self` stays in its place.
    pub fn text(&mut self) -> YoloText {
        unsafe extern "C" fn write(cx: *mut c_void, piece: YoloStr) {
            // SAFETY: `cx` is the buffer that made this text; the other side vouches for the piece.
            let (buffer, piece) = unsafe { (&mut *cx.cast::<TextBuffer>(), piece.bytes()) };
            if buffer.too_long || buffer.bytes.len() + piece.len() > MAX_TEXT {
                buffer.too_long = true;
            } else {
                buffer.bytes.extend_from_slice(piece);
            }
        }
        YoloText {
            cx: std::ptr::from_mut(self).cast(),
            write,
        }
    }

    /// What was written.
    ///
    /// # Errors
    /// Where it is too long or not UTF-8.
    pub fn finish(self) -> Result<String, TextError> {
        if self.too_long {
            return Err(TextError::TooLong);
        }
        String::from_utf8(self.bytes).map_err(|error| TextError::NotUtf8(error.utf8_error().valid_up_to()))
    }

    /// What was written, with marks in the place of what is not UTF-8: for messages.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Rows that have been put to a [`YoloFloats`] of ours.
#[derive(Debug, Default)]
pub struct FloatRows {
    /// The rows.
    pub rows: Vec<Vec<f32>>,
    left: usize,
}

impl FloatRows {
    /// Takes so many numbers in all; more are dropped, but for one, which shows that there were too many.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            rows: Vec::new(),
            left: limit.saturating_add(1),
        }
    }

    /// Where the other side puts rows, while `self` stays in its place.
    pub fn floats(&mut self) -> YoloFloats {
        unsafe extern "C" fn put(cx: *mut c_void, values: *const f32, len: usize) {
            // SAFETY: `cx` is the collection that made this.
            let rows = unsafe { &mut *cx.cast::<FloatRows>() };
            let len = len.min(rows.left);
            rows.left -= len;
            let row = if values.is_null() {
                Vec::new()
            } else {
                // SAFETY: the other side vouches for pointer and length.
                unsafe { std::slice::from_raw_parts(values, len) }.to_vec()
            };
            if rows.rows.len() <= MAX_ROWS {
                rows.rows.push(row);
            }
        }
        YoloFloats {
            cx: std::ptr::from_mut(self).cast(),
            put,
        }
    }
}

/// Most rows that are taken.
const MAX_ROWS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_arrives_in_pieces_and_what_is_not_text_is_noticed() {
        let mut buffer = TextBuffer::new();
        let text = buffer.text();
        // SAFETY: the buffer stays in its place.
        unsafe {
            text.put("gr\u{fc}n");
            text.put("");
            text.put(" blau");
            (text.write)(
                text.cx,
                YoloStr {
                    ptr: std::ptr::null(),
                    len: 9,
                },
            );
        }
        assert_eq!(buffer.finish().as_deref(), Ok("gr\u{fc}n blau"));

        let mut buffer = TextBuffer::new();
        let text = buffer.text();
        let bytes = [b'a', 0xFF, b'b'];
        // SAFETY: as above.
        unsafe {
            (text.write)(
                text.cx,
                YoloStr {
                    ptr: bytes.as_ptr(),
                    len: 3,
                },
            )
        };
        assert_eq!(buffer.lossy(), "a\u{fffd}b");
        assert_eq!(buffer.finish(), Err(TextError::NotUtf8(1)));
    }

    #[test]
    fn rows_end_where_their_limit_is() {
        let mut rows = FloatRows::with_limit(3);
        let floats = rows.floats();
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        // SAFETY: the collection stays in its place; the slices are what they say.
        unsafe {
            (floats.put)(floats.cx, values.as_ptr(), 2);
            (floats.put)(floats.cx, values.as_ptr(), 5);
            (floats.put)(floats.cx, std::ptr::null(), 5);
        }
        assert_eq!(rows.rows, [vec![1.0, 2.0], vec![1.0, 2.0], vec![]]);
    }
}
