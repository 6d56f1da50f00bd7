// Sum of absolute weights per channel, in AssemblyScript:
//   asc l1.ts -O3 --runtime stub --use abort= -o l1.wasm
//   yolo plugin describe l1.wasm l1.json

export function yolo_metric_abi(): i32 {
  return 0x10000;
}

export function yolo_needs(): i32 {
  return 1; // weights
}

export function yolo_alloc(bytes: u32, align: u32): usize {
  return heap.alloc(bytes); // aligned to 16 bytes, which is what yolo asks for
}

export function yolo_score(layer: usize, out: usize): i32 {
  const channels = load<u32>(layer, 4);
  const elements = load<u32>(layer, 8);
  const stride = load<u32>(layer, 20) << 2;
  let row: usize = load<u32>(layer, 24);
  for (let channel: u32 = 0; channel < channels; channel++) {
    let sum: f32 = 0;
    const end = row + (elements << 2);
    for (let at = row; at < end; at += 4) sum += abs(load<f32>(at));
    store<f32>(out + (channel << 2), sum);
    row += stride;
  }
  return 0;
}
