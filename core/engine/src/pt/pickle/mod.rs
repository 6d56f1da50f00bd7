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
        let (nodes, root) = machine::run(bytes)?;
        Ok(Self { nodes, root })
    }
}
