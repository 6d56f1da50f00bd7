//! What a person looks at: pictures with boxes, curves, confusion matrices and the table of results.
//!
//! What lives here: drawing on plain RGB bytes, small SVG files, tables, pages of HTML, image files that appear whole or not at all. What must
//! not: models, tensors, data sets, printing. The crate knows nothing of the others, so it takes plain numbers and names.

mod bars;
mod canvas;
mod color;
mod curves;
mod error;
mod file;
mod labels;
mod letters;
mod matrix;
mod scatter;
mod sheet;
mod svg;
pub mod table;
mod text;
mod widths;

pub mod chart;
pub mod marks;
pub mod page;

pub use bars::{BarColumn, bars};
pub use canvas::{Canvas, Picture, Rect};
pub use chart::{Chart, Series, charts};
pub use color::{class_color, ink_on};
pub use curves::{PrCurve, confidence_curves, pr_curves, training_curves};
pub use error::{Error, Result};
pub use file::{jpeg, png, save_picture, save_text};
pub use labels::label_plots;
pub use letters::Letters;
pub use marks::{Mark, MarkStyle, draw_marks};
pub use matrix::confusion_matrix;
pub use page::Page;
pub use scatter::{Panel, scatter_panels};
pub use sheet::{Cell, contact_sheet, grid_sheet};
pub use table::{TableRow, markdown, terminal};
pub use text::{FontSize, text_width};
pub use widths::{Width, widths_chart};
