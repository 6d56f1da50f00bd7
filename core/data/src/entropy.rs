//! The Huffman-coded data of a JPEG, walked over without making pixels, to see whether all of it is there: decoders fill what is missing
//! with gray and say nothing. Sequential and progressive coding by ITU-T T.81, annexes F and G; arithmetic coding isn't walked.

/// What is wrong with the coded pixels, if that can be seen: they end too early, go on after the last block, or hold what no encoder
/// writes.
pub(crate) fn fault(bytes: &[u8]) -> Option<String> {
    walk(bytes).err().map(|fault| fault.to_string())
}

/// Why blocks can't be read on, which is asked for every coded value.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Header,
    NoCode,
    Beyond,
    Refined,
    Channel,
    /// Per cent of the picture at which data ends.
    Early(usize),
    /// Bytes, and per cent of the picture at which they lie.
    Left(usize, usize),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => write!(f, "a part of its header is damaged"),
            Self::NoCode => write!(f, "it holds a code that no encoder writes"),
            Self::Beyond => write!(f, "a block has more than 64 values"),
            Self::Refined => write!(f, "a refined value has more than one bit"),
            Self::Channel => write!(f, "one of its colour channels is missing"),
            Self::Early(place) => write!(f, "its data ends at {place} % of the picture"),
            Self::Left(bytes, place) => write!(f, "{bytes} bytes of data are left over at {place} % of the picture"),
        }
    }
}

type Walked<T = ()> = Result<T, Fault>;

/// More bytes than this between the last block and the next marker mean that blocks were lost; a few are what some encoders leave.
const LEFTOVER: usize = 8;

fn walk(bytes: &[u8]) -> Walked {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut plain = Vec::new();
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        if matches!(marker, 0xd0..=0xd8 | 0x01) {
            continue;
        }
        if marker == 0xd9 {
            break;
        }
        let length = usize::from(word(bytes, at).ok_or(Fault::Header)?);
        let body = bytes.get(at + 2..at + length).ok_or(Fault::Header)?;
        at += length;
        match marker {
            0xc4 => tables.read(body)?,
            0xc0..=0xc2 => frame = Some(Frame::read(body, marker == 0xc2)?),
            // Lossless, hierarchical or arithmetic.
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => return Ok(()),
            0xdd => tables.restart = usize::from(word(body, 0).ok_or(Fault::Header)?),
            0xda => {
                let frame = frame.as_mut().ok_or(Fault::Header)?;
                at = Scan::read(body, frame)?.walk(frame, &tables, bytes, at, &mut plain)?;
            }
            _ => {}
        }
    }
    match frame {
        Some(frame) if frame.parts.iter().any(|part| !part.seen) => Err(Fault::Channel),
        _ => Ok(()),
    }
}

/// The marker at `at`, which then stands behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    while *bytes.get(*at)? != 0xff {
        *at += 1;
    }
    while *bytes.get(*at)? == 0xff {
        *at += 1;
    }
    *at += 1;
    Some(bytes[*at - 1])
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Codes of up to this many bits are found at once.
const QUICK: u32 = 9;

/// A Huffman table.
struct Codes {
    /// By the next [`QUICK`] bits: length of the code in the high byte, 0 where it is longer, and its value.
    quick: [u16; 1 << QUICK],
    /// By length: codes, aligned to 16 bits, below this one have it (or a smaller one).
    below: [u32; 17],
    /// By length: what to add to a code for the place of its value.
    offset: [i32; 17],
    values: Vec<u8>,
}

