//! Libraries that are none, that are damaged, that lie: one clear error with a code each, and the program lives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::c_plugin::compile;
use crate::support::{random_weights, small_data, tiny_model, yolo};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The library of this C source, with a manifest that promises a metric `bad`.
    fn library(&self, source: &str, flags: &[&str]) {
        std::fs::write(self.path("bad.c"), source).expect("a file");
        compile(&self.path("bad.c"), &self.path("libbad.so"), flags);
        self.manifest("");
    }

    fn manifest(&self, more: &str) {
        let text = format!(
            "manifest = 1\nname = \"bad\"\nversion = \"1.0.0\"\n[library]\ndynamic = \"bad\"\n{more}\n[[provides]]\nkind = \"metric\"\nname = \"bad\"\n"
        );
        std::fs::write(self.path("yolo-plugin.toml"), text).expect("a file");
    }

    /// The error that `yolo plugin check` gives; the program must end by itself, and say nothing else.
    fn error(&self) -> (String, String) {
        let said = yolo(&self.0, &["plugin", "check", ".", "--json"]);
        assert_eq!(said.code, 1, "{}\n{}", said.out, said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        let json: Value = said.json();
        let error = &json["plugins"][0]["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = error["details"].to_string() + &error["help"].to_string();
        (text(&error["code"]), text(&error["message"]) + &details)
    }

    #[track_caller]
    fn refused(&self, code: &str, words: &[&str]) {
        let (found, text) = self.error();
        assert_eq!(found, format!("yolo::plugin::{code}"), "{text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in {text}");
        }
        // The code has a page; each is looked at once.
        static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        if SEEN.lock().expect("no panic").insert(found.clone()) {
            let page = yolo(&self.0, &["explain", &found]).ok();
            assert!(page.out.contains(&found), "{}", page.out);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A metric in C with places for mischief.
fn source(table: &str, describe: &str, needs: &str, score: &str) -> String {
    format!(
        r#"#include "yolo_plugin.h"
#include <string.h>
#include <stdlib.h>
static void say(YoloText to, const char *text) {{ YoloStr piece = {{(const uint8_t *)text, strlen(text)}}; to.write(to.cx, piece); }}
static int32_t needs(YoloSelf self, uint32_t *out, YoloText error) {{ (void)self; (void)error; *out = 1; {needs} return YOLO_OK; }}
static int32_t score(YoloSelf self, const YoloGroup *group, YoloFloats scores, YoloText error) {{
  (void)self; (void)error; (void)say;
  float *row = calloc(group->channels + 8, sizeof *row);
  for (uint64_t i = 0; i < group->channels; i++) row[i] = 1.0f;
  {score}
  scores.put(scores.cx, row, group->channels);
  free(row);
  return YOLO_OK;
}}
static int32_t describe(YoloText reply, YoloText error) {{ (void)error;
  {describe}
  say(reply, "[{{\"kind\": \"metric\", \"name\": \"bad\"}}]"); return YOLO_OK; }}
static int32_t create(YoloStr kind, YoloStr name, YoloStr options, const YoloHost *host, YoloSelf *out, YoloText error) {{
  (void)kind; (void)name; (void)options; (void)host; (void)error; *out = NULL; return YOLO_OK; }}
static void destroy(YoloStr kind, YoloSelf component) {{ (void)kind; (void)component; }}
static const void *vtable(YoloStr kind) {{ static const YoloMetricVt metric = {{sizeof metric, 0, needs, score}};
  return kind.len == 6 ? &metric : NULL; }}
{table}"#
    )
}

const TABLE: &str = "YOLO_EXPORT const YoloPluginV1 yolo_plugin_v1_bad = {YOLO_MAGIC, YOLO_ABI_MAJOR, YOLO_ABI_MINOR, \
    sizeof(YoloPluginV1), 0, YOLO_STR(\"\"), YOLO_STR(\"C\"), YOLO_STR(\"\"), describe, create, destroy, vtable};";

fn table(from: &str, to: &str) -> String {
    assert!(TABLE.contains(from));
    source(&TABLE.replace(from, to), "", "", "")
}

#[test]
fn files_that_are_no_libraries() {
    let folder = Folder::new("files");
    folder.manifest("");
    let write = |bytes: &[u8]| std::fs::write(folder.path("libbad.so"), bytes).expect("a file");
    for (bytes, words) in [
        (&b"#!/bin/sh\necho hello\n"[..], "text file"),
        (b"", "empty"),
        (b"!<arch>\ndebian-binary", "static library"),
        (b"MZ\x90\0\x03", "Windows library"),
        (b"\0asm\x01\0\0\0", "WebAssembly module"),
        (b"\x7fELF\x02\x01\x01", "ends within its header"),
    ] {
        write(bytes);
        folder.refused("not_a_plugin", &["libbad.so", words]);
    }
    folder.library(&source(TABLE, "", "", ""), &[]);
    let whole = std::fs::read(folder.path("libbad.so")).expect("a file");
    write(&whole[..whole.len() / 2]);
    folder.refused("not_a_plugin", &["shorter than it says"]);
    let mut other = whole.clone();
    other[18] = 40;
    write(&other);
    folder.refused("not_a_plugin", &["another machine"]);
    write(&whole);
    yolo(&folder.0, &["plugin", "check", "."]).ok();
}

#[test]
fn libraries_without_a_table() {
    let folder = Folder::new("table");
    folder.library("int answer(void);\nint answer(void) { return 42; }\n", &[]);
    folder.refused(
        "not_a_plugin",
        &["no symbol `yolo_plugin_v1_bad`", "1 symbols", "cdylib"],
    );
    folder.library(&table("yolo_plugin_v1_bad", "yolo_plugin_v1_good"), &[]);
    folder.manifest("crate = \"bad\"");
    folder.refused("not_a_plugin", &["yolo_plugin_v1_good", "crate = \\\"good\\\""]);
    folder.manifest("crate = \"good\"");
    yolo(&folder.0, &["plugin", "check", "."]).ok();
}

#[test]
fn tables_of_another_version_or_cut_off() {
    let folder = Folder::new("version");
    folder.library(&table("YOLO_ABI_MAJOR, YOLO_ABI_MINOR", "2, 0"), &[]);
    folder.refused("abi_mismatch", &["ABI 2.0, this yolo speaks 1.2", "newer yolo"]);
    folder.library(&table("YOLO_ABI_MAJOR, YOLO_ABI_MINOR", "0, 9"), &[]);
    folder.refused("abi_mismatch", &["ABI 0.9", "rebuild the plugin"]);
    folder.library(&table("YOLO_MAGIC", "7"), &[]);
    folder.refused("bad_table", &["mark of a plugin"]);
    folder.library(&table("sizeof(YoloPluginV1)", "64"), &[]);
    folder.refused("bad_table", &["64 bytes", "struct_size"]);
    // The object itself is short: only its head is there.
    let head = "struct { uint32_t magic; uint16_t major, minor; uint32_t size, reserved; } yolo_plugin_v1_bad = \
        {YOLO_MAGIC, 1, 0, sizeof(YoloPluginV1), 0}; void *keep[] = {&describe, &create, &destroy, &vtable};";
    folder.library(&source(head, "", "", ""), &[]);
    folder.refused("bad_table", &["16 bytes"]);
    folder.library(&table("describe, create", "describe, NULL"), &["-Wno-unused-function"]);
    folder.refused("bad_table", &["lacks the function `create`"]);
    folder.library(
        &table(
            "YOLO_STR(\"\"), YOLO_STR(\"C\")",
            "YOLO_STR(\"2.11.0\"), YOLO_STR(\"C\")",
        ),
        &[],
    );
    folder.refused("libtorch_mismatch", &["libtorch 2.11.0, yolo runs 2.13.0"]);
    folder.library(&table("YOLO_STR(\"C\")", "YOLO_STR(\"\\xff\\xfe\")"), &[]);
    folder.refused("bad_table", &["not UTF-8"]);
}

#[test]
fn libraries_that_the_system_refuses() {
    let folder = Folder::new("loader");
    folder.library(
        "extern int nowhere(void);\nint answer(void);\nint answer(void) { return nowhere(); }\n",
        &[],
    );
    folder.refused("not_a_plugin", &["no symbol"]);
    let undefined = source(TABLE, "extern int nowhere(void); if (nowhere()) return 1;", "", "");
    folder.library(&undefined, &[]);
    folder.refused("load_failed", &["undefined symbol: nowhere", "rebuild it"]);
    // A dependency that is there at build time only.
    std::fs::write(
        folder.path("dep.c"),
        "int needed(void);\nint needed(void) { return 0; }\n",
    )
    .expect("a file");
    compile(&folder.path("dep.c"), &folder.path("libneeded.so"), &[]);
    let needs = source(TABLE, "extern int needed(void); if (needed()) return 1;", "", "");
    let search = format!("-L{}", folder.0.display());
    folder.library(&needs, &[&search, "-lneeded"]);
    std::fs::remove_file(folder.path("libneeded.so")).expect("a file");
    folder.refused("load_failed", &["libneeded.so: cannot open shared object file", "ldd"]);
}

#[test]
fn a_second_libtorch_is_noticed() {
    let folder = Folder::new("torch");
    // Any library of that name in another place is another copy.
    std::fs::create_dir(folder.path("other")).expect("a folder");
    std::fs::write(
        folder.path("torch.c"),
        "int torch_like(void);\nint torch_like(void) { return 0; }\n",
    )
    .expect("a file");
    let other = folder.path("other/libtorch_cpu.so");
    let name = format!("-Wl,-soname,{}", other.display());
    compile(&folder.path("torch.c"), &other, &[&name]);
    let uses = source(
        TABLE,
        "extern int torch_like(void); if (torch_like()) return 1;",
        "",
        "",
    );
    folder.library(&uses, &[other.to_str().expect("UTF-8")]);
    folder.refused("two_libtorch", &["second libtorch", "other/libtorch_cpu.so", "rpath"]);
}

#[test]
fn descriptions_that_lie() {
    let folder = Folder::new("describe");
    let says = |describe: &str| folder.library(&source(TABLE, describe, "", ""), &[]);
    says("say(reply, \"[{\\\"kind\\\": \\\"metric\\\", \\\"name\\\": \\\"other\\\"}]\"); return YOLO_OK;");
    folder.refused("manifest_drift", &["`bad`", "metric other"]);
    says("say(reply, \"hello\"); return YOLO_OK;");
    folder.refused("bad_info", &["can't be read"]);
    says("say(reply, \"[\\\"\\xff\\\"]\"); return YOLO_OK;");
    folder.refused("bad_info", &["not UTF-8"]);
    says("say(error, \"out of \\x1b[31mideas\\xff\"); return YOLO_FAILED;");
    let (_, text) = folder.error();
    assert!(!text.contains('\u{1b}') && text.contains("ideas"), "{text:?}");
    folder.refused("failed", &["gave up"]);
    says("return 77;");
    folder.refused("bad_result", &["status 77", "did not say why"]);
    // More text than anybody needs.
    says(
        "for (int i = 0; i < 300; i++) { static char page[1 << 20]; memset(page, ' ', sizeof page - 1); say(reply, page); }",
    );
    folder.refused("bad_info", &["longer than 256 MiB"]);
}

#[test]
fn metrics_that_misbehave() {
    let folder = Folder::new("metric");
    let tested = |needs: &str, score: &str| {
        folder.library(&source(TABLE, "", needs, score), &[]);
        let said = yolo(&folder.0, &["plugin", "test", "."]);
        assert_eq!(said.code, 1, "{}\n{}", said.out, said.err);
        said.out + &said.err
    };
    for (needs, score, words) in [
        ("*out = 1u << 20;", "", "inputs that this yolo does not have"),
        ("say(error, \"no needs\"); return YOLO_PANIC;", "", "panicked: no needs"),
        ("", "row[0] = 0.0f / (row[0] - 1.0f);", "for channel 0"),
        (
            "",
            "scores.put(scores.cx, row, group->channels - 1); free(row); return YOLO_OK;",
            "scores for the",
        ),
        (
            "",
            "scores.put(scores.cx, row, group->channels + 3); free(row); return YOLO_OK;",
            "more than",
        ),
        (
            "",
            "scores.put(scores.cx, NULL, group->channels); free(row); return YOLO_OK;",
            "gave 0 scores",
        ),
        ("", "free(row); return YOLO_OK;", "gave 0 rows"),
        ("", "scores.put(scores.cx, row, group->channels);", "gave 2 rows"),
        (
            "",
            "say(error, \"libtorch said no\"); free(row); return YOLO_TORCH;",
            "libtorch said no",
        ),
    ] {
        let text = tested(needs, score);
        assert!(text.contains(words), "{score}: {text}");
    }
}

/// Broken plugins are rows of the list; they cost nobody else anything.
#[test]
fn a_broken_plugin_is_a_row_with_its_reason() {
    let folder = Folder::new("row");
    folder.library(&table("YOLO_ABI_MAJOR, YOLO_ABI_MINOR", "2, 0"), &[]);
    let here = folder.0.to_str().expect("UTF-8");
    let listed = yolo(
        &folder.0,
        &["list-plugins", "bad", "--verify", "--json", "--plugin", here],
    );
    assert_eq!(listed.code, 1, "{}", listed.err);
    let row = &listed.json()["plugins"][0];
    assert_eq!(row["error"]["code"], "yolo::plugin::abi_mismatch", "{row}");
    let said = yolo(&folder.0, &["model", "yolov5n", "--plugin", here]);
    said.ok();
}

/// A library that ends the process has finished nothing: that is a failure with its name, and no file.
#[test]
fn a_library_that_calls_exit_does_not_end_in_success() {
    let folder = Folder::new("exit");
    folder.library(&source(TABLE, "", "", "if (group->channels > 0) exit(0);"), &[]);
    let data = small_data(&folder.0, 10, 64).display().to_string();
    let weights = random_weights(&tiny_model(&folder.0), &folder.0, 4)
        .display()
        .to_string();
    let line = format!(
        "prune --weights {weights} --data {data} --img 64 --batch-size 4 --workers 1 --noval --calib-batches 1 --plugin . --pruner oneshot \
         --metric bad --flops 0.8 --out p.safetensors"
    );
    let said = yolo(&folder.0, &line.split_whitespace().collect::<Vec<_>>());
    said.fails(1, &["libbad.so has ended the process"]);
    assert!(!folder.path("p.safetensors").exists());
}
