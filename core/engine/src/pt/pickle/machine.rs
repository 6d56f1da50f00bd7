//! The stack machine: opcodes to nodes.

use std::collections::HashMap;

use super::{Id, Node, Object, PickleError};

/// Runs a pickle to its end: the arena, the index of the value that it stands for, and how many bytes it took.
pub(super) fn run(bytes: &[u8]) -> Result<(Vec<Node>, Id, usize), PickleError> {
    let mut machine = Machine {
        bytes,
        ..Machine::default()
    };
    match machine.run() {
        Ok(root) => Ok((machine.nodes, root, machine.at)),
        Err(reason) => Err(PickleError {
            at: machine.op_at,
            reason,
        }),
    }
}

type Step<T = ()> = Result<T, String>;

/// The stack machine.
#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    op_at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Elements copied from shared nodes: bounded, or a small file could fill the memory.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            self.op_at = self.at;
            let op = self.u8()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: u8) -> Step {
        match op {
            0x80 => match self.u8()? {
                0..=5 => {}
                protocol => return Err(format!("protocol {protocol} is newer than this program knows")),
            },
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'I' | b'L' => self.text_int()?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(i64::from(value)));
            }
            b'K' => {
                let value = self.u8()?;
                self.push(Node::Int(i64::from(value)));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(i64::from(value)));
            }
            0x8a => {
                let len = usize::from(self.u8()?);
                self.long(len)?;
            }
            0x8b => {
                let len = self.len4()?;
                self.long(len)?;
            }
            b'F' => {
                let line = self.line()?;
                let value = line.trim().parse().map_err(|_| format!("`{line}` is not a number"))?;
                self.push(Node::Float(value));
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value));
            }
            b'S' => {
                let line = self.line()?;
                let text = line.trim().trim_matches(['\'', '"']).to_owned();
                self.push(Node::Str(text));
            }
            b'V' => {
                let text = self.line()?.to_owned();
                self.push(Node::Str(text));
            }
            b'T' | b'X' => {
                let len = self.len4()?;
                self.text(len)?;
            }
            b'U' | 0x8c => {
                let len = usize::from(self.u8()?);
                self.text(len)?;
            }
            0x8d => {
                let len = self.len8()?;
                self.text(len)?;
            }
            b'B' => {
                let len = self.len4()?;
                self.blob(len)?;
            }
            b'C' => {
                let len = usize::from(self.u8()?);
                self.blob(len)?;
            }
            0x8e | 0x96 => {
                let len = self.len8()?;
                self.blob(len)?;
            }
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::Set(Vec::new())),
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            b'd' => {
                let pairs = pairs(&self.pop_mark()?)?;
                self.push(Node::Dict(pairs));
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Set(items));
            }
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let start = self
                    .stack
                    .len()
                    .checked_sub(n)
                    .ok_or("the stack is too short for a tuple")?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_pairs(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = pairs(&self.pop_mark()?)?;
                self.set_pairs(pairs)?;
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Node::Global(name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let name = match (&self.nodes[module as usize], &self.nodes[name as usize]) {
                    (Node::Str(module), Node::Str(name)) => format!("{module}.{name}"),
                    _ => return Err("the name of a class is not text".into()),
                };
                self.charge(name.len())?;
                self.push(Node::Global(name));
            }
            b'R' | 0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.call(class, args)?;
            }
            0x92 => {
                let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, args)?;
            }
            b'i' => {
                let class = self.nodes.len() as Id;
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.nodes.push(Node::Global(name));
                let args = self.pop_mark()?;
                self.push_object(class, args);
            }
            b'o' => {
                let mut args = self.pop_mark()?;
                if args.is_empty() {
                    return Err("an object without a class".into());
                }
                let class = args.remove(0);
                self.class_name(class)?;
                self.push_object(class, args);
            }
            b'b' => {
                let state = self.pop()?;
                let target = self.top()? as usize;
                match &mut self.nodes[target] {
                    Node::Object(object) => object.state = Some(state),
                    // Attributes of an `OrderedDict` and the like: not part of the data.
                    Node::Dict(_) | Node::List(_) | Node::Set(_) => {}
                    other => return Err(format!("`BUILD` on {}", kind(other))),
                }
            }
            b'P' => {
                let text = self.line()?.to_owned();
                self.push(Node::Str(text));
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'p' => {
                let index = self.line_index()?;
                self.memoize(index)?;
            }
            b'q' => {
                let index = u64::from(self.u8()?);
                self.memoize(index)?;
            }
            b'r' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.memoize(index)?;
            }
            0x94 => self.memoize(self.memo.len() as u64)?,
            b'g' => {
                let index = self.line_index()?;
                self.recall(index)?;
            }
            b'h' => {
                let index = u64::from(self.u8()?);
                self.recall(index)?;
            }
            b'j' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.recall(index)?;
            }
            other => return Err(format!("unknown opcode 0x{other:02x}")),
        }
        Ok(())
    }

    fn call(&mut self, class: Id, args: Id) -> Step {
        let name = self.class_name(class)?;
        let args = match &self.nodes[args as usize] {
            Node::Tuple(items) | Node::List(items) => items.clone(),
            other => return Err(format!("the arguments of `{name}` are {}", kind(other))),
        };
        // The containers that Python itself pickles as calls.
        let container = match name {
            "collections.OrderedDict" | "builtins.dict" | "__builtin__.dict" if args.is_empty() => {
                Some(Node::Dict(Vec::new()))
            }
            "builtins.set" | "__builtin__.set" | "builtins.frozenset" | "__builtin__.frozenset" => {
                let items = args.first().map(|list| match &self.nodes[*list as usize] {
                    Node::List(items) | Node::Tuple(items) => items.clone(),
                    _ => Vec::new(),
                });
                Some(Node::Set(items.unwrap_or_default()))
            }
            _ => None,
        };
        match container {
            Some(node) => {
                if let Node::Set(items) = &node {
                    self.charge(items.len())?;
                }
                self.push(node);
            }
            None => {
                self.charge(args.len())?;
                self.push_object(class, args);
            }
        }
        Ok(())
    }

    fn charge(&mut self, elements: usize) -> Step {
        self.copied = self.copied.saturating_add(elements);
        if self.copied > self.bytes.len().saturating_mul(4).saturating_add(1 << 16) {
            return Err("it repeats the same values so often that it must be made to fill the memory".into());
        }
        Ok(())
    }

    fn class_name(&self, id: Id) -> Step<&str> {
        match &self.nodes[id as usize] {
            Node::Global(name) => Ok(name),
            other => Err(format!("{} is called as if it were a class", kind(other))),
        }
    }

    fn push_object(&mut self, class: Id, args: Vec<Id>) {
        self.push(Node::Object(Box::new(Object {
            class,
            args,
            items: Vec::new(),
            pairs: Vec::new(),
            state: None,
        })));
    }

    fn extend(&mut self, items: Vec<Id>) -> Step {
        let target = self.top()? as usize;
        match &mut self.nodes[target] {
            Node::List(list) | Node::Set(list) => list.extend(items),
            Node::Object(object) => object.items.extend(items),
            other => return Err(format!("elements are appended to {}", kind(other))),
        }
        Ok(())
    }

    fn set_pairs(&mut self, new: Vec<(Id, Id)>) -> Step {
        let target = self.top()? as usize;
        match &mut self.nodes[target] {
            Node::Dict(pairs) => pairs.extend(new),
            Node::Object(object) => object.pairs.extend(new),
            other => return Err(format!("keys are set on {}", kind(other))),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Step {
        let id = *self
            .memo
            .get(&index)
            .ok_or_else(|| format!("memo entry {index} was never written"))?;
        self.stack.push(id);
        Ok(())
    }

    fn text_int(&mut self) -> Step {
        let line = self.line()?.trim().trim_end_matches('L').to_owned();
        let node = match line.as_str() {
            "00" => Node::Bool(false),
            "01" => Node::Bool(true),
            text => Node::Int(text.parse().map_err(|_| format!("`{text}` is not an integer"))?),
        };
        self.push(node);
        Ok(())
    }

    fn long(&mut self, len: usize) -> Step {
        let bytes = self.take(len)?;
        let node = if len <= 8 {
            let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) {
                0xff
            } else {
                0
            };
            let mut wide = [fill; 8];
            wide[..len].copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(wide))
        } else {
            Node::BigInt(bytes.to_vec())
        };
        self.push(node);
        Ok(())
    }

    fn text(&mut self, len: usize) -> Step {
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.push(Node::Str(text));
        Ok(())
    }

    fn blob(&mut self, len: usize) -> Step {
        let bytes = self.take(len)?.to_vec();
        self.push(Node::Bytes(bytes));
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Step<Id> {
        if self.marks.last() == Some(&self.stack.len()) {
            return Err("a value is taken from behind a mark".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err("the stack was emptied below a mark".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if len > rest.len() {
            return Err(format!("it ends early ({len} bytes expected, {} left)", rest.len()));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn u8(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn len4(&mut self) -> Step<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn len8(&mut self) -> Step<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a length does not fit in memory".into())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|b| *b == b'\n')
            .ok_or("it ends early, inside a line")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a line is not UTF-8".into())
    }

    fn line_index(&mut self) -> Step<u64> {
        let line = self.line()?.trim();
        line.parse().map_err(|_| format!("`{line}` is not a memo index"))
    }
}

fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::None => "None",
        Node::Bool(_) => "a truth value",
        Node::Int(_) | Node::BigInt(_) => "an integer",
        Node::Float(_) => "a float",
        Node::Str(_) => "text",
        Node::Bytes(_) => "bytes",
        Node::List(_) => "a list",
        Node::Tuple(_) => "a tuple",
        Node::Dict(_) => "a dict",
        Node::Set(_) => "a set",
        Node::Global(_) => "a class",
        Node::Persistent(_) => "a storage",
        Node::Object(_) => "an object",
    }
}
