//! Memory that calls leave behind, as a slope: bytes per call, whatever the machine and its allocator do once.

/// A leak of the smallest block, once per call, is 24 bytes or more (its header included); nothing leaks less than a block.
pub const ALLOCATED: f64 = 8.0;

/// Pages that don't come from the allocator are leaked whole, 4096 bytes at a time.
pub const RESIDENT: f64 = 256.0;

/// Bytes per call: allocated (the allocator's books), and resident (pages of the process).
#[derive(Debug, Clone, Copy)]
pub struct Slope {
    pub allocated: f64,
    pub resident: f64,
}

impl Slope {
    /// Whether it is a leak.
    pub fn leaks(self) -> bool {
        self.allocated >= ALLOCATED || self.resident >= RESIDENT
    }
}

/// What four times as many calls leave behind beyond `calls`, per call: what is set up once is in both lengths and cancels.
///
/// A leak is in every round, what an allocator or libtorch moves around is not: the first round without a leak ends the
/// measurement.
pub fn slope(calls: usize, what: &mut dyn FnMut()) -> Slope {
    const ROUNDS: usize = 5;
    (0..calls).for_each(|_| what());
    let mut grown = |calls: usize| {
        let before = memory();
        (0..calls).for_each(|_| what());
        let after = memory();
        [after.0 - before.0, after.1 - before.1]
    };
    let mut last = None;
    for _ in 0..ROUNDS {
        let (short, long) = (grown(calls), grown(4 * calls));
        let [allocated, resident] = [0, 1].map(|i| (long[i] - short[i]) as f64 / (3 * calls) as f64);
        let slope = Slope { allocated, resident };
        last = Some(slope);
        if !slope.leaks() {
            break;
        }
    }
    last.expect("a round")
}

/// Bytes that are allocated, and that are in memory.
fn memory() -> (i64, i64) {
    // SAFETY: the function only reads the allocator's books.
    let books = unsafe { libc::mallinfo2() };
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let resident: i64 = pages
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    ((books.uordblks + books.hblkhd) as i64, resident * 4096)
}

/// The limits are far from both sides: the smallest leak is seen, and calls that leak nothing are not.
pub fn check_itself() {
    let small = slope(2000, &mut || std::mem::forget(std::hint::black_box(Box::new(1u8))));
    assert!(
        small.allocated >= 3.0 * ALLOCATED,
        "a byte that is never freed: {small:?}"
    );
    let page = slope(500, &mut || std::mem::forget(std::hint::black_box(vec![1u8; 4096])));
    assert!(page.resident > 10.0 * RESIDENT, "a page that is never freed: {page:?}");
    let none = slope(2000, &mut || drop(std::hint::black_box(vec![1u8; 4096])));
    assert!(
        none.allocated.abs() < ALLOCATED / 8.0 && none.resident.abs() < RESIDENT / 8.0,
        "a page that is freed: {none:?}"
    );
}
