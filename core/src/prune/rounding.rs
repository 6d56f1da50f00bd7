//! From a wanted width to one that a group may have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ChannelGroup;

/// Which multiple a width becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Round {
    /// The nearest one; of two, the larger.
    #[default]
    Nearest,
    /// The next larger one, as the Python project does.
    Up,
    /// The next smaller one.
    Down,
}

impl Round {
    /// Its names, in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["nearest", "up", "down"];
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

impl std::str::FromStr for Round {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nearest" => Ok(Self::Nearest),
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            _ => Err(format!("`{text}` is none of {}", Self::NAMES.join(", "))),
        }
    }
}

/// How widths are rounded and how much a group may lose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Widths become multiples of this.
    pub multiple: usize,
    /// No group loses more than this share.
    pub max_ratio: f64,
    /// Which multiple.
    #[serde(default)]
    pub round: Round,
}

impl Default for Rounding {
    fn default() -> Self {
        Self {
            multiple: 8,
            max_ratio: 0.9,
            round: Round::Nearest,
        }
    }
}

impl Rounding {
    /// The allowed width for `wanted` channels of a group: a multiple, at least one multiple, within the maximal loss and not below the
    /// group's floor. A group narrower than one multiple, or that asks for all, stays whole.
    pub fn width(&self, wanted: usize, group: &ChannelGroup) -> usize {
        let (multiple, full) = (self.multiple.max(1), group.len());
        let least = ((full as f64 * (1.0 - self.max_ratio)).ceil() as usize)
            .max(group.floor)
            .max(1)
            .div_ceil(multiple)
            * multiple;
        let rounded = match self.round {
            Round::Nearest => (wanted + multiple / 2) / multiple * multiple,
            Round::Up => wanted.div_ceil(multiple) * multiple,
            Round::Down => wanted / multiple * multiple,
        };
        if wanted >= full {
            full
        } else {
            rounded.max(least).min(full)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(channels: usize, floor: usize) -> ChannelGroup {
        ChannelGroup {
            name: "a".into(),
            cuts: Vec::new(),
            channels: vec![Vec::new(); channels],
            floor,
            atoms: Vec::new(),
        }
    }

    #[test]
    fn widths_are_multiples_within_their_bounds() {
        let with = |round| Rounding {
            round,
            ..Rounding::default()
        };
        let widths = |round| [1, 12, 13, 17, 63, 64].map(|wanted| with(round).width(wanted, &group(64, 0)));
        assert_eq!(widths(Round::Nearest), [8, 16, 16, 16, 64, 64]);
        assert_eq!(widths(Round::Up), [8, 16, 16, 24, 64, 64]);
        assert_eq!(widths(Round::Down), [8, 8, 8, 16, 56, 64]);
        // Floors and the largest loss count before the multiple.
        assert_eq!(with(Round::Down).width(1, &group(64, 20)), 24);
        assert_eq!(with(Round::Down).width(1, &group(512, 0)), 56);
        assert_eq!(
            with(Round::Nearest).width(1, &group(6, 0)),
            6,
            "narrower than a multiple"
        );
        for (at, name) in Round::NAMES.into_iter().enumerate() {
            let round: Round = name.parse().expect(name);
            assert_eq!((round as usize, round.to_string().as_str()), (at, name));
        }
        assert!("upwards".parse::<Round>().is_err());
    }
}
