//! The fewest layers in float that an accuracy asks for.

/// Layers that stay in float.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Their names.
    pub names: Vec<String>,
    /// The accuracy with them.
    pub accuracy: f64,
    /// Networks that were measured.
    pub tried: usize,
}

/// Networks that are measured at most to leave single layers out again.
const LEFT_OUT: usize = 12;

/// Finds few layers with which `measure` gives at least `needed`. `order` has all of them, the one that helps most first: as many of the
/// first ones as are needed are found by halving, then each is left out again that the others do without, the least helpful first. Where
/// not even all of them are enough, it is all of them.
///
/// The result is the smallest set where accuracies grow with the set and the order is right; measured accuracies do so but for noise.
///
/// # Errors
/// Those of `measure`.
pub fn fewest<E>(
    order: &[String],
    needed: f64,
    measure: &mut dyn FnMut(&[String]) -> Result<f64, E>,
) -> Result<Found, E> {
    let mut tried = 0;
    let mut look = |names: &[String]| {
        tried += 1;
        measure(names)
    };
    let mut accuracy = look(&[])?;
    if accuracy >= needed {
        return Ok(Found {
            names: Vec::new(),
            accuracy,
            tried,
        });
    }
    // Too few, and enough if there are any.
    let (mut few, mut enough) = (0, 1);
    loop {
        enough = enough.min(order.len());
        accuracy = look(&order[..enough])?;
        if accuracy >= needed || enough == order.len() {
            break;
        }
        (few, enough) = (enough, 2 * enough);
    }
    while enough - few > 1 && accuracy >= needed {
        let middle = (few + enough) / 2;
        let found = look(&order[..middle])?;
        if found >= needed {
            (enough, accuracy) = (middle, found);
        } else {
            few = middle;
        }
    }
    let mut names = order[..enough].to_vec();
    // The last of them was just seen to be needed.
    for name in order[..enough.saturating_sub(1)].iter().rev().take(LEFT_OUT) {
        if accuracy < needed {
            break;
        }
        let others: Vec<String> = names.iter().filter(|own| *own != name).cloned().collect();
        let found = look(&others)?;
        if found >= needed {
            (names, accuracy) = (others, found);
        }
    }
    Ok(Found { names, accuracy, tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accuracy is 1 less what the layers that are not in float take.
    fn search(costs: &[f64], needed: f64) -> Found {
        let names: Vec<String> = (0..costs.len()).map(|i| i.to_string()).collect();
        let mut measure = |float: &[String]| {
            let lost = (0..costs.len()).filter(|i| !float.contains(&i.to_string()));
            Ok::<f64, ()>(1.0 - lost.map(|i| costs[i]).sum::<f64>())
        };
        fewest(&names, needed, &mut measure).expect("it measures")
    }

    #[test]
    fn few_layers_are_found_with_few_measurements() {
        let costs: Vec<f64> = (0..60).map(|i| 0.1 * 0.8f64.powi(i)).collect();
        for (needed, wanted) in [(0.0, 0), (0.6, 1), (0.9, 8), (0.99, 18)] {
            let found = search(&costs, needed);
            assert_eq!(found.names.len(), wanted, "{found:?}");
            assert!(found.accuracy >= needed && found.tried < 30, "{found:?}");
        }
    }

    #[test]
    fn a_layer_that_does_not_help_is_left_out_again() {
        let found = search(&[0.3, 0.0, 0.0, 0.2, 0.1], 0.85);
        assert_eq!(found.names, ["0", "3"]);
        // Nothing reaches it: all of them, and what that gives.
        let found = search(&[0.3, 0.2], 1.5);
        assert_eq!((found.names.len(), found.accuracy), (2, 1.0));
    }
}
