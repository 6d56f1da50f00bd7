//! Building blocks shared by plugins: functions on [`GraphBuilder`](crate::GraphBuilder) that append nodes. They hold no
//! weights and know no plugin. Names follow Ultralytics, so that weights flow both ways.

mod attention;
mod conv;
mod csp;
mod pool;
mod squeeze;

pub use attention::{attention, map, thirds, tokens};
pub use conv::{BN_EPS, BN_MOMENTUM, ConvOptions, bare_conv_bn, batch_norm, conv, conv_bn_act, focus};
pub use csp::{BottleneckOptions, bottleneck, bottleneck_csp, c3, csp};
pub use pool::{spp, sppf};
pub use squeeze::squeeze_excite;