impl Codes {
    fn new(counts: &[u8], values: &[u8]) -> Walked<Self> {
        let mut codes = Self {
            quick: [0; 1 << QUICK],
            below: [0; 17],
            offset: [0; 17],
            values: values.to_vec(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            codes.offset[length as usize] = place as i32 - code as i32;
            if code + count > 1 << length {
                return Err(Fault::Header);
            }
            if length <= QUICK {
                for (index, value) in (code..code + count).zip(&values[place..]) {
                    let spare = QUICK - length;
                    let first = (index << spare) as usize;
                    codes.quick[first..first + (1 << spare)].fill((length as u16) << 8 | u16::from(*value));
                }
            }
            code += count;
            place += count as usize;
            codes.below[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(codes)
    }
}

/// Huffman tables by class (DC, AC) and number, and the blocks between two restarts.
#[derive(Default)]
struct Tables {
    codes: [[Option<Box<Codes>>; 4]; 2],
    restart: usize,
}

impl Tables {
    fn read(&mut self, mut body: &[u8]) -> Walked {
        while let [kind, rest @ ..] = body {
            let counts = rest.get(..16).ok_or(Fault::Header)?;
            let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let values = rest.get(16..16 + total).ok_or(Fault::Header)?;
            let (class, number) = (usize::from(kind >> 4), usize::from(kind & 15));
            let place = self.codes.get_mut(class).and_then(|class| class.get_mut(number));
            *place.ok_or(Fault::Header)? = Some(Box::new(Codes::new(counts, values)?));
            body = &rest[16 + total..];
        }
        Ok(())
    }

    fn get(&self, class: usize, number: u8) -> Walked<&Codes> {
        let codes = self.codes[class].get(usize::from(number)).and_then(Option::as_deref);
        codes.ok_or(Fault::Header)
    }
}

/// A colour channel.
struct Part {
    id: u8,
    /// Blocks of a group, across and down.
    factors: [usize; 2],
    /// Blocks that hold picture, across and down.
    blocks: [usize; 2],
    /// Blocks in memory across.
    stride: usize,
    /// Of a progressive picture: which coefficients of each block are not zero.
    nonzero: Vec<u64>,
    seen: bool,
}

struct Frame {
    parts: Vec<Part>,
    /// Groups of blocks, across and down.
    groups: [usize; 2],
    progressive: bool,
}

impl Frame {
    fn read(body: &[u8], progressive: bool) -> Walked<Self> {
        let [_, h1, h0, w1, w0, count, parts @ ..] = body else {
            return Err(Fault::Header);
        };
        let size = [[*w1, *w0], [*h1, *h0]].map(|pair| usize::from(u16::from_be_bytes(pair)));
        let parts = parts
            .get(..usize::from(*count) * 3)
            .ok_or(Fault::Header)?
            .chunks_exact(3);
        let factors = |part: &[u8]| [usize::from(part[1] >> 4), usize::from(part[1] & 15)];
        let mut most = [1, 1];
        for part in parts.clone() {
            let factors = factors(part);
            if factors.iter().any(|factor| !(1..=4).contains(factor)) {
                return Err(Fault::Header);
            }
            most = [0, 1].map(|axis| factors[axis].max(most[axis]));
        }
        let groups = [0, 1].map(|axis| size[axis].div_ceil(8 * most[axis]));
        let parts = parts.map(|part| {
            let factors = factors(part);
            let stride = groups[0] * factors[0];
            Part {
                id: part[0],
                factors,
                blocks: [0, 1].map(|axis| (size[axis] * factors[axis]).div_ceil(8 * most[axis])),
                stride,
                nonzero: if progressive {
                    vec![0; stride * groups[1] * factors[1]]
                } else {
                    Vec::new()
                },
                seen: false,
            }
        });
        Ok(Self {
            parts: parts.collect(),
            groups,
            progressive,
        })
    }
}

/// A pass over some channels.
struct Scan {
    /// Index of the channel, number of the DC and of the AC table.
    parts: Vec<(usize, u8, u8)>,
    /// First and last coefficient.
    band: [u32; 2],
    /// Whether bits are added to what an earlier scan said.
    refines: bool,
}

impl Scan {
    fn read(body: &[u8], frame: &Frame) -> Walked<Self> {
        let [count, rest @ ..] = body else {
            return Err(Fault::Header);
        };
        let count = usize::from(*count);
        let (parts, [first, last, bits, ..]) = rest.split_at_checked(2 * count).ok_or(Fault::Header)? else {
            return Err(Fault::Header);
        };
        let parts = parts.chunks_exact(2).map(|part| {
            let index = frame
                .parts
                .iter()
                .position(|known| known.id == part[0])
                .ok_or(Fault::Header)?;
            Ok((index, part[1] >> 4, part[1] & 15))
        });
        let band = if frame.progressive {
            [*first, *last].map(u32::from)
        } else {
            [0, 63]
        };
        let scan = Self {
            parts: parts.collect::<Walked<_>>()?,
            band,
            refines: frame.progressive && bits >> 4 != 0,
        };
        let alone = scan.parts.len() == 1 || band[0] == 0;
        if scan.parts.is_empty() || band[0] > band[1] || band[1] > 63 || !alone {
            return Err(Fault::Header);
        }
        Ok(scan)
    }

    /// Walks over the coded data at `at`; the place of the marker behind it.
    fn walk(&self, frame: &mut Frame, tables: &Tables, bytes: &[u8], at: usize, plain: &mut Vec<u8>) -> Walked<usize> {
        let [across, down] = match self.parts[..] {
            [(index, ..)] => frame.parts[index].blocks,
            _ => frame.groups,
        };
        let (total, mut done, mut at) = (across * down, 0, at);
        let mut coded = Vec::with_capacity(self.parts.len());
        for (index, dc, ac) in &self.parts {
            frame.parts[*index].seen = true;
            coded.push((*index, tables.get(0, *dc), tables.get(1, *ac)));
        }
        let place = |done: usize| done * 100 / total.max(1);
        loop {
            at = unstuff(bytes, at, plain);
            let wanted = if tables.restart > 0 {
                tables.restart.min(total - done)
            } else {
                total
            };
            let mut bits = Bits::new(plain);
            let mut run = 0;
            for group in done..done + wanted {
                if bits.over() {
                    return Err(Fault::Early(place(group)));
                }
                self.group(frame, &coded, &mut bits, &mut run, [group % across, group / across])?;
            }
            if bits.over() {
                return Err(Fault::Early(place(done + wanted - 1)));
            }
            done += wanted;
            let left = bits.left();
            if left > LEFTOVER {
                return Err(Fault::Left(left, place(done)));
            }
            if done >= total {
                return Ok(at);
            }
            let number = (done / tables.restart.max(1) - 1) % 8;
            match bytes.get(at + 1) {
                Some(marker) if usize::from(*marker) == 0xd0 + number => at += 2,
                _ => return Err(Fault::Early(place(done))),
            }
        }
    }

    #[inline]
    fn group(
        &self,
        frame: &mut Frame,
        coded: &[Coded<'_>],
        bits: &mut Bits,
        run: &mut u32,
        [x, y]: [usize; 2],
    ) -> Walked {
        for (index, dc, ac) in coded {
            let part = &mut frame.parts[*index];
            let [across, down] = if coded.len() > 1 { part.factors } else { [1, 1] };
            if !frame.progressive {
                let (dc, ac) = ((*dc)?, (*ac)?);
                for _ in 0..across * down {
                    bits.skip_value(dc)?;
                    band(bits, ac)?;
                }
                continue;
            }
            for block in 0..across * down {
                let place = (y * down + block / across) * part.stride + x * across + block % across;
                let nonzero = part.nonzero.get_mut(place).ok_or(Fault::Header)?;
                match (self.band[0], self.refines) {
                    (0, false) => bits.skip_value((*dc)?)?,
                    (0, true) => bits.skip(1),
                    (_, false) => first(bits, (*ac)?, self.band, run, nonzero)?,
                    (_, true) => refine(bits, (*ac)?, self.band, run, nonzero)?,
                }
            }
        }
        Ok(())
    }
}

/// A channel of a scan with its tables for DC and AC, where they are there.
type Coded<'a> = (usize, Walked<&'a Codes>, Walked<&'a Codes>);

/// The 63 other coefficients of a sequential block (F.2.2.2).
#[inline]
fn band(bits: &mut Bits, codes: &Codes) -> Walked {
    let mut k = 1;
    while k < 64 {
        // A code and its bits are 31 at most, which are there after one `fill`.
        let value = bits.value(codes)?;
        let (zeros, size) = (u32::from(value >> 4), u32::from(value & 15));
        if size == 0 && zeros < 15 {
            return Ok(());
        }
        k += zeros + 1;
        bits.drop(size);
    }
    if k > 64 { Err(Fault::Beyond) } else { Ok(()) }
}

/// First bits of a band of a progressive block (G.1.2.2).
fn first(bits: &mut Bits, codes: &Codes, [from, to]: [u32; 2], run: &mut u32, nonzero: &mut u64) -> Walked {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut k = from;
    while k <= to {
        let value = bits.value(codes)?;
        let (zeros, size) = (u32::from(value >> 4), u32::from(value & 15));
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) - 1 + bits.take(zeros);
            return Ok(());
        }
        k += zeros;
        if k > 63 {
            return Err(Fault::Beyond);
        }
        if size > 0 {
            *nonzero |= 1 << k;
            bits.skip(size);
        }
        k += 1;
    }
    Ok(())
}

/// A further bit of a band of a progressive block (G.1.2.3).
fn refine(bits: &mut Bits, codes: &Codes, [from, to]: [u32; 2], run: &mut u32, nonzero: &mut u64) -> Walked {
    let mut k = from;
    while *run == 0 && k <= to {
        let value = bits.value(codes)?;
        let (mut zeros, size) = (u32::from(value >> 4), u32::from(value & 15));
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) + bits.take(zeros);
            break;
        }
        if size > 1 {
            return Err(Fault::Refined);
        }
        bits.skip(size);
        while k <= to {
            if *nonzero >> k & 1 == 1 {
                bits.skip(1);
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        if size == 1 {
            if k > 63 {
                return Err(Fault::Beyond);
            }
            *nonzero |= 1 << k;
        }
        k += 1;
    }
    if *run > 0 {
        let rest = if k > to {
            0
        } else {
            *nonzero & (u64::MAX >> (63 - to)) & (u64::MAX << k)
        };
        let ones = rest.count_ones();
        bits.skip(ones / 2);
        bits.skip(ones - ones / 2);
        *run -= 1;
    }
    Ok(())
}

/// Copies the coded data at `at` without its stuffing; the place of the marker behind it.
fn unstuff(bytes: &[u8], mut at: usize, plain: &mut Vec<u8>) -> usize {
    plain.clear();
    loop {
        let rest = &bytes[at..];
        let Some(next) = memchr::memchr(0xff, rest) else {
            plain.extend_from_slice(rest);
            return bytes.len();
        };
        plain.extend_from_slice(&rest[..next]);
        at += next;
        match bytes.get(at + 1) {
            Some(0) => {
                plain.push(0xff);
                at += 2;
            }
            // Fill bytes.
            Some(0xff) => at += 1,
            _ => return at,
        }
    }
}

/// Bits from the highest on; behind the last there are zeros.
struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte that is not in `word`.
    at: usize,
    word: u64,
    /// Bits in `word`; negative when more were taken than there are.
    count: i32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            word: 0,
            count: 0,
        }
    }

    /// At least 32 bits in `word`, if there are that many.
    #[inline]
    fn fill(&mut self) {
        if self.count >= 32 || self.count < 0 {
            return;
        }
        if let Some(four) = self.bytes.get(self.at..self.at + 4) {
            let four = u64::from(u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            self.word |= four << (32 - self.count);
            self.count += 32;
            self.at += 4;
            return;
        }
        while self.count <= 56
            && let Some(byte) = self.bytes.get(self.at)
        {
            self.word |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
            self.at += 1;
        }
    }

    /// Leaves out up to 32 bits.
    #[inline]
    fn skip(&mut self, count: u32) {
        self.fill();
        self.drop(count);
    }

    /// Leaves out bits that are in `word`.
    #[inline]
    fn drop(&mut self, count: u32) {
        self.word <<= count;
        self.count -= count as i32;
    }

    /// A number of up to 15 bits.
    fn take(&mut self, count: u32) -> u32 {
        self.fill();
        let number = if count == 0 {
            0
        } else {
            (self.word >> (64 - count)) as u32
        };
        self.skip(count);
        number
    }

    /// The value of the next code.
    #[inline]
    fn value(&mut self, codes: &Codes) -> Walked<u8> {
        self.fill();
        let quick = codes.quick[(self.word >> (64 - QUICK)) as usize];
        let length = u32::from(quick >> 8);
        if length > 0 {
            self.drop(length);
            return Ok(quick as u8);
        }
        self.long_value(codes)
    }

    #[cold]
    fn long_value(&mut self, codes: &Codes) -> Walked<u8> {
        let next = (self.word >> 48) as u32;
        let length = (QUICK as usize + 1..=16).find(|length| next < codes.below[*length]);
        let value = length.and_then(|length| {
            let place = (next >> (16 - length)) as i32 + codes.offset[length];
            codes.values.get(usize::try_from(place).ok()?).copied()
        });
        match (length, value) {
            (Some(length), Some(value)) => {
                self.drop(length as u32);
                Ok(value)
            }
            // What comes behind the end is no code, and said by who asks.
            _ if self.at >= self.bytes.len() && self.count < 16 => {
                self.count = -1;
                Ok(0)
            }
            _ => Err(Fault::NoCode),
        }
    }

    /// A code, and as many bits as it says.
    #[inline]
    fn skip_value(&mut self, codes: &Codes) -> Walked {
        let size = self.value(codes)?;
        if size > 16 {
            return Err(Fault::NoCode);
        }
        self.drop(u32::from(size));
        Ok(())
    }

    /// Whether more was read than there is.
    fn over(&self) -> bool {
        self.count < 0
    }

    /// Whole bytes that were not read.
    fn left(&self) -> usize {
        self.bytes.len() - self.at + self.count.max(0) as usize / 8
    }
}
