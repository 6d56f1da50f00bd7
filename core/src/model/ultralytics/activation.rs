//! `activation: nn.LeakyReLU(0.1)`: the activation of every convolution of a layer list, as v7.0 writes it. The text is Python that the
//! reference evaluates; here it is one call of a known class, and nothing is executed.

use crate::config::{ConfigError, Located};
use crate::graph::Activation;

const KNOWN: &str = "`nn.SiLU()`, `nn.ReLU()`, `nn.ReLU6()`, `nn.LeakyReLU(0.1)`, `nn.Hardswish()`, `nn.Hardsigmoid()`, `nn.Sigmoid()`, \
                     `nn.Tanh()`, `nn.GELU()`";

/// The activation that a layer list names; `None` where it names none.
pub(super) fn read(config: &Located) -> Result<Option<Activation>, ConfigError> {
    let value = match config.get("activation") {
        None | Some(serde_json::Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let refuse = |reason: &str| config.value_error("activation", reason, Some(&format!("there are: {KNOWN}")));
    let text = value
        .as_str()
        .ok_or_else(|| refuse("`activation` takes a call like `nn.ReLU()`"))?;
    let (class, arguments) = call(text).ok_or_else(|| refuse(&format!("`{text}` is no call like `nn.ReLU()`")))?;
    let act = match class {
        "SiLU" => Activation::Silu,
        "ReLU" => Activation::Relu,
        "ReLU6" => Activation::Relu6,
        "LeakyReLU" => Activation::LeakyRelu(0.01),
        "Hardswish" => Activation::Hardswish,
        "Hardsigmoid" => Activation::Hardsigmoid,
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "GELU" => Activation::Gelu,
        other => return Err(refuse(&format!("there is no activation `{other}`"))),
    };
    let mut act = act;
    for (index, (name, value)) in arguments.into_iter().enumerate() {
        let slope =
            matches!(act, Activation::LeakyRelu(_)) && (name == Some("negative_slope") || name.is_none() && index == 0);
        let in_place = matches!(value, "True" | "False")
            && (name == Some("inplace") || name.is_none())
            && !matches!(act, Activation::Sigmoid | Activation::Tanh | Activation::Gelu);
        let exact = act == Activation::Gelu && name == Some("approximate") && matches!(value, "'none'" | "\"none\"");
        match value.parse::<f64>() {
            Ok(value) if slope && (0.0..=1.0).contains(&value) => act = Activation::LeakyRelu(value),
            _ if slope => return Err(refuse(&format!("the slope `{value}` is not between 0 and 1"))),
            _ if in_place || exact => {}
            _ => {
                return Err(refuse(&format!(
                    "`{class}` with the argument `{value}` can't be expressed"
                )));
            }
        }
    }
    Ok(Some(act))
}

/// An argument of a call: its name, where it has one, and its value.
type Argument<'a> = (Option<&'a str>, &'a str);

/// `nn.Name(a, b=c)` as a name and its arguments.
fn call(text: &str) -> Option<(&str, Vec<Argument<'_>>)> {
    let text = text.trim();
    let text = text.strip_prefix("torch.").unwrap_or(text).strip_prefix("nn.")?;
    let (class, rest) = text.split_once('(').unwrap_or((text, ")"));
    let inside = rest.trim_end().strip_suffix(')')?.trim().trim_end_matches(',');
    let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain(class.trim()) || inside.contains(['(', ')']) {
        return None;
    }
    let arguments = inside
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty() || !inside.is_empty());
    let arguments = arguments.map(|part| match part.split_once('=') {
        Some((name, value)) => (Some(name.trim()), value.trim()),
        None => (None, part),
    });
    Some((class.trim(), arguments.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(text: &str) -> Result<Option<Activation>, String> {
        let config = Located::parse("m.yaml", &format!("nc: 1\nactivation: {text}\n")).expect("YAML");
        read(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn calls_of_known_classes_are_read() {
        for (text, wanted) in [
            ("nn.ReLU()", Activation::Relu),
            ("torch.nn.Hardswish()", Activation::Hardswish),
            ("nn.LeakyReLU(0.1)", Activation::LeakyRelu(0.1)),
            ("nn.LeakyReLU()", Activation::LeakyRelu(0.01)),
            ("nn.LeakyReLU(0.2, True)", Activation::LeakyRelu(0.2)),
            (
                "'nn.LeakyReLU(negative_slope=0.2, inplace=True)'",
                Activation::LeakyRelu(0.2),
            ),
            ("nn.ReLU(inplace=True)", Activation::Relu),
            ("nn.ReLU6(True)", Activation::Relu6),
            ("nn.SiLU", Activation::Silu),
            ("nn.GELU(approximate='none')", Activation::Gelu),
        ] {
            assert_eq!(act(text), Ok(Some(wanted)), "{text}");
        }
        assert_eq!(act("null"), Ok(None));
    }

    #[test]
    fn what_can_not_be_expressed_is_refused_with_its_line() {
        for (text, words) in [
            ("nn.Mish()", "no activation `Mish`"),
            ("nn.Identity()", "no activation `Identity`"),
            ("ReLU", "no call like"),
            ("nn.ReLU()(x)", "no call like"),
            ("nn.LeakyReLU(2)", "slope `2`"),
            ("nn.LeakyReLU(-0.1)", "slope `-0.1`"),
            ("nn.GELU(approximate='tanh')", "'tanh'"),
            ("nn.ReLU(0.1)", "argument `0.1`"),
            ("3", "takes a call"),
        ] {
            let error = act(text).expect_err(text);
            assert!(
                error.contains(words) && error.starts_with("m.yaml:2:"),
                "{text}: {error}"
            );
        }
    }
}
