;; Scale * |gamma| + shift: options, batch norm, and every other field of the description, checked.
(module
  (@custom "yolo.plugin" "{\"kind\": \"metric\", \"name\": \"scaled-gamma\", \"schema\": {\"properties\": {\"scale\": {\"type\": \"number\", \"default\": 2.0, \"description\": \"Factor\"}, \"shift\": {\"type\": \"integer\", \"description\": \"Summand\"}, \"flip\": {\"type\": \"boolean\", \"description\": \"Change the sign\"}}}}")
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (func (export "yolo_metric_abi") (result i32) i32.const 0x10000)
  (func (export "yolo_needs") (result i32) i32.const 2)
  (func (export "yolo_alloc") (param $bytes i32) (param $align i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top
      (i32.and (i32.add (i32.add (global.get $top) (local.get $bytes)) (i32.const 15)) (i32.const -16)))
    (local.get $at))
  (func (export "yolo_score") (param $desc i32) (param $out i32) (result i32)
    (local $channel i32) (local $params i32) (local $value f32)
    ;; size >= 76, no weights, three parameters, two norms
    (if (i32.lt_u (i32.load (local.get $desc)) (i32.const 76)) (then (return (i32.const 1))))
    (if (i32.load offset=24 (local.get $desc)) (then (return (i32.const 2))))
    (if (i32.ne (i32.load offset=52 (local.get $desc)) (i32.const 3)) (then (return (i32.const 3))))
    (if (i32.ne (i32.load offset=60 (local.get $desc)) (i32.const 2)) (then (return (i32.const 4))))
    (local.set $params (i32.load offset=56 (local.get $desc)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $channel) (i32.load offset=4 (local.get $desc))))
        (local.set $value
          (f32.add
            (f32.mul
              (f32.load (local.get $params))
              ;; the second norm: one row of channels further on
              (f32.abs
                (f32.load
                  (i32.add
                    (i32.load offset=28 (local.get $desc))
                    (i32.shl
                      (i32.add (local.get $channel) (i32.load offset=4 (local.get $desc)))
                      (i32.const 2))))))
            (f32.load offset=4 (local.get $params))))
        (if (f32.ne (f32.load offset=8 (local.get $params)) (f32.const 0))
          (then (local.set $value (f32.neg (local.get $value)))))
        (f32.store (i32.add (local.get $out) (i32.shl (local.get $channel) (i32.const 2))) (local.get $value))
        (local.set $channel (i32.add (local.get $channel) (i32.const 1)))
        (br $next)))
    (i32.const 0)))
