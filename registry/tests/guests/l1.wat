;; Sum of absolute weights per channel, by hand.
(module
  (@custom "yolo.plugin" "{\"kind\": \"metric\", \"name\": \"l1-wat\", \"version\": \"1.0.0\", \"license\": \"MIT\", \"authors\": [\"The yolo authors\"], \"summary\": \"Sum of absolute weights, by hand\"}")
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))

  (func (export "yolo_metric_abi") (result i32) i32.const 0x10000)
  (func (export "yolo_needs") (result i32) i32.const 1)

  ;; Hands out memory from the bottom up; nothing is freed.
  (func (export "yolo_alloc") (param $bytes i32) (param $align i32) (result i32)
    (local $at i32) (local $end i32) (local $lacking i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (local.set $lacking (i32.sub (local.get $end) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.gt_s (local.get $lacking) (i32.const 0))
      (then
        (if (i32.eq
              (memory.grow (i32.shr_u (i32.add (local.get $lacking) (i32.const 65535)) (i32.const 16)))
              (i32.const -1))
          (then (return (i32.const 0))))))
    (global.set $top (local.get $end))
    (local.get $at))

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

  (func (export "yolo_score") (param $desc i32) (param $out i32) (result i32)
    (local $channel i32) (local $channels i32) (local $count i32) (local $row i32)
    (local.set $channels (i32.load offset=4 (local.get $desc)))
    (local.set $count (i32.load offset=8 (local.get $desc)))
    (local.set $row (i32.load offset=24 (local.get $desc)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $channel) (local.get $channels)))
        (f32.store
          (i32.add (local.get $out) (i32.shl (local.get $channel) (i32.const 2)))
          (call $score_channel (local.get $row) (local.get $count)))
        (local.set $row
          (i32.add (local.get $row) (i32.shl (i32.load offset=20 (local.get $desc)) (i32.const 2))))
        (local.set $channel (i32.add (local.get $channel) (i32.const 1)))
        (br $next)))
    (i32.const 0)))
