//! Lists in recipes: one value needs no brackets.

use serde::{Deserialize, Deserializer};

/// `engine: ort` as well as `engine: [torch, ort]`, `freeze: 10` as well as `freeze: [0, 1, 2]`.
pub fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "one value, or a list of them")]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}
