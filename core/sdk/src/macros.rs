//! [`plugin!`](crate::plugin).

/// Makes components known to the program: one entry per component, any number per crate.
///
/// ```text
/// yolo_sdk::plugin! {
///     backbone GhostNet = "ghostnet" {
///         summary: "Cheap linear ops make half of the feature maps",
///         paper: ("GhostNet: More Features from Cheap Operations", "https://arxiv.org/abs/1911.11907", 2020, "GhostNet (CVPR 2020)"),
///         aliases: ["ghost-net"],
///         example: { "type": "ghostnet" },
///         stability: experimental,
///     }
/// }
/// ```
///
/// Kinds: `backbone`, `neck_block`, `op`, `pruner`, `metric`, `quantizer`, `distiller`. All but `summary` may be left out, in this order.
/// The type needs `JsonSchema` (its options are listed from it) and a `#[typetag::serde(name = NAME)]` impl of the trait of its
/// kind. Version, authors and licence come from the crate.
///
/// A crate has one `plugin!`, at its root or below. Built as a shared library (`crate-type = ["cdylib"]`, or `cargo rustc --crate-type
/// cdylib`), the crate exports the table `yolo_plugin_v1_CRATE`, through which `yolo` finds the same components.
#[macro_export]
macro_rules! plugin {
    ($(
        $kind:ident $type:ty = $name:literal {
            summary: $summary:literal
            $(, paper: ($title:literal, $url:literal, $year:literal, $short:literal))?
            $(, aliases: [$($alias:literal),* $(,)?])?
            $(, example: { $($example:tt)* })?
            $(, stability: $stability:ident)?
            $(,)?
        }
    )+) => {$(
        const _: () = {
            fn schema() -> $crate::serde_json::Value {
                $crate::schemars::schema_for!($type).to_value()
            }
            fn example() -> $crate::serde_json::Value {
                $crate::__plugin_example!($name $(, $($example)*)?)
            }
            $crate::inventory::submit! {
                $crate::core::PluginInfo {
                    kind: $crate::__plugin_kind!($kind),
                    name: $name,
                    aliases: &[$($($alias),*)?],
                    summary: $summary,
                    version: env!("CARGO_PKG_VERSION"),
                    authors: env!("CARGO_PKG_AUTHORS"),
                    license: env!("CARGO_PKG_LICENSE"),
                    paper: $crate::__plugin_paper!($($title, $url, $year, $short)?),
                    stability: $crate::__plugin_stability!($($stability)?),
                    package: env!("CARGO_PKG_NAME"),
                    schema,
                    example,
                }
            }
        };
    )+
        const _: () = {
            unsafe extern "C" fn describe(reply: $crate::abi::YoloText, error: $crate::abi::YoloText) -> i32 {
                // SAFETY: the host gives two texts that are good during the call.
                unsafe { $crate::abi::describe(env!("CARGO_PKG_NAME"), reply, error) }
            }
            #[unsafe(export_name = concat!("yolo_plugin_v1_", env!("CARGO_CRATE_NAME")))]
            static TABLE: $crate::abi::YoloPluginV1 = $crate::abi::table(describe);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __plugin_kind {
    (backbone) => {
        $crate::core::Kind::Backbone
    };
    (neck_block) => {
        $crate::core::Kind::NeckBlock
    };
    (op) => {
        $crate::core::Kind::Op
    };
    (pruner) => {
        $crate::core::Kind::Pruner
    };
    (metric) => {
        $crate::core::Kind::Metric
    };
    (quantizer) => {
        $crate::core::Kind::Quantizer
    };
    (distiller) => {
        $crate::core::Kind::Distiller
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __plugin_paper {
    () => {
        None
    };
    ($title:literal, $url:literal, $year:literal, $short:literal) => {
        Some($crate::core::Paper {
            title: $title,
            url: $url,
            year: $year,
            short: $short,
        })
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __plugin_stability {
    () => {
        $crate::core::Stability::Stable
    };
    (stable) => {
        $crate::core::Stability::Stable
    };
    (experimental) => {
        $crate::core::Stability::Experimental
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __plugin_example {
    ($name:literal) => { $crate::serde_json::json!({ "type": $name }) };
    ($name:literal, $($example:tt)*) => { $crate::serde_json::json!({ $($example)* }) };
}
