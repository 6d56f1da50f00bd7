//! For every check of the kit a component that breaks what it looks for. A component is asked for by the name of the check; a name that
//! none knows gives a good one. So a check that gets no bad component here, or that accepts its own, fails the test of its kind.

mod describes;
mod distils;
mod models;
mod prunes;
mod quantizes;

use super::Report;

/// Goes through the checks that a good component passes: each must be the first to refuse the component that breaks it.
fn every_check_refuses(good: &Report, bad: impl Fn(&str) -> Report) {
    good.assert();
    assert!(good.checks.len() > 3, "{good:?}");
    for check in &good.checks {
        let report = bad(&check.what);
        match report.failures().next() {
            Some(first) => assert_eq!(first.what, check.what, "{:?}", first.failure),
            None => panic!("`{}` accepts what breaks it", check.what),
        }
    }
}

/// The options of all components here.
macro_rules! faulty {
    ($name:ident) => {
        #[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct $name {
            /// The check that it breaks.
            fault: String,
        }

        impl $name {
            fn breaks(fault: &str) -> Self {
                Self {
                    fault: fault.to_owned(),
                }
            }

            fn is(&self, fault: &str) -> bool {
                self.fault == fault
            }
        }
    };
}
use faulty;

#[test]
fn a_package_that_is_not_linked_is_no_success() {
    let panic = std::panic::catch_unwind(|| super::linked("yolo-plugin-nowhere").assert());
    assert!(panic.is_err(), "nothing was checked");
}
