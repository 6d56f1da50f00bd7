//! What every plugin must keep: it describes itself, reads its example, and works on small networks.

use template_crate as _;

#[test]
fn it_keeps_the_rules() {
    yolo_sdk::conformance::linked(env!("CARGO_PKG_NAME")).assert();
}
