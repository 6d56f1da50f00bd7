;; Template title: sum of the absolute weights of a channel, as a WebAssembly module for yolo. It imports nothing.
(module
  ;; How the module describes itself: read from the file, without running anything.
  (@custom "yolo.plugin" "{\"kind\": \"metric\", \"name\": \"template-name\", \"version\": \"0.1.0\", \"license\": \"MIT OR Apache-2.0\", \"summary\": \"Sum of absolute weights\"}")
  (memory (export "memory") 1)
  ;; Memory is handed out from here upwards.
  (global $top (mut i32) (i32.const 1024))

  ;; The version of this interface: 1.0.
  (func (export "yolo_metric_abi") (result i32) i32.const 0x10000)
  ;; What the metric looks at: 1 weights, 2 batch norm, 4 gradients, 8 activations; added up.
  (func (export "yolo_needs") (result i32) i32.const 1)

  ;; Memory for the layer; 0 where there is none.
  (func (export "yolo_alloc") (param $bytes i32) (param $align i32) (result i32)
    (local $at i32) (local $end i32) (local $pages i32)
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $top) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (if (i32.lt_u (local.get $end) (local.get $at)) (then (return (i32.const 0))))
    (local.set $pages (i32.shr_u (i32.add (local.get $end) (i32.const 65535)) (i32.const 16)))
    (if (i32.gt_u (local.get $pages) (memory.size))
      (then
        (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1))
          (then (return (i32.const 0))))))
    (global.set $top (local.get $end))
    (local.get $at))

  ;; The metric itself: `count` floats from `row` on.
  (func $score_channel (param $row i32) (param $count i32) (result f32)
    (local $sum f32) (local $end i32)
    (local.set $end (i32.add (local.get $row) (i32.shl (local.get $count) (i32.const 2))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $row) (local.get $end)))
        (local.set $sum (f32.add (local.get $sum) (f32.abs (f32.load (local.get $row)))))
        (local.set $row (i32.add (local.get $row) (i32.const 4)))
        (br $next)))
    (local.get $sum))

  ;; Writes one finite score per channel; the lowest go first. 0 means that it worked.
  ;; A layer: 4 channels, 8 elements of a row, 20 floats from row to row, 24 weights.
  (func (export "yolo_score") (param $layer i32) (param $out i32) (result i32)
    (local $left i32) (local $row i32)
    (local.set $left (i32.load offset=4 (local.get $layer)))
    (local.set $row (i32.load offset=24 (local.get $layer)))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (f32.store (local.get $out) (call $score_channel (local.get $row) (i32.load offset=8 (local.get $layer))))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (local.set $row (i32.add (local.get $row) (i32.shl (i32.load offset=20 (local.get $layer)) (i32.const 2))))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    (i32.const 0)))
