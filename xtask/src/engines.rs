//! The engines that set-up fetches on request (`cargo xtask setup --engines`): OpenVINO's libraries and ncnn's Python module.

use std::path::Path;
use std::process::Command;

use crate::setup::{ANY, Bundle, install};
use crate::{Outcome, fail};

/// The C interface, the device of processors, and the readers of ONNX and of its own format.
static OPENVINO: Bundle = Bundle {
    folder: ".openvino",
    wheels: &[(
        "openvino==2026.4.1",
        "2d22b1da03f7caf74df30e9f6417d0ab2f637e4a38e08e1dcd294d2c37407aaf",
    )],
    python: ANY,
    members: &[
        ("openvino/libs/libopenvino.so", "."),
        ("openvino/libs/libopenvino_c.so", "."),
        ("openvino/libs/libopenvino_intel_cpu_plugin.so", "."),
        ("openvino/libs/libopenvino_onnx_frontend.so", "."),
        ("openvino/libs/libopenvino_ir_frontend.so", "."),
        ("openvino/libs/libtbb.so", "."),
        ("openvino/libs/libtbbmalloc.so", "."),
        ("openvino-2026.4.1.dist-info/licenses/", "licenses"),
    ],
    written: &[],
};

/// A module of Python, so one wheel for each version of it.
static NCNN: [Bundle; 6] = [
    ncnn(
        "3.9",
        &[(
            "ncnn==1.0.20261020",
            "3b1e2ddaa300adad90c369f3ee340752550d79ff9d2d07db6239b298f1608e42",
        )],
    ),
    ncnn(
        "3.10",
        &[(
            "ncnn==1.0.20261020",
            "969f3391f204c0b72c3e79816301fbb9bcdde1abf846b13cf07e24d5cc0232df",
        )],
    ),
    ncnn(
        "3.11",
        &[(
            "ncnn==1.0.20261020",
            "8107eeaa269e7b725afdd5c4492109c2682de5bf2a76670ab5f8f5fbfe9c152d",
        )],
    ),
    ncnn(
        "3.12",
        &[(
            "ncnn==1.0.20261020",
            "fe5e25b45554d9cafbcd6ed03160bf91e7b24dfab9160215004142a85572d000",
        )],
    ),
    ncnn(
        "3.13",
        &[(
            "ncnn==1.0.20261020",
            "ae07acd72bbea95d581a4827aef8b6970286fc14d19c7346071aafa9b9044590",
        )],
    ),
    ncnn(
        "3.14",
        &[(
            "ncnn==1.0.20261020",
            "0218716b96ed958dbb49aefb206742eb9c01dd2e10c914f780a62f07917e16ae",
        )],
    ),
];

const fn ncnn(python: &'static str, wheels: &'static [(&'static str, &'static str)]) -> Bundle {
    Bundle {
        folder: ".ncnn",
        wheels,
        python,
        members: &[
            ("ncnn/__init__.py", "ncnn"),
            ("ncnn/ncnn.cpython", "ncnn"),
            ("ncnn.libs/", "ncnn.libs"),
            ("ncnn-1.0.20261020.dist-info/licenses/", "licenses"),
        ],
        written: &[],
    }
}

/// Puts both in place.
pub fn install_all(root: &Path) -> Outcome {
    install(&OPENVINO, root)?;
    install(ncnn_for(&python_version()?)?, root)
}

/// Every bundle that may be fetched.
#[cfg(test)]
pub fn all() -> impl Iterator<Item = &'static Bundle> {
    std::iter::once(&OPENVINO).chain(&NCNN)
}

/// `3.11`: that of python3, which will run the module.
fn python_version() -> Outcome<String> {
    let script = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')";
    let said = Command::new("python3").args(["-c", script]).output();
    let said = said.map_err(|error| format!("can't run `python3`, which set-up needs: {error}"))?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn ncnn_for(version: &str) -> Outcome<&'static Bundle> {
    let known: Vec<&str> = NCNN.iter().map(|bundle| bundle.python).collect();
    NCNN.iter().find(|bundle| bundle.python == version).map_or_else(
        || {
            fail(format!(
                "ncnn has wheels for Python {}, and python3 is {version}: put another python3 first in PATH",
                known.join(", ")
            ))
        },
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::pin;

    #[test]
    fn ncnn_is_that_of_the_python_that_runs_it() {
        let bundle = ncnn_for("3.12").unwrap();
        assert_eq!(bundle.python, "3.12");
        assert_ne!(bundle.wheels, ncnn_for("3.11").unwrap().wheels);
        let Err(error) = ncnn_for("2.7") else {
            panic!("there is no wheel for it")
        };
        assert!(error.contains("2.7") && error.contains("3.12"), "{error}");
        // A folder made for another Python does not count.
        let pins: std::collections::HashSet<String> = NCNN.iter().map(pin).collect();
        assert_eq!(pins.len(), NCNN.len());
    }
}
