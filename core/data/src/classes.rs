//! Which classes the parts of a data set know: one with boxes for training and none for validation, or the other way round, changes what
//! all numbers mean, and no total shows it.

use crate::labels::Label;

/// Names that a sentence may hold; of the others the number is told.
const NAMED: usize = 8;

/// Boxes of each of `classes` classes.
pub fn counts<'a>(labels: impl IntoIterator<Item = &'a Label>, classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in labels {
        if let Some(count) = counts.get_mut(label[0] as usize) {
            *count += 1;
        }
    }
    counts
}

/// What is to be said of classes that only one of training and validation has boxes of, given their boxes by class. A part without any box
/// is said as such.
pub fn lopsided(names: &[String], train: &[usize], val: &[usize]) -> Vec<String> {
    if [train, val].iter().any(|counts| counts.iter().all(|count| *count == 0)) {
        return Vec::new();
    }
    let only = |here: &[usize], there: &[usize]| {
        let classes = (0..names.len()).filter(|class| here[*class] > 0 && there[*class] == 0);
        listed(classes.map(|class| names[class].as_str()))
    };
    let untrained = only(val, train).map(|named| {
        format!(
            "boxes in `val` and none in `train`: {named}; that can't be learned and counts as missed in every number"
        )
    });
    let unmeasured = only(train, val).map(|named| {
        format!("boxes in `train` and none in `val`: {named}; no number of the validation says a thing of it")
    });
    untrained.into_iter().chain(unmeasured).collect()
}

/// What is to be said where numbers are measured on boxes of some classes only.
pub fn without_boxes(names: &[String], counts: &[usize]) -> Option<String> {
    let classes = (0..names.len()).filter(|class| counts[*class] == 0);
    let named = listed(classes.map(|class| names[class].as_str()))?;
    Some(format!("no boxes of {named}; `all` is the mean of the other classes"))
}

/// Names in a sentence; `None` if there are none.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match all.len() {
        0 => None,
        count if count > NAMED => Some(format!(
            "{} and {} other classes",
            all[..NAMED].join(", "),
            count - NAMED
        )),
        _ => Some(all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_one_part_are_named() {
        let names = ["cat", "dog", "cow"].map(str::to_owned);
        let labels = [0.0, 2.0, 2.0, 7.0].map(|class| [class, 0.5, 0.5, 0.1, 0.1]);
        assert_eq!(counts(&labels, 3), [1, 0, 2]);
        assert!(lopsided(&names, &[1, 0, 2], &[3, 0, 1]).is_empty());
        let said = lopsided(&names, &[1, 0, 2], &[0, 4, 1]);
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("none in `train`: `dog`;"), "{said:?}");
        assert!(said[1].contains("none in `val`: `cat`;"), "{said:?}");
        assert_eq!(without_boxes(&names, &[1, 1, 1]), None);
        assert!(without_boxes(&names, &[1, 0, 0]).is_some_and(|said| said.starts_with("no boxes of `dog`, `cow`;")));
        assert!(lopsided(&names, &[1, 0, 2], &[0, 0, 0]).is_empty());
        let many: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        assert!(without_boxes(&many, &[0; 20]).is_some_and(|said| said.contains("`7` and 12 other classes")));
    }
}
