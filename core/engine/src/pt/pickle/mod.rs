//! Reads Python pickles (protocols 0 to 5) into plain data. Executes nothing: classes and functions are names, calls are
//! recorded as [`Node::Object`].
//!
//! Nodes live in one arena and refer to each other by index, because pickles share and later change values (`BINGET`,
//! `SETITEMS`, `BUILD`) and can hold cycles. Whoever walks the arena must bound the walk ([`Pickle::walk_budget`]).
//! The opcodes are those of Python's `pickletools` documentation.

mod machine;
#[cfg(test)]
mod tests;

/// Index of a node in its [`Pickle`].
pub type Id = u32;

/// One value of the pickle.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer that fits in 64 bits.
    Int(i64),
    /// An integer that does not fit: its little-endian two's complement bytes.
    BigInt(Vec<u8>),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dict (or `OrderedDict`): pairs in order of insertion.
    Dict(Vec<(Id, Id)>),
    /// A set or frozenset.
    Set(Vec<Id>),
    /// The name of a class or function, `module.name`.
    Global(String),
    /// A value that the pickle refers to but does not hold (a tensor's storage).
    Persistent(Id),
    /// What calling a class or function would have given.
    Object(Box<Object>),
}

/// A call that was recorded instead of made.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class or function: a [`Node::Global`] (see [`Pickle::class`]).
    pub class: Id,
    /// Arguments of the call.
    pub args: Vec<Id>,
    /// Elements appended afterwards (subclasses of list and set).
    pub items: Vec<Id>,
    /// Pairs set afterwards (subclasses of dict).
    pub pairs: Vec<(Id, Id)>,
    /// Argument of `BUILD`: usually the instance's `__dict__`.
    pub state: Option<Id>,
}

/// Why the bytes are not a pickle that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at} of the pickle: {reason}")]
pub struct PickleError {
    /// Offset of the opcode.
    pub at: usize,
    /// What is wrong.
    pub reason: String,
}

/// The nodes of a pickle.
#[derive(Debug, Default)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// The value that the pickle stands for.
    pub fn root(&self) -> Id {
        self.root
    }

    /// A node. Ids come from this pickle, so they always exist.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// How many nodes a walk may visit before it must be a cycle or a bomb of shared nodes.
    pub fn walk_budget(&self) -> usize {
        self.nodes.len().saturating_mul(8).saturating_add(1024)
    }

    /// Text of a string node.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Value of an integer (or truth value) node.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// Value of a number node.
    pub fn float(&self, id: Id) -> Option<f64> {
        match self.node(id) {
            Node::Float(value) => Some(*value),
            _ => self.int(id).map(|value| value as f64),
        }
    }

    /// A number or truth value: Python's own or a scalar of NumPy.
    pub fn number(&self, id: Id) -> Option<serde_json::Value> {
        use serde_json::Value;
        match self.node(id) {
            Node::Int(value) => return Some(Value::from(*value)),
            Node::Bool(value) => return Some(Value::Bool(*value)),
            Node::Float(value) => return Some(Value::from(*value)),
            _ => {}
        }
        let object = self.object(id)?;
        let scalar = matches!(
            self.class(object),
            "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar"
        );
        let &[kind, value] = object.args.as_slice() else {
            return None;
        };
        let kind = self.str(*self.object(kind)?.args.first()?)?;
        let bytes = self.byte_text(value)?;
        let fill = |signed: bool| {
            let negative = signed && bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            Some(wide)
        };
        match (scalar, kind.trim_start_matches(['<', '|']), bytes.len()) {
            (true, "b1", 1) => Some(Value::Bool(bytes[0] != 0)),
            (true, "i1" | "i2" | "i4" | "i8", _) => Some(Value::from(i64::from_le_bytes(fill(true)?))),
            (true, "u1" | "u2" | "u4" | "u8", _) => Some(Value::from(u64::from_le_bytes(fill(false)?))),
            (true, "f2", 2) => Some(Value::from(half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64())),
            (true, "f4", 4) => Some(Value::from(f64::from(f32::from_le_bytes(bytes.try_into().ok()?)))),
            (true, "f8", 8) => Some(Value::from(f64::from_le_bytes(bytes.try_into().ok()?))),
            _ => None,
        }
    }

    /// Bytes, also in the form that protocols before 3 give them: `_codecs.encode(text, "latin1")`.
    fn byte_text(&self, id: Id) -> Option<Vec<u8>> {
        if let Node::Bytes(bytes) = self.node(id) {
            return Some(bytes.clone());
        }
        let object = self.object(id)?;
        let &[text, coding] = object.args.as_slice() else {
            return None;
        };
        if self.class(object) != "_codecs.encode" || self.str(coding) != Some("latin1") {
            return None;
        }
        self.str(text)?
            .chars()
            .map(|c| u8::try_from(u32::from(c)).ok())
            .collect()
    }

    /// Elements of a list or tuple (or a list subclass).
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => Some(items),
            Node::Object(object) if !object.items.is_empty() => Some(&object.items),
            _ => None,
        }
    }

    /// Pairs of a dict (or of a dict subclass).
    pub fn pairs(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(pairs) => Some(pairs),
            Node::Object(object) if !object.pairs.is_empty() => Some(&object.pairs),
            _ => None,
        }
    }

    /// The recorded call of an object node.
    pub fn object(&self, id: Id) -> Option<&Object> {
        match self.node(id) {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// `module.name` of the class or function that an object called.
    pub fn class(&self, object: &Object) -> &str {
        match self.node(object.class) {
            Node::Global(name) => name,
            _ => "",
        }
    }

    /// Value under a text key of a dict. Later pairs win, as in Python.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        self.pairs(dict)?
            .iter()
            .rev()
            .find(|(k, _)| self.str(*k) == Some(key))
            .map(|(_, value)| *value)
    }

    /// An attribute of an object: a text key of its state.
    pub fn attr(&self, object: Id, key: &str) -> Option<Id> {
        self.get(self.object(object)?.state?, key)
    }

    /// Reads a pickle. `bytes` beyond its end are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, PickleError> {
        Self::parse_first(bytes).map(|(pickle, _)| pickle)
    }

    /// Reads the first of several pickles; also returns where the next one starts.
    pub fn parse_first(bytes: &[u8]) -> Result<(Self, usize), PickleError> {
        let (nodes, root, end) = machine::run(bytes)?;
        Ok((Self { nodes, root }, end))
    }

    /// What the pickle refers to but does not hold: the values that stand for it.
    pub fn persistent(&self) -> impl Iterator<Item = Id> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(*id),
            _ => None,
        })
    }
}
