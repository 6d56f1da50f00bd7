//! Sizes, windows and orders of axes as parameters of layers.

use yolo_core::Node;

use super::lower::Lowering;
use super::model::Value;
use crate::Result;

/// Sizes as layer parameters: width 0, height 1, channels 2, depth 11.
pub(super) fn size_params(node: &Node, dims: &[i64]) -> Result<Vec<(i64, Value)>> {
    let ids: &[i64] = match dims.len() {
        1 => &[0],
        2 => &[1, 0],
        3 => &[2, 1, 0],
        4 => &[2, 11, 1, 0],
        _ => {
            return Err(Lowering::unsupported(
                node,
                format!("blobs of ncnn have up to 4 axes, not {dims:?}"),
            ));
        }
    };
    Ok(ids
        .iter()
        .zip(dims)
        .rev()
        .map(|(id, size)| (*id, Value::Int(*size)))
        .collect())
}

pub(super) fn window_params(
    cout: i64,
    kernel: [i64; 2],
    stride: [i64; 2],
    padding: [i64; 2],
    dilation: [i64; 2],
) -> Vec<(i64, Value)> {
    let mut params = vec![(0, Value::Int(cout))];
    for (id, [vertical, horizontal]) in [(1, kernel), (2, dilation), (3, stride), (4, padding)] {
        params.extend([(id, Value::Int(horizontal)), (id + 10, Value::Int(vertical))]);
    }
    // Right and bottom follow left and top by default.
    params
}

pub(super) fn pool_params(kind: i64, kernel: i64, stride: i64, padding: i64) -> Vec<(i64, Value)> {
    // Pad mode 1: windows that do not fit are dropped, as in PyTorch.
    [(0, kind), (1, kernel), (2, stride), (3, padding), (5, 1)]
        .map(|(id, v)| (id, Value::Int(v)))
        .into()
}

/// ncnn's number for an order of axes (outermost first). It names orders by their new width, height, depth, channels.
pub(super) fn order_type(order: &[usize]) -> Option<i64> {
    const TWO: [&str; 2] = ["WH", "HW"];
    const THREE: [&str; 6] = ["WHC", "HWC", "WCH", "CWH", "HCW", "CHW"];
    const FOUR: [&str; 24] = [
        "WHDC", "HWDC", "WDHC", "DWHC", "HDWC", "DHWC", "WHCD", "HWCD", "WCHD", "CWHD", "HCWD", "CHWD", "WDCH", "DWCH",
        "WCDH", "CWDH", "DCWH", "CDWH", "HDCW", "DHCW", "HCDW", "CHDW", "DCHW", "CDHW",
    ];
    let (names, table): (&str, &[&str]) = match order.len() {
        2 => ("HW", &TWO),
        3 => ("CHW", &THREE),
        4 => ("CDHW", &FOUR),
        _ => return None,
    };
    let wanted: String = order
        .iter()
        .rev()
        .map(|&axis| names.chars().nth(axis))
        .collect::<Option<_>>()?;
    table.iter().position(|name| *name == wanted).map(|index| index as i64)
}

#[cfg(test)]
mod tests {
    use super::order_type;

    #[test]
    fn orders_have_the_numbers_of_the_ncnn_documentation() {
        assert_eq!(order_type(&[0, 1, 2]), Some(0));
        // The new width is the old height.
        assert_eq!(order_type(&[0, 2, 1]), Some(1));
        assert_eq!(order_type(&[1, 0]), Some(1));
        // [C, H, W] to [H, W, C]: the new width is C, the new height W.
        assert_eq!(order_type(&[1, 2, 0]), Some(3));
        assert_eq!(order_type(&[0, 1, 2, 3]), Some(0));
        assert_eq!(order_type(&[3, 2, 1, 0]), Some(23));
        assert_eq!(order_type(&[0]), None);
    }
}
