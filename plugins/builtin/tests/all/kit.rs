//! The checks that authors of plugins run, on every plugin that ships.

use yolo_core::{PluginInfo, conformance};

#[test]
fn every_package_that_ships_passes_the_kit() {
    // Small tensors: threads that wait for each other cost more than they bring.
    tch::set_num_threads(1);
    let linked = PluginInfo::linked();
    let mut packages: Vec<&str> = linked.iter().map(|info| info.package).collect();
    packages.sort_unstable();
    packages.dedup();
    assert!(packages.len() > 30, "{packages:?}");
    for package in packages {
        conformance::linked(package).assert();
    }
}
