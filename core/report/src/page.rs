//! One HTML file that needs no other: texts, tables and pictures, which stand in it as data.
//!
//! What must not be here: what a page is of.

use std::fmt::Write as _;

use base64ct::{Base64, Encoding as _};

use crate::svg::escaped;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:2em auto;max-width:1100px;padding:0 1em}\
h1,h2,h3{line-height:1.2}h2{margin-top:2em;border-top:1px solid #ccc;padding-top:.6em}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}th{background:#f4f4f4}\
figure{margin:1em 0}figcaption{color:#555;font-size:13px}img{max-width:100%;border:1px solid #ddd}\
.wide{overflow-x:auto}summary{cursor:pointer;color:#555}";

/// A page under construction; texts are escaped, nothing on it can act.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

/// What a picture on a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a JPEG file.
    Jpeg,
    /// Bytes of a PNG file.
    Png,
    /// Text of an SVG file; no script in it runs, as it stands in an image.
    Svg,
}

impl Kind {
    /// By a file's ending.
    pub fn of(path: &std::path::Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "png" => Some(Self::Png),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }

    fn media(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Svg => "image/svg+xml",
        }
    }
}

impl Page {
    /// A page with its title as heading.
    pub fn new(title: &str) -> Self {
        let mut page = Self {
            title: title.to_owned(),
            body: String::new(),
        };
        page.line("h1", title);
        page
    }

    fn line(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.body, "<{tag}>{}</{tag}>", escaped(text));
    }

    /// A chapter.
    pub fn chapter(&mut self, text: &str) {
        self.line("h2", text);
    }

    /// A part of a chapter.
    pub fn section(&mut self, text: &str) {
        self.line("h3", text);
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        self.line("p", text);
    }

    /// A table; the first column stands left, numbers behind it right.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        let row = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        self.body.push_str("<div class=wide><table>\n");
        self.body.push_str(&row("th", &mut header.iter().copied()));
        for cells in rows {
            self.body.push_str(&row("td", &mut cells.iter().map(String::as_str)));
        }
        self.body.push_str("</table></div>\n");
    }

    /// What is folded away until it is asked for.
    pub fn folded(&mut self, title: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escaped(title),
            // Line breaks stay.
            text.lines().map(escaped).collect::<Vec<_>>().join("\n")
        );
    }

    /// A picture with a line below it.
    pub fn picture(&mut self, kind: Kind, bytes: &[u8], caption: &str) {
        let _ = writeln!(
            self.body,
            "<figure><img alt=\"{caption}\" src=\"data:{};base64,{}\"><figcaption>{caption}</figcaption></figure>",
            kind.media(),
            Base64::encode_string(bytes),
            caption = escaped(caption)
        );
    }

    /// The file.
    pub fn finish(self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title><style>{STYLE}</style></head><body>\n{}</body></html>\n",
            escaped(&self.title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_a_page_acts_and_nothing_is_fetched() {
        let mut page = Page::new("<script>alert(1)</script>");
        page.table(&["a<b", "n"], &[vec!["\"x\" & y".into(), "1".into()]]);
        page.picture(Kind::Svg, b"<svg onload='alert(1)'/>", "a \"quoted\" one");
        page.folded("more", "<b>");
        let html = page.finish();
        assert!(
            !html.contains("<script") && !html.contains("onload") && !html.contains("http"),
            "{html}"
        );
        assert!(
            html.contains("<th>a&lt;b</th>")
                && html.contains("&quot;x&quot; &amp; y")
                && html.contains("<pre>&lt;b&gt;</pre>")
        );
        // base64 of the picture's bytes.
        assert!(html.contains("data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9J2FsZXJ0KDEpJy8+\""));
        assert_eq!(html.matches("<figure>").count(), html.matches("</figure>").count());
    }

    #[test]
    fn pictures_are_known_by_their_ending() {
        let kind = |name: &str| Kind::of(std::path::Path::new(name));
        assert_eq!(
            [kind("a.JPG"), kind("a.png"), kind("a.svg"), kind("a.csv"), kind("a")],
            [Some(Kind::Jpeg), Some(Kind::Png), Some(Kind::Svg), None, None]
        );
    }
}
